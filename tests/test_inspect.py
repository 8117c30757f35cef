"""Tests the command that shows a dataset: totals, filters and FASTA output, also against an oracle."""

import collections
import contextlib
import gzip
import hashlib
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from data_pipeline import cli, inspect
from data_pipeline.dataset import builder
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DataError, counted
from data_pipeline.formats import genbank
from data_pipeline.regions import extraction, schemes
from tests import oracle
from tests.data import DATA, FIXTURES, data_path
from tests.test_genbank import record_text, write
from tests.test_gff import oracle_records
from tests.test_reader import StubTokenizer

ROOT = Path(__file__).parents[1]
INPUTS = sorted(FIXTURES.glob("*.gb*.gz"))
GENOMES = [
    str(path.relative_to(DATA / "genomes"))
    for path in sorted((DATA / "genomes").glob("*/*.gz"))
    if path.name.split(".")[-2] in ("gb", "gbk", "gbff", "seq")
]
SKIPPED = {"NT_019265.gb.gz", "negative_location.gb.gz", "no_end_marker.gb.gz"}  # they contain no region


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "set"
    builder.build(INPUTS, folder, validation_fraction=0.2, test_fraction=0.1)
    return folder


def printed(capsys, *arguments):
    assert inspect.main(list(map(str, arguments))) == 0
    out, err = capsys.readouterr()
    assert not err
    return out


def error_line(capsys, *arguments):
    assert inspect.main(list(map(str, arguments))) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{cli.program()}: error: ")
    assert err.count("\n") == 1
    return err


def parsed(text):
    """Returns (description, bases) of each sequence in a FASTA text."""
    records = [record.partition("\n") for record in re.split("^>", text, flags=re.MULTILINE)[1:]]
    return [(head, body.replace("\n", "")) for head, _, body in records]


PLACE = re.compile(r"(\S+):(\d+)-(\d+)\(([+-])\) (\w+) ")


def rows(text):
    """Parses the rows that the oracle prints: accession, start, end, strand, kind, bases, md5."""
    found = []
    for head, body in parsed(text):
        accession, start, end, strand, kind = PLACE.match(head).groups()
        md5 = hashlib.md5(body.upper().encode()).hexdigest()
        found.append((accession, int(start) - 1, int(end), strand, kind, len(body), md5))
    return sorted(found)


def oracle_rows(paths):
    from Bio import BiopythonWarning, SeqIO
    from Bio.Seq import UndefinedSequenceError

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiopythonWarning)
        for path in paths:
            with gzip.open(path, "rt") as stream:
                for record in SeqIO.parse(stream, "genbank"):
                    with contextlib.suppress(UndefinedSequenceError):
                        found += oracle.regions(record, collections.Counter())
    return sorted(found)


def test_fasta_equals_the_oracle(dataset, capsys):
    found = rows(printed(capsys, dataset, "--output", "-"))
    assert found == oracle_rows(INPUTS)
    assert len(found) == 130 + 86 + 11 + 10


@pytest.mark.slow
@pytest.mark.parametrize("name", GENOMES)
def test_fasta_of_every_genome(tmp_path, capsys, name):
    path = data_path("genomes", name)
    if path.name in SKIPPED:
        with pytest.raises(DataError):
            builder.build([path], tmp_path / "set", taxon="bct")
        return
    builder.build([path], tmp_path / "set", taxon="bct", validation_fraction=0.1)
    capsys.readouterr()
    assert rows(printed(capsys, tmp_path / "set", "--output", "-")) == oracle_rows([path])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("annotation", "sequence"),
    [
        ("celegans_1pct.gff3.gz", "celegans_1pct.fa.gz"),
        ("dmelanogaster_1pct.gff3.gz", "dmelanogaster_1pct.fa.gz"),
        ("yeast_S288C_R64_chrI-XII_MT.gff.gz", "yeast_S288C_R64_chrI-XII_MT.fna.gz"),
    ],
)
def test_fasta_of_every_pair(tmp_path, capsys, annotation, sequence):
    paths = [data_path("genomes", "eukaryote", name) for name in (annotation, sequence)]
    builder.build(paths, tmp_path / "set", taxon="inv", validation_fraction=0.1)
    capsys.readouterr()
    expected = [row for record in oracle_records(*paths) for row in oracle.regions(record, collections.Counter())]
    assert rows(printed(capsys, tmp_path / "set", "--output", "-")) == sorted(expected)


def test_fasta_to_a_file(dataset, tmp_path, capsys):
    path = tmp_path / "regions.fa"
    assert inspect.main([str(dataset), "--split", "validation", "--output", str(path)]) == 0
    count = len(RegionSource(dataset, "validation"))
    assert capsys.readouterr().err == f"{path}: {counted(count, 'region')}\n"
    text = path.read_text()
    assert len(parsed(text)) == count > 0
    assert {len(line) for line in text.split("\n") if not line.startswith(">")} <= set(range(81))
    assert list(tmp_path.iterdir()) == [path]
    assert "exists already" in error_line(capsys, dataset, "--output", path)
    assert path.read_text() == text
    assert "no such" in error_line(capsys, dataset, "--output", tmp_path / "nowhere" / "a.fa").lower()


def test_soft_masked_bases_are_in_lower_case(tmp_path, capsys):
    write(tmp_path / "a.fa", ">s\nACGTacgtNNACGTTTGGnn\n")
    write(tmp_path / "a.gff3", "s\tx\tgene\t3\t12\t.\t-\t.\tID=g;Name=one\ns\tx\tgene\t13\t20\t.\t+\t.\tID=h\n")
    builder.build([tmp_path / "a.gff3"], tmp_path / "set", taxon="bct", validation_fraction=0)
    capsys.readouterr()
    found = parsed(printed(capsys, tmp_path / "set", "--output", "-"))
    assert found == [("s:3-12(-) other bct gene=one", "GTNNacgtAC"), ("s:13-20(+) other bct", "GTTTGGnn")]
    [line] = [line for line in printed(capsys, tmp_path / "set").split("\n") if " other " in line]
    assert line.split()[3:] == ["2", "18", "8", "9.0", "10", "10", "50.00", "4", "6"]


