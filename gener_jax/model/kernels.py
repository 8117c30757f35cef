"""Attention kernels for a platform: cuDNN and Pallas/Triton on GPUs, splash on TPUs.

`cudnn_packed` is cuDNN with document masks. It was never run on a device, so `auto` does not choose it.

Each computes causal self-attention of whole sequences. `refusal` reports what a kernel does not support, so that no
mask is ignored and float32 keeps its precision. cuDNN has no float32, and Triton's backward pass would use TF32, so on
a GPU float32 attention runs without a kernel. Dimension key as in `attention`.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gener_jax.config import Model
from gener_jax.model import packed

# Name → its platform; the faster first.
KERNELS = {"cudnn": "gpu", "triton": "gpu", "cudnn_packed": "gpu", "splash": "tpu"}
_BY_NAME_ONLY = ("cudnn_packed",)  # never run on a device


class Case(NamedTuple):
    """The properties of an attention call that decide which implementations support it."""

    queries: jax.Array
    keys: jax.Array
    offset: int | jax.Array
    segments: bool
    window: int | None


def for_any_mask(model: Model) -> Model:
    """The same model, with `auto` in place of a named kernel.

    Evaluation and generation have document masks and caches, which a kernel may not support; `auto` uses the kernel
    where it does.
    """
    return dataclasses.replace(model, attention="auto") if model.attention in KERNELS else model


def choice(case: Case) -> str | None:
    """The fastest kernel of this platform that supports the case, or None."""
    names = (name for name in KERNELS if name not in _BY_NAME_ONLY)
    return next((name for name in names if refusal(name, case) is None), None)


def refusals(case: Case) -> dict[str, str]:
    """Why each kernel of this platform that `choice` considers cannot compute the case."""
    names = (name for name, where in KERNELS.items() if where == platform() and name not in _BY_NAME_ONLY)
    return {name: reason for name in names if (reason := refusal(name, case))}


def platform() -> str:
    """The platform that programs are compiled for ("cpu", "gpu", "tpu"): that of the mesh, or of this machine."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device  # which this machine may not have
    return jax.default_backend() if device is None else device.platform


def _old_capability() -> str:
    """The compute capability of this machine's GPUs if they are none of NVIDIA's from Ampere on, else "".

    Without a GPU it is "": programs are then compiled for that of another machine.
    """
    if jax.default_backend() != "gpu":
        return ""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")  # such as 9.0; of AMD gfx90a
    number = re.fullmatch(r"(\d+)\.\d+", capability)
    return "" if number and int(number[1]) >= 8 else capability


def refusal(name: str, case: Case) -> str | None:
    """Why a kernel cannot compute the case, as a predicate whose subject is the kernel; None if it can."""
    length, head_dim, dtype = case.queries.shape[1], case.queries.shape[3], case.queries.dtype
    whole = isinstance(case.offset, int) and not case.offset and case.keys.shape[1] == length
    version, needed = (".".join(map(str, x[:3])) for x in (jax.__version_info__, packed.VERSION))
    old = _old_capability()
    ampere = (old, f"needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer, not {old}")
    cudnn = (
        ampere,
        (dtype not in (jnp.bfloat16, jnp.float16), f"supports bfloat16 and float16, not {dtype}"),
        (length % 2, f"supports even lengths, not {length}"),  # because of its backward pass
        (head_dim % 8 or head_dim > 128, f"supports head sizes that are multiples of 8 up to 128, not {head_dim}"),
    )
    limits = {
        "cudnn": ((case.segments, "has no document mask (data.mask_documents)"), *cudnn),
        "cudnn_packed": (
            (jax.__version_info__ < packed.VERSION, f"needs jax {needed} or newer, not {version}"),
            (
                name == "cudnn_packed" and not packed.supported(),
                "needs a GPU of compute capability 9.0 (Hopper) or newer in this machine",
            ),
            (not case.segments, "is for document masks (data.mask_documents)"),
            (case.window is not None, "has no sliding window"),
            (math.prod(case.queries.shape) >= 2**31, "counts at most 2^31 numbers of queries in int32"),
            *cudnn,
        ),
        "triton": (
            ampere,
            (case.window is not None, "has no sliding window"),
            (length % 64, f"supports lengths that are multiples of 64, not {length}"),
            (dtype == jnp.float32, "multiplies float32 in TF32 in its backward pass"),
            (head_dim & (head_dim - 1), f"supports head sizes that are powers of two, not {head_dim}"),
        ),
        "splash": ((length % 128, f"supports lengths that are multiples of 128, not {length}"),),
    }
    reasons = (
        (not whole, "supports only a whole sequence, not a cache or a context axis that does not divide the heads"),
        *limits[name],
        (platform() != KERNELS[name], f"runs on a {KERNELS[name].upper()}, not on {platform()}"),
    )
    return next((reason for refused, reason in reasons if refused), None)


