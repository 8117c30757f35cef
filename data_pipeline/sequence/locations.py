"""Intervals on a linear or circular record: their order, union, extension and overlap.

A segment is (start, end, strand), 0-based half-open on the forward strand; several segments are in 5' to 3' order. An
interval across the origin of a circle has `start` >= `end`.
"""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

Interval = tuple[int, int, int]  # start, end, strand; a record.Segment works too


def inside(segments: Sequence[Interval], length: int) -> bool:
    """Whether each segment has 0 <= start <= end <= `length`."""
    return all(0 <= segment[0] <= segment[1] <= length for segment in segments)


def clipped(segments: Sequence[Interval], length: int) -> int:
    """The number of bases of the record that the segments cover, ignoring what lies outside it."""
    return sum(max(0, min(segment[1], length) - max(segment[0], 0)) for segment in segments)


def ends_over_origin(segments: Sequence[Interval], circle: int | None) -> tuple[int, int] | None:
    """The start and end, on the forward strand, of segments on one strand that cross the origin; None if they do not.

    `circle` is the length of a circular record, None for a linear one. An equal start and end is the whole circle.
    """
    if circle is None or not segments or any(segment[2] != segments[0][2] for segment in segments):
        return None
    along = segments if segments[0][2] > 0 else segments[::-1]
    for before, after in itertools.pairwise(along):
        if before[1] == circle and after[0] == 0:
            return along[0][0], along[-1][1]
    return None


def enclosing(segments: Sequence[Interval], circle: int | None) -> tuple[int, int, int, tuple[Interval, ...]]:
    """The start, end, strand and segments of the span that encloses these segments; `circle` as above."""
    ends = ends_over_origin(segments, circle)
    joined = len(segments) > (2 if ends else 1)  # two that meet at the origin are one interval
    start, end = ends or (min(segment[0] for segment in segments), max(segment[1] for segment in segments))
    return start, end, segments[0][2], tuple(segments) if joined else ()


def extended(segment: Interval, five: int, three: int, length: int) -> tuple[Interval, ...]:
    """A segment extended at its 5' and 3' ends; two segments, 5' to 3', if it now crosses the origin."""
    start, end, strand = segment
    left, right = (five, three) if strand > 0 else (three, five)
    start, end = start - left, end + right
    if start < 0:
        intervals = [(start + length, length, strand), (0, end, strand)]
    elif end > length:
        intervals = [(start, length, strand), (0, end - length, strand)]
    else:
        intervals = [(start, end, strand)]
    return tuple(intervals[::strand])


def room(at: int, direction: int, segments: Sequence[Interval], length: int, circular: bool) -> int:
    """The bases from position `at`, rightwards (1) or leftwards (-1), to the next segment or the record's end."""
    distances = [(start - at if direction > 0 else at - end) for start, end, *_ in segments]
    if circular:
        return min(distance % length for distance in distances)
    to_end = length - at if direction > 0 else at
    return min((distance for distance in distances if distance >= 0), default=to_end)


def near_equal(start: int, end: int, max_length: int | None) -> list[tuple[int, int]]:
    """Cuts [start, end) into the fewest intervals of at most `max_length`, with lengths that differ by at most 1."""
    count = -(-(end - start) // max_length) if max_length else 1
    edges = [start + (end - start) * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def union(intervals: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The starts and ends of the disjoint intervals that these intervals cover."""
    starts, ends = [], []
    for start, end in sorted(intervals):
        if ends and start < ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


def touches(union: tuple[list[int], list[int]], start: int, end: int) -> bool:
    """Whether [start, end) shares a base with a `union`."""
    starts, ends = union
    at = bisect.bisect_left(starts, end) - 1  # the last interval that starts before `end`
    return at >= 0 and ends[at] > start


def within(runs: np.ndarray, start: int, end: int) -> np.ndarray:
    """The runs (sorted, disjoint) inside [start, end), clipped to it and relative to its start; a copy."""
    if not len(runs):
        return runs.copy()
    first = np.searchsorted(runs[:, 1], start, "right")
    last = np.searchsorted(runs[:, 0], end, "left")
    return np.clip(runs[first:last], start, end) - start


def merged(runs: np.ndarray) -> np.ndarray:
    """Joins sorted runs that touch, as at an exon junction or the origin."""
    meet = 1 + np.flatnonzero(runs[1:, 0] == runs[:-1, 1])
    return np.stack([np.delete(runs[:, 0], meet), np.delete(runs[:, 1], meet - 1)], axis=1)
