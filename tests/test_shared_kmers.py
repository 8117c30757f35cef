"""Tests the canonical 32-mers, their sketches and their index."""

import numpy as np
import pytest

from data_pipeline.sequence import bases, shared_kmers
from tests.data import random_codes


def naive_canonical(text):
    """For every window without N, the smaller of its two strands as a number in base 4."""
    found = []
    for start in range(len(text) - 31):
        window = text[start : start + 32]
        if "N" not in window:
            other = bases.decode(bases.reverse_complement(bases.encode(window)))
            found.append(min(int("".join(str("ATCG".index(b)) for b in strand), 4) for strand in (window, other)))
    return found


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 500])
def test_canonical_equals_naive(length):
    [codes] = random_codes([length], seed=length)
    assert shared_kmers.canonical(codes).tolist() == naive_canonical(bases.decode(codes))


def test_both_strands_have_the_same_sketch():
    [codes] = random_codes([20000], seed=1)
    sketch = shared_kmers.sketch(codes)
    np.testing.assert_array_equal(sketch, shared_kmers.sketch(bases.reverse_complement(codes)))
    assert len(sketch) == pytest.approx(len(shared_kmers.canonical(codes)) / shared_kmers.SKETCH, rel=0.1)
    assert (np.diff(sketch.astype(object)) > 0).all()
    inner = shared_kmers.sketch(codes[5000:9000])
    assert 0 < len(inner) < len(sketch)
    assert np.isin(inner, sketch).all()


@pytest.mark.parametrize("unit", ["A", "CA", "CAG", "ACGT", "AACTT", "TTAGGG"])
def test_simple_repeats_are_not_in_sketches(unit):
    whole = shared_kmers.canonical(bases.encode(unit * 60))
    assert len(set(whole.tolist())) <= len(unit)
    for shift in range(len(unit)):
        assert len(shared_kmers.sketch(bases.encode((unit * 60)[shift:]))) == 0


def test_longer_repeats_are_in_sketches():
    assert any(
        len(shared_kmers.sketch(codes)) for codes in (np.tile(unit, 20) for unit in random_codes([7] * 40, 3, False))
    )


def test_index_finds_members_and_nothing_else():
    generator = np.random.default_rng(0)
    members = np.unique(generator.integers(0, 2**64, 5000, np.uint64))
    others = generator.integers(0, 2**64, 5000, np.uint64)
    index = shared_kmers.Index(members)
    queries = generator.permutation(np.concatenate([members[::2], others, [np.uint64(2**64 - 1), np.uint64(0)]]))
    assert sorted(index.find(queries).tolist()) == list(range(0, len(members), 2))
    assert index.contains(queries).tolist() == np.isin(queries, members).tolist()
    empty = shared_kmers.Index(members[:0])
    assert len(empty.find(queries)) == 0
    assert not empty.contains(queries).any()


def test_mix_is_one_to_one_and_spreads():
    mixed = shared_kmers.mix(np.arange(100_000, dtype=np.uint64))
    assert len(np.unique(mixed)) == 100_000
    counts = np.bincount((mixed >> np.uint64(60)).astype(int), minlength=16)
    assert counts.min() > 5800
