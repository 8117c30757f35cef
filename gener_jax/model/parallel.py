"""Attention over a mesh: rows over data and fsdp, heads over tensor, the sequence over context.

By itself, the compiler gathers every operand of blockwise attention on every device, so `jax.shard_map` fixes what each
device computes. Over `context` each device gathers the keys and values, which are small with grouped-query attention;
the backward pass sums their gradients onto the devices that own them. For the queries there are two ways:

- If the platform has a kernel for the case and the number of devices divides the number of heads, heads are exchanged
  for length (Ulysses, Jacobs et al. 2023): each device computes its own heads over the whole length, and the result is
  exchanged back. This is needed because kernels support only whole sequences.
- Otherwise each device computes all heads for its own queries, blockwise, which supports queries at any offset.

Under a causal mask the last queries attend to the most keys. The sequence is therefore divided into 2n chunks for n
devices, and device i holds chunks i and 2n − 1 − i, so that every device has the same work. This is the *balanced
order*. `balance` puts batches into it, and results are in it. Positions and segment ids move with their tokens, and
only attention depends on the order of tokens.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gener_jax.config import Model
from gener_jax.model import kernels
from gener_jax.model.attention import Padded, Segments, attention
from gener_jax.model.sharding import TOKENS, spec


def _context() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("context", 1)


def balance(batch: dict[str, jax.Array], axes: Mapping[str, tuple]) -> dict[str, jax.Array]:
    """The batch in the balanced order, with `positions` added; unchanged if context is 1.

    Only arrays with `length` among their logical `axes` are reordered. Uses the current mesh. Only token ids and the
    like move between devices, nothing larger.
    """
    n = _context()
    if n == 1:
        return batch
    if "positions" not in batch:
        like = batch["inputs"]
        positions = jnp.broadcast_to(jnp.arange(like.shape[1], dtype=like.dtype), like.shape)
        batch, axes = {**batch, "positions": positions}, {**axes, "positions": TOKENS}
    return {name: _to_balanced(x, n) if "length" in axes[name] else x for name, x in batch.items()}


def restore(x: jax.Array) -> jax.Array:
    """Converts an array [rows, length, …] from the balanced order to the order of the sequence."""
    n = _context()
    return x if n == 1 else _to_natural(x, n)


def _to_balanced(x, n):
    chunks = x.reshape(x.shape[0], 2, n, -1, *x.shape[2:])  # [rows, half, device, …]
    chunks = jnp.stack([chunks[:, 0], chunks[:, 1, ::-1]], axis=2)
    return chunks.reshape(x.shape)


def _to_natural(x, n):
    chunks = x.reshape(x.shape[0], n, 2, -1, *x.shape[2:])
    return jnp.concatenate([chunks[:, :, 0], chunks[:, ::-1, 1]], axis=1).reshape(x.shape)


def sharded_attention(q_BTNH, k_BTKH, v_BTKH, *, segments: Segments | Padded | None = None, **how) -> jax.Array:
    """Self-attention on the current mesh; over context, sequences are in the balanced order.

    The keyword arguments `how` are those of `attention` but the offset, and so is the dimension key; T is the whole
    length, the same for queries and keys.

    Raises:
      ConfigError: as `attention`, also if a kernel is named and mesh.context does not divide the heads per device.
      ValueError: if twice mesh.context does not divide the length, or for padding on a mesh with a context axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention(q_BTNH, k_BTKH, v_BTKH, segments=segments, **how)
    q_spec = spec(("batch", "length", "heads", "head_dim"), mesh, q_BTNH.shape, activation=True)
    kv_spec = spec(("batch", "length", "kv_heads", "head_dim"), mesh, k_BTKH.shape, activation=True)
    ids_spec = PartitionSpec(*q_spec[:2])
    n = mesh.shape["context"] if q_BTNH.shape[1] > 1 else 1  # `init` passes one token, which is not divided
    if q_BTNH.shape[1] % (2 * n) and n > 1:
        raise ValueError(f"a length of {q_BTNH.shape[1]} tokens is not divisible by twice mesh context = {2 * n}")
    if n > 1 and isinstance(segments, Padded):
        raise ValueError("padding is not masked on a mesh with a context axis")
    groups = q_BTNH.shape[2] // k_BTKH.shape[2]

    def local(q, k, v, ids):
        if q_spec[2] is not None and kv_spec[2] is None:  # query heads are sharded, key heads are not
            first = jax.lax.axis_index("tensor") * q.shape[2]
            k, v = (_own_key_heads(x, first, q.shape[2], groups) for x in (k, v))
        if n == 1:
            own = Padded(ids) if padded else None if ids is None else Segments(ids, ids)
            return attention(q, k, v, segments=own, **how)
        k, v, keys = (
            None if x is None else _to_natural(jax.lax.all_gather(x, "context", axis=1, tiled=True), n)
            for x in (k, v, ids)
        )
        if _exchanges(q, k, keys, n, how):
            return _by_heads(q, k, v, keys, n, how)
        rank, half = jax.lax.axis_index("context"), q.shape[1] // 2
        out = []
        for tokens, chunk in ((slice(0, half), rank), (slice(half, None), 2 * n - 1 - rank)):
            own = None if ids is None else Segments(ids[:, tokens], keys)
            out.append(attention(q[:, tokens], k, v, segments=own, offset=chunk * half, **how))
        return jnp.concatenate(out, axis=1)

    padded = isinstance(segments, Padded)
    ids = None if segments is None else segments.tokens if padded else segments.queries
    # Without check_vma, in which the zeros that blockwise attention's loops begin with count as equal on all devices,
    # and what a loop makes of them as different, so that it rejects the loops.
    return jax.shard_map(
        local, in_specs=(q_spec, kv_spec, kv_spec, None if ids is None else ids_spec), out_specs=q_spec,
        check_vma=False,
    )(q_BTNH, k_BTKH, v_BTKH, ids)  # fmt: skip


