"""Reads the text of a plain, gzip or bgzip file in chunks; a file that is damaged, truncated or no text is an error."""

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip, isal_zlib

from data_pipeline.errors import DOWNLOAD_AGAIN, DamagedFileError, FileError, FormatError, one_line

CHUNK_BYTES = 1 << 20
# The empty block that ends every bgzip file. zlib takes a bgzip file cut between two blocks for a complete gzip file.
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
# What a file is that begins like this, and what to do about it.
_UNPACK = "unpack it"
_OTHER_FORMATS = {
    b"BCF": ("BCF, binary VCF", "convert it: bcftools view -O z -o FILE.vcf.gz"),
    b"BAM\1": ("BAM", None),
    b"CRAM": ("CRAM", None),
    b"PK\3\4": ("a zip archive", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"\x1f\x8b": ("compressed twice", "unpack it once"),
    b"\xff\xfe": ("UTF-16", "convert it to UTF-8"),
    b"\xfe\xff": ("UTF-16", "convert it to UTF-8"),
    b"<!DOCTYPE html": ("a web page", DOWNLOAD_AGAIN),
    b"<html": ("a web page", DOWNLOAD_AGAIN),
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def chunks(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yields the file's content, decompressed, in chunks of at most CHUNK_BYTES.

    A byte-order mark is left out, and lines that all end in CR alone end in LF.
    `progress` is called with the number of bytes of the file read since the last call. The path "-" is standard input;
    for it `progress` is never called and the last block of a bgzip file is not checked.

    Raises:
      FileError: the file is missing, empty or unreadable.
      FormatError: the file is binary, compressed in another way, or in UTF-16.
      DamagedFileError: the file contains a NUL byte, its gzip stream is damaged or truncated (the CRC is checked), or a
        bgzip file lacks its last block.
    """
    done, piped = 0, str(path) == "-"
    with readable(path), contextlib.nullcontext(sys.stdin.buffer) if piped else open(path, "rb") as raw:
        head = raw.peek(18)[:18]
        if not head:
            raise FileError("the file is empty", file=path, remedy=DOWNLOAD_AGAIN)
        if head[:2] == b"\x1f\x8b":
            if head[3:4] == b"\x04" and head[12:14] == b"BC" and not piped:
                _check_bgzip_end(path, raw)
            stream = igzip.IGzipFile(fileobj=raw)  # twice as fast as gzip's, and equally strict
        else:
            stream = raw
        line, mark, lone_cr = 1, _BYTE_ORDER_MARK, False
        while chunk := stream.read(CHUNK_BYTES):
            if mark:
                _check_format(path, chunk)
                chunk, mark = chunk.removeprefix(mark), b""
                lone_cr = b"\r" in chunk[:-1] and b"\n" not in chunk
            if b"\0" in chunk:
                line += chunk.count(b"\n", 0, chunk.index(b"\0"))
                raise DamagedFileError(
                    "contains a NUL byte: the file is damaged or is not text",
                    file=path, line=line, remedy=DOWNLOAD_AGAIN,
                )  # fmt: skip
            line += chunk.count(b"\n")
            if not piped:
                progress(raw.tell() - done)
                done = raw.tell()
            yield chunk.replace(b"\r", b"\n") if lone_cr else chunk
        if not piped:
            progress(raw.tell() - done)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns an error of reading a file, or of decompressing it, into a FileError or a DamagedFileError."""
    try:
        yield
    except FileNotFoundError:
        raise FileError("no such file", file=path) from None
    except (EOFError, zlib.error, isal_zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFileError(
            f"damaged or truncated gzip file ({one_line(error)})", file=path, remedy=DOWNLOAD_AGAIN
        ) from None
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror or one_line(error)})", file=path) from None


def _check_format(path: Path, chunk: bytes) -> None:
    for beginning, (what, remedy) in _OTHER_FORMATS.items():
        if chunk.startswith(beginning):
            raise FormatError(f"is {what}, not text", file=path, remedy=remedy)


def _check_bgzip_end(path: Path, raw) -> None:
    size = raw.seek(0, 2)
    raw.seek(max(0, size - len(_BGZIP_END)))
    if raw.read() != _BGZIP_END:
        raise DamagedFileError("truncated bgzip file (its last block is missing)", file=path, remedy=DOWNLOAD_AGAIN)
    raw.seek(0)
