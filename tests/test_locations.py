"""Tests the arithmetic of intervals on linear and circular records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sequence import bases, locations


@given(start=st.integers(0, 50), length=st.integers(1, 200), max_length=st.integers(1, 60) | st.none())
def test_windows_cover_all_bases_once(start, length, max_length):
    intervals = locations.near_equal(start, start + length, max_length)
    assert [at for interval in intervals for at in range(*interval)] == list(range(start, start + length))
    lengths = [end - begin for begin, end in intervals]
    assert max(lengths) - min(lengths) <= 1
    assert len(intervals) == (-(-length // max_length) if max_length else 1)


@given(mask=st.lists(st.booleans(), min_size=1, max_size=40), ends=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_runs_clipped_to_intervals_and_joined_again(mask, ends):
    start, end = sorted(min(at, len(mask)) for at in ends)
    mask = np.array(mask)
    runs = bases.runs(mask)
    if start < end:
        assert locations.within(runs, start, end).tolist() == bases.runs(mask[start:end]).tolist()
    if 0 < start < len(mask):
        left, right = locations.within(runs, 0, start), locations.within(runs, start, len(mask)) + start
        assert locations.merged(np.concatenate([left, right])).tolist() == runs.tolist()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=6), st.integers(0, 40), st.integers(1, 8))
def test_union_overlaps_an_interval_if_a_base_is_shared(starts_and_sizes, start, length):
    intervals = [(begin, begin + size) for begin, size in starts_and_sizes]
    covered = {at for interval in intervals for at in range(*interval)}
    touched = locations.touches(locations.union(intervals), start, start + length)
    assert touched == bool(covered & set(range(start, start + length)))


@pytest.mark.parametrize(
    ("segments", "circle", "expected"),
    [
        ([(2, 5, 1)], 10, (2, 5, 1, ())),
        ([(8, 10, 1), (0, 3, 1)], 10, (8, 3, 1, ())),
        ([(0, 3, -1), (8, 10, -1)], 10, (8, 3, -1, ())),
        ([(8, 10, 1), (0, 3, 1)], None, (0, 10, 1, ((8, 10, 1), (0, 3, 1)))),
        ([(8, 10, 1), (0, 3, -1)], 10, (0, 10, 1, ((8, 10, 1), (0, 3, -1)))),
        ([(6, 7, 1), (8, 10, 1), (0, 3, 1)], 10, (6, 3, 1, ((6, 7, 1), (8, 10, 1), (0, 3, 1)))),
        ([(4, 10, 1), (0, 4, 1)], 10, (4, 4, 1, ())),
    ],
)
def test_enclosing_span(segments, circle, expected):
    assert locations.enclosing(segments, circle) == expected


def test_ends_across_the_origin_need_segments_that_meet_there_on_one_strand():
    assert locations.ends_over_origin([(8, 10, 1), (0, 3, 1)], 10) == (8, 3)
    assert locations.ends_over_origin([(8, 9, 1), (0, 3, 1)], 10) is None
    assert locations.ends_over_origin([(8, 10, 1), (0, 3, -1)], 10) is None
    assert locations.ends_over_origin([(0, 3, 1), (8, 10, 1)], 10) is None
    assert locations.ends_over_origin([], 10) is None


def test_extended_segments_cross_the_origin():
    assert locations.extended((2, 5, 1), 1, 3, 10) == ((1, 8, 1),)
    assert locations.extended((2, 5, -1), 1, 2, 10) == ((0, 6, -1),)
    assert locations.extended((2, 5, 1), 4, 0, 10) == ((8, 10, 1), (0, 5, 1))
    assert locations.extended((2, 5, -1), 0, 4, 10) == ((0, 5, -1), (8, 10, -1))
    assert locations.extended((7, 9, 1), 0, 3, 10) == ((7, 10, 1), (0, 2, 1))


def test_room_to_the_next_segment_or_the_end():
    segments = [(2, 4, 1), (6, 7, 1)]
    assert locations.room(2, -1, segments, 10, False) == 2
    assert locations.room(7, 1, segments, 10, False) == 3
    assert locations.room(4, 1, segments, 10, False) == locations.room(6, -1, segments, 10, False) == 2
    assert locations.room(2, -1, segments, 10, True) == locations.room(7, 1, segments, 10, True) == 5


def test_inside_and_clipped():
    assert locations.inside([(0, 10, 1), (3, 3, 1)], 10)
    for segment in [(-1, 3, 1), (3, 11, 1), (5, 4, 1)]:
        assert not locations.inside([(0, 10, 1), segment], 10)
    assert locations.clipped([(-1, 3, 1), (8, 30, 1), (7, 5, 1)], 10) == 5
