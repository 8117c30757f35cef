"""Reads the bytes of a plain, gzip or bgzip file in chunks; a damaged or truncated file is an error."""

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip, isal_zlib

from data_pipeline.errors import DOWNLOAD_AGAIN, DamagedFileError, FileError, one_line

CHUNK_BYTES = 1 << 20
# The empty block that ends every bgzip file. zlib takes a bgzip file cut between two blocks for a complete gzip file.
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def chunks(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yields the file's content, decompressed, in chunks of at most CHUNK_BYTES.

    `progress` is called with the number of bytes of the file read since the last call. The path "-" is standard input;
    for it `progress` is never called and the last block of a bgzip file is not checked.

    Raises:
      FileError: the file is missing, empty or unreadable.
      DamagedFileError: the file contains a NUL byte, its gzip stream is damaged or truncated (the CRC is checked), or a
        bgzip file lacks its last block.
    """
    done, piped = 0, str(path) == "-"
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if piped else open(path, "rb") as raw:
            head = raw.peek(18)[:18]
            if not head:
                raise FileError("the file is empty", file=path, remedy=DOWNLOAD_AGAIN)
            if head[:2] == b"\x1f\x8b":
                if head[3:4] == b"\x04" and head[12:14] == b"BC" and not piped:
                    _check_bgzip_end(path, raw)
                stream = igzip.IGzipFile(fileobj=raw)  # twice as fast as gzip's, and equally strict
            else:
                stream = raw
            line = 1
            while chunk := stream.read(CHUNK_BYTES):
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
                yield chunk
            if not piped:
                progress(raw.tell() - done)
    except FileNotFoundError:
        raise FileError("no such file", file=path) from None
    except (EOFError, zlib.error, isal_zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFileError(
            f"damaged or truncated gzip file ({one_line(error)})", file=path, remedy=DOWNLOAD_AGAIN
        ) from None
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror or one_line(error)})", file=path) from None


def _check_bgzip_end(path: Path, raw) -> None:
    size = raw.seek(0, 2)
    raw.seek(max(0, size - len(_BGZIP_END)))
    if raw.read() != _BGZIP_END:
        raise DamagedFileError("truncated bgzip file (its last block is missing)", file=path, remedy=DOWNLOAD_AGAIN)
    raw.seek(0)
