"""What a head reads of sequences: pooled hidden states of one layer, or of all layers in one pass.

framing = Framing(lm.spec, head)
rows = [row for codes in sequences for row in framing.rows(codes)]
inputs = features(lm, rows, head, batch_tokens)                       # float32 [sequences, inputs of the head]
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence.tokenizer import BOS
from gener_jax.config import Head
from gener_jax.inference.batches import by_row, right_pad
from gener_jax.inference.embeddings import padding, pooled
from gener_jax.model import heads
from gener_jax.model.decoder import Decoder


def features(lm, rows: list[np.ndarray], head: Head, batch_tokens: int) -> np.ndarray:
    """The inputs of a head, float32 [sequences, `head.num_inputs`], of framed rows of ids (see `framing.Framing`).

    Each sequence has `head.chunks` consecutive rows, whose hidden states are concatenated; an empty row gives zeros.
    With `head.pool_at_end` all rows are padded to the longest of the call, and its last position is pooled.

    Args:
      lm: a `LM`, whose own head is not used.
      batch_tokens: tokens per batch, including padding (see `batches.tokens_per_batch`).
    """
    layer = lm.spec.model.num_hidden_layers + 1 if head.layer is None else head.layer

    def compute(ids, lengths):
        return pooled(lm.model, lm.params, ids, lengths, layer=layer, pooling=head.pooling, padded=head.pool_at_end)

    found = np.zeros((len(rows), lm.spec.model.hidden_size), np.float32)
    for i, state in _states(lm, rows, head, batch_tokens, compute):
        found[i] = state
    return found.reshape(-1, head.num_inputs(lm.spec.model.hidden_size))


def all_layers(lm, rows: list[np.ndarray], head: Head, batch_tokens: int) -> np.ndarray:
    """The same of every layer, float32 [layers + 1, sequences, inputs]; `head.layer` is not used.

    The first is that of `layer` 1, the output of the first layer; the last one follows the final norm (`layer` None).
    """

    def compute(ids, lengths):
        return _all_pooled(lm.model, lm.params, ids, lengths, pooling=head.pooling, padded=head.pool_at_end)

    layers = lm.spec.model.num_hidden_layers + 1
    found = np.zeros((layers, len(rows), lm.spec.model.hidden_size), np.float32)
    for i, states in _states(lm, rows, head, batch_tokens, compute):
        found[:, i] = states
    return found.reshape(layers, -1, head.num_inputs(lm.spec.model.hidden_size))


def _states(lm, rows: list[np.ndarray], head: Head, batch_tokens: int, compute) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index of each row that is not empty and what `compute` finds for it."""
    filled = [i for i, row in enumerate(rows) if len(row)]
    if head.pool_at_end and head.pooling != "mean" and filled:  # the last <pad> is pooled
        longest = max(len(rows[i]) for i in filled)
        rows = [right_pad([row], longest)[0] for row in rows]

    def batch(chosen, number, length):
        chosen = [rows[filled[i]] for i in chosen]
        chosen += [np.array([BOS])] * (number - len(chosen))
        return compute(right_pad(chosen, length), np.array([len(row) for row in chosen], np.int32))

    for i, state in by_row(batch, lm.mesh, [len(rows[i]) for i in filled], batch_tokens):
        yield filled[i], state


@functools.partial(jax.jit, static_argnames=("model", "pooling", "padded"))
def _all_pooled(
    model: Decoder, params, ids: Int[Array, "B T"], lengths: Int[Array, " B"], *, pooling: str, padded: bool
) -> Float[Array, "B L D"]:
    segments = padding(ids) if padded else None
    (hidden, _), state = model.apply({"params": params}, ids, segment_ids_BT=segments, mutable=["intermediates"])
    layers = [state["intermediates"][f"layers_{i}"]["output"][0] for i in range(model.config.num_hidden_layers)]
    return jnp.stack([heads.pool(x, lengths, pooling) for x in (*layers, hidden)], axis=1)
