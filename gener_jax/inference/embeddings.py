"""Embeddings of whole sequences or of their tokens, from hidden states."""

import functools
import warnings
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV, PAD, REMAINDERS
from gener_jax.inference.batches import by_row, right_pad
from gener_jax.inference.framing import check_pooling
from gener_jax.inference.options import POOLINGS
from gener_jax.inference.prompt import Prompt, as_prompts
from gener_jax.model import heads
from gener_jax.model.attention import Padded
from gener_jax.model.decoder import Decoder
from gener_jax.runtime.errors import InputError, whole

UNKNOWN = (
    "a sequence, or a chunk of one, has no whole k-mer of known bases, so its embedding is that of <oov> and does not "
    "depend on its bases (remainder='pad_left' encodes short sequences)"
)


@functools.partial(jax.jit, static_argnames=("model", "layer", "pooling", "padded"))
def pooled(
    model: Decoder,
    params,
    ids: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    *,
    layer: int,
    pooling: str,
    padded: bool = False,
) -> Float[Array, "B ..."]:
    """Hidden states of a layer, pooled over tokens, float32 [B, D], or of all tokens, float32 [B, T, D].

    Args:
      lengths: tokens per row; the padding after them is not attended to.
      layer: 0, the token embeddings; i, the output of layer i before the final norm; the number of layers + 1, after
        the final norm.
      pooling: "mean" of the tokens, "tokens" for all of them; any other value, the last token.
      padded: the rows end in <pad>, whose hidden states are wanted too (see `attention.Padded`).
    """
    layers = model.config.num_hidden_layers
    if layer == 0:
        hidden = jnp.take(params["embed_tokens"], ids, axis=0)
    elif layer == layers + 1:
        hidden, _ = model.apply({"params": params}, ids, segment_ids_BT=padding(ids) if padded else None)
    else:
        _, state = model.apply(
            {"params": params}, ids, segment_ids_BT=padding(ids) if padded else None, mutable=["intermediates"]
        )
        hidden = state["intermediates"][f"layers_{layer - 1}"]["output"][0]
    return hidden.astype(jnp.float32) if pooling == "tokens" else heads.pool(hidden, lengths, pooling)


def padding(ids: Int[Array, "B T"]) -> Padded:
    """Which of the ids are tokens, and not <pad>."""
    return Padded((ids != PAD).astype(jnp.int32))


def unknown(ids: np.ndarray) -> bool:
    """Whether a framed sequence, int32 [tokens], has <oov> and no k-mer."""
    return OOV in ids and bool((ids < NUM_SPECIAL).all())


def frames(lm, prompt: Prompt, argument: str, chunks: int, remainder: str) -> list[np.ndarray]:
    """The ids of a sequence's chunks, each framed, int32 [tokens].

    Raises:
      InputError: of `argument`, if it exceeds the model's positions, or has fewer tokens than chunks; or of the
        model's `prompt_convention`.
    """
    text, (ids, _, left_over) = str(prompt), prompt.encode(lm.tokenizer, remainder)
    if len(left_over) and remainder == "error":
        raise InputError(f"has {len(left_over)} bases left over", argument, text)
    ids = np.append(ids, OOV)[1:] if len(left_over) else ids[1:]
    if len(ids) < chunks:
        raise InputError(f"has {len(ids)} tokens, fewer than chunks ({chunks})", argument, text)
    found = [lm.frame(chunk) for chunk in np.array_split(ids, chunks)]
    lm.check_length(max(map(len, found)), argument, text)
    return found


def embed(
    lm,
    sequences: Iterable[str | Prompt],
    *,
    pooling: str,
    layer: int | None,
    chunks: int,
    remainder: str,
    batch_tokens: int,
) -> np.ndarray | list[np.ndarray]:
    """See `LM.embed`."""
    prompts, chunks = as_prompts(sequences, "sequences"), whole(chunks, "chunks", 1)
    if pooling not in POOLINGS:
        raise InputError(f"must be one of {', '.join(POOLINGS)}", "pooling", pooling)
    if remainder not in REMAINDERS:
        raise InputError(f"must be one of {', '.join(REMAINDERS)}", "remainder", remainder)
    layers = lm.spec.model.num_hidden_layers
    layer = layers + 1 if layer is None else whole(layer, "layer", 0, layers)
    check_pooling(lm.spec, pooling)
    rows = [row for i, x in enumerate(prompts) for row in frames(lm, x, f"sequences[{i}]", chunks, remainder)]
    if any(map(unknown, rows)):
        warnings.warn(UNKNOWN, stacklevel=3)
    lm.warn_unseen(rows, framed=pooling in ("last", "separator"))

    def compute(chosen, number, length):
        batch = [rows[i] for i in chosen] + [np.array([BOS])] * (number - len(chosen))
        lengths, ids = np.array([len(row) for row in batch], np.int32), right_pad(batch, length)  # is not attended to
        return pooled(lm.model, lm.params, ids, lengths, layer=layer, pooling=pooling)

    found = [None] * len(rows)
    for i, state in by_row(compute, lm.mesh, [len(row) for row in rows], batch_tokens):
        found[i] = state[: len(rows[i])].copy() if pooling == "tokens" else state
    if pooling == "tokens":
        return [np.concatenate(found[i : i + chunks]) for i in range(0, len(found), chunks)]
    return np.array(found, np.float32).reshape(len(prompts), chunks * lm.spec.model.hidden_size)
