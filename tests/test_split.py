"""Tests the assignment of regions to train, validation and test."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import ArgumentError
from data_pipeline.formats import genbank
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.ledger import Ledger
from data_pipeline.sequence.record import Record
from data_pipeline.splitting import split
from tests.data import FIXTURES

LENGTH = 200


def record(length=LENGTH, accession="A.1", organism="Escherichia coli", taxon_id=None):
    return Record(
        accession, length, np.zeros(length, np.uint8), np.zeros((0, 2), np.int64), True, "BCT", organism, (), "bct", (),
        taxon_id,
    )  # fmt: skip


def split_hashes(spans, by="group", seed=0, assembly="GCF_1", **of):
    return split.split_hashes(record(**of), spans, by=by, seed=seed, assembly=assembly)


def splits(spans, seed=0, fractions=None, **of):
    found = split.splits_of(np.array(split_hashes(spans, seed=seed, **of), np.uint64), **(fractions or FRACTIONS))
    return [split.SPLITS[name] for name in found]


def genes(starts):
    return [Region(start, start + 1, 1, "cds") for start in starts]


FRACTIONS = {"validation_fraction": 0.3, "test_fraction": 0.3}
SPANS = st.lists(
    st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 30), st.sampled_from([1, -1])).map(
        lambda t: Region(t[0], (t[0] + t[1] - 1) % LENGTH + 1, t[2], "cds")  # some cross the origin
    ),
    max_size=12,
)


def covered(span):
    return {base for start, end in span.intervals(LENGTH) for base in range(start, end)}


def closure(spans):
    """The groups of transitive overlap, by repeated merging of sets."""
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


@settings(max_examples=150, deadline=None)
@given(spans=SPANS)
def test_groups_are_transitive_overlaps(spans):
    found = split.groups(spans, LENGTH)
    assert {frozenset(np.flatnonzero(found == group).tolist()) for group in set(found.tolist())} == closure(spans)


@settings(max_examples=150, deadline=None)
@given(spans=SPANS, more=SPANS, seed=st.integers(0, 100))
def test_splits_share_no_base_and_regions_do_not_move(spans, more, seed):
    found = splits(spans, seed)
    bases_of = {name: set() for name in split.SPLITS}
    for span, name in zip(spans, found, strict=True):
        bases_of[name] |= covered(span)
    for one, other in itertools.combinations(split.SPLITS, 2):
        assert not bases_of[one] & bases_of[other]
    everything = set().union(*bases_of.values())
    apart = [span for span in more if not covered(span) & everything]
    assert splits(spans + apart, seed)[: len(spans)] == found
    backwards = splits(spans[::-1], seed)
    assert backwards[::-1] == found


def test_split_hash_never_changes():
    # These values must never change: a region that moves to another split leaks validation data into training.
    found = splits(genes(range(8)), accession="NC_000913.3")
    assert found == HASHED
    assert found != splits(genes(range(8)), seed=1, accession="NC_000913.3")
    assert found != splits(genes(range(8)), accession="NC_000913.2")


HASHED = ["validation", "train", "test", "validation", "train", "train", "test", "validation"]


def test_fractions_are_met_and_test_does_not_change_validation():
    def counts(validation_fraction, test_fraction):
        fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
        found = splits(genes(range(20000)), fractions=fractions, length=20001)
        return found, {name: found.count(name) / len(found) for name in split.SPLITS}

    found, fraction = counts(0.05, 0.1)
    assert fraction["validation"] == pytest.approx(0.05, abs=0.006)
    assert fraction["test"] == pytest.approx(0.1, abs=0.009)
    without, fraction = counts(0.05, 0)
    assert fraction["test"] == 0
    assert [name == "validation" for name in found] == [name == "validation" for name in without]


@pytest.mark.parametrize("fractions", [(-0.1, 0), (0, 1.0), (0.5, 0.5), (float("nan"), 0)])
def test_bad_fractions(fractions):
    with pytest.raises(ArgumentError):
        split.check_fractions(*fractions)


def test_real_records_keep_overlaps_together():
    for path in sorted(FIXTURES.glob("*.gz")):
        for record in genbank.read(path):
            spans = extraction.find(record, schemes.Scheme(), Ledger())
            where = split.split_hashes(record, spans, by="group", seed=0, assembly="")
            found = split.splits_of(np.array(where, np.uint64), **FRACTIONS)
            owner = np.full(len(record.codes), -1)
            assert len(set(found.tolist())) > 1 or len(spans) < 20
            for span, code in zip(spans, found, strict=True):
                for start, end in span.intervals(len(record.codes)):
                    assert np.isin(owner[start:end], (-1, code)).all()
                    owner[start:end] = code


def test_contig_assembly_and_organism_stay_together():
    spans = genes(range(50))
    for by, names in (
        ("contig", {"accession": "B.1"}),
        ("assembly", {"assembly": "GCF_2"}),
        ("taxon", {"organism": "B"}),
    ):
        found = split_hashes(spans, by)
        assert len(set(found)) == 1, by
        assert set(found) == set(split_hashes(genes([7, 9]), by))
        assert set(found) != set(split_hashes(spans, by, **names))
        assert set(found) != set(split_hashes(spans, by, seed=1))
    # Without an organism the assembly is used instead, as for sequence names that occur in many assemblies.
    for by, of in (("taxon", {"organism": ""}), ("contig", {"accession": "chr1"}), ("group", {"accession": "chr1"})):
        assert set(split_hashes(spans, by, **of)).isdisjoint(split_hashes(spans, by, **of, assembly="GCF_2")), by
    for by in ("taxon", "contig", "group"):
        assert split_hashes(spans, by) == split_hashes(spans, by, assembly="GCF_2")
    assert split_hashes(spans, "taxon", organism="A", taxon_id="9606") == split_hashes(
        spans, "taxon", organism="B", taxon_id="9606"
    )
    assert len(set(split_hashes(spans))) == 50
    assert split_hashes(spans, "cluster") == split_hashes(spans)


def test_spliced_regions_are_grouped_by_their_bases():
    spans = [
        Region(0, 100, 1, "cds", ((0, 10, 1), (90, 100, 1))),
        Region(20, 60, -1, "cds"),  # inside the intron
        Region(95, 130, -1, "cds", ((120, 130, -1), (95, 99, -1))),
        Region(140, 150, 1, "cds"),
    ]
    assert split.groups(spans, LENGTH).tolist() == [0, 1, 0, 3]
