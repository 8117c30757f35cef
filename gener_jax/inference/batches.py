"""Rows of unequal length as few shapes: lengths and numbers of rows are rounded up, so few programs are compiled.

An accelerator takes larger batches and coarser numbers of rows: there a program costs more to compile than its padding
to compute, and the host sends it batches ahead of those that it reads.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from data_pipeline.sequence.tokenizer import PAD

TOKENS, TOKENS_ACCELERATED = 16384, 65536  # of a batch, padding included, unless another number is asked for
_AHEAD = 4  # batches on their way to an accelerator while another's result is read


def accelerated() -> bool:
    """Whether programs run elsewhere than on the host's own processor."""
    return jax.default_backend() != "cpu"


def tokens_at_once(asked: int | None = None) -> int:
    """Tokens of a batch, padding included: what is asked for, or what suits the platform."""
    return (TOKENS_ACCELERATED if accelerated() else TOKENS) if asked is None else asked


def listed(sequences: Sequence[str]) -> list[str]:
    """The sequences; raises ValueError for a single string, which is one as well, of letters."""
    if isinstance(sequences, str):
        raise ValueError("sequences is one string: give a list of them")
    return list(sequences)


def round_up(n: int, least: int = 8, steps: int = 1) -> int:
    """The next power of two, or the next of so many equal steps from one to the next; and at least `least`."""
    power = 1 << (max(int(n), 1) - 1).bit_length()
    step = max(power // (2 * steps), 1) if steps > 1 else power
    return max(-(-int(n) // step) * step, least)


def by_length(lengths: list[int], tokens: int, usual: int = 0) -> Iterator[tuple[list[int], int, int]]:
    """Batches of rows of about equal length: the rows' numbers, and the batch's rows and tokens a row, rounded up.

    Lengths take one of four steps between two powers of two, or one of 32 for those of about the `usual` length; the
    number of rows follows from it, as many as `tokens` hold (a power of two, at least one), so that there is one shape
    a length. The last rows take a half of that, a quarter and so on (an accelerator: a quarter, a sixteenth). What is
    over is padding. The longest rows come first: what does not fit in memory is known at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    usual, less = round_up(usual, steps=32), 4 if accelerated() else 2
    first = 0
    while first < len(order):
        left, longest = len(order) - first, lengths[order[first]]
        length = round_up(longest, steps=4)
        if longest <= usual < length:
            length = usual
        rows = 1 << max(tokens // length, 1).bit_length() - 1
        while rows > 1 and max(rows // less, 1) >= left:
            rows = max(rows // less, 1)
        yield order[first : first + rows], rows, length
        first += rows


def results(batches: Iterable[tuple[list[int], jax.Array]]) -> Iterator[tuple[int, np.ndarray]]:
    """The number of each row and its result, of batches (the rows' numbers, the result of all) that are made meanwhile.

    Some are dispatched before the first is read, so that an accelerator has work while the host reads, and few enough
    that what is held does not grow with their number. The host's own processor gains nothing by that: there each is
    read when it is made.
    """
    waiting, ahead = collections.deque(), _AHEAD if accelerated() else 0

    def read():
        chosen, values = waiting.popleft()
        yield from zip(chosen, np.asarray(values), strict=False)

    for chosen, values in batches:
        waiting.append((chosen, values))
        if ahead:
            values.copy_to_host_async()
        if len(waiting) > ahead:
            yield from read()
    while waiting:
        yield from read()


def right_pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Rows of ids as int32 [rows, length], padded on the right."""
    padded = np.full((len(rows), length), PAD, np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def left_pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Rows of ids as int32 [rows, length], padded on the left."""
    padded = np.full((len(rows), length), PAD, np.int32)
    for i, row in enumerate(rows):
        padded[i, length - len(row) :] = row
    return padded
