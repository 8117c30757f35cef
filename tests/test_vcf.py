"""The VCF reader: what it takes in, and one line for what it does not."""

import gzip

import pytest

from data_pipeline import vcf
from data_pipeline.errors import DataError

HEAD = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def read(path, text, compressed=False):
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if compressed else text.encode())
    return list(vcf.read(path))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_records(compressed, end, tmp_path):
    last = "2\t7\trs1\tac\tG,<DEL>,*\t.\tPASS\tA=1;B=x,y\tGT\t0/1"
    found = read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\n\n" + last + end, compressed)
    assert "\n".join(found[:3]) + "\n" == HEAD
    first, second = found[3:]
    assert (first.contig, first.start, first.ref, first.alts, first.line) == ("chr1", 4, "A", ("T",), 4)
    assert (second.id, second.ref, second.alts, second.line) == ("rs1", "AC", ("G", "<DEL>", "*"), 6)
    assert second.text == last


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty file"),
        ("hello\n", "line 1: a VCF file opens with ##fileformat"),
        (">chr1\nACGT\n", "line 1: a VCF file opens with"),
        ("##fileformat=VCFv4.2\n", "has no line #CHROM"),
        ("##fileformat=VCFv4.2\nchr1\t1\t.\tA\tT\n", "line 2: a record before the line #CHROM"),
        (HEAD + "chr1\t5\t.\tA\n", "line 4: has 4 column"),
        (HEAD + "chr1 5 . A T\n", "line 4: has 1 column"),
        (HEAD + "chr1\tx\t.\tA\tT\n", "line 4: POS 'x' is no position"),
        (HEAD + "chr1\t-5\t.\tA\tT\n", "line 4: POS '-5' is no position"),
        (HEAD + "chr1\t5\t.\tQ\tT\n", "line 4: REF 'Q' is no DNA"),
        (HEAD + "chr1\t5\t.\t\tT\n", "line 4: REF '' is no DNA"),
        (HEAD + "chr1\t5\t.\tA\tT\0\n", "a NUL in it"),
    ],
)
def test_what_is_no_vcf(text, words, tmp_path):
    with pytest.raises(DataError, match=r"^[^\n]*$") as error:
        read(tmp_path / "v.vcf", text)
    assert words in str(error.value)


def test_long_lines(tmp_path, monkeypatch):
    assert read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\t" + "x" * 10_000_000 + "\n")[3].start == 4
    monkeypatch.setattr(vcf, "MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match="line 4: has over 1048576 bytes"):
        read(tmp_path / "v.vcf", HEAD + "chr1\t5\t.\tA\tT\t" + "x" * 10_000_000 + "\n")
    (tmp_path / "v.vcf").write_bytes(gzip.compress(HEAD.encode() * 100, mtime=0)[:-20])
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        list(vcf.read(tmp_path / "v.vcf"))
