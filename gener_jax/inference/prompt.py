"""Prompts: special tokens, and the DNA after them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import TokenizerError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, SPECIAL_TOKENS, KmerTokenizer, Tokenizer
from gener_jax.runtime.errors import ConfigError, InputError

REMAINDERS = ("constrain", "trim_left", "pad_left")

_LETTERS = KmerTokenizer()  # all tokenizers have the same letters and special tokens
_PREFIX = re.compile(r"(?:<[^<>]*>)*")


class Encoded(NamedTuple):
    """A prompt that will be continued, in tokens."""

    ids: np.ndarray  # <s>, the special tokens, and the DNA in whole tokens; int32 [tokens]
    whole: np.ndarray  # codes of the DNA in those tokens, uint8 [bases]
    left_over: np.ndarray  # codes of the bases after it, fewer than k, with which the first new token begins


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """A sequence to continue, score or embed: `parse` reads it from text such as "<mam><cds>ATG".

    Wherever the Python API takes sequences, each may be such a text, a `Prompt`, bytes, or Biopython's `Seq` or
    `SeqRecord`; several of them may be a list, a generator, a NumPy array or a pandas Series.

    Raises:
      InputError: if ids or codes are not whole numbers in their range.
    """

    special: np.ndarray  # ids of the special tokens as written, int32 [tokens]
    codes: np.ndarray  # codes of the DNA, uint8 [bases]; N for every letter but A, C, G, T and U

    def __post_init__(self):
        for name, type_, below in (("special", np.int32, NUM_SPECIAL), ("codes", np.uint8, bases.N + 1)):
            values = np.asarray(getattr(self, name))
            whole = values.ndim == 1 and (not values.size or values.dtype.kind in "iu")
            if not whole or (values.size and not 0 <= values.min() <= values.max() < below):
                raise InputError(f"must be a list of whole numbers from 0 to {below - 1}", name, getattr(self, name))
            object.__setattr__(self, name, values.astype(type_, copy=False))

    @classmethod
    def parse(cls, text: str) -> "Prompt":
        """The prompt that a text stands for.

        Raises:
          TokenizerError: an unknown special token, a character that is not a base, or a special token after DNA; its
            `position` is 0-based.
        """
        ids = _LETTERS.encode(text, remainder="oov")  # rejects characters and special tokens
        start = _PREFIX.match(text).end()
        at = text.find("<", start)
        if at >= 0:
            raise TokenizerError(
                f"special token at position {at}: special tokens must precede all DNA", value=text[at:], position=at
            )
        return cls(ids[: text.count("<")], bases.encode(text[start:]))

    def __str__(self):
        return "".join(SPECIAL_TOKENS[i] for i in self.special) + bases.decode(self.codes)

    def encode(self, tokenizer: Tokenizer, remainder: str = "constrain") -> Encoded:
        """The prompt in tokens.

        `remainder` "trim_left" drops as many bases at the beginning of the DNA as are left over at its end, and
        "pad_left" adds A there, so that none are left over.
        """
        k = tokenizer.k if tokenizer.kind == "kmer" else 1
        codes = self.codes
        if remainder == "trim_left":
            codes = codes[len(codes) % k :]
        elif remainder == "pad_left":
            codes = np.append(np.full(-len(codes) % k, bases.A, np.uint8), codes)
        end = len(codes) - len(codes) % k
        ids = np.concatenate([[BOS], self.special, tokenizer.encode_bases(codes[:end])])
        return Encoded(ids.astype(np.int32), codes[:end], codes[end:])


def as_prompt(value, argument: str) -> Prompt:
    """A sequence as a prompt: a string, a `Prompt`, bytes, or Biopython's `Seq` or `SeqRecord`.

    Raises:
      InputError: if it is nothing of these, or its text cannot be parsed.
    """
    if isinstance(value, Prompt):
        return value
    text = getattr(value, "seq", value)  # of a SeqRecord
    try:
        text = bytes(text).decode("latin-1") if hasattr(text, "__bytes__") else text
        if isinstance(text, str):
            return Prompt.parse(text)
    except ValueError as error:  # a TokenizerError, or a Seq of unknown content
        raise InputError(str(error), argument, text if isinstance(text, str) else None) from error
    raise InputError("must be DNA: a string, a Prompt, or Biopython's Seq or SeqRecord", argument, value)


def as_prompts(values: Iterable, argument: str) -> list[Prompt]:
    """Each of several sequences: a list, a generator, an array or pandas Series of what `as_prompt` accepts.

    In errors "argument[3]" names one of them.

    Raises:
      InputError: as `as_prompt`; or if `values` is a single sequence, whose letters Python would iterate over, a dict
        or a table, whose names it would, or no collection.
    """
    if isinstance(values, str | Prompt) or hasattr(values, "__bytes__") or hasattr(values, "seq"):
        raise InputError("must be a list; for a single sequence give a list of one", argument, values)
    if isinstance(values, Mapping):
        raise InputError("must be a list, not a dict; give list(VALUES.values())", argument, values)
    if getattr(values, "ndim", 1) != 1 or not isinstance(values, Iterable):
        raise InputError(f"must be a list or a column of sequences, not a {type(values).__name__}", argument)
    return [as_prompt(value, f"{argument}[{i}]") for i, value in enumerate(values)]


def parse_prefix(prefix: str) -> np.ndarray:
    """The ids of the special tokens of a command's --prefix, int32 [tokens].

    Raises:
      ConfigError: if it holds anything else.
    """
    try:
        parsed = Prompt.parse(prefix)
    except TokenizerError as error:
        raise ConfigError(str(error), "--prefix", prefix) from error
    if len(parsed.codes):
        raise ConfigError("must be special tokens without DNA, such as <mam><cds>", "--prefix", prefix)
    return parsed.special
