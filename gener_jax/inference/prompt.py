"""Prompts: special tokens, then DNA."""

import re

import numpy as np

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.data.tokenizer import KmerTokenizer
from gener_jax.runtime.errors import InputError

REMAINDERS = ("constrain", "trim_left", "pad_left")

_PREFIX = re.compile(r"(?:<[^<>]*>)*")


def only_special(prefix: str) -> None:
    """Raises ValueError for a prefix with anything but special tokens in it."""
    KmerTokenizer(1).encode(prefix)
    if split_prefix(prefix)[1]:
        raise ValueError("has DNA in it; give special tokens alone, such as <mam><cds>")


def split_prefix(text: str) -> tuple[str, str]:
    """Special tokens at the beginning, and the DNA behind them; raises ValueError for special tokens further on."""
    at = _PREFIX.match(text).end()
    if "<" in text[at:]:
        raise ValueError(f"special token at position {at + text[at:].index('<')}: here they come before all DNA")
    return text[:at], text[at:]


def split_prompt(tokenizer: Tokenizer, prompt: str, remainder: str = "constrain") -> tuple[np.ndarray, np.ndarray]:
    """Returns <s> and the ids of the prompt's whole tokens, and the codes of the bases left over at its end.

    `remainder` "constrain" returns the left-over bases, which fix the beginning of the first new token. "trim_left"
    drops as many bases at the left of the prompt's last stretch of DNA, and "pad_left" adds A there, so that none are
    left over.

    Raises:
      ValueError: if the prompt has anything but DNA and special tokens, or bases left over before a special token.
      InputError: if `remainder` is unknown.
    """
    if remainder not in REMAINDERS:
        raise InputError(f"must be one of {', '.join(REMAINDERS)}", "remainder", remainder)
    if remainder != "constrain":
        dna = prompt.rfind(">") + 1
        ids = [tokenizer.encode(prompt[:dna], add_bos=True), tokenizer.encode(prompt[dna:], remainder=remainder)]
        return np.concatenate(ids), np.zeros(0, np.uint8)
    over = 0
    if tokenizer.kind == "kmer":
        over = len(prompt[prompt.rfind(">") + 1 :]) % tokenizer.k
    whole = prompt[: len(prompt) - over]
    tokenizer.encode(prompt, remainder="oov")  # rejects characters that are not bases, with their position
    return tokenizer.encode(whole, add_bos=True), bases.encode(prompt[len(whole) :])
