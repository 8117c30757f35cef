"""Tests the reading of plain, gzip and bgzip files, complete and damaged."""

import gzip
import zlib

import pytest

from data_pipeline.errors import DOWNLOAD_AGAIN, DamagedFileError, FileError, FormatError
from data_pipeline.formats import stream
from tests.raised import raises

TEXT = b"".join(b"line %d of a text that does not repeat %d\n" % (n, n * n * 7919 % 10007) for n in range(60000))


def block(data: bytes) -> bytes:
    """One block of a bgzip file."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    head = bytes.fromhex("1f8b08040000000000ff060042430200") + (len(body) + 25).to_bytes(2, "little")
    return head + body + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


def bgzip(data: bytes) -> list[bytes]:
    return [block(data[at : at + 60000]) for at in range(0, len(data), 60000)] + [block(b"")]


@pytest.mark.parametrize(
    "packed",
    [
        TEXT,
        gzip.compress(TEXT, mtime=0),
        gzip.compress(TEXT[:70000], mtime=0) + gzip.compress(TEXT[70000:], mtime=0),
        b"".join(bgzip(TEXT)),
        gzip.compress(TEXT, mtime=0) + bytes(512),  # padding, as on tapes
    ],
    ids=["plain", "gzip", "members", "bgzip", "padded"],
)
def test_content_and_progress(packed, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(packed)
    seen = []
    assert b"".join(stream.chunks(path, seen.append)) == TEXT
    assert sum(seen) == len(packed)
    assert len(seen) > 2


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (b"", FileError),
        (gzip.compress(TEXT, mtime=0)[:-3000], DamagedFileError),
        (gzip.compress(TEXT, mtime=0)[:-8], DamagedFileError),
        (gzip.compress(TEXT, mtime=0)[:-8] + bytes(8), DamagedFileError),
        (gzip.compress(TEXT, mtime=0) + b"more", DamagedFileError),
        (b"".join(bgzip(TEXT)[:5]), DamagedFileError),
        (b"".join(bgzip(TEXT))[:-1], DamagedFileError),
    ],
    ids=["empty", "cut", "no CRC", "CRC", "rubbish", "bgzip without blocks", "bgzip without its last byte"],
)
def test_damage_is_an_error(packed, kind, tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(packed)
    with raises(kind, file=path):
        list(stream.chunks(path, lambda count: None))


def test_error_gives_the_line_of_a_nul(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo\nth\0ree\n")
    for size in (1, 5, 1000):
        monkeypatch.setattr(stream, "CHUNK_BYTES", size)
        with raises(DamagedFileError, file=path, line=3):
            list(stream.chunks(path, lambda count: None))


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"\xef\xbb\xbf>a\nACGT\n", b">a\nACGT\n"),
        (gzip.compress(b"\xef\xbb\xbf>a\n", mtime=0), b">a\n"),
        (b">a\rACGT\r", b">a\nACGT\n"),
        (b"\xef\xbb\xbf>a\rACGT\r", b">a\nACGT\n"),
        (b">a\r\nACGT\r\n", b">a\r\nACGT\r\n"),
        (b">a\r", b">a\r"),
    ],
)
def test_byte_order_marks_and_line_ends(packed, expected, tmp_path):
    (tmp_path / "x").write_bytes(packed)
    assert b"".join(stream.chunks(tmp_path / "x", lambda count: None)) == expected


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"".join(bgzip(b"BCF\2\2" + bytes(9))), "BCF"),
        (b"".join(bgzip(b"BAM\1" + bytes(9))), "BAM"),
        (b"CRAM\3\0", "CRAM"),
        (b"PK\3\4" + bytes(9), "zip"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (gzip.compress(gzip.compress(TEXT)), "twice"),
        (">a\nACGT\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + ">a\nACGT\n".encode("utf-16-be"), "UTF-16"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_other_formats_are_named(content, name, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    with raises(FormatError, file=path) as caught:
        list(stream.chunks(path, lambda count: None))
    assert name in caught.value.problem
    assert (caught.value.remedy == DOWNLOAD_AGAIN) == (name == "web page")  # it helps with nothing else


def test_unreadable(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with raises(FileError, file=path):
            list(stream.chunks(path, lambda count: None))
