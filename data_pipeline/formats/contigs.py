"""Names of contigs: which contig of one file a name in another file refers to; files of aliases.

A name refers to the contig that has the same name by the first of these rules by which exactly one has: as written; by
the accession between NCBI's bars (`gi|1|ref|NC_1.1|`); ignoring case; with or without `chr`; MT as M; RefSeq's human
chromosomes as their numbers (NC_000013.11 is 13, NC_000023 X, NC_000024 Y, NC_012920 M). If there is none, the rules
are applied to the names in aliases. Two versions of an accession are of different assemblies, so they never match.
"""

import collections
import re
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.errors import FileError, one_line
from data_pipeline.formats import fasta

Aliases = str | Path | Iterable[Iterable[str]]  # groups of names for the same contig, or a file of them
_HUMAN = re.compile(r"nc_(0000(?:0[1-9]|1\d|2[0-4])|012920)(?:\.\d+)?")
_LETTERS = {"000023": "x", "000024": "y", "012920": "m"}


class Contigs:
    """Finds the contigs of one file by their names in another."""

    def __init__(self, names: Iterable[str], aliases: Iterable[Iterable[str]] = ()):
        """`names`: of the contigs; `aliases`: groups of names for the same contig, as `read_aliases` returns them."""
        self._named: dict[tuple[bool, int, str], set[str]] = collections.defaultdict(set)
        for name in names:
            self._add(False, name, {name})
        groups = [(group, set(map(self.find, group)) - {None}) for group in map(list, aliases)]
        for group, contigs in groups:
            for name in group:
                self._add(True, name, contigs)

    def _add(self, alias: bool, name: str, contigs: set[str]) -> None:
        for rule, key in enumerate(_keys(name)):
            self._named[alias, rule, key] |= contigs

    def find(self, name: str) -> str | None:
        """The contig that a name refers to; None unless it is exactly one."""
        found = self.candidates(name)
        return found[0] if len(found) == 1 else None

    def candidates(self, name: str) -> list[str]:
        """The contigs that a name may refer to, sorted: one, none, or several if it is ambiguous."""
        found, keys = set(), _keys(name)
        for alias in (False, True):
            for rule, key in enumerate(keys):
                same = {c for c in self._named.get((alias, rule, key), ()) if not _other_version(name, c)}
                if len(same) == 1:
                    return list(same)
                found = found or same
        return sorted(found)


def read_aliases(aliases: Aliases) -> list[list[str]]:
    """The groups of names in a file: the names of one contig per line, separated by tabs, or NCBI's assembly report.

    Groups are returned as they are.

    Raises:
      FileError: if the file cannot be read.
    """
    if not isinstance(aliases, str | Path):
        return list(map(list, aliases))
    path = Path(aliases)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot be read ({one_line(error)})", file=path) from None
    return [_names(line.split("\t")) for line in lines if line.strip() and not line.startswith("#")]


def _names(columns: list[str]) -> list[str]:
    """The names in a line of aliases: all columns, or those of an NCBI assembly report's ten that hold names."""
    if len(columns) >= 10:
        # The column of the molecule names this contig only if it is assembled: for an unplaced scaffold it names the
        # chromosome that the scaffold belongs to.
        molecule = [columns[2]] if columns[1] == "assembled-molecule" else []
        columns = [columns[0], *molecule, columns[4], columns[6], columns[9]]
    return [name for name in map(str.strip, columns) if name not in ("", "na")]


def _keys(name: str) -> tuple[str, ...]:
    """What a name is compared by, one key per rule; each says less than the one before."""
    accession = fasta.accession(name)
    lower = accession.lower()
    short = lower.removeprefix("chr")
    mitochondrial = "m" if short == "mt" else short
    human = _HUMAN.fullmatch(lower)
    number = _LETTERS.get(human[1], human[1].lstrip("0")) if human else mitochondrial
    return name, accession, lower, short, mitochondrial, number


def _other_version(name: str, contig: str) -> bool:
    """Whether two names are versions of one accession."""
    (first, _, version), (second, _, other) = (fasta.accession(x).upper().rpartition(".") for x in (name, contig))
    return first == second and version != other and first.startswith("NC_")
