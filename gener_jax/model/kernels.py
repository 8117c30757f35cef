"""Attention kernels of a platform's own: cuDNN and Pallas/Triton on GPUs, splash on TPUs.

Each attends a sequence to itself, causally. `refusal` says of each what it cannot do: none drops a mask in silence.
Dimension key as in `attention`.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
        if head_dim % 8 or head_dim > 128:
            return f"takes head sizes that are multiples of 8 up to 128, not {head_dim}"
    if name == "triton":
        if case.window is not None:
            return "has no sliding window"
        if length % 64:
            return f"takes lengths that are multiples of 64, not {length}"
        if head_dim & (head_dim - 1):
            return f"takes head sizes that are powers of two, not {head_dim}"
    if name == "splash" and length % 128:
        return f"takes lengths that are multiples of 128, not {length}"
    platform = "tpu" if name == "splash" else "gpu"
    return None if _platform() == platform else f"runs on a {platform.upper()}, not on {_platform()}"


def run(name: str, q_BTNH, k_BTKH, v_BTKH, ids_BT, window: int | None, *, name_kept: str, interpret: bool = False):
    """Attention by a kernel that does not refuse it; the result has the queries' dtype.

    Args:
      ids_BT: documents that do not see each other, or None.
      name_kept: the name under which remat may keep what the backward pass needs.
      interpret: Pallas kernels without their hardware, slowly.
    """
    if name == "cudnn":
        sides = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTNH, k_BTKH, v_BTKH, is_causal=True, local_window_size=sides, implementation="cudnn"
        )
    if name == "triton":
        return _triton(q_BTNH, k_BTKH, v_BTKH, ids_BT, interpret)
    return _splash(q_BTNH, k_BTKH, v_BTKH, ids_BT, window, name_kept, interpret)


def _triton(q_BTNH, k_BTKH, v_BTKH, ids_BT, interpret):
    from jax.experimental.pallas.ops.gpu import attention as triton

    groups = q_BTNH.shape[2] // k_BTKH.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BTKH, v_BTKH))  # the kernel has a key head a query head
    block = 64
    sizes = triton.BlockSizes(
        block_q=block, block_k=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
    scale = q_BTNH.shape[3] ** -0.5
    return triton.mha(q_BTNH, k, v, ids_BT, scale, True, sizes, interpret=interpret)


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
