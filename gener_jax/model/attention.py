"""Causal grouped-query attention: one mask, several implementations, and the function that chooses one of them.

Dimension key: B batch, T queries, S keys, K key/value heads, G query heads per key/value head, N = K·G query
heads, H head dimension.

A query at slot i attends to the keys at slots j with j ≤ i. With a window, i − j must also be less than the window;
with segment ids, those of query and key must be equal. A query always attends to its own slot, so it has at least one
key.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from gener_jax.config import ATTENTION
from gener_jax.model import kernels, packed
from gener_jax.runtime.errors import ConfigError

_MASKED = -1e30  # finite, so that a block with all scores masked gives no NaN; its sum is later rescaled to zero
KEPT = "attention"  # the checkpoint name of attention's output and log-sum-exp, which remat may keep
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
_slice = jax.lax.dynamic_slice_in_dim
_NAMED = jax.checkpoint_policies.save_only_these_names(KEPT)


def keep_attention(primitive, *_, **params) -> bool:
    """The remat policy that keeps the output and log-sum-exp of attention, of any implementation."""
    return kernels.is_forward(primitive) or _NAMED(primitive, **params)


def matmul_precision(dtype):
    """Context manager for matrix products of a dtype: float32 is not replaced by TF32 on a GPU or bf16 on a TPU."""
    # The dtype in a configuration is a string, which does not equal a dtype of jax.
    return jax.default_matmul_precision("highest" if jnp.dtype(dtype) == jnp.float32 else "default")


class Segments(NamedTuple):
    """The document id of each slot; a query attends only to keys of its own document."""

    queries: Int[Array, "B T"]
    keys: Int[Array, "B S"]


class Padded(NamedTuple):
    """Which slots hold tokens, as `transformers` masks them: 1, or 0 for padding, whose query attends to tokens alone.

    Tokens before padding need no mask. Kernels do not have it.
    """

    tokens: Int[Array, "B T"]


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    *,
    implementation: str = "auto",
    offset: int | Int[Array, ""] = 0,
    segments: Segments | Padded | None = None,
    window: int | None = None,
    block: int = 256,
    documents: int = 16,
) -> Float[Array, "B T N H"]:
    """Attention by the named implementation; the result has the queries' dtype, the softmax is float32.

    Args:
      implementation: "reference" (materialises T × S scores), "blockwise" (memory linear in length, forward and
        backward), one of `kernels` ("cudnn", "triton" and "cudnn_packed" on a GPU, "splash" on a TPU, of a sequence
        with itself), or "auto": a kernel of the platform that supports the case, but not cudnn_packed; else blockwise
        if the scores exceed one block, or reference.
      offset: the slot of the first query; the first key is at slot 0.
      segments: document ids of queries and keys, or padding; None: all are one document.
      window: the number of slots a query attends to, its own included; None: all up to its own.
      block: tokens per block of queries and of keys in the blockwise implementation.
      documents: the most documents of a row that cudnn_packed computes; a batch in which a row has more, or has a
        document in several pieces, is computed blockwise.

    Raises:
      ConfigError: if the implementation is unknown, does not support the mask, shape or dtype, or cannot run on this
        platform.
    """
    case = kernels.Case(q_BTNH, k_BSKH, offset, segments is not None, window)
    if isinstance(segments, Padded):
        segments = Segments(jnp.ones_like(segments.tokens), segments.tokens)
        implementation = "reference" if implementation == "reference" else "blockwise"
    if implementation == "auto":
        scores = q_BTNH.shape[1] * k_BSKH.shape[1]  # the lengths differ with a cache and on a context axis
        implementation = kernels.choice(case) or ("blockwise" if scores > block**2 else "reference")
    if implementation == "reference":
        return _reference(q_BTNH, k_BSKH, v_BSKH, offset, segments, window)
    if implementation == "blockwise":
        return _blockwise(q_BTNH, k_BSKH, v_BSKH, offset, segments, window, block)
    if implementation in kernels.KERNELS:
        if refused := kernels.refusal(implementation, case):
            raise ConfigError(f"this kernel {refused}; use auto or blockwise", "model.attention", implementation)
        ids = None if segments is None else segments.queries
        kernel = functools.partial(kernels.run, implementation, window=window, name_kept=KEPT, documents=documents)
        if implementation != "cudnn_packed":
            return kernel(q_BTNH, k_BSKH, v_BSKH, ids)
        blocks = functools.partial(_blockwise, offset=0, segments=segments, window=None, block=block)
        return jax.lax.cond(packed.fits(ids, documents), lambda *x: kernel(*x, ids), blocks, q_BTNH, k_BSKH, v_BSKH)
    raise ConfigError(f"must be one of {', '.join(ATTENTION)}", "model.attention", implementation)


def cached_attention(
    q_BTNH: Float[Array, "B 1 N H"],
    k_BKHS: Float[Array, "B K H S"],
    v_BKSH: Float[Array, "B K S H"],
    *,
    offset: Int[Array, ""],
    segments: Segments,
    window: int | None = None,
) -> Float[Array, "B 1 N H"]:
    """`attention` of one query per row, the case of decoding, over a cache whose slots after the query's are empty.

    The cache has the layout that suits it: the products of query and keys are contiguous along slots, and the sum of
    values along the head dimension.

    On CPU it loops over the filled blocks of slots. An accelerator would launch a kernel per iteration of that loop and
    ask the host after each whether to stop, so there it computes one masked product over all slots.
    """
    one_query = _one_query_by_blocks if kernels.platform() == "cpu" else _one_query
    return one_query(q_BTNH, k_BKHS, v_BKSH, offset, segments, window)


def _one_query(q_BTNH, k_BKHS, v_BKSH, offset, segments, window):
    """One product over all slots, which reads the empty ones too and masks them."""
    B, _, N, H = q_BTNH.shape
    K, S = v_BKSH.shape[1:3]
    q_BKGH = q_BTNH.reshape(B, K, N // K, H)
    scores_BKGS = _product("bkgh,bkhs->bkgs", q_BKGH, k_BKHS) * H**-0.5
    mask = _allowed(offset[None], jnp.arange(S), *segments, window)[:, 0]  # [B, 1, 1, S]
    weights_BKGS = jax.nn.softmax(jnp.where(mask, scores_BKGS, _MASKED), axis=-1).astype(v_BKSH.dtype)
    return _product("bkgs,bksh->bkgh", weights_BKGS, v_BKSH).reshape(B, 1, N, H).astype(q_BTNH.dtype)


_SLOTS = 128  # slots per block of the cache


def _one_query_by_blocks(q_BTNH, k_BKHS, v_BKSH, offset, segments, window):
    """A loop over blocks of slots with a running maximum m and sum l; it never reads the empty blocks at the end.

    It uses elementwise products and sums instead of matrix products. With two to eight queries per key/value head the
    time is that of reading the cache, and XLA fuses these operations so that each block is read once. On CPU this takes
    half the time of matrix products.
    """
    B, _, N, H = q_BTNH.shape
    K, S = v_BKSH.shape[1:3]
    size = min(_SLOTS, S)
    q_BKGH = q_BTNH.reshape(B, K, N // K, H).astype(jnp.float32) * H**-0.5

    def visit(j, carry):
        m, l, o = carry  # noqa: E741 (the names of the papers)
        start = jnp.minimum(j * size, S - size)  # the last block overlaps the one before if S is not a multiple
        k = _slice(k_BKHS, start, size, 3)[:, :, None].astype(jnp.float32)
        v = _slice(v_BKSH, start, size, 2)[:, :, None].astype(jnp.float32)
        slots = start + jnp.arange(size)
        mask = (slots >= j * size) & (slots <= offset)
        if window is not None:
            mask &= offset - slots < window
        mask = (mask & (_slice(segments.keys, start, size, 1) == segments.queries))[:, None, None]
        scores = jnp.where(mask, (q_BKGH[..., None] * k).sum(-2), _MASKED)
        new_m = jnp.maximum(m, scores.max(-1, keepdims=True))
        # If all scores so far are masked, new_m is _MASKED too and exp gives 1, so p needs the mask as well.
        p = jnp.where(mask, jnp.exp(scores - new_m), 0)
        scale = jnp.exp(m - new_m)
        return new_m, l * scale + p.sum(-1, keepdims=True), o * scale + (p[..., None] * v).sum(-2)

    first = 0 if window is None else jnp.maximum(offset - window + 1, 0) // size
    start = jnp.full((B, K, N // K, 1), _MASKED), jnp.zeros((B, K, N // K, 1)), jnp.zeros(q_BKGH.shape)
    _, l, o = jax.lax.fori_loop(first, offset // size + 1, visit, start)  # noqa: E741
    return (o / l).reshape(B, 1, N, H).astype(q_BTNH.dtype)


def _allowed(q_slots, k_slots, q_segments, k_segments, window):
    """The mask, [B or 1, 1, 1, T, S]: whether a query slot attends to a key slot."""
    mask = k_slots[None, :] <= q_slots[:, None]
    if window is not None:
        mask &= q_slots[:, None] - k_slots[None, :] < window
    mask = mask[None, None, None]
    if q_segments is not None:
        mask &= (q_segments[:, :, None] == k_segments[:, None, :])[:, None, None]
    return mask


def _reference(q_BTNH, k_BSKH, v_BSKH, offset, segments, window):
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    q_seg, k_seg = segments or (None, None)
    mask = _allowed(offset + jnp.arange(T), jnp.arange(S), q_seg, k_seg, window)
    weights_BKGTS = jax.nn.softmax(jnp.where(mask, scores_BKGTS, _MASKED), axis=-1).astype(v_BSKH.dtype)
    out_BTKGH = jnp.einsum("bkgts,bskh->btkgh", weights_BKGTS, v_BSKH, preferred_element_type=jnp.float32)
    return checkpoint_name(out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype), KEPT)


# Blockwise attention (FlashAttention, Dao et al. 2022, algorithms 1 and 4). The forward pass keeps a running maximum m
# and a sum per query, and saves only the output and the log-sum-exp; the backward pass recomputes the weights of each
# block. Autodiff through the loops would save the weights of all blocks. The loop bounds follow from the slots and skip
# blocks in which every score is masked. The rows of a batch are processed one after another, so that a block of scores
# fits a processor's cache for any batch size.


def _blockwise(q_BTNH, k_BSKH, v_BSKH, offset, segments, window, block):
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    bq, bk = min(block, T), min(block, S)
    # Padded keys are after the slot of every query, and padded queries are removed below, so neither needs a mask.
    q = _pad_to(q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4), 3, bq)
    k, v = (_pad_to(x.transpose(0, 2, 1, 3), 2, bk) for x in (k_BSKH, v_BSKH))
    q_seg = None if segments is None else _pad_to(segments.queries, 1, bq)
    k_seg = None if segments is None else _pad_to(segments.keys, 1, bk)
    out = _flash(q, k, v, jnp.asarray(offset, jnp.int32), q_seg, k_seg, window, bq, bk)
    return out[:, :, :, :T].transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _pad_to(x, axis, multiple):
    missing = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)]) if missing else x


def _bounds(i, offset, window, bq, bk, num_key_blocks):
    """The first key block that a query of block i attends to, and the last one plus 1."""
    last = jnp.minimum((offset + (i + 1) * bq - 1) // bk + 1, num_key_blocks)
    first = 0 if window is None else jnp.maximum(offset + i * bq - window + 1, 0) // bk
    return first, last


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _flash(q, k, v, offset, q_seg, k_seg, window, bq, bk):
    return _flash_forward(q, k, v, offset, q_seg, k_seg, window, bq, bk)[0]


def _flash_forward(q, k, v, offset, q_seg, k_seg, window, bq, bk):
    results = jax.lax.map(
        lambda row: _row_forward(*row, offset=offset, window=window, bq=bq, bk=bk), (q, k, v, q_seg, k_seg)
    )
    out, lse = checkpoint_name(results, KEPT)
    return out, (q, k, v, offset, q_seg, k_seg, out, lse)


def _over_keys(body, i, start, q_seg, k_seg, bq, bk, num_key_blocks, *, offset, window):
    """The final carry of `body(j, mask, carry)`, called for the key blocks j that a query of block i attends to.

    The mask is None for a block in which no score is masked; these are most of the blocks of a long sequence.
    """
    first, last = _bounds(i, offset, window, bq, bk, num_key_blocks)
    if q_seg is None and window is None and num_key_blocks > 1:  # else one loop, which compiles faster
        unmasked = (offset + i * bq + 1) // bk
        start = jax.lax.fori_loop(first, unmasked, lambda j, carry: body(j, None, carry), start)
        first = unmasked

    def masked(j, carry):
        q_slots, k_slots = offset + i * bq + jnp.arange(bq), j * bk + jnp.arange(bk)
        blocks = ((q_seg, i, bq), (k_seg, j, bk))
        ids = [None if x is None else _slice(x, block * size, size, 0)[None] for x, block, size in blocks]
        return body(j, _allowed(q_slots, k_slots, *ids, window)[0, 0, 0], carry)

    return jax.lax.fori_loop(first, last, masked, start)


def _scores(q_i, kt_j, mask):
    """Scores [K, G, bq, bk] of queries that are scaled already."""
    s = _product("kgqh,khs->kgqs", q_i, kt_j)
    return s if mask is None else jnp.where(mask, s, _MASKED)


def _row_forward(q, k, v, q_seg, k_seg, *, bq, bk, **masks):
    """Output [K, G, T, H] and log-sum-exp [K, G, T] of queries [K, G, T, H] over keys [K, S, H]."""
    K, G, T, H = q.shape
    q, kt = q * H**-0.5, k.swapaxes(1, 2)  # scaling the queries saves a pass over the scores

    def queries(i):
        q_i = _slice(q, i * bq, bq, 2)

        def keys(j, mask, carry):
            acc, m, total = carry
            s = _scores(q_i, _slice(kt, j * bk, bk, 2), mask)
            m_new = jnp.maximum(m, s.max(-1))
            p = jnp.exp(s - m_new[..., None])
            scale = jnp.exp(m - m_new)
            acc = acc * scale[..., None] + _product("kgqs,ksh->kgqh", p.astype(v.dtype), _slice(v, j * bk, bk, 1))
            return acc, m_new, total * scale + p.sum(-1)

        zero = jnp.zeros((K, G, bq), jnp.float32)
        start = (jnp.zeros((K, G, bq, H), jnp.float32), zero + _MASKED, zero)
        acc, m, total = _over_keys(keys, i, start, q_seg, k_seg, bq, bk, k.shape[1] // bk, **masks)
        return (acc / total[..., None]).astype(q.dtype), m + jnp.log(total)

    out, lse = jax.lax.map(queries, jnp.arange(T // bq))  # [blocks, K, G, bq, ...]
    return jnp.moveaxis(out, 0, 2).reshape(q.shape), jnp.moveaxis(lse, 0, 2).reshape(K, G, T)


def _flash_backward(window, bq, bk, saved, d_out):
    q, k, v, offset, q_seg, k_seg, out, lse = saved
    with matmul_precision(q.dtype):  # traced separately, outside the model's context
        gradients = jax.lax.map(
            lambda row: _row_backward(*row, offset=offset, window=window, bq=bq, bk=bk),
            (q, k, v, q_seg, k_seg, out, lse, d_out),
        )
    return *gradients, None, None, None


def _row_backward(q, k, v, q_seg, k_seg, out, lse, d_out, *, bq, bk, **masks):
    """Gradients of q, k and v for one row.

    The gradients of keys and values are accumulated as [K, H, S], so that no product transposes a block of scores; that
    took half the time of this pass on CPU. Only queries and output gradients are transposed, which are smaller, and
    only once per block of queries.
    """
    T, H = q.shape[2:]
    q = q * H**-0.5
    kt, vt = k.swapaxes(1, 2), v.swapaxes(1, 2)
    delta = _product("kgqh,kgqh->kgq", out, d_out)

    def queries(i, carry):
        dq, dkt, dvt = carry
        q_i, do_i = _slice(q, i * bq, bq, 2), _slice(d_out, i * bq, bq, 2)
        qt_i, dot_i = q_i.transpose(0, 3, 1, 2), do_i.transpose(0, 3, 1, 2)  # [K, H, G, bq]
        lse_i, delta_i = _slice(lse, i * bq, bq, 2)[..., None], _slice(delta, i * bq, bq, 2)[..., None]

        def keys(j, mask, carry):
            dq_i, dkt, dvt = carry
            p = jnp.exp(_scores(q_i, _slice(kt, j * bk, bk, 2), mask) - lse_i)
            dp = _product("kgqh,khs->kgqs", do_i, _slice(vt, j * bk, bk, 2))
            ds = (p * (dp - delta_i)).astype(q.dtype)
            dvt = _add(dvt, _product("khgq,kgqs->khs", dot_i, p.astype(do_i.dtype)), j * bk)
            dkt = _add(dkt, _product("khgq,kgqs->khs", qt_i, ds), j * bk)
            return dq_i + _product("kgqs,ksh->kgqh", ds, _slice(k, j * bk, bk, 1)), dkt, dvt

        dq_i, dkt, dvt = _over_keys(
            keys, i, (jnp.zeros(q_i.shape, jnp.float32), dkt, dvt), q_seg, k_seg, bq, bk, k.shape[1] // bk, **masks
        )
        return jax.lax.dynamic_update_slice_in_dim(dq, (dq_i * H**-0.5).astype(q.dtype), i * bq, 2), dkt, dvt

    start = (jnp.zeros_like(q), jnp.zeros(kt.shape, jnp.float32), jnp.zeros(vt.shape, jnp.float32))
    dq, dkt, dvt = jax.lax.fori_loop(0, T // bq, queries, start)
    return dq, dkt.swapaxes(1, 2).astype(k.dtype), dvt.swapaxes(1, 2).astype(v.dtype)


def _add(x, update, start):
    return jax.lax.dynamic_update_slice_in_dim(x, _slice(x, start, update.shape[2], 2) + update, start, 2)


_flash.defvjp(_flash_forward, _flash_backward)
