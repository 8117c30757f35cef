"""GFF3 and GTF files with their FASTA, one sequence at a time: the same records as GenBank's.

The annotation is read once and its wanted lines are put down, unpacked, in a scratch file; then the FASTA is streamed,
and each sequence's lines are read back. So the two files may be in any order, and memory holds one sequence.
What the rows mean, and how they become features, is in `gff_features`.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from data_pipeline import fasta, gff_features, stream
from data_pipeline.errors import DataError
from data_pipeline.genome import Record
from data_pipeline.gff_features import Row

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
_GTF_ATTRIBUTES = re.compile(rb"\s*\w+\s+[^=\s]")
_GTF_PAIR = re.compile(r'([^\s;"]+)\s+(?:"([^"]*)"|([^\s;"]+))')
_COLUMNS = 9
_DIGITS = 30  # of a start and an end together; Python reads no number of thousands of digits


def read(
    annotation: str | Path,
    sequence: str | Path | None,
    kinds: Collection[str] | None,
    scratch: str | Path,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """The records of a GFF3 or GTF file and its FASTA (None: the file's own `##FASTA` section), in the FASTA's order.

    Sequences that the annotation names and the FASTA lacks come last, without bases and features. `kinds` limits the
    features by their GenBank kind, as in `genbank.read`; `scratch` is an empty folder on disk; `progress` is called
    with the number of file bytes read since the last call. Raises DataError, with file and line, for rows without nine
    columns, positions that are no numbers, before 1, out of order or past the sequence's end (but over the origin of
    a circle), a strand or phase that is none, and a feature that is its own ancestor; for two files with no sequence
    in common; and whatever `fasta.read` refuses.
    """
    annotation, scratch = Path(annotation), Path(scratch)
    progress = progress or (lambda count: None)
    index = _Index(annotation, kinds, scratch, progress)
    if not index.names:
        raise DataError(f"{annotation}: no row in it; give a GFF3 or GTF file")
    if sequence is None:
        if not index.fasta.exists():
            raise DataError(f"{annotation}: no `##FASTA` section in it and no FASTA beside it; name one in a manifest")
        sequence, advance = index.fasta, lambda count: None
    else:
        advance = progress
    used: dict[str, str] = {}
    try:
        for found in fasta.read(sequence, advance):
            name = index.find(found.name)
            if used.setdefault(name, found.name) != found.name:
                raise DataError(f"{sequence}: {used[name]!r} and {found.name!r} are both {name!r} in {annotation}")
            yield _record(index, name, found, kinds)
    except DataError as error:
        if sequence != index.fasta:
            raise
        raise DataError(str(error).replace(str(index.fasta), f"{annotation}: its ##FASTA section")) from None
    if not any(name in index.names for name in used):
        raise DataError(
            f"{annotation}: none of its sequences ({', '.join(list(index.names)[:3])}, …) is in {sequence} "
            f"({', '.join(list(used)[:3])}, …); give the FASTA that it annotates"
        )
    for name in index.names:
        if name not in used:
            yield _record(index, name, None, kinds)


def has_sequences(path: str | Path) -> bool:
    """Whether an annotation file holds a `##FASTA` section; reads it until there."""
    before = b"\n"
    for chunk in stream.chunks(Path(path), lambda count: None):
        before = before[-8:] + chunk
        if b"\n##FASTA" in before or b"\n>" in before:
            return True
    return False


class _Index:
    """Where each sequence's rows lie in the scratch file.

    `names` maps a sequence's name to the (start, end) ranges of its lines, in the file's order; `lengths` to its
    length in bases where a `##sequence-region` tells, else to its last row's end.
    """

    def __init__(self, path: Path, kinds: Collection[str] | None, scratch: Path, progress: Callable[[int], None]):
        self.path, self.rows, self.fasta = path, scratch / "rows", scratch / "sequence.fa"
        self.gtf: bool | None = None
        self.names: dict[str, list[list[int]]] = {}
        self.lengths: dict[str, int] = {}
        with open(self.rows, "wb") as rows:
            self._fill(kinds, rows, progress)
        self._aliases: dict[str, str | None] = {}
        for name in self.names:  # None: two names of the annotation have this one alias
            self._aliases[_alias(name)] = None if _alias(name) in self._aliases else name

    def find(self, name: str) -> str:
        """The annotation's name of a FASTA record: the same, or with or without `chr`; else the FASTA's own."""
        if name in self.names:
            return name
        return self._aliases.get(_alias(name)) or name

    def _fill(self, kinds: Collection[str] | None, rows, progress: Callable[[int], None]) -> None:
        wanted, known, encoded = None, {}, {}
        last, ranges, at = None, None, 0
        lines = _lines(self.path, progress, self.fasta)
        for number, line in enumerate(lines, 1):
            if not line or line[0] == 35:  # a comment or directive
                if line.startswith(b"##sequence-region"):
                    self._sequence_region(number, line)
                continue
            columns = line.split(b"\t", 3)
            if len(columns) < 4 or columns[3].count(b"\t") != _COLUMNS - 4:
                count = line.count(b"\t") + 1
                raise DataError(f"{self.path}: line {number}: {count} columns where GFF3 and GTF have {_COLUMNS}")
            name, _, kind, rest = columns
            if name != last:
                if name not in encoded:
                    if not name.strip():
                        raise DataError(f"{self.path}: line {number}: no sequence name in the first column")
                    encoded[name] = fasta.accession(unquote(_text(name)))
                last, ranges = name, self.names.setdefault(encoded[name], [])
            if self.gtf is None and (attributes := line.rsplit(b"\t", 1)[1]).strip() not in (b"", b"."):
                self.gtf = bool(_GTF_ATTRIBUTES.match(attributes))
            action = known.get(kind)
            if action is None:
                wanted = wanted or gff_features.wanted_types(kinds, bool(self.gtf))
                action = known[kind] = wanted(_text(kind))
            if action == gff_features.DROP:
                continue
            if action == gff_features.LINK and not (b"ID=" in rest and b"Parent=" in rest):
                continue
            entry = b"%d\t%s\n" % (number, line)
            rows.write(entry)
            if ranges and ranges[-1][1] == at:
                ranges[-1][1] += len(entry)
            else:
                ranges.append([at, at + len(entry)])
            at += len(entry)

    def _sequence_region(self, number: int, line: bytes) -> None:
        words = _text(line).split()
        if len(words) != 4 or not (words[2].isdecimal() and words[3].isdecimal()) or len(words[3]) > _DIGITS:
            raise DataError(f"{self.path}: line {number}: a ##sequence-region is a name, a start and an end")
        name = fasta.accession(unquote(words[1]))
        self.names.setdefault(name, [])
        self.lengths[name] = int(words[3])

    def read_rows(self, name: str) -> Iterator[Row]:
        """The rows of a sequence, in the file's order."""
        if not self.names.get(name):
            return
        attributes = _gtf_attributes if self.gtf else _gff_attributes
        with open(self.rows, "rb") as rows:
            for start, end in self.names[name]:
                rows.seek(start)
                at = start
                while at < end:
                    line = rows.readline()
                    at += len(line)
                    number, _, _, kind, first, last, _, strand, phase, text = line[:-1].split(b"\t")
                    whole = first.isdigit() and last.isdigit() and len(first + last) <= _DIGITS
                    if not (whole and 1 <= int(first) <= int(last)):
                        where = stream.one_line(f"{first.decode('latin-1')}..{last.decode('latin-1')}")
                        raise DataError(f"{self.path}: line {int(number)}: {where} is no start and end from 1 on")
                    if strand not in _STRANDS:
                        shown = stream.one_line(strand.decode("latin-1"))
                        raise DataError(f"{self.path}: line {int(number)}: strand {shown!r} is not one of + - .")
                    if phase not in _PHASES:
                        shown = stream.one_line(phase.decode("latin-1"))
                        raise DataError(f"{self.path}: line {int(number)}: phase {shown!r} is not one of 0 1 2 .")
                    yield Row(
                        int(number),
                        _text(kind),
                        int(first) - 1,
                        int(last),
                        _STRANDS[strand],
                        phase.decode("latin-1"),
                        attributes(_text(text)),
                    )


