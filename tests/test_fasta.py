"""Tests the FASTA reader and its errors, also against Biopython."""

import gzip
import re
import tracemalloc

import numpy as np
import pytest

from data_pipeline.errors import DamagedFileError, FileError, FormatError
from data_pipeline.formats import fasta, stream
from data_pipeline.sequence import bases
from tests.data import data_path
from tests.raised import raises


def read(tmp_path, text):
    path = tmp_path / "x.fa"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(fasta.read(path))


def test_names_without_bases(tmp_path):
    (tmp_path / "x.fa").write_text(">gi|1|ref|NC_1.1| x\nAC!T\n>b\n>c\nA\n")
    assert fasta.names(tmp_path / "x.fa") == {"NC_1.1", "b", "c"}


def test_names_descriptions_bases_and_masks(tmp_path):
    first, second, third = read(tmp_path, ">a the first\nACGTn\nacGT\n\n>b\n>c\tx  y \r\nRYKM\r\nU T\tt\r\n")
    assert (first.name, first.description, bases.decode(first.codes)) == ("a", "the first", "ACGTNACGT")
    assert first.lower_case.tolist() == [[4, 7]]  # one run across two lines
    assert first.codes.dtype == np.uint8
    assert (second.name, second.description, len(second.codes), len(second.lower_case)) == ("b", "", 0, 0)
    assert (third.name, third.description, bases.decode(third.codes)) == ("c", "x  y", "NNNNTTT")
    assert third.lower_case.tolist() == [[6, 7]]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("chr1 x", "chr1"),
        ("1 dna:chromosome chromosome:GRCh38:1:1:9:1 REF", "1"),
        ("gi|568336023|gb|CM000663.2| Homo sapiens", "CM000663.2"),
        ("gi|9626372|ref|NC_001422.1|", "NC_001422.1"),
        ("ref|NC_001422.1| x", "NC_001422.1"),
        ("gnl|Prokka|contig_1", "gnl|Prokka|contig_1"),
        ("lcl|ref", "lcl|ref"),
    ],
)
def test_names_in_database_headers(header, name, tmp_path):
    assert [record.name for record in read(tmp_path, f">{header}\nA\n")] == [name]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (">a\nacgt\nacg\n>b\nacg\n", [[], []]),  # a single case throughout
        (">a\nACGT\n>b\nACG\n", [[], []]),
        (">a\nacgt\n>b\nACGT\n>c\nacgT\n>d\nac\ngt\n", [[], [], [[0, 3]], [[0, 4]]]),
        (">a\nacgT\n>b\n>c\nacgt\n", [[[0, 3]], [], [[0, 4]]]),
        (">a\nacgT\nacgt\n>b\nacgt\n", [[[0, 3], [4, 8]], [[0, 4]]]),
        (">a\n>b\nacgt\n", [[], []]),
    ],
)
def test_lower_case_throughout_masks_after_an_upper_case_letter(text, masked, tmp_path, monkeypatch):
    for size in (1 << 20, 3):
        monkeypatch.setattr(stream, "CHUNK_BYTES", size)
        assert [record.lower_case.tolist() for record in read(tmp_path, text)] == masked


def test_chunk_size_does_not_change_the_result(tmp_path, monkeypatch):
    text = b"\n\n>a x\r\nACgt\r\nacGT\r\n>b\n>c long name\nnnnnn\nNNN\nac\n>d\nACGTACGTAC"
    whole = [(r.name, r.description, r.codes.tolist(), r.lower_case.tolist()) for r in read(tmp_path, text)]
    assert len(whole) == 4
    for size in range(1, 30):
        monkeypatch.setattr(stream, "CHUNK_BYTES", size)
        cut = [(r.name, r.description, r.codes.tolist(), r.lower_case.tolist()) for r in read(tmp_path, text)]
        assert cut == whole


