"""Sequences kept out of a dataset, against direct comparison of letters; and what a build says of them."""

import gzip
import json

import numpy as np
import pytest

from data_pipeline.dataset import builder, report, spill
from data_pipeline.dataset.inputs import Input
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import ArgumentError, FormatError
from data_pipeline.regions import exclusion, extraction
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from tests.data import random_codes
from tests.raised import raises

WHOLE = Scheme("whole", max_length=5000)


def complement(text):
    return bases.decode(bases.reverse_complement(bases.encode(text)))


def fasta(path, **records):
    path.write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    return path


def covered(text, excluded):
    """The runs of at least 60 bases that are covered by 32-mers of `excluded`, compared letter by letter."""
    known = {strand[i : i + 32] for strand in (excluded, complement(excluded)) for i in range(len(strand) - 31)}
    mask = np.zeros(len(text), bool)
    for i in range(len(text) - 31):
        if text[i : i + 32] in known and "N" not in text[i : i + 32]:
            mask[i : i + 32] = True
    return [run for run in bases.runs(mask).tolist() if run[1] - run[0] >= 60]


@pytest.mark.parametrize("block", [50, 1 << 22])
def test_runs_equal_direct_comparison_on_both_strands(tmp_path, monkeypatch, block):
    monkeypatch.setattr(exclusion, "_BLOCK", block)
    row, other, long = (bases.decode(codes) for codes in random_codes([300, 400, 3000], 0, unknown=False))
    other = other[:200] + "N" + other[201:]
    substituted = row[:150] + complement(row[150])[0] + row[151:]
    copies = (row[100:159], row[100:160], complement(row), substituted, "N" * 25 + row[5:80] + "N", other)
    text = long[:500] + "".join(copy + long[600 * i : 600 * i + 600] for i, copy in enumerate(copies, 1))
    found = exclusion.read([fasta(tmp_path / "a.fa", row=row, other=other)], tmp_path / "hashes.npy")
    runs = found.runs(bases.encode(text)).tolist()
    assert runs == covered(text, row + "N" + other)
    assert len(runs) == 7  # not the 59 bases; two runs around the substitution, and around the N
    assert found.runs(bases.encode(text[:20])).tolist() == []


def test_fasta_and_tables_give_the_same_hashes(tmp_path):
    one, two, three = (bases.decode(codes) for codes in random_codes([80, 90, 70], 1, unknown=False))
    paths = [fasta(tmp_path / "a.fa", x=one, y=two, z=three), tmp_path / "a.csv", tmp_path / "a.tsv.gz"]
    paths[1].write_text(f'label,sequence,reverse\n"promoter, weak",{one},{two}\n1,{three.lower()},{one}\n')
    paths[2].write_bytes(gzip.compress(f"seq\tlabel\r\n{one}\t1\r\n{two}\tACGT\r\n{three}\t0".encode()))
    found = [exclusion.read([path], tmp_path / "hashes.npy") for path in paths]
    assert [x.sequences for x in found] == [3, 4, 3]
    assert found[0].digest == found[1].digest == found[2].digest
    assert exclusion.read(paths, tmp_path / "hashes.npy").digest == found[0].digest


@pytest.mark.parametrize(
    ("content", "kind", "attributes"),
    [
        ("label,text\n1,promoter\n", FormatError, {"line": 2}),
        ("label\n", ArgumentError, {"field": "exclude"}),
        (f"label,text\n1,{'ACGT' * 10}\n2,ACGU-\n", FormatError, {"line": 3, "field": "column 2", "value": "ACGU-"}),
        (f"label,text\n1,{'ACGT' * 10}\n2\n", FormatError, {"line": 3, "field": "column 2"}),
        (f">a\n{'ACGTN' * 10}\n", ArgumentError, {"field": "exclude"}),
    ],
)
def test_bad_files(tmp_path, content, kind, attributes):
    path = tmp_path / "rows"
    path.write_text(content)
    with raises(kind, **attributes):
        exclusion.read([path], tmp_path / "hashes.npy")


