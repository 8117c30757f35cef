"""What is kept out of a dataset: the bases of genomes that occur in given sequences, such as the test rows of a task.

A base occurs in them if a 32-mer over it does, on either strand; runs of at least MIN_BASES of such bases are cut out.
A copy with a substitution every 60 bases or less often is found; chance matches and short repeats are not.
"""

import csv
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import ArgumentError, FormatError
from data_pipeline.formats import fasta, stream
from data_pipeline.ranges import Real
from data_pipeline.sequence import bases, shared_kmers

MIN_BASES = 60
AT_MOST = Real(least=0, most=1)
_BLOCK = 1 << 22  # bases whose 32-mers are in memory at once


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """The sequences to exclude. `file` contains the hashes of their 32-mers, uint64, sorted and unique.

    Where more than the fraction `at_most` of an input's region bases occurs in them, nothing is cut out of that input.
    """

    file: Path
    files: tuple[str, ...]
    sequences: int
    digest: str  # of the hashes
    at_most: float = 1.0

    def runs(self, codes: np.ndarray) -> np.ndarray:
        """The runs of codes, uint8 [length], to cut out: (start, end), int64 [runs, 2]; none contains N."""
        index, steps = shared_kmers.load(self.file), np.zeros(len(codes) + 1, np.int32)
        for first, last in bases.runs(codes < bases.N).tolist():
            for start in range(first, last, _BLOCK):
                kmers = shared_kmers.canonical(codes[start : min(start + _BLOCK + shared_kmers.LENGTH - 1, last)])
                found = start + np.flatnonzero(index.contains(shared_kmers.mix(kmers)))
                steps[found] += 1
                steps[found + shared_kmers.LENGTH] -= 1
        runs = bases.runs(np.cumsum(steps[:-1]) > 0)
        return runs[runs[:, 1] - runs[:, 0] >= MIN_BASES]

    def facts(self) -> dict:
        """What dataset.json says of it."""
        facts = dataclasses.asdict(self)
        del facts["file"]
        return facts | {"files": list(self.files)}


def read(paths: Sequence[str | Path], file: Path, at_most: float = 1.0) -> Exclusion:
    """Reads the sequences to exclude from FASTA files and tables, and writes the hashes of their 32-mers to `file`.

    Raises:
      ArgumentError: no sequence has 32 known bases in a row.
      FileError, DamagedFileError, FormatError: as `fasta.read`; or a table has no column of sequences, or a row's
        sequence has other letters.
    """
    at_most, hashes, count = AT_MOST.check(at_most, "exclude_at_most"), [], 0
    for path in map(Path, paths):
        for codes in _sequences(path):
            count += 1
            hashes.append(np.unique(shared_kmers.mix(shared_kmers.canonical(codes))))
            if count % 65536 == 0:
                hashes = [np.unique(np.concatenate(hashes))]
    found = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    if not len(found):
        raise ArgumentError(
            f"must have sequences of at least {shared_kmers.LENGTH} known bases", field="exclude",
            value=", ".join(map(str, paths)), remedy="give longer sequences, or leave it out",
        )  # fmt: skip
    np.save(file, found)
    digest = hashlib.sha256(found.astype("<u8").tobytes()).hexdigest()
    return Exclusion(file, tuple(Path(path).name for path in paths), count, digest, at_most)


def _sequences(path: Path) -> Iterator[np.ndarray]:
    """Yields the codes of each sequence of a FASTA file or a table."""
    with stream.readable(path):
        first = next(stream.chunks(path, lambda count: None))
    if first.lstrip()[:1] == b">":
        yield from (sequence.codes for sequence in fasta.read(path))
    else:
        yield from _cells(path)


def _cells(path: Path) -> Iterator[np.ndarray]:
    """Yields the codes of each cell of the columns that are sequences in a table's first row."""
    lines, columns = _lines(path), None
    header = next(lines)
    rows = csv.reader(lines, delimiter="\t" if "\t" in header else ",")
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if columns is None:
            columns = [i for i, cell in enumerate(row) if len(cell) >= shared_kmers.LENGTH and _is_dna(cell)]
            if not columns:
                raise FormatError(
                    f"has no column with a DNA sequence of at least {shared_kmers.LENGTH} letters in its first row",
                    file=path, line=line, remedy="give a FASTA file, or a table (CSV or TSV) with a header",
                )  # fmt: skip
        for column in columns:
            cell = row[column] if column < len(row) else ""
            if not cell or not _is_dna(cell):
                raise FormatError(
                    "is not a DNA sequence", file=path, line=line, field=f"column {column + 1}", value=cell,
                    remedy="correct the row",
                )  # fmt: skip
            yield bases.encode(cell)


def _is_dna(cell: str) -> bool:
    return fasta.OUTSIDE not in cell.encode("ascii", "replace").translate(fasta.CODES)


def _lines(path: Path) -> Iterator[str]:
    held = b""
    for chunk in stream.chunks(path, lambda count: None):
        *lines, held = (held + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    if held:
        yield held.decode("utf-8", "replace")
