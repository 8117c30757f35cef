"""The sequences that variants lie on, by contig."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.formats import fasta
from data_pipeline.sequence import bases

_WINDOW = re.compile(r"(.+):(\d+)-(\d+)")


class Piece(NamedTuple):
    """A stretch of a contig: `start` is 0-based, `codes` uint8 [bases]."""

    start: int
    codes: np.ndarray


class Genome:
    """The contigs of a FASTA file, or windows of them, named `NC_000017.11:42425000-43600000` as by samtools faidx."""

    def __init__(self, pieces: dict[str, list[Piece]], aliases: Sequence[Sequence[str]] = ()):
        """`aliases`: for each contig, names that mean it."""
        self.pieces, self.where = pieces, "the FASTA"
        self._aliases: dict[str, set[str]] = {}
        for names in aliases:
            for name in names:
                self._aliases.setdefault(name, set()).update(n for n in names if n in pieces)

    @classmethod
    def of(cls, sequences: dict[str, str]) -> "Genome":
        """Of sequences by name."""
        return cls({name: [Piece(0, bases.encode(text))] for name, text in sequences.items()})

    @classmethod
    def read(cls, path: str | Path, aliases: str | Path | None = None, progress=None) -> "Genome":
        """Of a FASTA file, held at a byte a base.

        `aliases` is a file with the names of a contig on each line, by tabs, or an assembly report of NCBI.

        Raises:
          DataError: for a file that is no FASTA, or a window whose name and length disagree.
        """
        pieces: dict[str, list[Piece]] = {}
        for record in fasta.read(path, progress):
            name, start = record.name, 0
            if window := _WINDOW.fullmatch(name):
                name, start, end = window[1], int(window[2]) - 1, int(window[3])
                if end - start != len(record.codes):
                    raise DataError(
                        f"{path}: record {record.name}: has {len(record.codes)} bases, a window of that name "
                        f"{end - start}: rename it, or cut it again with samtools faidx"
                    )
            pieces.setdefault(name, []).append(Piece(start, record.codes))
        table = []
        if aliases is not None:
            try:
                lines = Path(aliases).read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{aliases}: cannot be read: {error}") from None
            table = [_names(line.split("\t")) for line in lines if line.strip() and not line.startswith("#")]
        genome = cls(pieces, table)
        genome.where = str(path)
        return genome

    def contig(self, name: str) -> str | None:
        """The name here of a contig of that name, with or without `chr`, or by the aliases; None where none is it."""
        found = self._meant(name)
        return found[0] if len(found) == 1 else None

    def _meant(self, name: str) -> list[str]:
        other = name[3:] if name.startswith("chr") else "chr" + name
        for known in (name, other):
            if known in self.pieces:
                return [known]
        return sorted(self._aliases.get(name, set()) or self._aliases.get(other, set()))

    def missing(self, name: str) -> str:
        """One line that says why `contig` finds none."""
        if found := self._meant(name):
            return f"contig {name} may be {' or '.join(found)}"
        return f"contig {name} is not in the FASTA"

    def piece(self, contig: str, start: int, end: int) -> Piece | None:
        """The stretch of the contig that holds [start, end) with most bases around it; None where none does."""
        holding = [p for p in self.pieces[contig] if p.start <= start and end <= p.start + len(p.codes)]
        return max(holding, key=lambda p: min(start - p.start, p.start + len(p.codes) - end), default=None)


def _names(columns: list[str]) -> list[str]:
    """The names among the columns of a line of aliases: all, but of the ten of NCBI's assembly reports."""
    if len(columns) >= 10:
        # The molecule is a name of a whole one alone: an unplaced scaffold's is that of the chromosome it belongs to.
        molecule = [columns[2]] if columns[1] == "assembled-molecule" else []
        columns = [columns[0], *molecule, columns[4], columns[6], columns[9]]
    return [name for name in map(str.strip, columns) if name not in ("", "na")]
