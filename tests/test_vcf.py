"""Tests the VCF reader and its errors."""

import gzip

import pytest

from data_pipeline.errors import DamagedFileError, FileError, FormatError
from data_pipeline.formats import vcf
from tests.raised import raises

HEAD = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def read(path, text, compressed=False):
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if compressed else text.encode())
    header, records = vcf.read(path)
    return header, list(records)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_records(compressed, end, tmp_path):
    last = "2\t7\trs1\tac\tG,<DEL>,*\t.\tPASS\tA=1;B=x,y\tGT\t0/1"
    header, (first, second) = read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\n\n" + last + end, compressed)
    assert "\n".join(header) + "\n" == HEAD
    assert (first.contig, first.start, first.ref, first.alts, first.line) == ("chr1", 4, "A", ("T",), 4)
    assert (second.id, second.ref, second.alts, second.line) == ("rs1", "AC", ("G", "<DEL>", "*"), 6)
    assert second.text == last


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("", FileError, {}),
        ("hello\n", FormatError, {"line": 1}),
        (">chr1\nACGT\n", FormatError, {"line": 1}),
        ("##fileformat=VCFv4.2\n", FormatError, {"line": None}),
        ("##fileformat=VCFv4.2\nchr1\t1\t.\tA\tT\n", FormatError, {"line": 2}),
        (HEAD + "chr1\t5\t.\tA\n", FormatError, {"line": 4, "field": "number of columns", "value": 4}),
        (HEAD + "chr1 5 . A T\n", FormatError, {"line": 4, "field": "number of columns", "value": 1}),
        (HEAD + "chr1\tx\t.\tA\tT\n", FormatError, {"line": 4, "field": "POS", "value": "x"}),
        (HEAD + "chr1\t-5\t.\tA\tT\n", FormatError, {"line": 4, "field": "POS", "value": "-5"}),
        (HEAD + "chr1\t5\t.\tQ\tT\n", FormatError, {"line": 4, "field": "REF", "value": "Q"}),
        (HEAD + "chr1\t5\t.\t\tT\n", FormatError, {"line": 4, "field": "REF", "value": ""}),
        (HEAD + "chr1\t5\t.\tA\tT\0\n", DamagedFileError, {"line": 4}),
    ],
)
def test_files_that_are_not_vcf(text, kind, attributes, tmp_path):
    with raises(kind, file=tmp_path / "v.vcf", **attributes):
        read(tmp_path / "v.vcf", text)


def test_long_lines(tmp_path, monkeypatch):
    assert read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\t" + "x" * 10_000_000 + "\n")[1][0].start == 4
    monkeypatch.setattr(vcf, "MAX_LINE", 1 << 20)
    with raises(FormatError, line=4):
        read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\t" + "x" * 10_000_000 + "\n")
    (tmp_path / "v.vcf").write_bytes(gzip.compress(HEAD.encode() * 100, mtime=0)[:-20])
    with raises(DamagedFileError, file="v.vcf"):
        vcf.read(tmp_path / "v.vcf")
