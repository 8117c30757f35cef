"""The reference sequences of variants, by contig."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import FormatError
from data_pipeline.formats import contigs, faidx, fasta
from data_pipeline.sequence import bases
from gener_jax.inference.variants.interval import Interval
from gener_jax.runtime.errors import InputError

Aliases = str | Path | Sequence[Sequence[str]]


class Stretch(NamedTuple):
    """A stretch of a contig: `start` is the 0-based position of its first base, `codes` its bases, uint8 [bases].

    `codes` has a length and slices; those of an indexed FASTA are read from the file.
    """

    start: int
    codes: np.ndarray | faidx.Contig

    @property
    def end(self) -> int:
        """The position after its last base."""
        return self.start + len(self.codes)


def _unversioned(name: str) -> str:
    return fasta.accession(name).partition(".")[0].lower()


class Genome:
    """The contigs of a FASTA file, or stretches of them named as by samtools faidx (`NC_000017.11:42425000-43600000`).

    Attributes:
      stretches: contig → its stretches.
    """

    def __init__(self, stretches: dict[str, list[Stretch]], aliases: Aliases = ()):
        """`aliases`: groups of names for the same contig, or a file of them (see `contigs.read_aliases`)."""
        self.stretches = stretches
        groups = contigs.read_aliases(aliases) if isinstance(aliases, str | Path) else aliases
        self._contigs = contigs.Contigs(stretches, groups)
        self._found: dict[str, str | None] = {}  # a search takes 10 µs, and a VCF has millions of rows
        self._near: dict[str, list[str]] = {}

    @classmethod
    def of(cls, sequences: "Genome | dict[str, str] | str | Path", aliases: Aliases = ()) -> "Genome":
        """A genome as it is, of sequences by name, or of the FASTA file of a path; `aliases` as in `Genome`."""
        if isinstance(sequences, Genome):
            return cls(sequences.stretches, aliases) if aliases else sequences
        if isinstance(sequences, dict):
            return cls({name: [Stretch(0, bases.encode(text))] for name, text in sequences.items()}, aliases)
        return cls.read(sequences, aliases)

    @classmethod
    def read(cls, path: str | Path, aliases: Aliases = (), progress=None) -> "Genome":
        """The genome of a FASTA file; `aliases` as in `Genome`.

        If the index that samtools faidx makes is beside the file (see `faidx`), bases are read when they are needed;
        else all of them now, one byte per base.

        Raises:
          DataError: if a file cannot be read or is not FASTA, if the index is not that of the file, or if the name and
            the length of a stretch disagree.
        """
        stretches: dict[str, list[Stretch]] = {}
        indexed = faidx.contigs(path)
        all_read = ((record.name, record.codes) for record in fasta.read(path, progress))
        for name, codes in all_read if indexed is None else indexed.items():
            where = Interval.parse(name) or Interval(name, 0, len(codes))
            if where.end - where.start != len(codes):
                raise FormatError(
                    f"has {len(codes)} bases, but its name describes {where.end - where.start}",
                    file=path,
                    record=name,
                    remedy="rename it, or extract it again with samtools faidx",
                )
            codes = bases.reverse_complement(codes[:]) if where.strand == "-" else codes
            stretches.setdefault(where.contig, []).append(Stretch(where.start, codes))
        return cls(stretches, aliases)

    def contig(self, name: str) -> str | None:
        """The contig that a name refers to (see `contigs`); None unless it is exactly one."""
        if name not in self._found:
            self._found[name] = self._contigs.find(name)
        return self._found[name]

    def missing(self, name: str) -> str:
        """One line with the reason why `contig` returns None."""
        if found := self._contigs.candidates(name):
            return f"contig {name} may be {' or '.join(found)}"
        if name not in self._near:
            base = _unversioned(name)
            self._near[name] = [contig for contig in self.stretches if _unversioned(contig) == base][:3]
        near = self._near[name]
        return f"contig {name} is not in the FASTA" + (f"; it has {', '.join(near)}" if near else "")

    def intervals(self) -> Iterator[Interval]:
        """Yields the stretches of all contigs, in the order of the file; empty ones are left out.

        Raises:
          InputError: if two stretches overlap.
        """
        for contig, stretches in self.stretches.items():
            end = 0
            for stretch in sorted(stretches, key=lambda s: s.start):
                if stretch.start < end:
                    raise InputError(f"has bases of {contig}:{stretch.start + 1}-{end} in two records", "fasta")
                end = stretch.end
                if stretch.start < end:
                    yield Interval(contig, stretch.start, end)

    def sizes(self) -> dict[str, int]:
        """Contig → the position after its last base."""
        return {contig: max(s.end for s in stretches) for contig, stretches in self.stretches.items()}

    def stretch(self, where: Interval) -> Stretch | None:
        """The stretch that contains an interval of a contig with the most bases on both sides; None if none does."""
        found = [s for s in self.stretches[where.contig] if s.start <= where.start and where.end <= s.end]
        return max(found, key=lambda s: min(where.start - s.start, s.end - where.end), default=None)
