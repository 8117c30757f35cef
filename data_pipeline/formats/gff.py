"""Reads GFF3 and GTF files with their FASTA, one sequence at a time, into the same records as `genbank`.

The annotation is read once, and the lines that are needed are written decompressed to a scratch file. Then the FASTA is
streamed, and the lines of each sequence are read back. So the two files may be in any order, and memory holds only one
sequence. `gff_rows` interprets the rows, and `gff_features` builds features from them.
"""

import collections
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from data_pipeline.errors import DataError, FormatError, MismatchError, PairingError
from data_pipeline.formats import contigs, fasta, gff_features, gff_rows, stream
from data_pipeline.formats.gff_rows import Row
from data_pipeline.sequence.record import LONGER, Record

GENOME_TAXA = {
    "mitochondrion": "mit",
    "kinetoplast": "mit",
    "chloroplast": "plt",
    "plastid": "plt",
    "apicoplast": "plt",
    "chromoplast": "plt",
    "cyanelle": "plt",
    "leucoplast": "plt",
    "proplastid": "plt",
    "plasmid": "plm",
}
_COLUMNS = 9
_OTHER_FASTA = "give the FASTA that it annotates"
_ALIASES = f"{_OTHER_FASTA}, or the names of each contig in both files (gener-jax data build --aliases)"
_SEQUENCE_REGION = re.compile(rb"##sequence-region\s+(\S+)\s+\d{1,15}\s+(\d{1,15})\s*")
DIRECTIVES = "##sequence-region directives that cannot be read"  # in `Record.notes`


def read(
    annotation: str | Path,
    sequence: str | Path | None,
    kinds: Collection[str] | None,
    scratch: str | Path,
    progress: Callable[[int], None] | None = None,
    aliases: Iterable[Iterable[str]] = (),
) -> Iterator[Record]:
    """Yields the records of a GFF3 or GTF file and its FASTA (None: the file's `##FASTA` section) in FASTA order.

    Sequences that the annotation names and the FASTA lacks come last, without bases and features. `kinds` limits the
    features by their GenBank kind, as in `genbank.read`. `scratch` is an empty folder on disk. `progress` is called
    with the number of bytes of the files read since the last call. `aliases` are groups of names for the same sequence
    (see `contigs`). A row without a valid start, end and strand becomes
    a segment that ends before it starts; `Record.notes` counts these rows and whatever else cannot be used.

    Raises:
      FormatError: with file and line: a row without nine columns or without the name of a sequence.
      MismatchError: the annotation and the FASTA have no sequence in common, or contradict each other: two sequences
        are the same one of the annotation, or a feature or the declared length exceeds the sequence. A feature of a
        circular sequence may cross the origin, but the declared length must be exact.
      PairingError: there is no FASTA.
      FileError, DamagedFileError, FormatError: as `fasta.read`.
    """
    annotation, scratch = Path(annotation), Path(scratch)
    progress = progress or (lambda count: None)
    index = _Index(annotation, kinds, scratch, progress, aliases)
    if not index.names:
        raise FormatError("contains no rows", file=annotation, remedy="give a GFF3 or GTF file")
    if sequence is None:
        if not index.fasta.exists():
            raise PairingError(
                "has no `##FASTA` section, and no FASTA was given", file=annotation, remedy="name one in a manifest"
            )
        sequence, advance = index.fasta, lambda count: None
    else:
        advance = progress
    used: dict[str, str] = {}
    try:
        for found in fasta.read(sequence, advance):
            name = index.find(found.name, sequence)
            if used.setdefault(name, found.name) != found.name:
                raise MismatchError(
                    f"and {used[name]!r} are both {name!r} in {annotation}", file=sequence, field="sequence",
                    value=found.name, remedy="rename one",
                )  # fmt: skip
            yield _record(index, name, found, kinds)
    except DataError as error:
        if error.file == index.fasta:
            error.file, error.section = annotation, "##FASTA section"
        raise
    if not any(name in index.names for name in used):
        raise MismatchError(
            f"none of its sequences ({', '.join(list(index.names)[:3])}, …) is in {sequence} "
            f"({', '.join(list(used)[:3])}, …)",
            file=annotation, remedy=_ALIASES,
        )  # fmt: skip
    for name in index.names:
        if name not in used:
            yield _record(index, name, None, kinds)


