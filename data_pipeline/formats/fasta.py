"""Reads FASTA files one sequence at a time, as base codes and soft-masked intervals.

htslib's FASTA iterator (pysam's FastxFile) is not used because it accepts a bgzip file cut between two blocks (with a
warning only), accepts letters that are not nucleotides, and does not report the line where it fails.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import FormatError, one_line
from data_pipeline.formats import stream
from data_pipeline.sequence import bases

MAX_HEADER = 1 << 20
OUTSIDE = 255  # the code in CODES of a character that is not an IUPAC nucleotide
CODES = bytearray([OUTSIDE]) * 256
for _letter in bases.IUPAC:
    CODES[ord(_letter)] = CODES[ord(_letter.lower())] = bases.encode(_letter)[0]
CODES = bytes(CODES)
BLANKS = b" \t\r\n"
_WINDOW = re.compile(r"\|:\d+-\d+$")
_DATABASES = ("ref", "gb", "emb", "dbj", "tpg", "tpe", "tpd")


class Sequence(NamedTuple):
    """A FASTA record: `codes` uint8 [length] as in `bases`, `lower_case` int64 [runs, 2] as in `record.Record`.

    `problem` is empty, or says what is wrong: a letter that is not a base (its code is N then), no name, or that of an
    earlier record.
    """

    name: str
    description: str
    codes: np.ndarray
    lower_case: np.ndarray
    problem: str = ""


def read(
    path: str | Path, progress: Callable[[int], None] | None = None, *, flag: bool = False, named: bool = True
) -> Iterator[Sequence]:
    """Yields the records of a nucleotide FASTA file (plain, gzip or bgzip) in file order, one in memory at a time.

    A record's name is the first word of its `>` line; of an NCBI name with bars it is the accession. A record may be
    empty. Lower case marks repeats. A record that is entirely lower case counts as masked only after an upper-case
    letter occurred in an earlier record of the file, so only the records before the first upper-case letter depend on
    the order. `progress` is called with the number of bytes of the file read since the last call. Without `named`, a
    record may have no name, or that of another.

    Raises:
      FileError, DamagedFileError: as `stream.chunks`.
      FormatError: the file is not FASTA; or a `>` line has no name, a name occurs twice, or a letter is not an IUPAC
        nucleotide (a protein, a gap), each of which with `flag` is the record's `problem` instead. It gives the file,
        line and record.
    """
    path, names, record, masks = Path(path), set(), None, False
    for item in _items(path, progress or (lambda count: None)):
        if isinstance(item, _Header):
            if record is not None:
                yield record.finish(masks)
                masks = masks or record.upper
            record = _RecordBuilder(path, item, flag)
            if named and not item.name:
                record.reject(item.line, "a `>` line without a name", remedy="give each record a name")
            elif named and item.name in names:
                problem, remedy = "occurs twice in the file", "rename one of the records"
                record.reject(item.line, problem, field="name", value=item.name, remedy=remedy)
            names.add(item.name)
        else:
            record.add(*item)
    if record is None:
        raise FormatError("contains no FASTA record", file=path, remedy="give a FASTA file")
    yield record.finish(masks)


def groups(sequences: Iterable[Sequence], most: int, most_bases: int) -> Iterator[list[Sequence]]:
    """Yields up to `most` sequences at a time; a group ends with the sequence that reaches `most_bases` bases."""
    group, total = [], 0
    for sequence in sequences:
        group.append(sequence)
        total += len(sequence.codes)
        if len(group) == most or total >= most_bases:
            yield group
            group, total = [], 0
    if group:
        yield group


def names(path: str | Path) -> set[str]:
    """The names of a FASTA file's records, without reading their bases. Raises the errors of `read`."""
    return {item.name for item in _items(Path(path), lambda count: None) if isinstance(item, _Header)}


