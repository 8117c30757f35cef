import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gener_jax import config
from gener_jax.model import decoder, rope
from gener_jax.model.decoder import Decoder
from gener_jax.model.losses import token_nll
from tests.conftest import random_params

T = 20
TINY = config.Model(
    vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3, attention="reference", attention_block=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def ids():
    """Two rows in which no token repeats, so that an input's gradient is that of its embedding."""
    rng = np.random.default_rng(0)
    return np.array([rng.permutation(TINY.vocab_size)[:T] for _ in range(2)], np.int32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="keep")
def apply(c, params, ids, positions=None, segments=None, cache=None, keep=False):
    """Hidden states, logits and the cache."""
    options = {"positions_BT": positions, "segment_ids_BT": segments, "cache": cache, "keep": keep}
    hidden, cache = Decoder(c).apply({"params": params}, ids, **options)
    return hidden, Decoder(c).apply({"params": params}, hidden, method="logits"), cache


def loss_and_grads(c, params, ids):
    def loss(params):
        hidden, _ = Decoder(c).apply({"params": params}, ids)
        logits = Decoder(c).apply({"params": params}, hidden, method="logits")
        return jnp.mean(token_nll(logits[:, :-1], ids[:, 1:]))

    return jax.value_and_grad(loss)(params)


def test_no_gradient_reaches_the_future(params, ids):
    """With blockwise attention; test_attention compares the other implementations with it."""
    c = dataclasses.replace(TINY, attention="blockwise")
    ids = ids[:1]

    @jax.jit
    def gradients(embedding):
        def losses(embedding):
            _, logits, _ = apply(c, params | {"embed_tokens": embedding}, ids)
            return token_nll(logits[0], jnp.zeros(T, jnp.int32))

        return jax.jacrev(losses)(embedding)[:, ids[0]]  # [losses, inputs, D]

    reached = np.abs(gradients(params["embed_tokens"])).max(-1)
    assert (reached[np.triu_indices(T, 1)] == 0).all()
    assert (reached[np.tril_indices(T)] > 0).all()


@pytest.mark.parametrize(
    ("experiment", "count"),
    [
        ("euk_1b", 1_162_061_824),
        ("euk_3b", 2_998_262_784),
        ("prok_1b", 1_162_061_824),
        ("prok_3b", 2_998_262_784),
        ("unified_7b", 7_013_404_672),
    ],
)
def test_published_sizes(experiment, count):
    made = importlib.import_module(f"experiments.{experiment}").get_config()
    resolved = config.resolve(made)
    assert resolved.model.vocab_size == 4128
    assert resolved.model.rope_theta == 500_000
    assert resolved.data.context_length == resolved.model.max_position_embeddings == 16384
    assert decoder.num_parameters(resolved.model) == count


def test_init_gives_the_tree_in_float32():
    params = nn.unbox(jax.jit(functools.partial(decoder.init, Decoder(TINY)))(jax.random.key(0)))
    shapes = jax.tree.map(jnp.shape, params)
    norm = {"scale": (3, 32)}
    assert shapes == {
        "embed_tokens": (48, 32),
        "layers": {
            "input_norm": norm, "q": (3, 32, 4, 8), "k": (3, 32, 2, 8), "v": (3, 32, 2, 8), "o": (3, 4, 8, 32),
            "post_attention_norm": norm, "gate": (3, 32, 48), "up": (3, 32, 48), "down": (3, 48, 32),
        },
        "norm": {"scale": (32,)},
        "lm_head": (32, 48),
    }  # fmt: skip
    assert decoder.num_parameters(TINY) == sum(x.size for x in jax.tree.leaves(params))
    assert decoder.num_parameters(TINY, lambda path: path == "lm_head") == params["lm_head"].size
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    layers = params["layers"]
    assert (np.asarray(layers["input_norm"]["scale"]) == 1).all()
    for weight in (params["embed_tokens"], params["lm_head"], layers["q"], layers["o"], layers["down"]):
        assert 0.27 < np.asarray(weight).std() < 0.33  # initializer_range
        assert abs(np.asarray(weight).mean()) < 0.05
    one, other, _ = np.asarray(layers["q"])
    assert not np.array_equal(one, other)  # each layer has its own random numbers


@pytest.mark.parametrize(
    "implementation",
    ["auto", pytest.param("reference", marks=pytest.mark.slow), pytest.param("blockwise", marks=pytest.mark.slow)],
)
def test_cached_decoding_equals_the_full_pass(implementation, params, ids):
    c = dataclasses.replace(TINY, attention=implementation, attention_block=4)  # auto: blockwise for the prompt
    _, expected, none = apply(c, params, ids)
    assert none is None
    by_layer = decoder.unstack(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, decoder.stack(by_layer), params))
    with pytest.raises(ValueError, match="unstack"):
        apply(c, params, ids, keep=True)
    _, prompt, cache = apply(c, by_layer, ids[:, :7], keep=True)
    cache, logits = decoder.extend_cache(cache, T - 7 + 3), [prompt]
    for done in range(7, T):
        assert int(cache.index) == done
        _, part, cache = apply(c, by_layer, ids[:, done : done + 1], cache=cache)
        logits.append(part)
    np.testing.assert_allclose(np.concatenate(logits, 1), expected, atol=2e-5)
    assert cache.segment_ids.tolist() == [[1] * T + [0] * 3] * 2


