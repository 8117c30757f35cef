"""Predicted classes per base, by a model whose head was trained on labels per base (finetune.problem token)."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence.tokenizer import BOS, KmerTokenizer
from gener_jax.config import Head
from gener_jax.inference.batches import by_row, right_pad, tokens_per_batch
from gener_jax.inference.prompt import Prompt, as_prompts
from gener_jax.labelled import windows
from gener_jax.labelled.windows import Window
from gener_jax.model import decoder, heads
from gener_jax.runtime.errors import InputError

_NOTHING = np.array([BOS], np.int32)


def logits(
    hidden, params, inputs: Int[Array, "B T"], reverse: Int[Array, "B T"], lengths: Int[Array, " B"], k: int
) -> Float[Array, "B T k C"]:
    """float32 logits of the classes of each base of each token.

    Args:
      hidden: the hidden states [B, T, D] of ids [B, T].
      params: of the head.
      inputs, reverse, lengths: as `windows.tokens_of_strands`, padded on the right, and the tokens of each row.
      k: bases per token.
    """
    rows, length = inputs.shape
    both = jnp.stack([inputs, reverse], axis=1).reshape(2 * rows, length)  # a row's strands remain on its device
    both = hidden(both).reshape(rows, 2, length, -1)
    return heads.of_bases(heads.outputs(params, heads.both_strands(both[:, 0], both[:, 1], lengths)), k)


@functools.partial(jax.jit, static_argnames=("model", "head", "k"))
def _probabilities(model: decoder.Decoder, params, inputs, reverse, lengths, *, head: Head, k: int):
    def hidden(ids):
        return model.apply(decoder.variables(params), ids, final_norm=head.layer is None)[0]

    found = logits(hidden, params["head"], inputs, reverse, lengths, k) / head.temperature
    return jax.nn.softmax(found, axis=-1)


def probabilities(
    model: decoder.Decoder,
    params,
    head: Head,
    mesh: jax.sharding.Mesh,
    tokenizer: KmerTokenizer,
    rows: Sequence[tuple[np.ndarray, Window]],
    batch_tokens: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each window and the probabilities of the bases that it labels, float32 [bases, classes].

    Args:
      params: of the decoder, stacked or by layer, with "head" and perhaps "adapters".
      rows: the codes of a contig, and a window of it.
      batch_tokens: tokens per batch, of one strand, including padding [the platform's default].
    """
    lengths = [1 + (window.stop - window.start) // tokenizer.k for _, window in rows]

    def compute(chosen, number, length):
        strands = [
            windows.tokens_of_strands(codes[window.start : window.stop], tokenizer)
            for codes, window in (rows[i] for i in chosen)
        ]
        strands += [(_NOTHING, _NOTHING)] * (number - len(chosen))
        inputs, reverse = (right_pad(list(x), length) for x in zip(*strands, strict=True))
        sizes = np.array([len(x) for x, _ in strands], np.int32)
        return _probabilities(model, params, inputs, reverse, sizes, head=head, k=tokenizer.k)

    for i, found in by_row(compute, mesh, lengths, tokens_per_batch(batch_tokens)):
        window = rows[i][1]
        by_base = found[1:].reshape(-1, found.shape[-1])  # without <s>
        yield i, by_base[window.first - window.start : window.last - window.start]


def check(lm) -> Head:
    """The head of a model.

    Raises:
      InputError: if the model has none that labels bases.
    """
    if lm.head is None or lm.head.problem != "token":
        what = "has no head" if lm.head is None else f"has a head for {lm.head.problem}; see predict"
        raise InputError(f"{lm.spec.name} {what}: labels per base need one of finetune.problem token", "head")
    return lm.head


def annotate(lm, sequences: Iterable[str | Prompt], *, batch_tokens: int | None = None) -> list[np.ndarray]:
    """See `LM.annotate`."""
    head, k, found, rows = check(lm), lm.tokenizer.k, [], []
    for i, prompt in enumerate(as_prompts(sequences, "sequences")):
        if len(prompt.special):
            raise InputError("must be DNA alone, without special tokens", f"sequences[{i}]", str(prompt))
        codes = prompt.codes
        found.append(np.full((len(codes), len(head.names)), np.nan, np.float32))
        count = windows.number(len(codes), head.context - 1, k)
        rows += [(i, codes, windows.cut(0, len(codes), head.context - 1, k, count, j)) for j in range(count)]
    cut, params = [(codes, window) for _, codes, window in rows], {**lm.params, "head": lm.head_params}
    for i, values in probabilities(lm.model, params, head, lm.mesh, lm.tokenizer, cut, batch_tokens):
        number, _, window = rows[i]
        found[number][window.first : window.last] = values
    return found
