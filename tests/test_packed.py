"""cuDNN's packed layout: what it says of documents, which batches have it, and what is lowered for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax import config
from gener_jax.model import packed
from gener_jax.model.attention import Segments, attention
from gener_jax.runtime.errors import ConfigError
from tests.raised import raises
from tests.test_training_on_gpus import model, traced

THREE = np.repeat([1, 2, 5], [3, 1, 6])  # ids may skip numbers
TWO = np.repeat([1, 2], [4, 6])
ONE = np.ones(10, int)


def test_the_layout_of_rows():
    lengths, starts = packed.layout(jnp.asarray([THREE, TWO, ONE]), 3)
    assert lengths.tolist() == [[3, 1, 6], [4, 6, -1], [10, -1, -1]]
    assert starts.tolist() == [[0, 3, 4, -1], [0, 4, -1, -1], [0, -1, -1, -1]]
    assert lengths.dtype == starts.dtype == jnp.int32


@pytest.mark.parametrize(
    ("rows", "most", "expected"),
    [
        ([THREE, ONE], 3, True),
        ([THREE, ONE], 2, False),
        ([TWO, ONE], 2, True),
        ([TWO, np.repeat([1, 2, 1], [3, 3, 4])], 4, False),  # a document in two pieces
    ],
)
def test_which_batches_fit(rows, most, expected):
    assert bool(packed.fits(jnp.asarray(rows), most)) is expected


def arrays(rows, heads=4, head_dim=8):
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=(len(rows), len(rows[0]), n, head_dim)), jnp.bfloat16)
        for n in (heads, heads // 2, heads // 2)
    ]


def by_document(q, k, v, ids, most):
    """What cuDNN computes of the layout: causal attention of each document by itself; other slots stay zero."""
    lengths, starts = (np.asarray(x) for x in packed.layout(ids, most))
    q, k, v = (np.asarray(x, np.float32) for x in (q, k.repeat(2, axis=2), v.repeat(2, axis=2)))
    out = np.zeros(q.shape, np.float32)
    for row in range(len(q)):
        for length, start in zip(lengths[row], starts[row], strict=False):
            own = slice(start, start + max(length, 0))
            scores = np.einsum("tnh,snh->nts", q[row, own], k[row, own]) * q.shape[3] ** -0.5
            weights = np.exp(scores) * np.tri(max(length, 0))
            out[row, own] = np.einsum("nts,snh->tnh", weights / weights.sum(-1, keepdims=True), v[row, own])
    return out


def test_the_layout_expresses_the_document_mask():
    rows = [THREE, TWO, ONE]
    q, k, v = arrays(rows)
    ids = jnp.asarray(rows)
    expected = attention(q, k, v, implementation="reference", segments=Segments(ids, ids)).astype(jnp.float32)
    np.testing.assert_allclose(by_document(q, k, v, ids, 3), expected, atol=2e-2)
    assert np.abs(by_document(q, k, v, ids, 2) - expected).max() > 0.1  # one document too many is left out


@pytest.mark.parametrize(("rows", "kernel"), [([TWO, ONE], True), ([THREE, ONE], False)])
def test_a_batch_with_too_many_documents_is_computed_blockwise(gpu, monkeypatch, rows, kernel):
    monkeypatch.setattr(packed, "VERSION", (0, 0, 0))
    monkeypatch.setattr(packed, "attention", lambda q, k, v, ids, most: jnp.full_like(q, most))
    q, k, v = arrays(rows)
    segments = Segments(jnp.asarray(rows), jnp.asarray(rows))
    out = attention(q, k, v, implementation="cudnn_packed", segments=segments, documents=2).astype(jnp.float32)
    if kernel:
        assert (out == 2).all()
    else:
        expected = attention(q, k, v, implementation="reference", segments=segments).astype(jnp.float32)
        np.testing.assert_allclose(out, expected, atol=2e-2)


@pytest.mark.skipif(jax.__version_info__ >= packed.VERSION, reason="this jax has it")
def test_an_old_jax_is_refused(gpu):
    q, k, v = arrays([TWO])
    ids = jnp.asarray([TWO])
    with raises(ConfigError, field="model.attention", value="cudnn_packed") as found:
        attention(q, k, v, implementation="cudnn_packed", segments=Segments(ids, ids))
    assert "needs jax 0.11.1 or newer" in str(found.value)


def test_the_bound_is_at_least_two():
    with raises(ConfigError, field="model.attention_documents", value=1):
        config.Model(attention_documents=1)


@pytest.mark.skipif(jax.__version_info__ < packed.VERSION, reason="needs jax 0.11.1 or newer")
@pytest.mark.parametrize(("head_dim", "remat", "forwards"), [(64, "dots", 1), (96, "block", 1), (128, "full", 2)])
def test_what_is_lowered_for_cuda(gpu, head_dim, remat, forwards):
    c = model(dtype="bfloat16", remat=remat, attention="cudnn_packed", attention_documents=8)
    c = config.Model(**{**c.__dict__, "head_dim": head_dim})
    text = traced(c, documents=True).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "custom_call @__cudnn" in line]
    assert len([call for call in calls if "fmhaSoftmax(" in call]) == forwards
    assert len([call for call in calls if "fmhaSoftmaxBackward(" in call]) == 1
    for call in calls:
        assert r"max_seg_per_batch\22: 8," in call
        assert r"mask_type\22: \22PADDING_CAUSAL\22" in call
        assert f"tensor<2x128x2x{head_dim}xbf16>" in call  # keys keep their own number of heads


@pytest.mark.skipif(jax.__version_info__ < packed.VERSION, reason="needs jax 0.11.1 or newer")
def test_offsets_of_grouped_keys_count_their_own_heads():
    from jax._src.cudnn.fused_attention_stablehlo import _fix_seqlen_offsets

    q, k, _ = arrays([TWO, ONE])
    lengths, starts = packed.layout(jnp.asarray([TWO, ONE]), 2)
    lengths, _, of_queries, of_keys = _fix_seqlen_offsets(lengths, lengths, starts, starts, q, k)
    assert lengths.ravel().tolist() == [4, 6, 10, 0]
    slots = np.asarray([0, 4, 10, 20, 20, 20])  # of both rows; those after the last document are at the end
    assert of_queries.ravel().tolist() == (slots * 4 * 8).tolist()
    assert of_keys.ravel().tolist() == (slots * 2 * 8).tolist()
