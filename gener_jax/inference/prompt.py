"""Splits prompts and sequences into special tokens and DNA."""

import contextlib
import re

import numpy as np

from data_pipeline.errors import TokenizerError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import KmerTokenizer, Tokenizer
from gener_jax.runtime.errors import ConfigError, InputError

REMAINDERS = ("constrain", "trim_left", "pad_left")

_PREFIX = re.compile(r"(?:<[^<>]*>)*")


@contextlib.contextmanager
def input_errors(argument: str, value):
    """A context manager that turns a TokenizerError into an InputError of an argument and its value."""
    try:
        yield
    except TokenizerError as error:
        raise InputError(str(error), argument, value) from error


def check_prefix(prefix: str) -> None:
    """Checks the value of a command's --prefix.

    Raises:
      ConfigError: if it holds anything but special tokens.
    """
    try:
        KmerTokenizer(1).encode(prefix)
        _, dna = split_prefix(prefix)
    except TokenizerError as error:
        raise ConfigError(str(error), "--prefix", prefix) from error
    if dna:
        raise ConfigError("must be special tokens without DNA, such as <mam><cds>", "--prefix", prefix)


def split_prefix(text: str) -> tuple[str, str]:
    """The special tokens at the beginning of a text, and the DNA after them.

    Raises:
      TokenizerError: if a special token follows DNA.
    """
    start = _PREFIX.match(text).end()
    if "<" in text[start:]:
        at = text.index("<", start)
        raise TokenizerError(
            f"special token at position {at}: special tokens must precede all DNA", value=text[at:], position=at
        )
    return text[:start], text[start:]


def split_prompt(tokenizer: Tokenizer, prompt: str, remainder: str = "constrain") -> tuple[np.ndarray, np.ndarray]:
    """Returns <s> and the ids of the prompt's whole tokens, and the codes of the bases left over at its end.

    `remainder` "constrain" returns the left-over bases, which fix the beginning of the first new token. "trim_left"
    drops as many bases at the left of the prompt's last stretch of DNA, and "pad_left" adds A there, so that none are
    left over.

    Raises:
      TokenizerError: if the prompt holds anything but DNA and special tokens, or bases left over before a special
        token.
      InputError: if `remainder` is unknown.
    """
    if remainder not in REMAINDERS:
        raise InputError(f"must be one of {', '.join(REMAINDERS)}", "remainder", remainder)
    if remainder != "constrain":
        dna = prompt.rfind(">") + 1
        ids = [tokenizer.encode(prompt[:dna], add_bos=True), tokenizer.encode(prompt[dna:], remainder=remainder)]
        return np.concatenate(ids), np.zeros(0, np.uint8)
    left_over = 0
    if tokenizer.kind == "kmer":
        left_over = len(prompt[prompt.rfind(">") + 1 :]) % tokenizer.k
    whole = prompt[: len(prompt) - left_over]
    tokenizer.encode(prompt, remainder="oov")  # rejects characters that are not bases, with their position
    return tokenizer.encode(whole, add_bos=True), bases.encode(prompt[len(whole) :])
