"""Tests that coordinates become sequences of the same assembly, and of no other."""

import gzip

import pytest

from data_pipeline.errors import FormatError, MismatchError
from data_pipeline.formats import fasta
from data_pipeline.sequence import bases
from gener_jax.config import Finetune
from gener_jax.labelled import splits, table
from gener_jax.labelled.coordinates import Genome
from tests.data import data_path
from tests.raised import raises


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "g.fa").write_text(">1\nAAACCCGGGT\nTTacn\n")
    return Genome(tmp_path / "g.fa", "hg38")


def made(tmp_path, *rows, header="chrom,start,end,strand,assembly"):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return table.read(path)


def test_cut(genome, tmp_path):
    found = genome.cut(made(tmp_path, "chr1,0,4,+,GRCh38", "1,5,10,-,hg38", "1,11,15,.,GRCh38.p14"))
    assert found.columns["sequence"] == ["AAAC", "ACCCG", "TACN"]
    bare = made(tmp_path, "1,2,4", header="Region,start,end")
    (tmp_path / "metadata.yaml").write_text("url: http://x/Homo_sapiens.GRCh38.dna.toplevel.fa.gz\n")
    assert genome.cut(bare).columns["sequence"] == ["AC"]


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ("2,0,4,+,hg38", {"field": "chrom", "value": "2"}),
        ("1,-1,4,+,hg38", {"field": "start", "value": "-1"}),
        ("1,0,x,+,hg38", {"field": "end", "value": "x"}),
        ("1,0,16,+,hg38", {"field": "end", "value": "16"}),
        ("1,4,4,+,hg38", {"field": "end", "value": "4"}),
        ("1,0,4,*,hg38", {"field": "strand", "value": "*"}),
        ("1,0,4,+,hg19", {"field": "assembly", "value": "hg19"}),
    ],
)
def test_rows_that_are_refused(row, facts, genome, tmp_path):
    with raises(FormatError, file="t.csv", line=3, **facts):
        genome.cut(made(tmp_path, "1,0,15,+,hg38", row))


def test_tables_that_are_refused(genome, tmp_path):
    with raises(FormatError, file="t.csv"):  # no assembly
        genome.cut(made(tmp_path, "1,2,4", header="chrom,start,end"))
    with raises(FormatError, file="t.csv"):
        genome.cut(made(tmp_path, "1,2", header="chrom,start"))
    with raises(FormatError, file="t.csv", field="sequence"):
        genome.cut(made(tmp_path, "1,2,4,A", header="chrom,start,end,sequence"))
    (tmp_path / "metadata.yaml").write_text("assembly: hg19\n")
    with raises(MismatchError, file="t.csv", field="assembly", value="hg19"):
        genome.cut(made(tmp_path, "1,2,4", header="chrom,start,end"))


def test_an_assembly_of_another_genome_is_refused():
    folder = data_path("downstream", "genomic_benchmarks", "coordinates", "drosophila_enhancers_stark")
    dm3 = str(data_path("genomes", "eukaryote", "dmel_dm3_chr2R_2M-7M.fa.gz"))
    finetune = {"problem": "single_label", "train": (str(folder),), "genome": dm3}
    with raises(MismatchError, file="negative.csv.gz", field="assembly", value="BDGP6.28"):
        splits.read(Finetune(**finetune, assembly="dm3"))


def test_real_coordinates_are_0_based(tmp_path):
    """The rows of human_nontata_promoters within a piece of chr16 are the sequences that the benchmark publishes."""
    benchmark = data_path("downstream", "genomic_benchmarks", "human_nontata_promoters_test.tsv.gz")
    piece = next(fasta.read(data_path("human", "human_hg38_chr16_186964_397118.fa.gz")))
    before = "N" * 186_963  # the name of the piece is 1-based
    (tmp_path / "hg38.fa").write_text(f">chr16\n{before}{bases.decode(piece.codes)}\n")
    folder = data_path("downstream", "genomic_benchmarks", "coordinates", "human_nontata_promoters")
    rows = gzip.decompress((folder / "test" / "positive.csv.gz").read_bytes()).decode().splitlines()
    inside = [x for x in rows if x.split(",")[1] == "chr16" and 186_963 <= int(x.split(",")[2]) < 396_000]
    (tmp_path / "t.csv").write_text("\n".join([rows[0] + ",assembly", *(f"{x},GRCh38" for x in inside)]) + "\n")
    found = Genome(tmp_path / "hg38.fa", "hg38").cut(table.read(tmp_path / "t.csv"))
    assert set(found.columns["strand"]) == {"+", "-"}
    assert len(found) == 6
    assert set(found.columns["sequence"]) <= {x.upper() for x in table.read(benchmark).columns["seq"]}
