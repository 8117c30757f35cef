"""Reads GenBank flat files one record at a time: bases, features, topology and taxon.

This module splits the file at its `//` lines, and gb-io parses each record. Memory is therefore bounded by one record,
a missing `//` is detected, and an error can name its record. gb-io alone would accept a truncated file as complete.
"""

import io
import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import gb_io
import numpy as np

from data_pipeline.errors import DOWNLOAD_AGAIN, DamagedFileError, FormatError, located, one_line
from data_pipeline.formats import fasta, feature_table, stream
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import Feature, Record, Segment

_PLASTIDS = ("plastid", "chloroplast", "chromoplast", "leucoplast", "proplastid", "apicoplast", "cyanelle")
# The first name found in the lineage decides, so narrow taxa come before the wider ones that include them.
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
    """Yields the records of a GenBank flat file (plain, gzip or bgzip) in file order.

    `kinds` limits the features returned, and `qualifiers` the qualifiers read of them. `progress` is called with the
    number of bytes of the file read since the last call. A location that cannot be parsed becomes a segment that ends
    before it starts.

    Raises:
      FileError, DamagedFileError: as `stream.chunks`; also for a record without its `//`, with a number of bases other
        than on its LOCUS line, or with sequence lines out of order.
      FormatError: the file is not GenBank, a record is a protein or contains letters that are not IUPAC nucleotides,
        or a feature table is not aligned to its columns or has an unclosed quote. All of these errors name the file,
        and the record if one has been read.
    """
    number = 0
    for text in _texts(Path(path), progress or (lambda count: None)):
        number += 1
        with located(file=path, record=_locus_name(text) or str(number)):
            record = _parse(text, kinds, qualifiers)
        yield record
    if number == 0:
        raise FormatError("contains no GenBank record (no LOCUS line)", file=path, remedy="give a GenBank flat file")


def taxon_of(organelle: str, plasmid: bool, lineage: Collection[str], division: str) -> str | None:
    """The tag of a record's source, one of TAXA; None if it cannot be inferred."""
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


def _texts(path: Path, progress: Callable[[int], None]) -> Iterator[bytearray]:
    """Yields the text of each record, from LOCUS to `//`."""
    buffer, searched, first, opened = bytearray(), 0, True, False
    for chunk in itertools.chain(stream.chunks(path, progress), (b"",)):
        if not opened:
            _check_opening(path, chunk)
            opened = True
        if not chunk and buffer and not buffer.endswith(b"\n"):
            chunk = b"\n"  # the last line lacks its newline
        buffer += chunk
        while (end := _end_of_record(buffer, searched)) is not None:
            if end == len(buffer):
                text, buffer = buffer, bytearray()  # no copy: this may be a whole chromosome
            else:
                with memoryview(buffer) as whole:
                    text = bytearray(whole[:end])
                del buffer[:end]
            searched = 0
            yield _from_locus(path, text, first)
            first = False
        searched = max(0, buffer.rfind(b"\n"))
    if buffer.strip():
        text = _from_locus(path, buffer, first)
        raise DamagedFileError(
            "the file ends before the record's `//`", file=path, record=_locus_name(text), remedy=DOWNLOAD_AGAIN
        )


def _check_opening(path: Path, chunk: bytes) -> None:
    """Rejects another format at once, instead of searching the whole file for a `//`."""
    if chunk.strip() and not re.search(rb"^LOCUS[ \t]", chunk, re.MULTILINE):
        line = one_line(chunk.strip()[:60].split(b"\n")[0].decode("ascii", "replace"))
        raise FormatError(f"is not a GenBank flat file: it starts with {line!r} and has no LOCUS line", file=path)


def _end_of_record(buffer: bytearray, start: int) -> int | None:
    """The end of the first record in the buffer, after its `//` line; None while that line is incomplete."""
    while (at := buffer.find(b"\n//", start)) >= 0:
        line_end = buffer.find(b"\n", at + 1)
        if line_end < 0:
            return None
        if not buffer[at + 3 : line_end].strip():
            return line_end + 1
        start = line_end
    return None