def has_sequences(path: str | Path) -> bool:
    """Whether an annotation file has a `##FASTA` section; reads the file up to that section."""
    before = b"\n"
    for chunk in stream.chunks(Path(path), lambda count: None):
        before = before[-8:] + chunk
        if b"\n##FASTA" in before or b"\n>" in before:
            return True
    return False


class _Index:
    """The byte ranges of each sequence's rows in the scratch file.

    `names` maps a sequence's name to the (start, end) ranges of its lines, in file order. `lengths` maps it to the line
    of its `##sequence-region` and the length in bases given there. `notes` counts what cannot be used of the file.
    """

    def __init__(
        self,
        path: Path,
        kinds: Collection[str] | None,
        scratch: Path,
        progress: Callable[[int], None],
        aliases: Iterable[Iterable[str]],
    ):
        self.path, self.rows, self.fasta = path, scratch / "rows", scratch / "sequence.fa"
        self.names: dict[str, list[list[int]]] = {}
        self.lengths: dict[str, tuple[int, int]] = {}
        self.notes: collections.Counter = collections.Counter()
        self._aliases, self._exact = aliases, None
        with open(self.rows, "wb") as rows:
            self._fill(kinds, rows, progress)

    def find(self, name: str, sequence: Path) -> str:
        """The annotation's name of a record of the FASTA `sequence`, by the rules of `contigs`; else the record's own.

        A name that another record has exactly is that record's.
        """
        other = None if name in self.names else self._contigs.find(name)
        if other is not None and self._exact is None:
            self._exact = fasta.names(sequence)
        return name if other is None or other in self._exact else other

    @functools.cached_property
    def _contigs(self) -> contigs.Contigs:
        return contigs.Contigs(self.names, self._aliases)

    def _fill(self, kinds: Collection[str] | None, rows, progress: Callable[[int], None]) -> None:
        wanted, known, encoded = gff_rows.wanted_types(kinds), {}, {}
        last, ranges, at = None, None, 0
        lines = _lines(self.path, progress, self.fasta)
        for number, line in enumerate(lines, 1):
            if not line or line[0] == 35:  # a comment or directive
                if match := _SEQUENCE_REGION.fullmatch(line):
                    name = fasta.accession(unquote(gff_rows.as_text(match[1])))
                    self.names.setdefault(name, [])
                    self.lengths[name] = number, int(match[2])
                elif line.startswith(b"##sequence-region"):
                    self.notes[DIRECTIVES] += 1
                continue
            columns = line.split(b"\t", 3)
            if len(columns) < 4 or columns[3].count(b"\t") != _COLUMNS - 4:
                if line.startswith((b"track ", b"browser ")):  # of a genome browser
                    continue
                count = line.count(b"\t") + 1
                raise FormatError(
                    f"must be {_COLUMNS}, separated by tabs",
                    file=self.path, line=number, field="number of columns", value=count,
                )  # fmt: skip
            name, _, kind, rest = columns
            if name != last:
                if name not in encoded:
                    if not name.strip():
                        raise FormatError("is empty", file=self.path, line=number, field="sequence name")
                    encoded[name] = fasta.accession(unquote(gff_rows.as_text(name)))
                last, ranges = name, self.names.setdefault(encoded[name], [])
            action = known.get(kind)
            if action is None:
                action = known[kind] = wanted(gff_rows.as_text(kind))
            if action == gff_rows.DROP:
                continue
            if action == gff_rows.LINK and not (b"ID=" in rest and b"Parent=" in rest):
                continue
            if action == gff_rows.ORPHAN and b"Parent=" in rest:
                continue
            entry = b"%d\t%s\n" % (number, line)
            rows.write(entry)
            if ranges and ranges[-1][1] == at:
                ranges[-1][1] += len(entry)
            else:
                ranges.append([at, at + len(entry)])
            at += len(entry)

    def read_rows(self, name: str, notes: collections.Counter) -> Iterator[Row]:
        """Yields the rows of a sequence in file order; counts in `notes` what cannot be read of them."""
        if not self.names.get(name):
            return
        with open(self.rows, "rb") as rows:
            for begin, end_of_range in self.names[name]:
                rows.seek(begin)
                at = begin
                while at < end_of_range:
                    line = rows.readline()
                    at += len(line)
                    yield gff_rows.parse(line[:-1], notes)


