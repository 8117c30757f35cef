import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import genbank, regions, split
from data_pipeline.errors import DataError
from data_pipeline.regions import Span
from tests.data import FIXTURES

LENGTH = 200
SHARES = {"validation_share": 0.3, "test_share": 0.3}
SPANS = st.lists(
    st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 30), st.sampled_from([1, -1])).map(
        lambda t: Span(t[0], (t[0] + t[1] - 1) % LENGTH + 1, t[2], "cds")  # some run over the origin
    ),
    max_size=12,
)


def covered(span):
    return {base for start, end in span.pieces(LENGTH) for base in range(start, end)}


def closure(spans):
    """Groups by the definition: transitive overlap, by repeated merging of sets."""
    sets = [({number}, covered(span)) for number, span in enumerate(spans)]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(sets, 2):
            if a[1] & b[1]:
                sets.remove(a)
                sets.remove(b)
                sets.append((a[0] | b[0], a[1] | b[1]))
                merged = True
                break
    return {frozenset(members) for members, _ in sets}


@settings(max_examples=300, deadline=None)
@given(spans=SPANS)
def test_groups_are_the_transitive_overlaps(spans):
    found = split.groups(spans, LENGTH)
    assert {frozenset(np.flatnonzero(found == group).tolist()) for group in set(found.tolist())} == closure(spans)


@settings(max_examples=300, deadline=None)
@given(spans=SPANS, more=SPANS, seed=st.integers(0, 100))
def test_parts_share_no_base_and_do_not_move(spans, more, seed):
    found = split.parts("A.1", spans, LENGTH, seed=seed, **SHARES)
    bases_of = {part: set() for part in split.PARTS}
    for span, part in zip(spans, found, strict=True):
        bases_of[part] |= covered(span)
    for one, other in itertools.combinations(split.PARTS, 2):
        assert not bases_of[one] & bases_of[other]
    everything = set().union(*bases_of.values())
    apart = [span for span in more if not covered(span) & everything]
    assert split.parts("A.1", spans + apart, LENGTH, seed=seed, **SHARES)[: len(spans)] == found
    backwards = split.parts("A.1", spans[::-1], LENGTH, seed=seed, **SHARES)
    assert backwards[::-1] == found


def test_the_hash_is_fixed_for_good():
    # These values must never change: a part that moves leaks validation data into training.
    found = [split.part_of("NC_000913.3", start, seed=0, **SHARES) for start in range(8)]
    assert found == HASHED
    assert found != [split.part_of("NC_000913.3", start, seed=1, **SHARES) for start in range(8)]
    assert found != [split.part_of("NC_000913.2", start, seed=0, **SHARES) for start in range(8)]


HASHED = ["validation", "train", "test", "validation", "train", "train", "test", "validation"]


def test_shares_are_met_and_test_leaves_validation_alone():
    def counts(validation_share, test_share):
        found = [
            split.part_of("A.1", start, seed=0, validation_share=validation_share, test_share=test_share)
            for start in range(20000)
        ]
        return found, {part: found.count(part) / len(found) for part in split.PARTS}

    found, share = counts(0.05, 0.1)
    assert share["validation"] == pytest.approx(0.05, abs=0.006)
    assert share["test"] == pytest.approx(0.1, abs=0.009)
    without, share = counts(0.05, 0)
    assert share["test"] == 0
    assert [part == "validation" for part in found] == [part == "validation" for part in without]


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, 1.0), (0.5, 0.5), (float("nan"), 0)])
def test_bad_shares(shares):
    with pytest.raises(DataError):
        split.check_shares(*shares)


def test_real_records_keep_overlaps_together():
    for path in sorted(FIXTURES.glob("*.gz")):
        for record in genbank.read(path, regions.FEATURE_KINDS):
            spans = regions.spans(record, regions.Skipped())
            found = split.parts(record.accession, spans, len(record.codes), seed=0, **SHARES)
            owner = np.full(len(record.codes), -1)
            for span, part in zip(spans, found, strict=True):
                for start, end in span.pieces(len(record.codes)):
                    code = split.PARTS.index(part)
                    assert np.isin(owner[start:end], (-1, code)).all()
                    owner[start:end] = code