def _from_locus(path: Path, text: bytearray, first: bool) -> bytearray:
    """A record's text from its LOCUS line; only blank lines or a release file's header may precede that line."""
    match = re.search(rb"^LOCUS[ \t]", text, re.MULTILINE)
    before = text[: match.start()] if match else text
    if before.strip() and not (match and first and b"Genetic Sequence Data Bank" in before):
        line = one_line(before.strip().splitlines()[0][:60].decode("ascii", "replace"))
        raise FormatError(f"is not a GenBank flat file: found {line!r} instead of a LOCUS line", file=path)
    if match is None:
        raise FormatError("a `//` line without a record before it", file=path)
    if match.start():
        text = text[match.start() :]
    second = text.find(b"\nLOCUS")  # searching up to the last letter is ten times faster than including the blank
    if second >= 0 and text[second + 6 : second + 7].isspace():
        following = _locus_name(text[second + 1 :])
        raise DamagedFileError(
            f"has no `//` before the next record, {following}", file=path, record=_locus_name(text),
            remedy=DOWNLOAD_AGAIN,
        )  # fmt: skip
    return text


def _locus_name(text: bytes | bytearray) -> str | None:
    words = text[: text.find(b"\n")].split()
    named = len(words) > 1 and words[2:3] not in ([b"bp"], [b"aa"])  # otherwise the first word is the length
    return words[1].decode("ascii", "replace") if named else None


def _parse(text: bytearray, kinds: Collection[str] | None, qualifiers: Collection[str] | None) -> Record:
    locus = text[: text.find(b"\n")].split()
    if b"aa" in locus[2:5]:
        raise FormatError("is a protein record", remedy="give nucleotide records")
    origin = text.find(b"\nORIGIN")
    below = text.find(b"\n", origin + 1)
    if origin >= 0 and text[below : below + 80].strip() == b"//":
        text = text[:origin] + b"\n//\n"  # no sequence after ORIGIN: gb-io rejects an empty ORIGIN
        origin = -1
    if origin >= 0:
        _check_order(text, below + 1)
    header = _utf8(bytes(memoryview(text)[: origin + 1 if origin >= 0 else len(text)]))
    if b"\r" in header:
        header = header.replace(b"\r\n", b"\n")
    table, begin, end = feature_table.read(header)
    table = [row for row in table if kinds is None or row.kind in kinds or row.kind == "source"]
    intervals = [feature_table.plain(row.location) for row in table]
    # gb-io parses the record, and only those locations that are more than a plain span.
    others = [
        feature_table.certain(row.location) for row, interval in zip(table, intervals, strict=True) if interval is None
    ]
    queried = [
        b"     source          %s\n" % location
        for location in (b"1", *others)  # it rejects an empty table
        if feature_table.is_location(location)
    ]
    if begin == len(header):
        queried = []  # the record has no table
    text = b"".join(
        [header[:begin], *queried, header[end:], memoryview(text)[origin + 1 if origin >= 0 else len(text) :]]
    )
    try:
        records = gb_io.load(io.BytesIO(text))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        cause = one_line(error).removeprefix("parser failed: ").removeprefix("Syntax error: ")
        if length := re.search(r"Got (\d+) bytes of sequence, LOCUS promised (\d+)", cause):
            raise DamagedFileError(
                f"has {length[1]} bases, but its LOCUS line declares {length[2]}", remedy=DOWNLOAD_AGAIN
            ) from None
        raise FormatError(f"is not a valid GenBank record: {cause}", remedy=DOWNLOAD_AGAIN) from None
    if len(records) != 1 or records[0].length is None:
        raise FormatError("its LOCUS line cannot be parsed", field="LOCUS")
    record = records[0]
    sequence = bytes(record.sequence)
    accession = _accession(record)
    if sequence.islower() or sequence.isupper():  # true of most records, and fast to test
        lower_case = np.zeros((0, 2), np.int64)
    else:
        lower_case = fasta.soft_masked(bases.runs(np.frombuffer(sequence, np.uint8) >= ord("a")), len(sequence))
    codes = sequence.translate(fasta.CODES)
    if (at := codes.find(fasta.OUTSIDE)) >= 0:
        letter = one_line(sequence[at : at + 1].decode("latin-1"))
        raise FormatError(
            f"at position {at + 1} is not a nucleotide letter", field="base", value=letter, remedy=DOWNLOAD_AGAIN
        )
    if len(record.features) != len(queried):
        raise FormatError("its feature table cannot be parsed", field="FEATURES", remedy=DOWNLOAD_AGAIN)
    features, source, read_by_gb_io, other = [], None, iter(record.features[1:]), iter(others)
    circular, length = record.circular, record.length
    for row, interval in zip(table, intervals, strict=True):
        if interval is None:
            segments = (_UNREADABLE,)
            if feature_table.is_location(next(other)):
                segments = tuple(_segments(next(read_by_gb_io).location, accession, circular, length))
        elif circular and 0 < interval[1] <= interval[0] < length:  # across the origin
            segments = (Segment(interval[0], length, interval[2]), Segment(0, interval[1], interval[2]))[:: interval[2]]
        else:
            segments = (Segment(*interval),)
        if row.kind == "source" and source is None:
            source = feature_table.qualifiers(row)
        if kinds is None or row.kind in kinds:
            features.append(Feature(row.kind, segments, feature_table.qualifiers(row, qualifiers)))
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


