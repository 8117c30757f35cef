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
    assert first[:6] == ("chr1", "5", ".", 4, "A", ("T",))
    assert second == ("2", "7", "rs1", 6, "AC", ("G", "<DEL>", "*"), last, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("chr1\t5\t.\tA", ("chr1", "5", ".", 4, "A", (".",))),
        ("chr1 5 . A T", ("chr1 5 . A T", ".", ".", -1, ".", (".",))),
        ("chr1\tx\t.\tA\tT", ("chr1", "x", ".", -1, "A", ("T",))),
        ("chr1\t-5\t.\tA\tT", ("chr1", "-5", ".", -1, "A", ("T",))),
        ("chr1\t" + "9" * 5000 + "\t.\tA\tT", ("chr1", "9" * 5000, ".", -1, "A", ("T",))),
        ("chr1\t5\t.\t-\tT", ("chr1", "5", ".", 4, "-", ("T",))),
        ("chr1\t5\t\t\tT", ("chr1", "5", ".", 4, ".", ("T",))),
    ],
)
def test_a_line_that_is_no_record_has_a_problem_and_the_next_one_is_read(line, expected, tmp_path):
    """An allele that is not DNA is no problem of the line: scoring flags it."""
    _, (bad, good) = read(tmp_path / "v.vcf", HEAD + line + "\nchr1\t7\t.\tA\tT\n")
    assert bad[:6] == expected
    assert bad.text == line
    assert (bad.problem == "") == (bad.start == 4 and line.count("\t") == 4)
    assert good[:6] == ("chr1", "7", ".", 6, "A", ("T",))


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("", FileError, {}),
        ("hello\n", FormatError, {"line": 1}),
        (">chr1\nACGT\n", FormatError, {"line": 1}),
        ("##fileformat=VCFv4.2\n", FormatError, {"line": None}),
        ("##fileformat=VCFv4.2\nchr1\t1\t.\tA\tT\n", FormatError, {"line": 2}),
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