def is_forward(primitive) -> bool:
    """Whether a primitive is cuDNN's forward pass, whose results have no checkpoint name that remat could match."""
    return primitive.name == "dot_product_attention_fwd_wrapper"


# Kernel → what its forward and backward custom calls in a compiled program are named: cuDNN's by their target, those of
# Pallas by the operation. The backward pass of splash has two kernels, one for queries and one for keys and values;
# cudnn_packed calls what cudnn calls.
_CALLS = {
    "cudnn": (r"__cudnn\$fmha\w*(?<!Backward)$", r"__cudnn\$fmha\w*Backward$"),
    "triton": (r"\bmha_forward\b", r"\bmha_backward\b"),
    "splash": (r"\bsplash_m[hq]a_fwd", r"\bsplash_m[hq]a_d"),
}


def called(target: str, operation: str) -> tuple[str, str] | None:
    """The kernel, and "forward" or "backward", of a custom call in a compiled program; None if it is none of `KERNELS`.

    Args:
      target: the call's `custom_call_target`.
      operation: its `op_name`, the path of the operation in the traced function.
    """
    for name, patterns in _CALLS.items():
        for direction, pattern in zip(("forward", "backward"), patterns, strict=True):
            if re.search(pattern, target) or re.search(pattern, operation):
                return name, direction
    return None


def run(
    name: str, q_BTNH, k_BTKH, v_BTKH, ids_BT, window: int | None, *,
    name_kept: str, documents: int | None = None, interpret: bool = False,
):  # fmt: skip
    """Attention by a kernel that supports the case (see `refusal`); the result has the queries' dtype.

    Args:
      ids_BT: document ids, or None.
      name_kept: the checkpoint name of what the backward pass needs, so that remat may keep it (cuDNN's results have
        none; see `is_forward`).
      documents: the most documents of a row that cudnn_packed computes; see `packed.fits`.
      interpret: run Pallas kernels in their interpreter, which is slow but needs no GPU or TPU.
    """
    if name == "cudnn":
        sides = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTNH, k_BTKH, v_BTKH, is_causal=True, local_window_size=sides, implementation="cudnn"
        )
    if name == "cudnn_packed":
        return packed.attention(q_BTNH, k_BTKH, v_BTKH, ids_BT, documents)
    if name == "triton":
        groups = q_BTNH.shape[2] // k_BTKH.shape[2]  # the kernel needs one key head per query head
        k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BTKH, v_BTKH))
        return _mha(q_BTNH, k, v, ids_BT, name_kept, interpret)
    return _splash(q_BTNH, k_BTKH, v_BTKH, ids_BT, window, name_kept, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _mha(q, k, v, ids, name_kept, interpret):
    """Triton's kernel, with checkpoint names on what its backward pass needs."""
    return _mha_forward(q, k, v, ids, name_kept, interpret)[0]


def _mha_options(q):
    from jax.experimental.pallas.ops.gpu import attention as triton

    blocks = ("block_q", "block_k", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return triton, q.shape[3] ** -0.5, triton.BlockSizes(**dict.fromkeys(blocks, 64))


def _mha_forward(q, k, v, ids, name_kept, interpret):
    triton, scale, sizes = _mha_options(q)
    results = triton.mha(q, k, v, ids, scale, True, sizes, interpret=interpret, return_residuals=True)
    out, lse = checkpoint_name(results, name_kept)
    return out, (q, k, v, ids, out, lse)


def _mha_backward(name_kept, interpret, saved, d_out):
    triton, scale, sizes = _mha_options(d_out)
    # The arguments after sizes: backward_pass_impl, num_warps, num_stages, grid, interpret, debug, return_residuals
    return triton._mha_backward(scale, True, sizes, "triton", None, 2, None, interpret, False, False, saved, d_out)


_mha.defvjp(_mha_forward, _mha_backward)


def _splash(q_BTNH, k_BTKH, v_BTKH, ids_BT, window, name_kept, interpret):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, head_dim = q_BTNH.shape[1:]
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    # A step of 512 × 512 queries and keys is so short, for heads of 64, that starting it costs as much. Larger blocks
    # compute more of what causality masks, block / length of the work, so only long sequences have them.
    block = math.gcd(length, 512 if length < 8192 else 1024)
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
