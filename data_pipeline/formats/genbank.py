"""Reads GenBank flat files one record at a time: bases, features, topology and taxon.

The file is split at its `//` lines and each record is then parsed. Memory is therefore bounded by one record, a missing
`//` is detected, and an error can name its record.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

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
_LOCUS = re.compile(rb"LOCUS\s+(\S+)\s+(\d{1,12})\s+bp\b(.*)")
_DIVISION = re.compile(r"\b(?!DNA|RNA)[A-Z]{3}\b(?!-)")  # not the month of the date
_ACCESSION = re.compile(r"^(VERSION|ACCESSION)[ \t]+(\S+)", re.MULTILINE)
_ORGANISM = re.compile(r"^  ORGANISM[ \t]+(.*(?:\n {12}.*)*)", re.MULTILINE)
_UNREADABLE = (Segment(0, -1, 1),)
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
    locus = bytes(text[: text.find(b"\n")])
    if b"aa" in locus.split()[2:5]:
        raise FormatError("is a protein record", remedy="give nucleotide records")
    match = _LOCUS.match(locus)
    if match is None:
        raise FormatError("its LOCUS line cannot be parsed", field="LOCUS")
    length, circular = int(match[2]), b"circular" in match[3].lower()
    division = (_DIVISION.findall(match[3].decode("ascii", "replace")) or [""])[0]
    origin = text.find(b"\nORIGIN")
    above = _utf8(bytes(memoryview(text)[: origin + 1 if origin >= 0 else len(text)])).replace(b"\r\n", b"\n")
    table, begin = feature_table.read(above)
    header = above[:begin].decode("utf-8", "replace")
    # VERSION may end in "GI:…", ACCESSION may list secondary accessions, and local annotations may have neither.
    named = {"LOCUS": match[1].decode("ascii", "replace"), **dict(_ACCESSION.findall(header))}
    found = (named[key] for key in ("VERSION", "ACCESSION", "LOCUS") if named.get(key, ".") != ".")
    accession = next(found, "unknown")
    sequence = _sequence(text, origin, length) if origin >= 0 else b""
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
    features = []
    for row in table:
        if kinds is None or row.kind in kinds:
            segments = feature_table.segments(row.location, accession, length if circular else None) or _UNREADABLE
            features.append(Feature(row.kind, segments, feature_table.qualifiers(row, qualifiers)))
    source = next((feature_table.qualifiers(row) for row in table if row.kind == "source"), {})
    organism, lineage = _organism(header)
    return Record(
        accession=accession,
        declared_length=length,
        codes=np.frombuffer(codes, np.uint8),
        lower_case=lower_case,
        circular=circular,
        division=division,
        organism=organism,
        lineage=lineage,
        taxon=taxon_of(source.get("organelle", ("",))[0], "plasmid" in source, lineage, division),
        features=tuple(features),
        taxon_id=next((x.removeprefix("taxon:") for x in source.get("db_xref", ()) if x.startswith("taxon:")), None),
    )


def _sequence(text: bytearray, origin: int, length: int) -> bytes:
    """The letters of the sequence lines; raises DamagedFileError if there are some, but not `length`."""
    start, stop = text.find(b"\n", origin + 1) + 1, text.rfind(b"\n//") + 1
    _check_order(text, start)
    sequence = bytes(memoryview(text)[start:stop]).translate(None, b"0123456789 \t\r\n")
    if sequence and len(sequence) != length:
        raise DamagedFileError(
            f"has {len(sequence)} bases, but its LOCUS line declares {length}", remedy=DOWNLOAD_AGAIN
        )
    return sequence


def _check_order(text: bytearray, at: int) -> None:
    """Raises DamagedFileError if the sequence lines, which give the position of their first base, are out of order.

    Only the usual layout is checked (a nine-digit position and six blocks of ten bases).
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
    """The header as UTF-8: some old records are in Latin-1."""
    if not header.isascii():
        try:
            header.decode()
        except UnicodeDecodeError:
            return header.decode("latin-1").encode()
    return header


def _organism(header: str) -> tuple[str, tuple[str, ...]]:
    lines = [line.removeprefix(" " * 12) for line in (_ORGANISM.findall(header) or [""])[0].split("\n")]
    # A long organism name wraps; the lineage starts at the first line with a semicolon or a final period.
    first = next((i for i, line in enumerate(lines) if i and (";" in line or line.endswith("."))), len(lines))
    names = " ".join(lines[first:]).rstrip(".").split(";")
    return " ".join(lines[:first]), tuple(name.strip() for name in names if name.strip())