# Each with text that it adds to the program. How a policy is printed depends on the version of jax, so only the next
# test distinguishes policies.
SWITCHES = {
    "remat dots": ({"remat": "dots"}, ["policy="]),
    "remat block": ({"remat": "block", "attention": "blockwise"}, ["policy=", "while["]),
    "all": ({"remat": "full", "scan_unroll": 3, "attention": "blockwise"}, ["policy=", "unroll=3", "while["]),
}


@pytest.fixture(scope="module")
def plain(params, ids):
    """Loss and gradients with every switch off, and the program."""
    run = functools.partial(loss_and_grads, dataclasses.replace(TINY, remat="none"))
    return *jax.jit(run)(params, ids), str(jax.make_jaxpr(run)(params, ids))


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_change_nothing(switch, params, ids, plain):
    fields, marks = SWITCHES[switch]
    expected, expected_grads, program = plain
    run = functools.partial(loss_and_grads, dataclasses.replace(TINY, **fields))
    switched = str(jax.make_jaxpr(run)(params, ids))
    assert all(mark in switched and mark not in program for mark in marks)  # the switch is on
    loss, grads = jax.jit(run)(params, ids)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(y).max()))
        assert np.abs(y).max() > 1e-4


@pytest.fixture(scope="module")
def program(params, ids):
    """The traced loss and gradients with blockwise attention for each remat policy."""

    @functools.cache
    def traced(remat):
        c = dataclasses.replace(TINY, remat=remat, attention="blockwise")
        return str(jax.make_jaxpr(functools.partial(loss_and_grads, c))(params, ids))

    return traced


@pytest.mark.parametrize(
    ("remat", "loops", "products"), [("none", 4, 0), ("dots", 4, 0), ("block", 4, 6), ("full", 6, 10)]
)
def test_what_remat_recomputes(remat, loops, products, program):
    """Blockwise attention has two while loops forward, with two products each, and two backward.

    Recomputing it repeats the forward ones. Of the seven products of a layer, the backward pass does not need the last
    one's result.
    """
    assert program(remat).count("while[") == loops
    assert program(remat).count("dot_general[") - program("none").count("dot_general[") == products


def test_bfloat16_computes_low_and_keeps_float32(params, ids):
    c = dataclasses.replace(TINY, dtype="bfloat16")
    boxed = jax.eval_shape(functools.partial(decoder.init, Decoder(c)), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(boxed)} == {jnp.dtype("float32")}
    small = jax.tree.map(lambda x: x if x.ndim == 1 else x / 4, params)  # so that the rounding error is small
    hidden, logits, cache = apply(c, decoder.unstack(small), ids, keep=True)
    assert hidden.dtype == cache.k[0].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    _, exact, _ = apply(TINY, small, ids)
    assert 0 < np.abs(np.asarray(logits) - exact).max() < 0.03
    _, grads = jax.eval_shape(functools.partial(loss_and_grads, c), small, ids)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_rope_angles_are_float32():
    cos = np.asarray(
        jax.jit(lambda positions: rope.angles(positions, config.Model(head_dim=8))[0])(np.array([[256, 257]]))
    )
    np.testing.assert_allclose(cos[0, :, 0, 0], np.cos([256.0, 257.0]), atol=1e-5)  # bfloat16 has no 257
    assert cos.dtype == jnp.float32


@pytest.mark.parametrize("implementation", [pytest.param("reference", marks=pytest.mark.slow), "blockwise"])
def test_packed_documents_are_as_if_alone(implementation, params, ids):
    c = dataclasses.replace(TINY, attention=implementation)
    lengths = [7, 9, 4]
    packed = np.tile(np.concatenate([np.arange(n) for n in lengths]), (2, 1))
    segments = np.tile(np.repeat(np.arange(3), lengths), (2, 1))
    together = np.asarray(apply(c, params, ids, packed, segments)[1])
    for start, n in zip((0, 7, 16), lengths, strict=True):
        alone = apply(c, params, np.pad(ids[:, start : start + n], ((0, 0), (0, T - n))), packed * 0 + np.arange(T),
                      packed * 0)[1]  # padded at the end, which the causal mask hides  # fmt: skip
        np.testing.assert_allclose(together[:, start : start + n], np.asarray(alone)[:, :n], atol=1e-5)
    changed = np.where(np.arange(T) < 7, ids ^ 1, ids)
    after = np.asarray(apply(c, params, changed, packed, segments)[1])
    assert np.array_equal(after[:, 7:], together[:, 7:])
    assert not np.array_equal(after[:, :7], together[:, :7])
    joined = np.asarray(apply(c, params, ids, packed, segments * 0)[1])
    assert np.abs(joined[:, 7:] - together[:, 7:]).max() > 1e-2
