"""Reads VCF files one record at a time: the position and alleles of a variant, and its unchanged line.

htslib is not used because an annotated copy must preserve every other byte of a line, errors must give the line, and
htslib requires every contig and field to be declared in the header, which many files do not do.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import FormatError, one_line
from data_pipeline.formats import stream

MAX_LINE = 64 << 20  # bytes: a record of a million samples


class Record(NamedTuple):
    """A line of a VCF file.

    Attributes:
      contig, position, id: as written.
      start: the 0-based position of the first base of `ref`; -1 if the position is not a number.
      ref, alts: the alleles as written, in upper case.
      text: the line without its line end.
      problem: empty, or why the line is no record; a column that it lacks is ".".
    """

    contig: str
    position: str
    id: str
    start: int
    ref: str
    alts: tuple[str, ...]
    text: str
    problem: str


def read(path: str | Path, progress: Callable[[int], None] | None = None) -> tuple[list[str], Iterator[Record]]:
    """The header lines of a VCF file (plain, gzip or bgzip), and its records in file order, one per line.

    `progress` is called with the number of bytes of the file read since the last call.

    Raises:
      FormatError: with file and line: the file is not VCF, or a line is too long.
      FileError, DamagedFileError: as `stream.chunks`.
    """
    path, header = Path(path), []
    lines = enumerate(_lines(path, progress or (lambda count: None)), 1)
    for number, line in lines:
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise FormatError(
                f"a VCF file starts with ##fileformat=VCF…, not {one_line(line)[:40]!r}", file=path, line=1
            )
        if line.strip():
            header.append(line)
        if line.startswith("#CHROM\t"):
            return header, (_record(line) for _, line in lines if line.strip())
        if line.strip() and not line.startswith("##"):
            raise FormatError("a record before the line #CHROM…", file=path, line=number)
    raise FormatError("has no line #CHROM…: it is not a VCF file, or is truncated", file=path)


def _lines(path: Path, progress: Callable[[int], None]) -> Iterator[str]:
    held, number = b"", 0
    for chunk in itertools.chain(stream.chunks(path, progress), (b"",)):
        *lines, held = (held + chunk).split(b"\n")
        if not chunk and held:
            lines.append(held)
        for line in lines:
            number += 1
            yield line.rstrip(b"\r").decode("utf-8", "replace")
        if len(held) > MAX_LINE:
            raise FormatError(
                f"the line exceeds {MAX_LINE} bytes", file=path, line=number + 1, remedy="check the file's line breaks"
            )


def _record(line: str) -> Record:
    fields = line.split("\t", 5)[:5]
    contig, position, identifier, ref, alts = (*(field or "." for field in fields), *["."] * (5 - len(fields)))
    is_number, problem = position.isdecimal() and len(position) <= 12, ""
    if len(fields) < 5:
        problem = f"the number of columns is {len(fields)}; at least 5 are needed, separated by tabs"
    elif not is_number:
        problem = f"POS {one_line(position)[:20]} is not a position"
    start = int(position) - 1 if is_number else -1
    return Record(contig, position, identifier, start, ref.upper(), tuple(alts.upper().split(",")), line, problem)
