"""Tests how one row of a GFF3 or GTF file is read: its type, its place, its attributes."""

import collections

import pytest

from data_pipeline.formats import gff_rows
from data_pipeline.formats.gff_rows import Row
from tests.test_gff_features import read


def parse(attributes, kind="gene", start=b"11", end=b"40", strand=b"+", phase=b"."):
    notes = collections.Counter()
    columns = [b"7", b"s", b"x", kind.encode(), start, end, b".", strand, phase, attributes.encode()]
    return gff_rows.parse(b"\t".join(columns), notes), dict(notes)


def test_row_of_either_format_or_of_a_bare_id():
    for attributes, values in (
        ("ID=a%3Bb; Parent=c%2C,d ;note=no", {"ID": "a;b", "Parent": "c%2C,d"}),
        ('gene_id "g 1"; transcript_id t; ID "no"; tag "no";', {"gene_id": "g 1", "transcript_id": "t"}),
        ('transcript_id "t"', {"gene_id": "", "transcript_id": "t"}),
        ("g1", {"gene_id": "g1"}),
        (".", {}),
    ):
        assert parse(attributes) == (Row(7, b"x", "gene", 10, 40, 1, ".", values), {}), attributes
    assert parse("g1.t1", "transcript")[0].attributes == {"gene_id": "", "transcript_id": "g1.t1"}
    row, _ = parse("ID=a;Parent=c%2C,d")
    assert gff_rows.listed(row.attributes, "Parent") == ("c,", "d")


@pytest.mark.parametrize(
    ("columns", "notes"),
    [
        ({"start": b"0"}, {gff_rows.INVALID_ROWS: 1}),
        ({"start": b"41"}, {gff_rows.INVALID_ROWS: 1}),
        ({"end": b"9" * 5000}, {gff_rows.INVALID_ROWS: 1}),
        ({"strand": b"?"}, {gff_rows.INVALID_ROWS: 1}),
        ({"kind": "region", "strand": b"?"}, {}),
        ({"kind": "CDS", "phase": b"3"}, {gff_rows.INVALID_PHASES: 1}),
    ],
)
def test_what_cannot_be_read_of_a_row_is_counted(columns, notes):
    row, found = parse("ID=a", **columns)
    assert (found, row.end < 0) == (notes, gff_rows.INVALID_ROWS in notes)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("gene", "gene"),
        ("pseudogene", "gene"),
        ("ncRNA_gene", "gene"),
        ("tRNA_gene", "gene"),
        ("transposable_element_gene", "gene"),
        ("processed_pseudogene", "gene"),
        ("CDS", "CDS"),
        ("mRNA", "mRNA"),
        ("tRNA", "tRNA"),
        ("rRNA", "rRNA"),
        ("rRNA_16S", "rRNA"),
        ("tmRNA", "tmRNA"),
        *((kind, "ncRNA") for kind in ("ncRNA", "lnc_RNA", "lncRNA", "snoRNA", "snRNA", "miRNA", "piRNA", "SRP_RNA")),
        *((kind, "ncRNA") for kind in ("RNase_P_RNA", "RNase_MRP_RNA", "antisense_RNA", "telomerase_RNA", "Y_RNA")),
        ("misc_RNA", "misc_RNA"),
        ("transcript", "misc_RNA"),
        ("nc_primary_transcript", "misc_RNA"),
        ("promoter", "regulatory"),
        ("riboswitch", "regulatory"),
        ("regulatory_region", "regulatory"),
        *((kind, None) for kind in ("exon", "intron", "five_prime_UTR", "match", "region", "pseudogenic_tRNA")),
        *((kind, None) for kind in ("primary_transcript", "pre_miRNA", "V_gene_segment", "centromere")),
    ],
)
def test_kinds(row, kind, tmp_path):
    rows = [(row, 11, 20, "+", "ID=a"), ("gene", 101, 200, "+", "ID=g")]
    assert [f.kind for f in read(tmp_path, rows)][:-1] == ([kind] if kind else [])
    assert [f.kind for f in read(tmp_path, rows, kinds={kind} if kind else {"gene", "mRNA"})][:1] == [kind or "gene"]
    assert read(tmp_path, rows, kinds=frozenset()) == ()
