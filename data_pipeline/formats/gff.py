"""Reads GFF3 and GTF files with their FASTA, one sequence at a time, into the same records as `genbank`.

The annotation is read once, and the lines that are needed are written decompressed to a scratch file. Then the FASTA is
streamed, and the lines of each sequence are read back. So the two files may be in any order, and memory holds only one
sequence. `gff_features` interprets the rows and builds features from them.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from data_pipeline.errors import DataError, FormatError, MismatchError, PairingError, one_line
from data_pipeline.formats import fasta, gff_features, stream
from data_pipeline.formats.gff_features import Row
from data_pipeline.sequence.record import Record

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
_OTHER_FASTA = "give the FASTA that it annotates"
_DIGITS = 30  # at most, of a start and an end together: Python refuses to parse thousands of digits


def read(
    annotation: str | Path,
    sequence: str | Path | None,
    kinds: Collection[str] | None,
    scratch: str | Path,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Yields the records of a GFF3 or GTF file and its FASTA (None: the file's `##FASTA` section) in FASTA order.

    Sequences that the annotation names and the FASTA lacks come last, without bases and features. `kinds` limits the
    features by their GenBank kind, as in `genbank.read`. `scratch` is an empty folder on disk. `progress` is called
    with the number of bytes of the files read since the last call.

    Raises:
      FormatError: with file and line: a row without nine columns; a start or end that is not a number, is below 1, is
        out of order or exceeds the sequence (except across the origin of a circular one); an invalid strand or phase;
        a feature that is its own ancestor.
      MismatchError: the annotation and the FASTA have no sequence in common, or contradict each other.
      PairingError: there is no FASTA.
      FileError, DamagedFileError, FormatError: as `fasta.read`.
    """
    annotation, scratch = Path(annotation), Path(scratch)
    progress = progress or (lambda count: None)
    index = _Index(annotation, kinds, scratch, progress)
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
            name = index.find(found.name)
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
            file=annotation, remedy=_OTHER_FASTA,
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

    `names` maps a sequence's name to the (start, end) ranges of its lines, in file order. `lengths` maps it to the
    length in bases that its `##sequence-region` gives.
    """

    def __init__(self, path: Path, kinds: Collection[str] | None, scratch: Path, progress: Callable[[int], None]):
        self.path, self.rows, self.fasta = path, scratch / "rows", scratch / "sequence.fa"
        self.gtf: bool | None = None
        self.names: dict[str, list[list[int]]] = {}
        self.lengths: dict[str, int] = {}
        with open(self.rows, "wb") as rows:
            self._fill(kinds, rows, progress)
        self._aliases: dict[str, str | None] = {}
        for name in self.names:  # None: two names of the annotation share this alias
            self._aliases[_alias(name)] = None if _alias(name) in self._aliases else name

    def find(self, name: str) -> str:
        """The annotation's name of a FASTA record: the same name, or it with or without `chr`; else the FASTA's own."""
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
                raise FormatError(
                    f"must be {_COLUMNS}, separated by tabs",
                    file=self.path, line=number, field="number of columns", value=count,
                )  # fmt: skip
            name, _, kind, rest = columns
            if name != last:
                if name not in encoded:
                    if not name.strip():
                        raise FormatError("is empty", file=self.path, line=number, field="sequence name")
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
            raise FormatError("must have a name, a start and an end", file=self.path, line=number, field=words[0])
        name = fasta.accession(unquote(words[1]))
        self.names.setdefault(name, [])
        self.lengths[name] = int(words[3])

    def read_rows(self, name: str) -> Iterator[Row]:
        """Yields the rows of a sequence in file order."""
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
                        interval = one_line(f"{first.decode('latin-1')}..{last.decode('latin-1')}")
                        raise self._invalid(number, "start..end", interval, "must be numbers with 1 <= start <= end")
                    if strand not in _STRANDS:
                        raise self._invalid(number, "strand", strand.decode("latin-1"), "must be one of + - .")
                    if phase not in _PHASES:
                        raise self._invalid(number, "phase", phase.decode("latin-1"), "must be one of 0 1 2 .")
                    yield Row(
                        int(number),
                        _text(kind),
                        int(first) - 1,
                        int(last),
                        _STRANDS[strand],
                        phase.decode("latin-1"),
                        attributes(_text(text)),
                    )

    def _invalid(self, number: bytes, field: str, value: str, problem: str) -> FormatError:
        return FormatError(problem, file=self.path, line=int(number), field=field, value=value)


_STRANDS = {b"+": 1, b"-": -1, b".": 1}  # without a strand: read as the forward strand
_PHASES = (b"0", b"1", b"2", b".")


def _record(index: _Index, name: str, found: fasta.Sequence | None, kinds: Collection[str] | None) -> Record:
    length = None if found is None else len(found.codes)
    circular, taxon, taxon_id, rows, declared = False, None, None, [], index.lengths.get(name, 0)
    for row in index.read_rows(name):
        if row.kind in gff_features.LANDMARKS:
            if row.attributes.get("Is_circular") == "true":
                circular = True
                if length is not None and (row.start, row.end) != (0, length):
                    raise MismatchError(
                        f"is a circular sequence of {row.end - row.start} bases here and has {length} in the FASTA",
                        file=index.path, line=row.line, field="sequence", value=name, remedy=_OTHER_FASTA,
                    )  # fmt: skip
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
                raise MismatchError(
                    f"exceeds the {length} bases of {found.name}, and no region row declares it circular",
                    file=index.path, line=row.line, field="end", value=row.end, remedy=_OTHER_FASTA,
                )  # fmt: skip
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
    """The common form of a chromosome name: `1` for `chr1` and `1`, `M` for `chrM` and `MT`."""
    short = name[3:] if name[:3].lower() == "chr" else name
    return "M" if short.upper() == "MT" else short
