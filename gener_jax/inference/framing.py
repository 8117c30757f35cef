"""How a sequence becomes rows of ids: framing by the prompt convention, and for a head also trimming and chunks.

A head's rows are the same in training and in prediction, because both take them from `Framing`. It needs no jax.
"""

import numpy as np

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV
from gener_jax.config import Head, ModelSpec
from gener_jax.runtime.errors import InputError

LONGER = 1.05  # times the context: rows up to that length are cut off, and only longer ones extended


def framed(spec: ModelSpec, ids: np.ndarray) -> np.ndarray:
    """The ids of a sequence framed for its hidden states, int32 [tokens], by `spec.prompt_convention`.

    v1: <s> and the sequence; v2: <s>, the sequence and a second <s>, the separator.

    Raises:
      InputError: if the convention is unknown.
    """
    convention = spec.prompt_convention
    if convention == "unknown":
        raise InputError(
            f"{spec.name} does not specify whether sequences are framed as in v1 or v2 of GENERator",
            "prompt_convention",
            convention,
            settings=[("prompt_convention", "v1"), ("prompt_convention", "v2")],
        )
    return np.concatenate([[BOS], ids, [BOS] * (convention == "v2")]).astype(np.int32)


def check_pooling(spec: ModelSpec, pooling: str) -> None:
    """Raises InputError where a model without a separator is asked for its hidden state."""
    if pooling == "separator" and len(framed(spec, np.zeros(0, np.int32))) < 2:
        raise InputError(f"{spec.name} frames sequences as v1, which has no separator; use 'last'", "pooling", pooling)


class Framing:
    """The rows of ids that a head reads of a sequence.

    Bases left over at the end, fewer than a k-mer, are dropped, so that the last token is the separator or a whole
    k-mer. A row that exceeds the context of the model, `longest` tokens, is refused; with `head.long` "truncate" its
    last tokens before the separator are dropped; with "chunks" it is cut into `head.chunks` rows, all but the last of
    `longest` tokens. With `head.untrimmed`, as in the published script, bases left over are one <oov>, and truncation
    drops the separator.
    """

    def __init__(self, spec: ModelSpec, head: Head, longest: int | None = None):
        """`longest`: tokens of a row, at most and by default `spec.model.max_length`.

        Raises:
          InputError: if the model's prompt convention is unknown, or has no separator to pool.
        """
        check_pooling(spec, head.pooling)
        limits = [x for x in (longest, spec.model.max_length) if x is not None]
        self.spec, self.head, self.longest = spec, head, min(limits, default=None)
        self._tokenizer = spec.tokenizer.make()
        self._added = len(framed(spec, np.zeros(0, np.int32)))

    def ids(self, codes: np.ndarray, special: np.ndarray | tuple = ()) -> np.ndarray:
        """The ids of a sequence without framing, int32 [tokens].

        Args:
          codes: of its bases, uint8 [bases].
          special: ids of special tokens before it.
        """
        k = self._tokenizer.k if self._tokenizer.kind == "kmer" else 1
        left_over = len(codes) % k
        ids = self._tokenizer.encode_bases(codes[: len(codes) - left_over])
        end = [OOV] * bool(left_over and self.head.untrimmed)
        return np.concatenate([np.asarray(special, np.int32), ids, np.asarray(end, np.int32)]).astype(np.int32)

    def chunks(self, num_tokens: int) -> int:
        """The rows that hold so many tokens, with framing: one up to 1.05 times the context, which cuts the rest off.

        Then `head.long` should be "truncate".
        """
        if self.longest is None or num_tokens <= LONGER * self.longest:
            return 1
        return -(-(num_tokens - self._added) // (self.longest - self._added))

    def tokens(self, num_bases: int) -> int:
        """The tokens of the whole row of so many bases, with framing, before truncation or chunks."""
        k = self._tokenizer.k if self._tokenizer.kind == "kmer" else 1
        return self._added + (-(-num_bases // k) if self.head.untrimmed else num_bases // k)

    def rows(self, codes: np.ndarray, special: np.ndarray | tuple = (), argument: str = "sequence") -> list[np.ndarray]:
        """The framed rows of a sequence, int32 [tokens]: `head.chunks` of them, the last of which may be empty.

        Args:
          codes, special: as of `ids`.
          argument: what an error calls the sequence.

        Raises:
          InputError: of `argument`, if the sequence has no token, or more than the context or all chunks hold.
        """
        ids, head, longest = self.ids(codes, special), self.head, self.longest
        if len(ids) <= len(special):
            problem = f"has {len(codes)} bases, fewer than a token" if len(codes) else "has no bases"
            raise InputError(problem, argument, bases.decode(codes) or None)
        room = len(ids) if longest is None else longest - self._added
        if head.long == "truncate":
            if head.untrimmed:
                return [framed(self.spec, ids)[:longest]]
            return [framed(self.spec, ids[:room])]
        if len(ids) > room * head.chunks:
            limit = f"the {longest:,} tokens of the context" + f" in {head.chunks} chunks" * (head.chunks > 1)
            problem = f"has {len(ids) + self._added:,} tokens with framing, and the head was trained for {limit}"
            raise InputError(problem, argument, bases.decode(codes))
        chunks = [ids[i * room : (i + 1) * room] for i in range(head.chunks)]
        return [framed(self.spec, chunk) if len(chunk) else chunk for chunk in chunks]