_STRANDS = {b"+": 1, b"-": -1, b".": 1}  # without a strand: read as it stands
_PHASES = (b"0", b"1", b"2", b".")


def _record(index: _Index, name: str, found: fasta.Sequence | None, kinds: Collection[str] | None) -> Record:
    length = None if found is None else len(found.codes)
    circular, taxon, taxon_id, rows, declared = False, None, None, [], index.lengths.get(name, 0)
    for row in index.read_rows(name):
        if row.kind in gff_features.LANDMARKS:
            if row.attributes.get("Is_circular") == "true":
                circular = True
                if length is not None and (row.start, row.end) != (0, length):
                    raise DataError(
                        f"{index.path}: line {row.line}: {name} is a circle of {row.end - row.start} bases here and "
                        f"has {length} in the FASTA; give the FASTA that it annotates"
                    )
            taxon = taxon or GENOME_TAXA.get(row.attributes.get("genome", "").split(":")[0])
            for reference in row.attributes.get("Dbxref", "").split(","):
                if reference.startswith("taxon:"):
                    taxon_id = taxon_id or reference.removeprefix("taxon:")
        declared = declared if name in index.lengths else max(declared, row.end)
        rows.append(row)
    if found is None:
        codes, lower_case, features = np.zeros(0, np.uint8), np.zeros((0, 2), np.int64), ()
    else:
        for row in rows:
            if row.end > length and not (circular and row.start < length and row.end - length <= row.start):
                raise DataError(
                    f"{index.path}: line {row.line}: ends at {row.end}, past the {length} bases of {found.name}, "
                    "which no region row calls circular; give the FASTA that it annotates"
                )
        codes, lower_case, declared = found.codes, found.lower_case, length
        build = gff_features.from_gtf if index.gtf else gff_features.from_gff
        features = build(index.path, rows, length, kinds)
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
    )


def _lines(path: Path, progress: Callable[[int], None], sequences: Path) -> Iterator[bytes]:
    """The lines of the annotation, without their ends; what follows `##FASTA` goes to the file `sequences`."""
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


def _gff_attributes(text: str) -> dict[str, str]:
    values = {}
    for pair in text.split(";"):
        key, _, value = pair.partition("=")
        key = key.strip()
        if key in gff_features.ATTRIBUTES:
            values[key] = value.strip()
    return values


def _gtf_attributes(text: str) -> dict[str, str]:
    return {
        pair[1]: (pair[2] or pair[3] or "").strip()
        for pair in _GTF_PAIR.finditer(text)
        if pair[1] in gff_features.ATTRIBUTES
    }


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _alias(name: str) -> str:
    """`1` for `chr1` and `1`; `M` for `chrM` and `MT`."""
    short = name[3:] if name[:3].lower() == "chr" else name
    return "M" if short.upper() == "MT" else short
