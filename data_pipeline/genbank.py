"""GenBank flat files, one record at a time: bases, features, circularity and taxon.

The file is cut at its `//` lines here and each record is parsed by gb-io, so that memory is bounded by one record, a
missing `//` is seen, and an error can name its record. gb-io alone would read a truncated file as a whole one.
"""

import io
import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import gb_io
import numpy as np

from data_pipeline import bases, fasta, stream
from data_pipeline.errors import DataError
from data_pipeline.genome import Feature, Part, Record
from data_pipeline.stream import one_line

_PLASTIDS = ("plastid", "chloroplast", "chromoplast", "leucoplast", "proplastid", "apicoplast", "cyanelle")
# The first name found in the lineage decides: the narrow ones stand before the wide ones that hold them.
_LINEAGE_TAXA = (
    ("Fungi", "fng"),
    ("Viridiplantae", "pln"),
    ("Mammalia", "mam"),
    ("Vertebrata", "vrt"),
    ("Metazoa", "inv"),
    ("Eukaryota", "prt"),
)
_DIVISION_TAXA = {
    "PRI": "mam",
    "ROD": "mam",
    "MAM": "mam",
    "VRT": "vrt",
    "INV": "inv",
    "PLN": "pln",
    "BCT": "bct",
    "VRL": "vir",
    "PHG": "vir",
}


def read(
    path: str | Path,
    kinds: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
    qualifiers: Collection[str] | None = None,
) -> Iterator[Record]:
    """The records of a GenBank flat file, plain, gzip or bgzip, in the file's order.

    `kinds` limits the features returned and `qualifiers` what is read of them; `progress` is called with the number of
    file bytes read since the last call.
    A location that cannot be read becomes a part that ends before it starts.
    Raises DataError (one line with file and record) for a missing or empty file, another format, a truncated or
    damaged gzip stream, a record without its `//`, bases that differ in number from the LOCUS line, letters that are no
    IUPAC nucleotide, and a feature table that is out of its columns or whose quotes do not close.
    """
    number = 0
    for text in _texts(Path(path), progress or (lambda count: None)):
        number += 1
        yield _parse(Path(path), number, text, kinds, qualifiers)
    if number == 0:
        raise DataError(f"{path}: no GenBank record in it (no LOCUS line); give a GenBank flat file")


def taxon_of(organelle: str, plasmid: bool, lineage: Collection[str], division: str) -> str | None:
    """The tag, one of TAXA, of a record's source; None where nothing tells."""
    if organelle.startswith(("mitochondrion", "kinetoplast")):
        return "mit"
    if organelle.startswith(_PLASTIDS):
        return "plt"
    if plasmid:
        return "plm"
    if "Archaea" in lineage:
        return "arc"
    if "Bacteria" in lineage or "Eubacteria" in lineage:  # the latter in records of the 1990s
        return "bct"
    if "Viruses" in lineage or division in ("VRL", "PHG"):
        return "vir"
    for name, taxon in _LINEAGE_TAXA:
        if name in lineage:
            return taxon
    return _DIVISION_TAXA.get(division)


