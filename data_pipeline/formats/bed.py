"""BED: intervals of contigs with a name, 0-based half-open."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import FormatError, one_line
from data_pipeline.formats import stream

_NOT_ROWS = (b"#", b"track ", b"browser ")
_DIGITS = 18


class Interval(NamedTuple):
    """A row. `name` is its column 4."""

    line: int
    contig: str
    start: int
    end: int
    name: str


def read(path: str | Path) -> Iterator[Interval]:
    """Yields the rows of a BED file with at least four columns, plain or gzip, in file order.

    Raises:
      FileError, DamagedFileError: as `stream.chunks`.
      FormatError: with the line: too few columns, no name, or start and end that are no interval.
    """
    path, held, number = Path(path), b"", 0
    for chunk in itertools.chain(stream.chunks(path, lambda count: None), (b"\n",)):
        *lines, held = (held + chunk).split(b"\n")
        for number, line in enumerate(lines, number + 1):
            line = line.rstrip(b"\r")
            if not line.strip() or line.startswith(_NOT_ROWS):
                continue
            columns = line.split(b"\t")
            if len(columns) < 4 or not columns[0].strip() or not columns[3].strip():
                problem, remedy = "must have the columns contig, start, end and name", "separate them by tabs"
                raise FormatError(problem, file=path, line=number, remedy=remedy)
            start, end = columns[1:3]
            valid = start.isdigit() and end.isdigit() and max(len(start), len(end)) <= _DIGITS
            if not valid or int(start) >= int(end):
                value = one_line(b" ".join((start, end)).decode("utf-8", "replace"))
                problem = "must be whole numbers, the start (from 0) before the end"
                raise FormatError(problem, file=path, line=number, field="start and end", value=value)
            contig, name = (x.decode("utf-8", "replace").strip() for x in (columns[0], columns[3]))
            yield Interval(number, contig, int(start), int(end), name)
