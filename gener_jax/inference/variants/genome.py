"""The reference sequences of variants, by contig."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import FileError, FormatError
from data_pipeline.formats import fasta
from data_pipeline.sequence import bases
from gener_jax.inference.variants.interval import Interval


class Stretch(NamedTuple):
    """A stretch of a contig: `start` is the 0-based position of its first base, `codes` its bases, uint8 [bases]."""

    start: int
    codes: np.ndarray

    @property
    def end(self) -> int:
        """The position after its last base."""
        return self.start + len(self.codes)


class Genome:
    """The contigs of a FASTA file, or stretches of them named as by samtools faidx (`NC_000017.11:42425000-43600000`).

    Attributes:
      stretches: contig → its stretches.
    """

    def __init__(self, stretches: dict[str, list[Stretch]], aliases: Sequence[Sequence[str]] = ()):
        """`aliases`: groups of names for the same contig."""
        self.stretches = stretches
        self._aliases: dict[str, set[str]] = {}
        for names in aliases:
            for name in names:
                self._aliases.setdefault(name, set()).update(n for n in names if n in stretches)

    @classmethod
    def of(cls, sequences: "Genome | dict[str, str] | str | Path") -> "Genome":
        """A genome as it is, of sequences by name, or of the FASTA file of a path."""
        if isinstance(sequences, dict):
            return cls({name: [Stretch(0, bases.encode(text))] for name, text in sequences.items()})
        return sequences if isinstance(sequences, Genome) else cls.read(sequences)

    @classmethod
    def read(cls, path: str | Path, aliases: str | Path | None = None, progress=None) -> "Genome":
        """Reads a FASTA file into memory, one byte per base.

        `aliases` is a file with the names of one contig per line, separated by tabs, or an assembly report of NCBI.

        Raises:
          DataError: if a file cannot be read or is not FASTA, or if the name and the length of a stretch disagree.
        """
        stretches: dict[str, list[Stretch]] = {}
        for name, _, codes, _ in fasta.read(path, progress):
            where = Interval.parse(name) or Interval(name, 0, len(codes))
            if where.end - where.start != len(codes):
                raise FormatError(
                    f"has {len(codes)} bases, but its name describes {where.end - where.start}",
                    file=path,
                    record=name,
                    remedy="rename it, or extract it again with samtools faidx",
                )
            codes = bases.reverse_complement(codes) if where.strand == "-" else codes
            stretches.setdefault(where.contig, []).append(Stretch(where.start, codes))
        table = []
        if aliases is not None:
            try:
                lines = Path(aliases).read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise FileError(f"cannot be read ({error})", file=aliases) from None
            table = [_names(line.split("\t")) for line in lines if line.strip() and not line.startswith("#")]
        return cls(stretches, table)

    def contig(self, name: str) -> str | None:
        """The contig that a name refers to, with or without `chr` or by an alias; None unless it is exactly one."""
        found = self._candidates(name)
        return found[0] if len(found) == 1 else None

    def _candidates(self, name: str) -> list[str]:
        other = name[3:] if name.startswith("chr") else "chr" + name
        for known in (name, other):
            if known in self.stretches:
                return [known]
        return sorted(self._aliases.get(name, set()) or self._aliases.get(other, set()))

    def missing(self, name: str) -> str:
        """One line with the reason why `contig` returns None."""
        if found := self._candidates(name):
            return f"contig {name} may be {' or '.join(found)}"
        return f"contig {name} is not in the FASTA"

    def stretch(self, where: Interval) -> Stretch | None:
        """The stretch that contains an interval of a contig with the most bases on both sides; None if none does."""
        found = [s for s in self.stretches[where.contig] if s.start <= where.start and where.end <= s.end]
        return max(found, key=lambda s: min(where.start - s.start, s.end - where.end), default=None)


def _names(columns: list[str]) -> list[str]:
    """The names in a line of aliases: all columns, or those of an NCBI assembly report's ten that hold names."""
    if len(columns) >= 10:
        # The column of the molecule names this contig only if it is assembled: for an unplaced scaffold it names the
        # chromosome that the scaffold belongs to.
        molecule = [columns[2]] if columns[1] == "assembled-molecule" else []
        columns = [columns[0], *molecule, columns[4], columns[6], columns[9]]
    return [name for name in map(str.strip, columns) if name not in ("", "na")]
