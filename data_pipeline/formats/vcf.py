"""Reads VCF files one record at a time: the position and alleles of a variant, and its unchanged line.

htslib is not used because an annotated copy must preserve every other byte of a line, errors must give the line, and
htslib requires every contig and field to be declared in the header, which many files do not do.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.errors import FormatError, one_line
from data_pipeline.formats import stream
from data_pipeline.sequence import bases

MAX_LINE = 64 << 20  # bytes: a record of a million samples


@dataclasses.dataclass(frozen=True)
class Record:
    """A line of a VCF file.

    Attributes:
      line: the line number in the file, counted from 1.
      start: the 0-based position of the first base of `ref`.
      ref, alts: the alleles as written, in upper case.
      text: the line without its line end.
    """

    line: int
    contig: str
    start: int
    id: str
    ref: str
    alts: tuple[str, ...]
    text: str


def read(path: str | Path, progress: Callable[[int], None] | None = None) -> tuple[list[str], Iterator[Record]]:
    """The header lines of a VCF file (plain, gzip or bgzip), and its records in file order.

    `progress` is called with the number of bytes of the file read since the last call.

    Raises:
      FormatError: with file and line: the file is not VCF, a line is too long or has too few columns, or a position or
        reference allele is invalid.
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
            return header, (_record(path, number, line) for number, line in lines if line.strip())
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


def _record(path: Path, number: int, line: str) -> Record:
    fields = line.split("\t", 5)
    if len(fields) < 5:
        raise FormatError(
            "must be at least 5, separated by tabs",
            file=path, line=number, field="number of columns", value=len(fields),
        )  # fmt: skip
    contig, position, identifier, ref, alts = fields[:5]
    if not position.isdecimal() or len(position) > 12:
        raise FormatError("is not a position", file=path, line=number, field="POS", value=one_line(position)[:20])
    if not ref or set(ref.upper()) - bases.IUPAC.keys():
        raise FormatError("is not DNA", file=path, line=number, field="REF", value=one_line(ref)[:20])
    return Record(number, contig, int(position) - 1, identifier, ref.upper(), tuple(alts.upper().split(",")), line)
