"""Hidden states as embeddings of whole sequences or of their tokens."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gener_jax.model.decoder import Decoder

POOLINGS = ("last", "mean", "separator", "tokens")


@functools.partial(jax.jit, static_argnames=("model", "layer", "pooling"))
def pooled(
    model: Decoder, params, ids: Int[Array, "B T"], lengths: Int[Array, " B"], *, layer: int, pooling: str
) -> Float[Array, "B ..."]:
    """Hidden states float32 of a layer, [B, D] or, of all tokens, [B, T, D].

    Args:
      lengths: tokens a row; what lies behind them is not seen.
      layer: 0 the token embeddings, i what leaves layer i un-normed; the number of layers + 1: behind the last norm.
      pooling: "mean" over the tokens, "tokens" all, else the last.
    """
    layers = model.config.num_hidden_layers
    if layer == 0:
        hidden = jnp.take(params["embed_tokens"], ids, axis=0)
    elif layer == layers + 1:
        hidden, _ = model.apply({"params": params}, ids)
    else:
        _, state = model.apply({"params": params}, ids, mutable=["intermediates"])
        hidden = state["intermediates"][f"layers_{layer - 1}"]["output"][0]
    hidden = hidden.astype(jnp.float32)
    if pooling == "tokens":
        return hidden
    if pooling == "mean":
        real = jnp.arange(ids.shape[1]) < lengths[:, None]
        return jnp.einsum("btd,bt->bd", hidden, real.astype(jnp.float32)) / lengths[:, None]
    return jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
