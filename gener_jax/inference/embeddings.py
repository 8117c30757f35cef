"""Hidden states as embeddings of whole sequences or of their tokens."""

import functools
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV
from gener_jax.inference.batches import by_length, listed, results, right_pad
from gener_jax.model.decoder import Decoder

POOLINGS = ("last", "mean", "separator", "tokens")
_UNKNOWN = (
    "a sequence, or a chunk of one, has no whole k-mer of known bases: it is embedded as <oov>, whatever its bases "
    "(remainder pad_left reads short ones)"
)


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


def embed(
    lm, sequences: Sequence[str], *, pooling: str, layer: int | None, chunks: int, remainder: str, batch_tokens: int
) -> np.ndarray | list[np.ndarray]:
    """See `LM.embed`."""
    sequences = listed(sequences)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    layers = lm.config.model.num_hidden_layers
    if layer is not None and not 0 <= layer <= layers:
        raise ValueError(f"layer is {layer}: the model has layers 1 to {layers}, and 0 is its embeddings")
    for name, value in (("chunks", chunks), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it has to be positive")
    if pooling == "separator" and len(lm.frame(np.zeros(0, np.int32))) < 2:
        raise ValueError(f"pooling 'separator': {lm.config.name} reads sequences as v1, which has none: take last")
    rows = []
    for number, sequence in enumerate(sequences):
        ids = lm.tokenizer.encode(sequence, remainder=remainder)
        if len(ids) < chunks:
            raise ValueError(f"sequence {number} has {len(ids)} tokens, fewer than {chunks} chunk(s)")
        parts = np.array_split(ids, chunks)
        if any(OOV in part and (part < NUM_SPECIAL).all() for part in parts):
            warnings.warn(_UNKNOWN, stacklevel=3)
        rows += [lm.frame(part) for part in parts]
        lm.check_length(max(map(len, rows[-chunks:])), f"sequence {number} in {chunks} chunk(s)")

    def dispatched():
        for chosen, number, length in by_length([len(row) for row in rows], batch_tokens):
            batch = [rows[i] for i in chosen] + [np.array([BOS])] * (number - len(chosen))
            lengths = np.array([len(row) for row in batch], np.int32)
            with jax.set_mesh(lm.mesh):
                states = pooled(
                    lm.model, lm.params, right_pad(batch, length), lengths,  # nothing sees what lies behind it
                    layer=layers + 1 if layer is None else layer, pooling=pooling,
                )  # fmt: skip
            yield chosen, states

    found = [None] * len(rows)
    for i, state in results(dispatched()):
        found[i] = state[: len(rows[i])].copy() if pooling == "tokens" else state
    if pooling == "tokens":
        return [np.concatenate(found[i : i + chunks]) for i in range(0, len(found), chunks)]
    if not found:
        return np.zeros((0, chunks * lm.config.model.hidden_size), np.float32)
    return np.stack(found).reshape(len(sequences), -1)
