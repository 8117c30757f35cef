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


def test_an_interval_of_other_programs():
    """With commas, as of browsers, and with the strand that `data inspect` writes."""
    assert Interval.parse("chr17:43,045,680-43,045,739") == Interval("chr17", 43045679, 43045739)
    assert Interval.parse("NZ_CP001668.1:1-1353(+)") == Interval("NZ_CP001668.1", 0, 1353)


@pytest.mark.parametrize(
    "text", ["chr1", "chr1:0-10", "chr1:5", ":1-2", "chr1:1-2(*)", "chr1:-5-2", "chr1:1-x", "chr1:1,00-200"]
)
def test_other_text_is_no_interval(text):
    assert Interval.parse(text) is None


def test_the_interval_of_a_variant():
    assert Variant("1", 9, "ACG", "A").interval == Interval("1", 9, 12)


def test_a_stretch_of_the_minus_strand(tmp_path):
    back = bases.decode(bases.reverse_complement(bases.encode(CHROMOSOME[20:140])))
    (tmp_path / "w.fa").write_text(f">c:21-140(-)\n{back}\n")
    (stretch,) = Genome.read(tmp_path / "w.fa").stretches["c"]
    assert (stretch.start, stretch.end, bases.decode(stretch.codes)) == (20, 140, CHROMOSOME[20:140])


def test_stretches_and_names(tmp_path):
    (tmp_path / "w.fa").write_text(f">gi|1|ref|NC_1.1|:21-140\n{CHROMOSOME[20:140]}\n>7\n{CHROMOSOME}\n>chrM x\nACGT\n")
    (tmp_path / "names.tsv").write_text("I\tNC_1.1\nx\t7\nx\tchrM\n")
    genome = Genome.of(tmp_path / "w.fa", tmp_path / "names.tsv")
    assert [genome.contig(name) for name in ("chrI", "chr7", "MT", "8", "x")] == ["NC_1.1", "7", "chrM", None, None]
    assert (genome.missing("8"), genome.missing("x")) == ("contig 8 is not in the FASTA", "contig x may be 7 or chrM")
    assert Genome.of(genome, [["8", "7"]]).contig("8") == "7"
    assert genome.stretch(Interval("NC_1.1", 60, 61)).codes[40] == bases.encode(CHROMOSOME[60])
    assert genome.stretch(Interval("NC_1.1", 10, 11)) is None
    with raises(FileError, file="none.tsv"):
        Genome.of({"1": "ACGT"}, tmp_path / "none.tsv")
    (tmp_path / "w.fa").write_text(f">NC_1.1:21-141\n{CHROMOSOME[20:140]}\n")
    with raises(FormatError, file="w.fa", record="NC_1.1:21-141"):
        Genome.read(tmp_path / "w.fa")
