"""Rows of unequal length as few shapes: lengths and numbers of rows are rounded up, so few programs are compiled."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.tokenizer import PAD

TOKENS = 16384  # tokens of a batch, padding included, unless another number is asked for


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


def by_length(lengths: list[int], tokens: int, steps: int = 4) -> Iterator[tuple[list[int], int, int]]:
    """Batches of rows of about equal length: the rows' numbers, and the batch's rows and tokens a row, rounded up.

    Lengths take one of `steps` between two powers of two; the number of rows follows from it, as many as `tokens`
    hold (a power of two, at least one), so that there is one shape a length. What is over is padding. The longest rows
    come first: what does not fit in memory is known at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    first = 0
    while first < len(order):
        length = round_up(lengths[order[first]], steps=steps)
        rows = 1 << max(tokens // length, 1).bit_length() - 1
        rows = min(rows, round_up(len(order) - first, least=1))
        yield order[first : first + rows], rows, length
        first += rows


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