def test_last_header_without_newline(tmp_path):
    assert [(r.name, len(r.codes)) for r in read(tmp_path, ">a\nAC\n>b")] == [("a", 2), ("b", 0)]


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("", FileError, {}),
        ("\n \n", FormatError, {}),
        ("ACGT\n", FormatError, {"line": None}),
        ("LOCUS       X\n>a\nA\n", FormatError, {"line": None}),
        (">a\nACGT\nACEGT\n", FormatError, {"line": 3, "record": "a", "field": "base", "value": "E"}),
        (">a\nACGT\n\nAC-GT\n", FormatError, {"line": 4, "record": "a", "field": "base", "value": "-"}),
        (">a\nACGT>b\nACGT\n", FormatError, {"line": 2, "record": "a", "field": "base", "value": ">"}),
        (">a\nACGT\n;c\n", FormatError, {"line": 3, "record": "a", "field": "base", "value": ";"}),
        (">a\nMKVLAA*\n", FormatError, {"line": 2, "record": "a", "field": "base", "value": "L"}),
        (b">a\nAC\xc3GT\n", FormatError, {"line": 2, "record": "a", "field": "base", "value": "Ã"}),
        (">a\nA\n>b\nA\n>a\nA\n", FormatError, {"line": 5, "field": "name", "value": "a"}),
        (">a\nA\n>\nA\n", FormatError, {"line": 3}),
        ("> a\nA\n", FormatError, {"line": 1}),
        (">a\rACGT\r>b\rACGT\r\n", FormatError, {"line": 1, "remedy": "convert them to LF"}),
        (gzip.compress(b">a\nACGT\n" * 1, mtime=0)[:-5], DamagedFileError, {}),
        (gzip.compress(b">a\nACGT\n", mtime=0)[:-8] + bytes(8), DamagedFileError, {}),
    ],
)
def test_rejected_files(text, kind, attributes, tmp_path):
    with raises(kind, file=tmp_path / "x.fa", **attributes):
        read(tmp_path, text)


def test_flagged_records(tmp_path):
    """Each record has the first of its problems, and the others are read as usual."""
    text = ">a\nACGT\n>\nAC\n>a x\nMK\n> b c\nGT\n>p\nAC-T\n>d\nTT\n"
    (tmp_path / "x.fa").write_text(text)
    found = list(fasta.read(tmp_path / "x.fa", flag=True))
    assert [(x.name, bases.decode(x.codes)) for x in found] == [
        ("a", "ACGT"), ("", "AC"), ("a", "NN"), ("", "GT"), ("p", "ACNT"), ("d", "TT"),
    ]  # fmt: skip
    lines = [x.problem.partition(":")[0] for x in found]
    assert lines == ["", "line 3", "line 5", "line 7", "line 10", ""]
    assert found[3].description == "b c"


def test_invalid_letter_is_found_in_every_chunk(tmp_path, monkeypatch):
    text = ">a\n" + "ACGTACGT\n" * 40 + "ACG!\n"
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(stream, "CHUNK_BYTES", size)
        with raises(FormatError, line=42, record="a", value="!"):
            read(tmp_path, text)


def test_memory_is_bounded_by_the_record(tmp_path):
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\n" + (b"ACGT" * 15 + b"\n") * 400_000)
    tracemalloc.start()
    [record] = fasta.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(record.codes) == 24_000_000
    assert peak < 2.4 * 24_000_000  # the record, and a copy of it while its buffer grows


@pytest.mark.parametrize(
    "file",
    [
        "eukaryote/celegans_1pct.fa.gz",
        "eukaryote/dmelanogaster_1pct.fa.gz",
        "eukaryote/chicken_Galgal4_chr1_piece.fa.gz",
        "prokaryote/mgenitalium_G37_L43967.2.fna.gz",
        "eukaryote/dmel_dm3_chr2R_2M-7M.fa.gz",
    ],
)
def test_real_files_equal_biopython(file):
    from Bio import SeqIO

    path = data_path("genomes", *file.split("/"))
    with gzip.open(path, "rt") as lines:
        expected = {record.id: str(record.seq) for record in SeqIO.parse(lines, "fasta")}
    found = {record.name: record for record in fasta.read(path)}
    assert list(found) == list(expected)
    upper = False
    for name, letters in expected.items():
        assert bases.decode(found[name].codes) == re.sub("[^ACGT]", "N", letters.upper())
        masked = (
            [[m.start(), m.end()] for m in re.finditer("[a-z]+", letters)] if upper or not letters.islower() else []
        )
        upper = upper or not letters.islower()
        assert found[name].lower_case.tolist() == masked
    assert "dm3" not in file or len(masked) > 1000  # the only soft-masked file