def accession(name: str) -> str:
    """The accession.version of an NCBI name with bars (`gi|1|ref|NC_1.1|`); any other name is returned unchanged.

    Coordinates after the name (`gi|1|ref|NC_1.1|:101-500`) are preserved.
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


def _items(path: Path, progress: Callable[[int], None]) -> Iterator[_Header | tuple[bytes, int]]:
    """Yields the file's headers and, after each, blocks of its sequence with the number of their first line."""
    line, opened, fresh, held = 1, False, True, b""  # fresh: at the start of a line; held: an incomplete header
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
                block = data[at:end]
                if opened:
                    yield block, line
                elif block.strip():
                    text = one_line(block.strip()[:60].split(b"\n")[0].decode("ascii", "replace"))
                    raise FormatError(f"is not a FASTA file: it starts with {text!r} instead of `>`", file=path)
                fresh = block.endswith(b"\n") or not opened
                line += block.count(b"\n")
                at = end
        if len(held) > MAX_HEADER:
            raise FormatError(
                f"the header exceeds {MAX_HEADER} bytes", file=path, line=line, remedy="check the file's line breaks"
            )


def _header(path: Path, line: int, text: bytes) -> _Header:
    text = text.rstrip(b"\r")
    if b"\r" in text:
        raise FormatError("lines end in CR alone", file=path, line=line, remedy="convert them to LF")
    name, *description = text.decode("utf-8", "replace").split(None, 1) or [""]
    if text[:1].isspace():  # the words are a description
        return _Header(line, "", " ".join([name, *description]).strip())
    return _Header(line, accession(name), "".join(description).strip())


class _RecordBuilder:
    """A record under construction, line by line."""

    def __init__(self, path: Path, header: _Header, flag: bool):
        self.path, self.header, self.flag, self.problem = path, header, flag, ""
        self.codes, self.runs = bytearray(), []
        self.upper = False  # whether it contains an upper-case letter

    def add(self, text: bytes, line: int) -> None:
        """Appends a block of sequence that begins on `line`."""
        letters = text.translate(None, BLANKS)
        codes = letters.translate(CODES)
        if OUTSIDE in codes:
            self._reject_letter(text, line)
            codes = codes.replace(bytes([OUTSIDE]), bytes([bases.N]))
        lower = bases.runs(np.frombuffer(letters, np.uint8) >= ord("a"))
        if len(lower):
            self.runs.append(lower + len(self.codes))
        self.upper = self.upper or int((lower[:, 1] - lower[:, 0]).sum()) < len(letters)
        self.codes += codes

    def finish(self, masks: bool) -> Sequence:
        """Returns the complete record; with `masks`, lower case is known to mark repeats in its file."""
        codes = np.frombuffer(self.codes, np.uint8)
        runs = np.concatenate([np.zeros((0, 2), np.int64), *self.runs])
        joins = np.flatnonzero(runs[1:, 0] == runs[:-1, 1])  # a run that continues in the next block
        runs = np.column_stack([np.delete(runs[:, 0], joins + 1), np.delete(runs[:, 1], joins)])
        lower_case = runs if masks else soft_masked(runs, len(codes))
        return Sequence(self.header.name, self.header.description, codes, lower_case, self.problem)

    def _reject_letter(self, text: bytes, line: int) -> None:
        for number, row in enumerate(text.split(b"\n"), line):
            letters = row.translate(None, BLANKS)
            at = letters.translate(CODES).find(OUTSIDE)
            if at >= 0:
                problem = f"is not a nucleotide letter ({''.join(bases.IUPAC)}, in either case)"
                letter, remedy = letters[at : at + 1].decode("latin-1"), "give DNA without gaps"
                self.reject(number, problem, field="base", value=letter, record=self.header.name or None, remedy=remedy)

    def reject(self, line: int, problem: str, *, value: str | None = None, **where: str | None) -> None:
        """Raises a FormatError, or takes the first one for the record's `problem`."""
        if not self.flag:
            raise FormatError(problem, file=self.path, line=line, value=value, **where)
        self.problem = self.problem or f"line {line}: {problem if value is None else f'{value!r} {problem}'}"


def soft_masked(lower_case: np.ndarray, length: int) -> np.ndarray:
    """The lower-case runs, int64 [runs, 2], that mark repeats in a sequence of `length` letters: all of them or none.

    A sequence that is entirely lower case is not masked: some writers use a single case, as in GenBank's ORIGIN.
    """
    return lower_case[:0] if len(lower_case) == 1 and lower_case[0, 1] - lower_case[0, 0] == length else lower_case
