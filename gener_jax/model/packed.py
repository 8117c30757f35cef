"""Rows of several documents in cuDNN's packed layout, where each document is a sequence of its own.

cuDNN takes where each document starts and how long it is, for at most so many documents per row (`most`), a number that
is compiled in. The mask is then causal within each document, and no pair of tokens of two documents is computed.

This was lowered and never run on a device. Known so far:

- Grouped key heads need jax 0.11.1: before, the offsets of keys and values were those of queries (jax pull request
  39521), which gave wrong results without an error.
- XLA does not tell cuDNN the number of tokens in all, so that the backward pass has a workspace for `most` documents of
  the full length: rows · most · length · query heads · head size · 4 bytes, and as much again with grouped key heads.
- Offsets count elements in int32. Hopper GPUs or newer only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

VERSION = (0, 11, 1)  # of jax, the first with right offsets for grouped key heads


def supported() -> bool:
    """Whether this machine's GPU is a Hopper or newer, for which jax looks when it traces the packed layout.

    So no program with it can be made for a GPU that is elsewhere.
    """
    from jax._src.cudnn.fused_attention_stablehlo import check_compute_capability

    return check_compute_capability("9.0")


def fits(ids_BT: Int[Array, "B T"], most: int) -> Bool[Array, ""]:
    """Whether no row has more than `most` documents, and each document is in one piece, as ids that rise ensure."""
    steps = jnp.diff(ids_BT, axis=1)
    return (((steps != 0).sum(1) < most) & (steps >= 0).all(1)).all()


def layout(ids_BT: Int[Array, "B T"], most: int) -> tuple[Int[Array, "B M"], Int[Array, "B M+1"]]:
    """The lengths of the documents in tokens, and their first slots, int32; −1 for a document that a row lacks."""
    first = jnp.diff(ids_BT, axis=1, prepend=ids_BT[:, :1] - 1) != 0
    length = ids_BT.shape[1]
    starts = jax.vmap(lambda row: jnp.flatnonzero(row, size=most + 1, fill_value=length))(first).astype(jnp.int32)
    lengths = jnp.diff(starts, axis=1)
    return jnp.where(lengths > 0, lengths, -1), jnp.where(starts < length, starts, -1)


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    ids_BT: Int[Array, "B T"],
    most: int,
) -> Float[Array, "B T N H"]:
    """Causal attention within each document; wrong unless `fits`."""
    # jax.nn.dot_product_attention does not have the packed layout.
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    lengths, starts = layout(ids_BT, most)
    return dot_product_attention(
        q_BTNH, k_BTKH, v_BTKH, q_seqlen=lengths, kv_seqlen=lengths, q_offsets=starts, kv_offsets=starts,
        scale=q_BTNH.shape[3] ** -0.5, mask_type=MaskType.PADDING_CAUSAL,
    )  # fmt: skip
