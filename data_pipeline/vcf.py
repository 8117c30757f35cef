"""VCF records, one at a time: what a variant's place and alleles need, and the line as it is for those who add to it.

The reader is our own because an annotated copy has to keep every other byte of a line, and errors name the line; htslib
also wants every contig and field declared in the header, which many files do not.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline import stream
from data_pipeline.errors import DataError

MAX_LINE = 64 << 20  # bytes: a record of a million samples
_BASES = frozenset("ACGTUNRYSWKMBDHV")


@dataclasses.dataclass(frozen=True)
class Record:
    """A line of a VCF file.

    Attributes:
      line: its number in the file, from 1.
      start: 0-based, of the first base of `ref`.
      ref, alts: as written, in upper case.
      text: the line without its end.
    """

    line: int
    contig: str
    start: int
    id: str
    ref: str
    alts: tuple[str, ...]
    text: str


def read(path: str | Path, progress: Callable[[int], None] | None = None) -> Iterator[str | Record]:
    """The header lines, as text, then the records of a VCF file, plain, gzip or bgzip, in the file's order.

    `progress` is called with the number of file bytes read since the last call. Raises DataError (one line with file
    and line) for another format, a damaged file, a line that is too long or has too few columns, and a position or
    reference allele that is none.
    """
    path, columns = Path(path), False
    for number, line in enumerate(_lines(path, progress or (lambda count: None)), 1):
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise DataError(
                f"{path}: line 1: a VCF file opens with ##fileformat=VCF…, not {stream.one_line(line)[:40]!r}"
            )
        if line.startswith("##") and not columns:
            yield line
        elif line.startswith("#CHROM\t"):
            columns = True
            yield line
        elif not line.strip():
            continue
        elif not columns:
            raise DataError(f"{path}: line {number}: a record before the line #CHROM…")
        else:
            yield _record(path, number, line)
    if not columns:
        raise DataError(f"{path}: has no line #CHROM…: no VCF file, or cut short")


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
            raise DataError(f"{path}: line {number + 1}: has over {MAX_LINE} bytes; is the file cut into lines?")


def _record(path: Path, number: int, line: str) -> Record:
    fields = line.split("\t", 5)
    if len(fields) < 5:
        raise DataError(f"{path}: line {number}: has {len(fields)} column(s) by tabs, a VCF record has at least 5")
    contig, position, identifier, ref, alts = fields[:5]
    if not position.isdecimal() or len(position) > 12:
        raise DataError(f"{path}: line {number}: POS {stream.one_line(position)[:20]!r} is no position")
    if not ref or set(ref.upper()) - _BASES:
        raise DataError(f"{path}: line {number}: REF {stream.one_line(ref)[:20]!r} is no DNA")
    return Record(number, contig, int(position) - 1, identifier, ref.upper(), tuple(alts.upper().split(",")), line)
