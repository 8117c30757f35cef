"""Train, validation and test: regions that overlap stay together, and a region's part never moves.

A group is a region with all that overlap it, on either strand and over the origin, transitively. Its part depends on
(seed, accession, the group's smallest start) alone, so that more input leaves it where it was.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.regions import Span

PARTS = ("train", "validation", "test")


def check_shares(validation_share: float, test_share: float) -> None:
    """Raises DataError unless both shares are 0 or more and leave something to train on."""
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise DataError(f"{name} {share} is not a share: give 0 or more, below 1")
    if validation_share + test_share >= 1:
        raise DataError(f"validation_share {validation_share} and test_share {test_share} leave nothing to train on")


def groups(spans: Sequence[Span], record_length: int) -> np.ndarray:
    """The overlap group of each span, int64 [spans], numbered along the record from 0."""
    pieces = [(*piece, number) for number, span in enumerate(spans) for piece in span.pieces(record_length)]
    group, reach = -1, -1
    found = np.zeros(len(spans), np.int64)
    over_origin = False
    for start, end, number in sorted(pieces):
        if start >= reach:
            group += 1
        reach = max(reach, end)
        # The piece behind the origin comes first in this order; the span's own group is that of its other piece.
        over_origin |= spans[number].start >= spans[number].end
        found[number] = group
    if over_origin:  # every such span covers the last base and the first: those two groups are one
        found[found == group] = 0
    return found


def part_of(accession: str, smallest_start: int, *, seed: int, validation_share: float, test_share: float) -> str:
    """The part of a group: "validation" from the low end of its hash, "test" from the high end, else "train"."""
    digest = hashlib.blake2b(f"{seed}\t{accession}\t{smallest_start}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < validation_share:
        return "validation"
    return "test" if place >= 1 - test_share else "train"


def parts(
    accession: str,
    spans: Sequence[Span],
    record_length: int,
    *,
    seed: int,
    validation_share: float,
    test_share: float,
) -> list[str]:
    """The part, one of PARTS, of each span of one record."""
    found = groups(spans, record_length)
    starts: dict[int, int] = {}
    for group, span in zip(found.tolist(), spans, strict=True):
        starts[group] = min(span.start, starts.get(group, span.start))
    chosen = {
        group: part_of(accession, start, seed=seed, validation_share=validation_share, test_share=test_share)
        for group, start in starts.items()
    }
    return [chosen[group] for group in found.tolist()]
