"""Intervals and their text; the contigs of a genome, whole or in stretches, and their names."""

import numpy as np
import pytest

from data_pipeline.errors import FileError, FormatError
from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.variant import Variant
from tests.raised import raises

CHROMOSOME = "".join(np.random.default_rng(0).choice(list("ACGT"), 200))


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("chr1:101-200", Interval("chr1", 100, 200)),
        ("HLA:A*01:1-1(-)", Interval("HLA:A*01", 0, 1, "-")),
        ("NC_000017.11:42425000-43600000", Interval("NC_000017.11", 42424999, 43600000)),
    ],
)
def test_the_text_of_an_interval(text, interval):
    assert Interval.parse(text) == interval
    assert str(interval) == text


@pytest.mark.parametrize("text", ["chr1", "chr1:0-10", "chr1:5", ":1-2", "chr1:1-2(*)", "chr1:-5-2", "chr1:1-x"])
def test_other_text_is_no_interval(text):
    assert Interval.parse(text) is None


def test_the_interval_of_a_variant():
    assert Variant("1", 9, "ACG", "A").interval == Interval("1", 9, 12)


def test_a_stretch_of_the_minus_strand(tmp_path):
    back = bases.decode(bases.reverse_complement(bases.encode(CHROMOSOME[20:140])))
    (tmp_path / "w.fa").write_text(f">c:21-140(-)\n{back}\n")
    (stretch,) = Genome.read(tmp_path / "w.fa").stretches["c"]
    assert (stretch.start, stretch.end, bases.decode(stretch.codes)) == (20, 140, CHROMOSOME[20:140])


def test_windows_and_names(tmp_path):
    fasta = tmp_path / "w.fa"
    fasta.write_text(f">NC_1.1:21-140\n{CHROMOSOME[20:140]}\n>7\n{CHROMOSOME}\n>chrM x\nACGT\n")
    table = tmp_path / "names.tsv"
    table.write_text("# names\nI\tNC_1.1\tsomething\nchrVII\t7\n")
    genome = Genome.read(fasta, table)
    assert genome.stretches["NC_1.1"][0].start == 20
    for name, expected in {
        "NC_1.1": "NC_1.1", "chr7": "7", "7": "7", "M": "chrM", "I": "NC_1.1", "chrI": "NC_1.1", "VII": "7", "8": None,
    }.items():  # fmt: skip
        assert genome.contig(name) == expected
    assert genome.stretch(Interval("NC_1.1", 60, 61)).codes[40] == bases.encode(CHROMOSOME[60])
    assert genome.stretch(Interval("NC_1.1", 10, 11)) is None
    with raises(FileError, file="none.tsv"):
        Genome.read(fasta, tmp_path / "none.tsv")
    fasta.write_text(f">NC_1.1:21-141\n{CHROMOSOME[20:140]}\n")
    with raises(FormatError, file="w.fa", record="NC_1.1:21-141"):
        Genome.read(fasta)


def test_names_of_contigs(tmp_path):
    assert Genome.of({"1": "ACGT", "chr1": "GGGG"}).contig("1") == "1"
    fasta = tmp_path / "w.fa"
    fasta.write_text(f">gi|1|ref|NC_1.1|:21-140\n{CHROMOSOME[20:140]}\n>NT_1.1\n{CHROMOSOME}\n")
    report = tmp_path / "report.txt"
    columns = [
        "chr1 assembled-molecule 1 Chromosome CM1.1 = NC_1.1 Primary 160 chr1",
        "scf unlocalized-scaffold 1 Chromosome GL1.1 = NT_1.1 Primary 200 na",
    ]
    report.write_text("# Sequence-Name\n" + "".join("\t".join(line.split()) + "\n" for line in columns))
    genome = Genome.read(fasta, report)
    assert genome.stretches["NC_1.1"][0].start == 20
    for name, expected in {"1": "NC_1.1", "CM1.1": "NC_1.1", "scf": "NT_1.1", "GL1.1": "NT_1.1"}.items():
        assert genome.contig(name) == expected
    for name in ("=", "na", "Chromosome", "160", "200", "Primary"):
        assert genome.contig(name) is None
    report.write_text("x\tNC_1.1\nx\tNT_1.1\n")
    assert Genome.read(fasta, report).missing("x") == "contig x may be NC_1.1 or NT_1.1"