def chosen(model: Model, length: int, sizes: Mapping[str, int], *, documents: bool) -> str:
    """`model.attention` with what `auto` chooses for sequences of `length` tokens on a mesh of these sizes, and why.

    Without kernels for this platform nothing is added.
    """
    if model.attention != "auto":
        return model.attention
    heads = model.num_attention_heads // sizes["tensor"]
    like = jax.ShapeDtypeStruct((1, length, heads, model.head_dim), model.dtype)
    case = kernels.Case(like, like, 0 if heads % sizes["context"] == 0 else None, documents, model.sliding_window)
    if name := kernels.choice(case):
        return f"auto ({name})"
    why = "; ".join(f"{name} {reason}" for name, reason in kernels.refusals(case).items())
    return f"auto (without a kernel: {why})" if why else "auto"


def _exchanges(q_BTNH, k_BSKH, ids_BS, n, how) -> bool:
    """Whether a kernel computes this device's heads over the whole length."""
    name = how.get("implementation", "auto")
    B, _, heads, H = q_BTNH.shape
    if heads % n or name not in ("auto", *kernels.KERNELS):
        return False
    queries = jax.ShapeDtypeStruct((B, k_BSKH.shape[1], heads // n, H), q_BTNH.dtype)
    case = kernels.Case(queries, k_BSKH, 0, ids_BS is not None, how.get("window"))
    return name != "auto" or kernels.choice(case) is not None  # if a named kernel does not take it, `attention` raises


def _by_heads(q_BTNH, k_BSKH, v_BSKH, ids_BS, n, how):
    """Attention of all heads for this device's tokens, [B, T / n, N, H], by two exchanges of heads for length."""
    heads = q_BTNH.shape[2] // n
    first, groups = jax.lax.axis_index("context") * heads, q_BTNH.shape[2] // k_BSKH.shape[2]
    k, v = (_own_key_heads(x, first, heads, groups) for x in (k_BSKH, v_BSKH))
    q = _to_natural(jax.lax.all_to_all(q_BTNH, "context", split_axis=2, concat_axis=1, tiled=True), n)
    out = attention(q, k, v, segments=None if ids_BS is None else Segments(ids_BS, ids_BS), **how)
    return jax.lax.all_to_all(_to_balanced(out, n), "context", split_axis=1, concat_axis=2, tiled=True)


def _own_key_heads(x_BSKH, first, heads, groups):
    """The key heads of query heads `first` to `first + heads − 1`: shared if these form groups, else one per head."""
    if groups % heads == 0 or heads % groups == 0:
        return jax.lax.dynamic_slice_in_dim(x_BSKH, first // groups, max(heads // groups, 1), axis=2)
    return jnp.take(x_BSKH, (first + jnp.arange(heads)) // groups, axis=2)