def _record(index: _Index, name: str, found: fasta.Sequence | None, kinds: Collection[str] | None) -> Record:
    length = None if found is None else len(found.codes)
    circular, taxon, taxon_id = False, None, None
    notes, index.notes = index.notes, collections.Counter()  # those of the file are its first record's
    rows = list(index.read_rows(name, notes))
    landmarks = [row for row in rows if row.kind in gff_rows.LANDMARKS]
    for row in landmarks:
        circular = circular or gff_rows.flag(row.attributes, "Is_circular")
        taxon = taxon or GENOME_TAXA.get(row.attributes.get("genome", "").split(":")[0])
        for reference in gff_rows.listed(row.attributes, "Dbxref"):
            if reference.startswith("taxon:"):
                taxon_id = taxon_id or reference.removeprefix("taxon:")
    lengths = [index.lengths[name]] if name in index.lengths else []
    whole = max((row for row in landmarks if row.start == 0 < row.end), key=lambda row: row.end, default=None)
    lengths += [(whole.line, whole.end)] if whole else []
    if found is None:
        codes, lower_case, features = np.zeros(0, np.uint8), np.zeros((0, 2), np.int64), ()
        declared = lengths[0][1] if name in index.lengths else max((row.end for row in rows), default=0)
    else:
        codes, lower_case, declared = found.codes, found.lower_case, length
        for line, end in lengths:
            if end > length or (circular and end != length):
                raise MismatchError(
                    f"has {end} bases here and {length} in the FASTA",
                    file=index.path, line=line, field="sequence", value=name, remedy=_OTHER_FASTA,
                )  # fmt: skip
        if any(end < length for _, end in lengths):
            notes[LONGER] += 1
        for row in rows:
            if row.end > length and not (circular and row.start < length and row.end - length <= row.start):
                raise MismatchError(
                    f"exceeds the {length} bases of {found.name}, and no region row declares it circular",
                    file=index.path, line=row.line, field="end", value=row.end, remedy=_OTHER_FASTA,
                )  # fmt: skip
        features = gff_features.features(rows, length, circular, kinds, notes)
    return Record(
        accession=name if found is None else found.name,
        declared_length=declared,
        codes=codes,
        lower_case=lower_case,
        circular=circular,
        division="",
        organism="",
        lineage=(),
        taxon=taxon,
        features=features,
        taxon_id=taxon_id,
        notes=notes,
    )


def _lines(path: Path, progress: Callable[[int], None], sequences: Path) -> Iterator[bytes]:
    """Yields the lines of the annotation without line ends; writes what follows `##FASTA` to the file `sequences`."""
    chunks, held = stream.chunks(path, progress), b""
    for chunk in itertools.chain(chunks, (b"\n",)):
        lines = (held + chunk).split(b"\n")
        held = lines.pop()
        for number, line in enumerate(lines):
            if line[:1] == b">" or line.startswith(b"##FASTA"):
                with open(sequences, "wb") as out:
                    start = number if line[:1] == b">" else number + 1
                    out.write(b"\n".join([*lines[start:], held]))
                    for rest in chunks:
                        out.write(rest)
                return
            yield line[:-1] if line.endswith(b"\r") else line