def test_segments_of_spliced_regions_are_named(tmp_path, capsys):
    features = [("CDS", "join(1..3,7..10)", {"gene": "a"})]
    path = write(tmp_path / "a.gb", record_text(features, "acgtacgtaa"))
    builder.build([path], tmp_path / "set", scheme=schemes.Scheme("cds"), validation_fraction=0)
    capsys.readouterr()
    [(head, body)] = parsed(printed(capsys, tmp_path / "set", "--output", "-"))
    assert head.startswith("TEST.1:1-10(+) cds bct gene=a ")
    assert "segments=" in head
    assert body == "ACGGTAA"


def directly():
    """Reads the regions of all inputs without a dataset."""
    return [region for path in INPUTS for record in genbank.read(path) for region in extraction.regions(record)]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--kinds", "tRNA", "rRNA"], lambda region: region.kind in ("tRNA", "rRNA")),
        (["--kinds", "TRNA", "rrna"], lambda region: region.kind in ("tRNA", "rRNA")),
        (["--taxa", "Viral"], lambda region: region.taxon == "vir"),
        (["--taxa", "vir"], lambda region: region.taxon == "vir"),
        (["--taxa", "vir", "plm", "--kinds", "cds"], lambda r: r.taxon in ("vir", "plm") and r.kind == "cds"),
        (["--gene", "^rps"], lambda region: region.gene.startswith("rps")),
        (["--gene", "VT2-Sap1"], lambda region: "VT2-Sap1" in region.locus_tag),
        (["--product", "ribosomal"], lambda region: "ribosomal" in region.product),
        (["--product", "no such product"], lambda region: False),
    ],
)
def test_filters(dataset, capsys, arguments, wanted):
    expected = {(r.accession, r.start, r.end, "+" if r.strand > 0 else "-") for r in directly() if wanted(r)}
    found = rows(printed(capsys, dataset, "--output", "-", *arguments))
    assert {row[:4] for row in found} == expected
    assert len(found) == len(expected)
    assert bool(expected) != ("no such product" in arguments)
    shown = printed(capsys, dataset, "--head", "1000", *arguments).splitlines()
    assert len(shown) == len(expected)
    assert ("no region matches" in printed(capsys, dataset, *arguments)) != bool(expected)


def test_filters_by_split(dataset, capsys):
    for name in ("train", "validation", "test"):
        shown = printed(capsys, dataset, "--split", name, "--head", "1000").splitlines()
        assert len(shown) == len(RegionSource(dataset, name)) > 0
        assert {line.split("\t")[0] for line in shown} == {name}


def test_standard_output_that_is_not_utf_8(dataset, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert inspect.main([str(dataset), "--head", "1000"]) == 0
    assert b"\\u2026\n" in out.buffer.getvalue()


def test_head_gives_the_first_regions(dataset, capsys):
    whole = parsed(printed(capsys, dataset, "--output", "-"))
    for count in (1, 5, 1000):
        lines = [line.split("\t") for line in printed(capsys, dataset, "--head", count).splitlines()]
        assert len(lines) == min(count, len(whole))
        for line, (head, body) in zip(lines, whole, strict=False):
            _, coordinates, taxon, kind, length, gene, _, start = line
            assert head.startswith(f"{coordinates} {kind} {taxon}")
            assert int(length) == len(body)
            assert start == (body[:30] + "…" if len(body) > 30 else body)
            assert f" gene={gene}" in head or gene == "-"


def test_token_ids_cannot_be_written_as_fasta(tmp_path, capsys):
    builder.build(INPUTS, tmp_path / "set", tokenizer=StubTokenizer())
    capsys.readouterr()
    assert "--storage bases" in error_line(capsys, tmp_path / "set", "--output", "-")
    lines = printed(capsys, tmp_path / "set").splitlines()
    assert ": token_ids, scheme gene" in lines[0]
    [whole] = [line.split() for line in lines if line.startswith("all ")]
    assert whole[1:3] == ["237", "179,853"]
    assert len(printed(capsys, tmp_path / "set", "--head", "3").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{empty}"], "is not a dataset"),
        (["{empty}/nowhere"], "nowhere: no such folder"),
        (["{dataset}x"], "no such folder; did you mean {dataset}?"),
        ([__file__], "test_inspect.py"),
        (["{dataset}", "--gene", "("], "'('"),
        (["{dataset}", "--product", "*", "--head", "3"], "'*'"),
        (["{dataset}", "--split", "holdout"], "holdout"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(dataset, tmp_path, capsys, arguments, words):
    names = {"empty": tmp_path, "dataset": dataset}
    assert words.format(**names) in error_line(capsys, *(argument.format(**names) for argument in arguments))


@pytest.mark.parametrize("arguments", [["--kinds", "intron"], ["--taxa", "cat"], ["--head", "few"], []])
def test_bad_options(dataset, capsys, arguments):
    with pytest.raises(SystemExit) as end:
        inspect.main([str(dataset), *arguments] if arguments else [])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        inspect.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in ("--split", "--kinds", "--taxa", "--gene", "--product", "--head", "--output"):
        assert f"  {option} " in out


@pytest.mark.parametrize("options", [["--output", "-"], ["--head", "100000"]])
def test_closed_pipe_is_not_an_error(dataset, options):
    command = [sys.executable, "-m", "data_pipeline.inspect", str(dataset), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
