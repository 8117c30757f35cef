"""Heads of fine-tuned models: one matrix from hidden states to classes or values, in the tree under "head".

Dimension key: B batch, T tokens, D hidden, I inputs of the head, O outputs.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from gener_jax.config import Head
from gener_jax.model.attention import matmul_precision
from gener_jax.model.projection import Matrix


def init(key: jax.Array, head: Head, hidden_size: int, k: int, *, deviation: float):
    """The float32 parameters of a head, boxed with their logical axes: "kernel" [I, O]; with `head.bias` "bias" [O].

    The kernel is drawn from a normal distribution with standard deviation `deviation`; the bias is 0. With
    `head.standardized` also "mean" [I], 0, and "deviation" [I], 1, of the inputs, which no gradient reaches.
    """
    inputs, outputs = head.num_inputs(hidden_size), head.num_outputs(k)
    kernel = deviation * jax.random.normal(key, (inputs, outputs), jnp.float32)
    params = {"kernel": Matrix(kernel, ("hidden", "outputs"), num_inputs=1)}
    if head.bias:
        params["bias"] = nn.LogicallyPartitioned(jnp.zeros(outputs, jnp.float32), ("outputs",))
    if head.standardized:
        ones = jnp.ones(inputs, jnp.float32)
        params |= {
            name: nn.LogicallyPartitioned(x, ("hidden",)) for name, x in (("mean", 0 * ones), ("deviation", ones))
        }
    return params


def pool(
    hidden_BTD: Float[Array, "B T D"], lengths_B: Int[Array, " B"], pooling: str, *, at_end: bool = False
) -> Float[Array, "B D"]:
    """The hidden state of each row, float32: of its last token, or the mean of its tokens.

    Args:
      lengths_B: tokens per row; padding follows them.
      pooling: "mean"; any other value, the last token ("last", "separator").
      at_end: take the last position of the padded row instead, which is wrong for shorter rows (for parity).
    """
    hidden_BTD = hidden_BTD.astype(jnp.float32)
    if pooling == "mean":
        real = jnp.arange(hidden_BTD.shape[1]) < lengths_B[:, None]
        return jnp.einsum("btd,bt->bd", hidden_BTD, real.astype(jnp.float32)) / lengths_B[:, None]
    if at_end:
        return hidden_BTD[:, -1]
    return jnp.take_along_axis(hidden_BTD, lengths_B[:, None, None] - 1, axis=1)[:, 0]


def both_strands(
    forward_BTD: Float[Array, "B T D"], reverse_BTD: Float[Array, "B T D"], lengths_B: Int[Array, " B"]
) -> Float[Array, "B T I"]:
    """The hidden states of each k-mer on both strands, joined: that of the strand read first has seen it and all bases
    to its left, that of the reverse complement it and all bases to its right.

    Args:
      forward_BTD, reverse_BTD: of rows of <s> and k-mers, and of their reverse complements, whose k-mers are the same
        bases in the opposite order. What is joined at <s> and at padding has no meaning.
      lengths_B: tokens per row, with <s>; padding follows them.
    """
    mirror_BT = jnp.clip(lengths_B[:, None] - jnp.arange(forward_BTD.shape[1]), 0, forward_BTD.shape[1] - 1)
    return jnp.concatenate([forward_BTD, jnp.take_along_axis(reverse_BTD, mirror_BT[..., None], axis=1)], axis=-1)


def of_bases(x: Float[Array, "... O"], k: int) -> Float[Array, "... k C"]:
    """Outputs of tokens of k bases as those of each base: the classes of the first base come first."""
    return x.reshape(*x.shape[:-1], k, -1)


def outputs(params, inputs: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """The outputs of a head, float32, computed in float32: logits, or values in units of `Head.scale`."""
    inputs = inputs.astype(jnp.float32)
    if "mean" in params:
        mean, deviation = jax.lax.stop_gradient((params["mean"], params["deviation"]))
        inputs = (inputs - mean) / deviation
    with matmul_precision("float32"):
        found = inputs @ params["kernel"]
    return found + params["bias"] if "bias" in params else found


def folded(params) -> dict[str, jax.Array]:
    """The same head as its "kernel" and "bias" alone: the statistics of a standardized one are folded into them."""
    if "mean" not in params:
        return params
    kernel = params["kernel"] / params["deviation"][:, None]
    with matmul_precision("float32"):
        return {"kernel": kernel, "bias": params.get("bias", 0) - params["mean"] @ kernel}
