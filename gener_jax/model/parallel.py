"""Attention over a mesh: rows over data and fsdp, heads over tensor, the sequence over context.

Left to itself the compiler gathers every operand of blockwise attention on every device, so `jax.shard_map` says who
computes what. Over `context` each device gathers the keys and values, which grouped-query attention makes few; the
gradients of the gathered ones are summed on the way back to their owners. Of the queries it has

- its own heads over the whole length, where the platform has a kernel for that and the devices' number divides the
  heads: heads are exchanged for length, and back (Ulysses, Jacobs et al. 2023). Kernels attend from the sequence's
  first token on, to all of it.
- its own part of the length, all heads, where not: blockwise attention takes queries from anywhere.

Under a causal mask the last queries see the most keys. The sequence is therefore cut into twice as many pieces as there
are devices, and device i has pieces i and 2n − 1 − i: the same work for each. That is the *balanced order*, in which
batches come (`balance`) and results leave; positions and segment ids travel with their tokens, and nothing but
attention looks at a token's neighbours.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gener_jax.model import kernels
from gener_jax.model.attention import Segments, attention
from gener_jax.model.sharding import spec
from gener_jax.runtime.errors import ConfigError


def _context() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("context", 1)


def balance(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch of arrays [rows, length] in the balanced order, `positions` added; as it is where context is 1.

    Moves token ids between devices, nothing larger. Takes the mesh that is set.
    """
    n = _context()
    if n == 1:
        return batch
    if "positions" not in batch:
        like = batch["inputs"]
        batch = {**batch, "positions": jnp.broadcast_to(jnp.arange(like.shape[1], dtype=like.dtype), like.shape)}
    return {name: _to_balanced(x, n) for name, x in batch.items()}


def restore(x: jax.Array) -> jax.Array:
    """[rows, length, …] of the balanced order in the order of the sequence."""
    n = _context()
    return x if n == 1 else _to_natural(x, n)


def _to_balanced(x, n):
    pieces = x.reshape(x.shape[0], 2, n, -1, *x.shape[2:])  # [rows, half, device, …]
    pieces = jnp.stack([pieces[:, 0], pieces[:, 1, ::-1]], axis=2)
    return pieces.reshape(x.shape)


def _to_natural(x, n):
    pieces = x.reshape(x.shape[0], n, 2, -1, *x.shape[2:])
    return jnp.concatenate([pieces[:, :, 0], pieces[:, ::-1, 1]], axis=1).reshape(x.shape)


def sharded_attention(q_BTNH, k_BTKH, v_BTKH, *, segments: Segments | None = None, **how) -> jax.Array:
    """`attention` of a sequence with itself on the mesh that is set; over context, of sequences in the balanced order.

    Dimension key as in `attention`; T is the whole length, the same for queries and keys.

    Raises:
      ConfigError: for a platform's kernel, named, where mesh context does not divide a device's heads; "auto" takes
        blockwise attention there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention(q_BTNH, k_BTKH, v_BTKH, segments=segments, **how)
    q_spec = spec(("batch", "length", "heads", "head_dim"), mesh, q_BTNH.shape, activation=True)
    kv_spec = spec(("batch", "length", "kv_heads", "head_dim"), mesh, k_BTKH.shape, activation=True)
    ids_spec = PartitionSpec(*q_spec[:2])
    n = mesh.shape["context"] if q_BTNH.shape[1] > 1 else 1  # one token, as `init` has it, is not cut
    if q_BTNH.shape[1] % (2 * n) and n > 1:
        raise ValueError(f"a length of {q_BTNH.shape[1]} tokens is not divisible by twice mesh context = {2 * n}")
    groups = q_BTNH.shape[2] // k_BTKH.shape[2]

    def local(q, k, v, ids):
        if q_spec[2] is not None and kv_spec[2] is None:  # heads are cut, key heads are not
            first = jax.lax.axis_index("tensor") * q.shape[2]
            k, v = (_own_key_heads(x, first, q.shape[2], groups) for x in (k, v))
        if n == 1:
            return attention(q, k, v, segments=None if ids is None else Segments(ids, ids), **how)
        k, v = (_to_natural(jax.lax.all_gather(x, "context", axis=1, tiled=True), n) for x in (k, v))
        keys = None if ids is None else _to_natural(jax.lax.all_gather(ids, "context", axis=1, tiled=True), n)
        if _exchanges(q, k, keys, n, how):
            return _by_heads(q, k, v, keys, n, how)
        rank, half = jax.lax.axis_index("context"), q.shape[1] // 2
        out = []
        for part, piece in ((slice(0, half), rank), (slice(half, None), 2 * n - 1 - rank)):
            own = None if ids is None else Segments(ids[:, part], keys)
            out.append(attention(q[:, part], k, v, segments=own, **{**how, "offset": piece * half}))
        return jnp.concatenate(out, axis=1)

    ids = None if segments is None else segments.queries
    return jax.shard_map(
        local, in_specs=(q_spec, kv_spec, kv_spec, None if ids is None else ids_spec), out_specs=q_spec,
        check_vma=False,
    )(q_BTNH, k_BTKH, v_BTKH, ids)  # fmt: skip


def _exchanges(q_BTNH, k_BSKH, ids_BS, n, how) -> bool:
    """Whether a kernel takes this device's share of the heads over the whole length."""
    name = how.get("implementation", "auto")
    if name not in ("auto", *kernels.KERNELS):
        return False
    B, _, heads, H = q_BTNH.shape
    if heads % n:
        if name == "auto":
            return False
        raise ConfigError(
            f"model.attention is {name}, which over a context axis needs heads that its {n} devices can share, not "
            f"{heads}: use auto or blockwise, or another mesh.context"
        )
    queries = jax.ShapeDtypeStruct((B, k_BSKH.shape[1], heads // n, H), q_BTNH.dtype)
    case = kernels.Case(queries, k_BSKH, how["offset"], ids_BS is not None, how.get("window"))
    return name != "auto" or kernels.choice(case) is not None  # a named one refuses in words, if it does


def _by_heads(q_BTNH, k_BSKH, v_BSKH, ids_BS, n, how):
    """Attention of all heads at this device's tokens, by all tokens of this device's heads, [B, T / n, N, H]."""
    heads = q_BTNH.shape[2] // n
    first, groups = jax.lax.axis_index("context") * heads, q_BTNH.shape[2] // k_BSKH.shape[2]
    k, v = (_own_key_heads(x, first, heads, groups) for x in (k_BSKH, v_BSKH))
    q = _to_natural(jax.lax.all_to_all(q_BTNH, "context", split_axis=2, concat_axis=1, tiled=True), n)
    out = attention(q, k, v, segments=None if ids_BS is None else Segments(ids_BS, ids_BS), **how)
    return jax.lax.all_to_all(_to_balanced(out, n), "context", split_axis=1, concat_axis=2, tiled=True)


def _own_key_heads(x_BSKH, first, heads, groups):
    """The key heads of the `heads` query heads from `first` on: those that they share, else one for each."""
    if groups % heads == 0 or heads % groups == 0:
        return jax.lax.dynamic_slice_in_dim(x_BSKH, first // groups, max(heads // groups, 1), axis=2)
    return jnp.take(x_BSKH, (first + jnp.arange(heads)) // groups, axis=2)
