"""FASTA files, one sequence at a time, as codes and soft-masked stretches.

The reader is our own because htslib's FASTA iterator (pysam's FastxFile) takes a bgzip file cut between two blocks for
a whole one (a warning, no error), lets letters pass that are no nucleotides, and names no line where it fails.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline import bases, stream
from data_pipeline.errors import DataError

MAX_HEADER = 1 << 20
_IUPAC = b"ACGTUNRYSWKMBDHV"
OUTSIDE = 255  # in CODES, for what is no IUPAC nucleotide
CODES = bytearray([OUTSIDE]) * 256
for _letter in _IUPAC + _IUPAC.lower():
    CODES[_letter] = bases.encode(bytes([_letter]))[0]
CODES = bytes(CODES)
_BLANKS = b" \t\r\n"
_WINDOW = re.compile(r"\|:\d+-\d+$")
_DATABASES = ("ref", "gb", "emb", "dbj", "tpg", "tpe", "tpd")


class Sequence(NamedTuple):
    """A FASTA record: `codes` uint8 [length] as in `bases`, `lower_case` int64 [runs, 2] as in `genome.Record`."""

    name: str
    description: str
    codes: np.ndarray
    lower_case: np.ndarray


def read(path: str | Path, progress: Callable[[int], None] | None = None) -> Iterator[Sequence]:
    """The records of a nucleotide FASTA file, plain, gzip or bgzip, in the file's order; one is held at a time.

    The name is the first word of the `>` line, reduced to its accession where NCBI's bars stand in it. A record may be
    empty. Lower case marks repeats; but a record in lower case throughout only where an earlier one of the file has an
    upper-case letter, so that the order matters for those before the first such letter alone. `progress` is called with
    the number of file bytes read since the last call. Raises DataError (one line with file, record and line) for a
    missing or empty file, another format, a truncated or damaged gzip stream, a `>` without a name, a name that comes
    twice, and letters that are no IUPAC nucleotide (a protein, a gap).
    """
    path, names, record, masks = Path(path), set(), None, False
    for piece in _pieces(path, progress or (lambda count: None)):
        if isinstance(piece, _Header):
            if record is not None:
                yield record.finish(masks)
                masks = masks or record.upper
            if piece.name in names:
                raise DataError(f"{path}: line {piece.line}: the name {piece.name!r} comes twice; rename one")
            names.add(piece.name)
            record = _Growing(path, piece)
        else:
            record.add(*piece)
    if record is None:
        raise DataError(f"{path}: no FASTA record in it; give a FASTA file")
    yield record.finish(masks)


def accession(name: str) -> str:
    """The accession.version in a name with NCBI's bars (`gi|1|ref|NC_1.1|`); any other name as it is.

    The place of a window behind it (`gi|1|ref|NC_1.1|:101-500`) stays.
    """
    if window := _WINDOW.search(name):
        return accession(name[: window.start() + 1]) + window[0][1:]
    fields = name.split("|")
    for database, value in itertools.pairwise(fields):
        if database in _DATABASES and value:
            return value
    return name


class _Header(NamedTuple):
    line: int
    name: str
    description: str


def _pieces(path: Path, progress: Callable[[int], None]) -> Iterator[_Header | tuple[bytes, int]]:
    """The file as headers and, after each, stretches of its sequence with the number of the line they begin on."""
    line, opened, fresh, held = 1, False, True, b""  # fresh: at the beginning of a line; held: half a header
    for chunk in itertools.chain(stream.chunks(path, progress), (b"",)):
        data, at = held + (chunk or (b"\n" if held else b"")), 0
        held = b""
        while at < len(data):
            if fresh and data[at : at + 1] == b">":
                end = data.find(b"\n", at)
                if end < 0:
                    held = data[at:]
                    break
                yield _header(path, line, data[at + 1 : end])
                opened, at, line = True, end + 1, line + 1
            else:
                following = data.find(b">" if fresh and not opened else b"\n>", at)
                end = len(data) if following < 0 else following + opened
                stretch = data[at:end]
                if opened:
                    yield stretch, line
                elif stretch.strip():
                    text = stream.one_line(stretch.strip()[:60].split(b"\n")[0].decode("ascii", "replace"))
                    raise DataError(f"{path}: not a FASTA file: it opens with {text!r} where a `>` should stand")
                fresh = stretch.endswith(b"\n") or not opened
                line += stretch.count(b"\n")
                at = end
        if len(held) > MAX_HEADER:
            raise DataError(f"{path}: line {line}: a header of over {MAX_HEADER} bytes; is the file cut into lines?")


def _header(path: Path, line: int, text: bytes) -> _Header:
    text = text.rstrip(b"\r")
    if b"\r" in text:
        raise DataError(f"{path}: line {line}: lines end in CR alone; convert them to LF")
    words = text.decode("utf-8", "replace").split(None, 1)
    if not words or text[:1].isspace():
        raise DataError(f"{path}: line {line}: a `>` without a name; give each record one")
    return _Header(line, accession(words[0]), words[1].strip() if len(words) > 1 else "")


class _Growing:
    """A record while its lines come in."""

    def __init__(self, path: Path, header: _Header):
        self.path, self.header = path, header
        self.codes, self.runs = bytearray(), []
        self.upper = False  # whether an upper-case letter is in it

    def add(self, text: bytes, line: int) -> None:
        """Takes in a stretch of sequence that begins on `line`."""
        letters = text.translate(None, _BLANKS)
        codes = letters.translate(CODES)
        if OUTSIDE in codes:
            self._refuse(text, line)
        lower = bases.runs(np.frombuffer(letters, np.uint8) >= ord("a"))
        if len(lower):
            self.runs.append(lower + len(self.codes))
        self.upper = self.upper or int((lower[:, 1] - lower[:, 0]).sum()) < len(letters)
        self.codes += codes

    def finish(self, masks: bool) -> Sequence:
        """The whole record; `masks` says that lower case is known to mark repeats in its file."""
        codes = np.frombuffer(self.codes, np.uint8)
        runs = np.concatenate([np.zeros((0, 2), np.int64), *self.runs])
        joins = np.flatnonzero(runs[1:, 0] == runs[:-1, 1])  # a run over the border of two stretches
        runs = np.column_stack([np.delete(runs[:, 0], joins + 1), np.delete(runs[:, 1], joins)])
        lower_case = runs if masks else soft_masked(runs, len(codes))
        return Sequence(self.header.name, self.header.description, codes, lower_case)

    def _refuse(self, text: bytes, line: int) -> None:
        for number, row in enumerate(text.split(b"\n"), line):
            letters = row.translate(None, _BLANKS)
            at = letters.translate(CODES).find(OUTSIDE)
            if at >= 0:
                letter = letters[at : at + 1].decode("latin-1")
                raise DataError(
                    f"{self.path}: line {number}: record {self.header.name}: {letter!r} is no nucleotide letter "
                    f"({_IUPAC.decode()}, in either case); give DNA without gaps"
                )


def soft_masked(lower_case: np.ndarray, length: int) -> np.ndarray:
    """The lower-case runs, int64 [runs, 2], of a sequence of `length` letters that mark repeats: all, or none.

    A sequence in lower case throughout masks nothing: some writers use one case for all, as GenBank's ORIGIN does.
    """
    return lower_case[:0] if len(lower_case) == 1 and lower_case[0, 1] - lower_case[0, 0] == length else lower_case
