"""Types of genes and taxa cut from annotated genomes: rows are where they say, controls touch no gene."""

import dataclasses
import functools

import numpy as np
import pytest

from data_pipeline.dataset import inputs
from data_pipeline.errors import DataError
from data_pipeline.regions import extraction
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import GENE
from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.labelled import table
from gener_jax.tasks import gene_labels
from gener_jax.tasks.annotated_genomes import records
from gener_jax.tasks.gene_labels import build, gene_types, taxa
from tests.data import FIXTURES
from tests.raised import raises


@pytest.fixture(scope="module")
def sources():
    return inputs.discover([EXAMPLE_GENOME], annotated=True)[0]


@pytest.fixture(scope="module")
def record(sources):
    [(record, _)] = records(sources)
    return record


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    path = tmp_path_factory.mktemp("types") / "types.tsv"
    return build(sources, path, gene_types, per_class=60)


def rows_of(built):
    columns = table.read(built.table).columns
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_rows_are_where_they_say(built, record):
    whole = bases.decode(record.codes)
    genes = [x for span in extraction.find(record, GENE, Ledger()) for x in span.intervals(len(whole))]
    for row in rows_of(built):
        start, end = int(row["start"]), int(row["end"])
        cut = whole[start:end]
        if row["strand"] == "-":
            cut = bases.decode(bases.reverse_complement(bases.encode(cut)))
        assert row["sequence"] == cut
        assert 100 <= len(cut) <= 5000
        if row["label"] == "intergenic":
            assert not any(start < right and left < end for left, right in genes)
        assert (row["contig"], row["species"]) == (record.accession, record.organism)


def test_few_are_refused_with_their_number(built):
    assert built.kept == {"cds": 60, "intergenic": 60}
    assert built.refused["rRNA"] == 6
    assert set(built.refused) == {"rRNA", "ncRNA", "pseudo"}
    assert built.unused["cds"] == 851 - 60
    assert "rRNA 6" in str(built)
    labels = [row["label"] for row in rows_of(built)]
    assert {label: labels.count(label) for label in labels} == built.kept


def test_more_rows_of_a_class_do_not_reorder_it(built, sources, tmp_path):
    more = build(sources, tmp_path / "more.tsv", gene_types, per_class=90)
    first, second = ([row["sequence"] for row in rows_of(x) if row["label"] == "cds"] for x in (built, more))
    assert second[:60] == first
    assert len(set(second)) >= 89


def test_taxa(sources, record, tmp_path):
    found = list(taxa(record, np.random.default_rng(0)))
    assert [row.start for row in found[1:]] == [row.end for row in found[:-1]]
    lengths = [len(row.codes) for row in found]
    assert min(lengths) >= 10_000
    assert min(lengths) + 40_000 < max(lengths) <= 100_000
    assert {row.label for row in found} == {"bct"}
    assert {row.strand for row in found} == {1, -1}
    assert not list(taxa(dataclasses.replace(record, taxon=None), np.random.default_rng(0)))
    short = functools.partial(taxa, least=100, most=200)
    two = [*sources, *inputs.discover([FIXTURES / "athaliana_chloroplast_NC_000932.1.gb.gz"], annotated=True)[0]]
    built = build(two, tmp_path / "taxa.tsv", short, per_class=50)
    assert built.kept == {"bct": 50, "plt": 50}
    with raises(DataError, file="taxa.tsv"):
        build(sources, tmp_path / "taxa.tsv", taxa)


def test_unknown_bases_are_left_out(sources, tmp_path, record, monkeypatch):
    codes = record.codes.copy()
    codes[: len(codes) // 2] = bases.N
    monkeypatch.setattr(
        gene_labels, "records", lambda sources: [(dataclasses.replace(record, codes=codes), sources[0])]
    )
    built = build(sources, tmp_path / "types.tsv", gene_types)
    assert built.unknown > 500
    assert all(row["sequence"].count("N") <= 0.05 * len(row["sequence"]) for row in rows_of(built))