def test_build_cuts_out_what_occurs_and_keeps_inputs_of_which_too_much_would_go(tmp_path):
    row, *others = (bases.decode(codes) for codes in random_codes([300, 5000, 700, 900], 2, unknown=False))
    few = fasta(tmp_path / "few.fa", a=others[0] + complement(row) + others[1] + "N" * 50)
    many = fasta(tmp_path / "many.fa", b=others[2] + row)
    none = fasta(tmp_path / "none.fa", c=others[0][::-1])
    test = fasta(tmp_path / "test.fasta", row=row)
    options = {"scheme": Scheme("whole", max_length=2000, cut_n=20), "validation_fraction": 0}
    info = builder.build([few, many, none], tmp_path / "set", exclude=[test], exclude_at_most=0.1, workers=2, **options)
    source = RegionSource(tmp_path / "set", "train")
    kept = {}
    for number, name in enumerate(source.index["accession"]):
        codes = source.read(number, 0, int(source.index["length"][number]))
        kept.setdefault(source.accessions[name], []).append(bases.decode(codes))
    joined = {name: "".join(parts) for name, parts in kept.items()}
    cut = covered(others[0] + complement(row) + others[1], row)
    assert [end - start for start, end in cut] == [300]  # no base more: the neighbours differ
    assert joined == {"a": others[0] + others[1], "b": others[2] + row, "c": others[0][::-1]}
    assert info["ledger"]["regions"]["dropped"][extraction.EXCLUDED] == {"count": 0, "bases": 300}
    assert info["excluded"] == [
        {"input": 0, "file": "few.fa", "bases": 300, "fraction": round(300 / 6050, 6), "cut": True},
        {"input": 1, "file": "many.fa", "bases": 300, "fraction": 0.25, "cut": False},
    ]
    facts = info["parameters"]["exclude"]
    assert (facts["files"], facts["sequences"], facts["at_most"]) == (["test.fasta"], 1, 0.1)
    text = report.whole(tmp_path / "set")
    assert "  cut out of few.fa: 300 bases (4.96 %)" in text
    assert "  kept whole, many.fa: 25.00 % of its bases (300 bases) in the excluded sequences" in text
    again = builder.build([few, many, none], tmp_path / "again", exclude=[test], exclude_at_most=0.1, **options)
    assert again == info
    everything = builder.build([few, many], tmp_path / "all", exclude=[test], **options)
    assert everything["ledger"]["regions"]["dropped"][extraction.EXCLUDED] == {"count": 0, "bases": 600}
    plain = builder.build([few, many], tmp_path / "plain", **options)
    assert (plain["excluded"], plain["parameters"]["exclude"]) == ([], None)


def test_a_region_that_occurs_whole_is_dropped(tmp_path):
    row, other = (bases.decode(codes) for codes in random_codes([100, 500], 3, unknown=False))
    genome = fasta(tmp_path / "g.fa", a=row + "N" * 30, b=other)
    info = builder.build(
        [genome], tmp_path / "set", scheme=Scheme("whole", cut_n=30), exclude=[fasta(tmp_path / "t.fa", row=row)]
    )
    dropped = info["ledger"]["regions"]["dropped"]
    assert sum(row["count"] for row in dropped.values()) == 1
    assert {name: row["bases"] for name, row in dropped.items()} == {extraction.UNKNOWN: 30, extraction.EXCLUDED: 100}


def test_an_interrupted_build_resumes_only_with_the_same_sequences(tmp_path):
    one, two = (bases.decode(codes) for codes in random_codes([100, 100], 4, unknown=False))
    genome = fasta(tmp_path / "g.fa", a=one)
    found = [
        exclusion.read([fasta(tmp_path / "t.fa", row=text)], tmp_path / "hashes.npy", at_most)
        for text, at_most in ((one, 1), (two, 1), (one, 0.5), (complement(one), 1))
    ]
    keys = [spill.key(Input(genome, None), spill.Settings(WHOLE, exclusion=x)) for x in (None, *found)]
    assert len(set(keys)) == 4
    assert keys[1] == keys[4]  # the same 32-mers
    assert json.loads(json.dumps(found[0].facts()))["digest"] == found[3].digest


def test_bad_fraction(tmp_path):
    with raises(ArgumentError, field="exclude_at_most", value=1.5):
        builder.build([tmp_path / "g.fa"], tmp_path / "set", scheme=WHOLE, exclude=["x"], exclude_at_most=1.5)
