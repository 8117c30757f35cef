"""Attention kernels of a platform's own: cuDNN and Pallas/Triton on GPUs, splash on TPUs.

Each attends a sequence to itself, causally. `refusal` says of each what it cannot do: none drops a mask in silence, and
none computes float32 in less: cuDNN has no float32 and Triton's backward pass would take TF32, so a GPU attends in
float32 without a kernel.
Dimension key as in `attention`.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gener_jax.config import Model

KERNELS = ("cudnn", "triton", "splash")


class Case(NamedTuple):
    """What is asked of an implementation."""

    queries: jax.Array
    keys: jax.Array
    offset: int | jax.Array
    segments: bool
    window: int | None


def for_any_mask(model: Model) -> Model:
    """The same model, its attention `auto` where a platform's kernel is named: evaluation and generation have documents
    and caches, which it may refuse; `auto` takes it where it does not.
    """
    return dataclasses.replace(model, attention="auto") if model.attention in KERNELS else model


def choice(case: Case) -> str | None:
    """The kernel for this platform that takes the case, the fastest first; None: none does."""
    kernels = {"gpu": ("cudnn", "triton"), "tpu": ("splash",)}.get(_platform(), ())
    return next((name for name in kernels if refusal(name, case) is None), None)


def _platform() -> str:
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform  # what is compiled for need not be here


def refusal(name: str, case: Case) -> str | None:
    """What is in the way of a kernel, to follow "model.attention is NAME, which"; None: nothing."""
    length, head_dim = case.queries.shape[1], case.queries.shape[3]
    if not isinstance(case.offset, int) or case.offset or case.keys.shape[1] != length:
        return "attends a sequence to itself, not to a cache and not over a context axis"
    if name == "cudnn":
        if case.segments:
            return "has no mask of documents (data.mask_documents)"
        if case.queries.dtype not in (jnp.bfloat16, jnp.float16):
            return f"takes bfloat16 and float16, not {case.queries.dtype}"
        if length % 2:
            return f"takes even lengths, not {length}"  # its backward pass
        if head_dim % 8 or head_dim > 128:
            return f"takes head sizes that are multiples of 8 up to 128, not {head_dim}"
    if name == "triton":
        if case.window is not None:
            return "has no sliding window"
        if length % 64:
            return f"takes lengths that are multiples of 64, not {length}"
        if case.queries.dtype == jnp.float32:
            return "multiplies float32 in TF32 (its backward pass)"
        if head_dim & (head_dim - 1):
            return f"takes head sizes that are powers of two, not {head_dim}"
    if name == "splash" and length % 128:
        return f"takes lengths that are multiples of 128, not {length}"
    platform = "tpu" if name == "splash" else "gpu"
    return None if _platform() == platform else f"runs on a {platform.upper()}, not on {_platform()}"


def is_forward(primitive) -> bool:
    """Whether remat sees cuDNN's forward pass, whose results have no name for it to keep them by."""
    return primitive.name == "dot_product_attention_fwd_wrapper"


def run(name: str, q_BTNH, k_BTKH, v_BTKH, ids_BT, window: int | None, *, name_kept: str, interpret: bool = False):
    """Attention by a kernel that does not refuse it; the result has the queries' dtype.

    Args:
      ids_BT: documents that do not see each other, or None.
      name_kept: the name under which remat may keep what the backward pass needs (of cuDNN's: by `is_forward`).
      interpret: Pallas kernels without their hardware, slowly.
    """
    if name == "cudnn":
        sides = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTNH, k_BTKH, v_BTKH, is_causal=True, local_window_size=sides, implementation="cudnn"
        )
    if name == "triton":
        return _triton(q_BTNH, k_BTKH, v_BTKH, ids_BT, name_kept, interpret)
    return _splash(q_BTNH, k_BTKH, v_BTKH, ids_BT, window, name_kept, interpret)


def _triton(q_BTNH, k_BTKH, v_BTKH, ids_BT, name_kept, interpret):
    groups = q_BTNH.shape[2] // k_BTKH.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BTKH, v_BTKH))  # the kernel has a key head a query head
    return _mha(q_BTNH, k, v, ids_BT, name_kept, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _mha(q, k, v, ids, name_kept, interpret):
    """The kernel's own function, but that what its backward pass needs has a name."""
    return _mha_forward(q, k, v, ids, name_kept, interpret)[0]


def _mha_options(q):
    from jax.experimental.pallas.ops.gpu import attention as triton

    block = 64
    sizes = triton.BlockSizes(
        block_q=block, block_k=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
    return triton, q.shape[3] ** -0.5, sizes


def _mha_forward(q, k, v, ids, name_kept, interpret):
    triton, scale, sizes = _mha_options(q)
    out, lse = triton.mha(q, k, v, ids, scale, True, sizes, interpret=interpret, return_residuals=True)
    out, lse = checkpoint_name(out, name_kept), checkpoint_name(lse, name_kept)
    return out, (q, k, v, ids, out, lse)


def _mha_backward(name_kept, interpret, saved, d_out):
    triton, scale, sizes = _mha_options(d_out)
    # Then: backward_pass_impl, num_warps, num_stages, grid, interpret, debug, return_residuals
    return triton._mha_backward(scale, True, sizes, "triton", None, 2, None, interpret, False, False, saved, d_out)


_mha.defvjp(_mha_forward, _mha_backward)


def _splash(q_BTNH, k_BTKH, v_BTKH, ids_BT, window, name_kept, interpret):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, head_dim = q_BTNH.shape[1:]
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    block = math.gcd(length, 512)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1,
        residual_checkpoint_name=name_kept, interpret=interpret,
    )  # fmt: skip
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTNH * head_dim**-0.5, k_BTKH, v_BTKH))
    ids = None if ids_BT is None else splash.SegmentIds(q=ids_BT, kv=ids_BT)
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q, k, v, ids)
    return out.transpose(0, 2, 1, 3).astype(q_BTNH.dtype)
