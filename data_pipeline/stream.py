"""The bytes of a file, plain, gzip or bgzip, in pieces; what is damaged or cut short is an error of one line."""

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip, isal_zlib

from data_pipeline.errors import DataError

CHUNK_BYTES = 1 << 20
# The empty block with which every bgzip file ends. A bgzip file cut between two blocks is a whole gzip file to zlib.
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def chunks(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """The file's content, decompressed, in pieces of at most CHUNK_BYTES.

    `progress` is called with the number of file bytes read since the last call. Raises DataError for a missing, empty
    or unreadable file, a NUL in it, a damaged or truncated gzip stream (its CRC is checked), and a bgzip file without
    its end. The path "-" is standard input, of which neither progress nor the end of a bgzip file is known.
    """
    done, piped = 0, str(path) == "-"
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if piped else open(path, "rb") as raw:
            head = raw.peek(18)[:18]
            if not head:
                raise DataError(f"{path}: empty file; fetch it again")
            if head[:2] == b"\x1f\x8b":
                if head[3:4] == b"\x04" and head[12:14] == b"BC" and not piped:
                    _check_bgzip_end(path, raw)
                stream = igzip.IGzipFile(fileobj=raw)  # twice as fast as gzip's, and as strict
            else:
                stream = raw
            line = 1
            while chunk := stream.read(CHUNK_BYTES):
                if b"\0" in chunk:
                    line += chunk.count(b"\n", 0, chunk.index(b"\0"))
                    raise DataError(f"{path}: line {line}: a NUL in it: damaged, or no text; fetch it again")
                line += chunk.count(b"\n")
                if not piped:
                    progress(raw.tell() - done)
                    done = raw.tell()
                yield chunk
            if not piped:
                progress(raw.tell() - done)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, isal_zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({one_line(error)}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None


def one_line(error: object) -> str:
    """An error's text, or any other, on one line and not too long."""
    text = " ".join(str(error).split())[:200]
    return text if text.isprintable() else "".join(x if x.isprintable() else "�" for x in text)


def _check_bgzip_end(path: Path, raw) -> None:
    size = raw.seek(0, 2)
    raw.seek(max(0, size - len(_BGZIP_END)))
    if raw.read() != _BGZIP_END:
        raise DataError(f"{path}: truncated bgzip file (its last block is missing); fetch it again")
    raw.seek(0)