def _check_order(text: bytearray, at: int) -> None:
    """Raises DamagedFileError if the sequence lines, which give the position of their first base, are out of order.

    Only the usual layout is checked (a nine-digit position and six blocks of ten bases). gb-io counts the bases but
    ignores the positions.
    """
    width = text.find(b"\n", at) + 1 - at
    if width not in (76, 77):
        return  # a sequence of one short line, or another layout
    lines = np.frombuffer(text, np.uint8, (text.rfind(b"\n//") + 1 - at) // width * width, at).reshape(-1, width)
    digits = lines[:, :9].copy()
    digits[digits == ord(" ")] = ord("0")
    digits -= ord("0")
    if (lines[:, -1] != ord("\n")).any() or digits.size == 0 or digits.max() > 9:
        return
    first = np.zeros(len(digits), np.int64)
    for column in digits.T:
        first = 10 * first + column
    wrong = np.flatnonzero(first != 1 + 60 * np.arange(len(first)))
    if len(wrong) and first[0] == 1:
        number = int(wrong[0])
        raise DamagedFileError(
            f"a sequence line starts at base {first[number]} instead of {60 * number + 1}", remedy=DOWNLOAD_AGAIN
        )


def _utf8(header: bytes) -> bytes:
    """The header as UTF-8 for gb-io, which rejects the Latin-1 of some old records."""
    if not header.isascii():
        try:
            header.decode()
        except UnicodeDecodeError:
            return header.decode("latin-1").encode()
    return header


def _accession(record: gb_io.Record) -> str:
    """accession.version; without VERSION the accession; without that (local annotations) the LOCUS name."""
    for field in (record.version, record.accession, record.name):
        words = (field or "").split()  # VERSION may end in "GI:…", and ACCESSION may list secondary accessions
        if words and words[0] != ".":
            return words[0]
    return "unknown"


def _organism(record: gb_io.Record) -> tuple[str, tuple[str, ...]]:
    lines = ((record.source.organism if record.source else None) or "").split("\n")
    # A long organism name wraps; the lineage starts at the first line with a semicolon or a final period.
    first = next((i for i, line in enumerate(lines) if i and (";" in line or line.endswith("."))), len(lines))
    names = " ".join(lines[first:]).rstrip(".").split(";")
    return " ".join(lines[:first]), tuple(name.strip() for name in names if name.strip())


_UNREADABLE = Segment(0, -1, 1)


def _segments(location: gb_io.Location, accession: str, circular: bool, length: int) -> Iterator[Segment]:
    """Yields the segments of a location in 5' to 3' order; a span across the origin of a circle becomes two."""
    if type(location) is gb_io.Range:
        if circular and 0 < location.end <= location.start < length:
            yield Segment(location.start, length, 1)
            yield Segment(0, location.end, 1)
        else:
            yield Segment(location.start, location.end, 1)
    elif isinstance(location, gb_io.Between):
        yield Segment(location.start + 1, location.start + 1, 1)  # 3^4 lies between two bases: it is empty
    elif isinstance(location, gb_io.Complement):
        # gb-io swaps the start and end of a Complement, so they are not used.
        for segment in reversed(list(_segments(location.location, accession, circular, length))):
            yield segment._replace(strand=-segment.strand)
    elif isinstance(location, gb_io.External):
        name = location.accession
        if re.fullmatch(r"[<>]\d+", name):  # a lone `<3`
            yield Segment(int(name[1:]) - 1, int(name[1:]), 1)
        elif location.location is None:
            yield Segment(0, 0, 1, name)
        else:
            other = None if name == accession else name
            for segment in _segments(location.location, accession, False, length):
                yield segment._replace(accession=other)
    else:  # join, order, bond and one-of: gb-io returns Join for all of them
        for inner in location.locations:
            yield from _segments(inner, accession, circular, length)