def _texts(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """The text of each record, from LOCUS to `//`."""
    buffer, searched, first, opened = bytearray(), 0, True, False
    for chunk in itertools.chain(stream.chunks(path, progress), (b"",)):
        if not opened:
            _check_opening(path, chunk)
            opened = True
        if not chunk and buffer and not buffer.endswith(b"\n"):
            chunk = b"\n"  # a last line without its newline
        buffer += chunk
        while (end := _end_of_record(buffer, searched)) is not None:
            with memoryview(buffer) as whole:  # one copy, not two: this is a chromosome's worth
                text = bytes(whole[:end])
            del buffer[:end]
            searched = 0
            yield _from_locus(path, text, first)
            first = False
        searched = max(0, buffer.rfind(b"\n"))
    if buffer.strip():
        text = _from_locus(path, bytes(buffer), first)
        raise DataError(f"{path}: record {_locus_name(text)}: the file ends before the record's `//`; fetch it again")


def _check_opening(path: Path, chunk: bytes) -> None:
    """Refuses another format at once, before a `//` is looked for to its end."""
    if chunk.strip() and not re.search(rb"^LOCUS[ \t]", chunk, re.MULTILINE):
        line = one_line(chunk.strip()[:60].split(b"\n")[0].decode("ascii", "replace"))
        raise DataError(f"{path}: not a GenBank flat file: it opens with {line!r}, and no LOCUS line follows")


def _end_of_record(buffer: bytearray, start: int) -> int | None:
    """Where the first record in the buffer ends, after its `//` line; None while that line is not whole."""
    while (at := buffer.find(b"\n//", start)) >= 0:
        line_end = buffer.find(b"\n", at + 1)
        if line_end < 0:
            return None
        if not buffer[at + 3 : line_end].strip():
            return line_end + 1
        start = line_end
    return None


def _from_locus(path: Path, text: bytes, first: bool) -> bytes:
    """A record's text from its LOCUS line on; before it stand only blank lines or a release file's header."""
    match = re.search(rb"^LOCUS[ \t]", text, re.MULTILINE)
    before = text[: match.start()] if match else text
    if before.strip() and not (match and first and b"Genetic Sequence Data Bank" in before):
        line = one_line(before.strip().splitlines()[0][:60].decode("ascii", "replace"))
        raise DataError(f"{path}: not a GenBank flat file: {line!r} stands where a LOCUS line should")
    if match is None:
        raise DataError(f"{path}: a `//` line without a record before it")
    text = text[match.start() :]
    second = text.find(b"\nLOCUS")  # a search for its last letter is ten times faster than for the blank behind it
    if second >= 0 and text[second + 6 : second + 7].isspace():
        follower = _locus_name(text[second + 1 :])
        raise DataError(f"{path}: record {_locus_name(text)}: no `//` before the next record, {follower}")
    return text


def _locus_name(text: bytes) -> str:
    words = text[: text.find(b"\n")].split()
    return words[1].decode("ascii", "replace") if len(words) > 1 else "without a name"


def _parse(
    path: Path, number: int, text: bytes, kinds: Collection[str] | None, qualifiers: Collection[str] | None
) -> Record:
    where = f"{path}: record {number} ({_locus_name(text)})"
    locus = text[: text.find(b"\n")].split()
    if b"aa" in locus[2:5]:
        raise DataError(f"{where}: a protein record; give nucleotide records")
    origin = text.find(b"\nORIGIN")
    below = text.find(b"\n", origin + 1)
    if origin >= 0 and text[below : below + 80].strip() == b"//":
        text = text[:origin] + b"\n//\n"  # nothing below ORIGIN: a record without sequence, which gb-io refuses
        origin = -1
    header = text[: origin + 1] if origin >= 0 else text
    readable = _plain_positions(_utf8(header))
    if readable != header:
        text = readable + text[len(header) :]
    table = _table(where, readable)
    try:
        records = gb_io.load(io.BytesIO(text))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        cause = one_line(error).removeprefix("parser failed: ").removeprefix("Syntax error: ")
        if length := re.search(r"Got (\d+) bytes of sequence, LOCUS promised (\d+)", cause):
            cause = f"{length[1]} bases where its LOCUS line says {length[2]}"
        raise DataError(f"{where}: not a valid GenBank record: {cause}; fetch it again") from None
    if len(records) != 1 or records[0].length is None:
        raise DataError(f"{where}: its LOCUS line cannot be read")
    record = records[0]
    sequence = bytes(record.sequence)
    accession = _accession(record)
    if sequence.islower() or sequence.isupper():  # most are, and these tests are fast
        lower_case = np.zeros((0, 2), np.int64)
    else:
        lower_case = fasta.soft_masked(bases.runs(np.frombuffer(sequence, np.uint8) >= ord("a")), len(sequence))
    codes = sequence.translate(fasta.CODES)
    if (at := codes.find(fasta.OUTSIDE)) >= 0:
        letter = one_line(sequence[at : at + 1].decode("latin-1"))
        raise DataError(f"{where}: {letter!r}, its base {at + 1}, is no nucleotide letter; fetch it again")
    if [feature.kind for feature in record.features] != [kind for kind, _ in table]:
        raise DataError(f"{where}: its feature table cannot be read; fetch it again")
    features, source = [], None
    circular, length = record.circular, record.length
    for feature, (kind, written) in zip(record.features, table, strict=True):
        if kind == "source" and source is None:
            source = _qualifiers(feature, None)
        if kinds is None or kind in kinds:
            location, strand = feature.location, 1
            if type(location) is gb_io.Complement:
                location, strand = location.location, -1
            if not _is_location(written):
                parts = (_UNREADABLE,)
            elif (
                type(location) is gb_io.Range and location.start < location.end
            ):  # most are: a plain span needs no walk
                parts = (Part(location.start, location.end, strand),)
            else:
                parts = tuple(_parts(feature.location, accession, circular, length))
            features.append(Feature(kind, parts, _qualifiers(feature, qualifiers)))
    source = source or {}
    organism, lineage = _organism(record)
    return Record(
        accession=accession,
        declared_length=record.length,
        codes=np.frombuffer(codes, np.uint8),
        lower_case=lower_case,
        circular=record.circular,
        division=record.division or "",
        organism=organism,
        lineage=lineage,
        taxon=taxon_of(source.get("organelle", ("",))[0], "plasmid" in source, lineage, record.division),
        features=tuple(features),
        taxon_id=next((x.removeprefix("taxon:") for x in source.get("db_xref", ()) if x.startswith("taxon:")), None),
    )


def _utf8(header: bytes) -> bytes:
    """The header for gb-io, which refuses the Latin-1 of some old records."""
    if not header.isascii():
        try:
            header.decode()
        except UnicodeDecodeError:
            return header.decode("latin-1").encode()
    return header


def _accession(record: gb_io.Record) -> str:
    """accession.version; lacking VERSION the accession, lacking that (local annotations) the LOCUS name."""
    for field in (record.version, record.accession, record.name):
        words = (field or "").split()  # VERSION may end in "GI:…", ACCESSION hold secondary ones
        if words and words[0] != ".":
            return words[0]
    return "unknown"


def _organism(record: gb_io.Record) -> tuple[str, tuple[str, ...]]:
    lines = ((record.source.organism if record.source else None) or "").split("\n")
    # A long organism name wraps; the lineage starts at the first line that is one.
    first = next((i for i, line in enumerate(lines) if i and (";" in line or line.endswith("."))), len(lines))
    names = " ".join(lines[first:]).rstrip(".").split(";")
    return " ".join(lines[:first]), tuple(name.strip() for name in names if name.strip())


def _qualifiers(feature: gb_io.Feature, wanted: Collection[str] | None) -> dict[str, tuple[str, ...]]:
    values: dict[str, tuple[str, ...]] = {}
    for qualifier in feature.qualifiers:
        key = qualifier.key
        if wanted is None or key in wanted:  # to fetch a value costs more than all the rest
            value = qualifier.value or ""
            if "\n" in value:  # gb-io leaves the line breaks of a wrapped value in
                value = value.replace("\n", " ")
            values[key] = (*values[key], value) if key in values else (value,)
    return values


_UNCERTAIN = re.compile(rb"one-of\(\d[^()\n]{0,60}\)|\(\d{1,15}\.\d{1,15}\)")
_LOCATION_LINE = re.compile(rb"^ {5}\S+ +[^/\n]*", re.MULTILINE)


def _plain_positions(header: bytes) -> bytes:
    """The header with its uncertain positions, `(3.5)..7` and `3..one-of(5,7)`, made plain by their outermost base.

    gb-io reads them as other records or as the wrong span, without an error. They stand in old records only, on the
    line that names the feature.
    """
    if b"one-of(" not in header and not re.search(rb"\(\d+\.\d+\)", header):  # ten times faster than _UNCERTAIN
        return header

    def plain(line: re.Match) -> bytes:
        text = line.group()

        def outermost(match: re.Match) -> bytes:
            numbers = [int(number) for number in re.findall(rb"\d+", match.group())]
            if b".." in match.group():
                return match.group()  # one-of() over whole spans, whose outer span gb-io gets right
            if text[match.end() : match.end() + 2] == b"..":
                return b"%d" % min(numbers)
            if text[: match.start()].endswith(b".."):
                return b"%d" % max(numbers)
            return b"%d..%d" % (min(numbers), max(numbers))

        return _UNCERTAIN.sub(outermost, text)

    return _LOCATION_LINE.sub(plain, header)


_VALUE = rb'"[^"\n]*+(?:(?:""|\n(?: {21}|(?=\n)))[^"\n]*+)*+"[ \t]*\n'
_BARE_VALUE = rb'[^\s"][^\n]*+\n(?: {21}[^/\s][^\n]*+\n)*+'
_QUALIFIER = rb' {21}/[^\s="/]+(?:=(?:' + _VALUE + rb"|" + _BARE_VALUE + rb")|[ \t]*\n)"
_FEATURE = re.compile(
    rb" {5}([^\s/]+) +(?<=\n[^\n]{21})([^/\s][^/\n]*+(?:\n {21}[^/\s][^\n]*+)*+)\n(?:" + _QUALIFIER + rb"|[ \t]+\n)*+"
)
_SPAN = re.compile(rb"(?:[\w.|-]+:)?[<>]?-?\d{1,15}+(?:(?:\.\.|\^)[<>]?-?\d{1,15}+)?")
_OPERATOR = re.compile(rb"(?:[\w.|-]+:)?(?:complement|join|order|bond|one-of)\(@(?:,@)*\)")
_UNREADABLE = Part(0, -1, 1)


def _table(where: str, header: bytes) -> list[tuple[str, bytes]]:
    """The kind and the location, as it stands, of each feature in a record's table.

    gb-io reads a table by its words alone: a quote or a slash that is missing costs it what follows, without an error.
    """
    if b"\r" in header:
        header = header.replace(b"\r\n", b"\n")
    found, at = [], header.find(b"\nFEATURES ")
    if at < 0:
        if b"\n     source  " in header:
            raise DataError(f"{where}: features without a FEATURES line before them; fetch it again")
        return found
    at = header.find(b"\n", at + 1) + 1
    while match := _FEATURE.match(header, at):
        found.append((match[1].decode("utf-8", "replace"), match[2]))
        at = match.end()
    if header[at : at + 1].isspace():
        line = one_line(header[at:].lstrip()[:80].split(b"\n")[0].decode("utf-8", "replace"))
        raise DataError(
            f"{where}: its feature table goes wrong at {line!r}: out of its columns, or a quote that does not close; "
            "fetch it again"
        )
    return found


def _is_location(text: bytes) -> bool:
    """Whether a location, as it stands in a table, is one: gb-io takes what it can read of it."""
    if b"\n" in text:
        text = re.sub(rb"\s*\n\s*", b"", text)
    text = _SPAN.sub(b"@", text.strip()) if b"@" not in text else b""
    while b"(" in text:
        shorter = _OPERATOR.sub(b"@", text)
        if shorter == text:
            return False
        text = shorter
    return text == b"@"


def _parts(location: gb_io.Location, accession: str, circular: bool, length: int) -> Iterator[Part]:
    """The parts of a location in 5' to 3' order; a span written over the origin of a circle becomes two."""
    if type(location) is gb_io.Range:
        if circular and 0 < location.end <= location.start < length:
            yield Part(location.start, length, 1)
            yield Part(0, location.end, 1)
        else:
            yield Part(location.start, location.end, 1)
    elif isinstance(location, gb_io.Between):
        yield Part(location.start + 1, location.start + 1, 1)  # 3^4, between two bases: no bases
    elif isinstance(location, gb_io.Complement):
        # gb-io's own start and end of a Complement are swapped, so they are not asked.
        for part in reversed(list(_parts(location.location, accession, circular, length))):
            yield part._replace(strand=-part.strand)
    elif isinstance(location, gb_io.External):
        name = location.accession
        if re.fullmatch(r"[<>]\d+", name):  # a lone `<3`
            yield Part(int(name[1:]) - 1, int(name[1:]), 1)
        elif location.location is None:
            yield Part(0, 0, 1, name)
        else:
            other = None if name == accession else name
            for part in _parts(location.location, accession, False, length):
                yield part._replace(accession=other)
    else:  # join, order, bond and one-of: gb-io gives Join for all of them
        for inner in location.locations:
            yield from _parts(inner, accession, circular, length)
