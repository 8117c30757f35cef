import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax.model.attention import Segments, attention
from gener_jax.runtime.errors import ConfigError
from tests.raised import raises

CONCRETE = ["reference", "blockwise"]


def inputs(T, S=None, N=4, K=2, B=2, H=8, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, S or T, K, H), (B, S or T, K, H))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def documents(B, T, seed=0):
    """Sorted ids: contiguous documents, with different boundaries in each row."""
    return jnp.asarray(np.sort(np.random.default_rng(seed).integers(1, 5, (B, T)), axis=1), jnp.int32)


@functools.partial(jax.jit, static_argnames=("implementation", "window", "block"))
def value_and_grads(q, k, v, weights, segments=None, offset=0, **options):
    def weighted(q, k, v):
        out = attention(q, k, v, segments=segments, offset=offset, **options)
        return jnp.sum(out * weights), out

    (_, out), grads = jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return out, *grads


def definition(q, k, v, segments=None, window=None, offset=0):
    """Attention by its definition, for one query after another, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(*q.shape[:3]):
        kv = n // (q.shape[2] // k.shape[2])
        allowed = np.arange(k.shape[1]) <= offset + t
        if window is not None:
            allowed &= np.arange(k.shape[1]) > offset + t - window
        if segments is not None:
            allowed &= np.asarray(segments.keys)[b] == np.asarray(segments.queries)[b, t]
        scores = k[b, allowed, kv] @ q[b, t, n] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, allowed, kv] / weights.sum()
    return out


@pytest.mark.parametrize(
    ("T", "S", "N", "K", "block", "segmented", "window"),
    [
        (45, None, 4, 2, 16, True, None),  # a padded last block
        (45, None, 4, 4, 16, False, 20),  # one key/value head per query head; a window larger than a block
        (32, None, 4, 1, 16, True, 7),  # one key/value head; whole blocks; a window smaller than a block
        (20, 53, 4, 2, 8, True, 11),  # queries after cached keys
        pytest.param(45, None, 4, 1, 256, True, 7, marks=pytest.mark.slow),  # one block, reduced to the length
        pytest.param(20, 53, 4, 2, 8, False, None, marks=pytest.mark.slow),
        pytest.param(45, None, 4, 2, 1, True, 5, marks=pytest.mark.slow),
        pytest.param(1, None, 4, 2, 16, False, None, marks=pytest.mark.slow),
        pytest.param(20, 53, 4, 1, 32, True, 11, marks=pytest.mark.slow),
    ],
)
def test_blockwise_and_reference_equal_the_definition(T, S, N, K, block, segmented, window):
    q, k, v = inputs(T, S, N, K)
    offset = 0 if S is None else S - T - 3  # the last slots are empty
    segments = None
    if segmented:
        keys = documents(2, k.shape[1])
        segments = Segments(keys[:, offset : offset + T], keys)
    weights = inputs(T, N=N, seed=1)[0]
    reference, blockwise = (
        value_and_grads(q, k, v, weights, segments, offset, implementation=name, window=window, block=block)
        for name in CONCRETE
    )
    np.testing.assert_allclose(reference[0], definition(q, k, v, segments, window, offset), atol=2e-6)
    for expected, actual in zip(reference, blockwise, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert float(jnp.abs(reference[2]).max()) > 1e-3 or T == 1  # the gradients compared are not all zero


@pytest.mark.parametrize("implementation", CONCRETE)
def test_documents_are_isolated_to_the_bit(implementation):
    q, k, v = inputs(45)
    ids = np.repeat([1, 2, 3], [13, 20, 12])[None].repeat(2, 0)
    other = ids[0] == 2
    changed = [x.at[:, other].add(3.0) for x in (q, k, v)]

    def both(ids):
        segments = Segments(jnp.asarray(ids), jnp.asarray(ids))
        options = {"implementation": implementation, "window": None, "block": 16}
        return (value_and_grads(*x, jnp.ones_like(q), segments, 0, **options) for x in ((q, k, v), changed))

    for before, after in zip(*both(ids), strict=True):  # outputs and gradients
        assert np.array_equal(before[:, ~other], after[:, ~other])
        assert not np.array_equal(before[:, other], after[:, other])
    before, after = (out for out, *_ in both(np.ones_like(ids)))  # one document: only later tokens change
    assert np.array_equal(before[:, :13], after[:, :13])
    assert not np.array_equal(before[:, 33:], after[:, 33:])


@pytest.mark.parametrize("implementation", CONCRETE)
def test_large_scores_do_not_overflow(implementation):
    q, k, v = inputs(45)
    segments = Segments(documents(2, 45), documents(2, 45))
    options = {"implementation": implementation, "window": None, "block": 16}
    for x in value_and_grads(q * 1e4, k * 1e4, v, jnp.ones_like(q), segments, 0, **options):
        assert np.isfinite(x).all()


@pytest.mark.parametrize("implementation", CONCRETE)
def test_bfloat16_stays_near_float32(implementation):
    q, k, v = inputs(40)
    low = jax.jit(functools.partial(attention, implementation=implementation, block=16))(
        *(x.astype(jnp.bfloat16) for x in (q, k, v))
    )
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), definition(q, k, v), atol=0.05)


def test_auto_is_blockwise_over_one_block_and_reference_below():
    def jaxpr(T, implementation, queries=None):
        q, k, v, *_ = inputs(T)
        run = functools.partial(attention, implementation=implementation, block=16, offset=T - (queries or T))
        return str(jax.make_jaxpr(run)(q[:, :queries], k, v))

    assert jaxpr(17, "auto") == jaxpr(17, "blockwise") != jaxpr(17, "reference")
    assert jaxpr(16, "auto") == jaxpr(16, "reference") != jaxpr(16, "blockwise")
    # Few queries and many keys, as for a chunk of a long sequence on one device, and for a prompt after a long cache.
    assert jaxpr(33, "auto", 8) == jaxpr(33, "blockwise", 8) != jaxpr(33, "reference", 8)
    assert jaxpr(32, "auto", 8) == jaxpr(32, "reference", 8) != jaxpr(32, "blockwise", 8)


def test_an_unknown_implementation_is_an_error():
    q, k, v = inputs(8)
    with raises(ConfigError, field="model.attention", value="flash"):
        attention(q, k, v, implementation="flash")


def test_memory_of_blockwise_grows_with_length_not_its_square():
    def temporary_bytes(T, implementation):
        shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in ((1, T, 2, 16), (1, T, 1, 16), (1, T, 1, 16))]

        def loss(q, k, v):
            return jnp.sum(attention(q, k, v, implementation=implementation) ** 2)

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    growth = {name: temporary_bytes(8192, name) / temporary_bytes(2048, name) for name in CONCRETE}
    assert growth["blockwise"] < 4.5
    assert growth["reference"] > 10
