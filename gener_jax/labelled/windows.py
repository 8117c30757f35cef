"""Windows of a contig, for labels per base: each base is labelled by the window in which it is furthest from an end."""

from typing import NamedTuple

import numpy as np

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, KmerTokenizer

_OVERLAP = (
    4  # at least a quarter of a window, so that a base has an eighth of one on both sides, but at a contig's ends
)


class Window(NamedTuple):
    """Bases [start, stop) of a contig, a whole number of k-mers, of which it labels [first, last)."""

    start: int
    stop: int
    first: int
    last: int


def number(length: int, tokens: int, k: int) -> int:
    """How many windows of `tokens` k-mers a contig of `length` bases is cut into; 0 if it has no whole k-mer."""
    size = _size(length, tokens, k)
    return 1 - (size - length) // (size - size // _OVERLAP) if size else 0


def cut(start: int, stop: int, tokens: int, k: int, count: int, i: int) -> Window:
    """The `i`-th of `count` windows (see `number`), of at most `tokens` k-mers each, of the bases [start, stop).

    They have equal sizes and distances; the first and last end where the contig does, so that no base is left over: a
    contig shorter than a window, and not of whole k-mers, has two.
    """
    size = _size(stop - start, tokens, k)

    def at(i: int) -> int:
        return start + i * (stop - start - size) // max(count - 1, 1)

    first = start if i == 0 else (at(i - 1) + size + at(i)) // 2
    last = stop if i == count - 1 else (at(i) + size + at(i + 1)) // 2
    return Window(at(i), at(i) + size, first, last)


def tokens_of_strands(codes: np.ndarray, tokenizer: KmerTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """<s> and the k-mers of a window, and the same of its reverse complement, int32 [1 + tokens] each.

    Token i of one and token 1 + tokens − i of the other are the same bases (i from 1). A second <s>, the separator of
    v2, would come after all of them and change none of their hidden states, so there is none.
    """
    return tuple(np.append(np.int32(BOS), tokenizer.encode_bases(x)) for x in (codes, bases.reverse_complement(codes)))


def _size(length: int, tokens: int, k: int) -> int:
    """Bases of a window: whole k-mers, no more than the contig has."""
    return min(tokens, length // k) * k
