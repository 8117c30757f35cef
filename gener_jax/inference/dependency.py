"""Nucleotide dependencies: how much the model's prediction of each base depends on each other base of a sequence.

The method of Tomaz da Silva et al. 2024 (doi:10.1101/2024.07.27.605418): base i is replaced by each of the three
others, and the entry (i, j) is the largest change of the log-odds of any base at position j,

    max over substitutions of i, and over b in ACGT, of | log2 odds'(b at j) − log2 odds(b at j) |,  odds = p / (1 − p).

They use masked models, which see both sides. A causal model predicts a base from those before it, so a strand fills one
triangle of the map: j after i on the + strand, j before i on the − strand.
"""

from collections.abc import Iterator

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.options import STRANDS
from gener_jax.inference.prompt import Prompt, as_prompt
from gener_jax.runtime.errors import InputError, whole

_SMALLEST = 2.0**-20  # a probability, or one minus it: closer to 0 or 1, the log-odds are of float32's rounding
_ROWS = 256  # sequences scored at a time


def dependency_map(lm, sequence: str | Prompt, *, window: tuple[int, int] | None, strand: str, **options) -> np.ndarray:
    """See `LM.dependency_map`; `lm` is any object with its `base_probabilities`, which takes the options."""
    if strand not in STRANDS:
        raise InputError(f"must be one of {', '.join(STRANDS)}", "strand", strand)
    prompt = as_prompt(sequence, "sequence")
    start, end = (0, len(prompt.codes)) if window is None else (whole(x, "window") for x in window)
    if not 0 <= start < end <= len(prompt.codes):
        raise InputError(f"must be (start, end) within the {len(prompt.codes)} bases of sequence", "window", window)
    found = np.zeros((end - start, end - start), np.float32)
    if strand != "-":
        found += _after(lm, prompt, start, end, options)
    if strand != "+":
        length = len(prompt.codes)
        back = Prompt(prompt.special, bases.reverse_complement(prompt.codes))
        found += _after(lm, back, length - end, length - start, options)[::-1, ::-1]
    unknown = prompt.codes[start:end] >= bases.N
    found[unknown], found[:, unknown] = np.nan, np.nan
    return found


def _after(lm, prompt: Prompt, start: int, end: int, options: dict) -> np.ndarray:
    """The dependencies of later bases on earlier ones, float32 [bases, bases]; 0 on and below the diagonal."""
    found = np.zeros((end - start, end - start), np.float32)
    codes = prompt.codes[:end]
    at = [(i, base) for i in range(start, end) for base in range(4) if codes[i] < bases.N and base != codes[i]]

    def scored(sequences: Iterator[np.ndarray]) -> list[np.ndarray]:
        prompts = [Prompt(prompt.special, x) for x in sequences]
        return [_log_odds(p[start:]) for p in lm.base_probabilities(prompts, **options)]

    [reference] = scored([codes])
    for first in range(0, len(at), _ROWS):
        some = at[first : first + _ROWS]
        for (i, _), log_odds in zip(some, scored(_replaced(codes, *each) for each in some), strict=True):
            row, later = found[i - start], slice(i - start + 1, None)
            row[later] = np.maximum(row[later], np.abs(log_odds - reference).max(1)[later])
    return found


def _replaced(codes: np.ndarray, i: int, base: int) -> np.ndarray:
    replaced = codes.copy()
    replaced[i] = base
    return replaced


def _log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log2(p / (1 - p))
