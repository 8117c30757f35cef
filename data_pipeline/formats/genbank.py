"""Reads GenBank flat files one record at a time: bases, features, topology and taxon.

The file is split at its `//` lines, so memory is bounded by one record, a missing `//` is detected, and an error can
name its record. Of a record's header only the lines that are used are read, so that others may be missing or odd.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DOWNLOAD_AGAIN, DamagedFileError, FormatError, located, one_line
from data_pipeline.formats import fasta, feature_table, stream
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import LONGER, Feature, Record, Segment

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
_LOCUS = re.compile(rb"LOCUS[ \t]+(?:(\S.*?)[ \t]+)?(\d{1,15})[ \t]+(bp|aa|rc)\b(.*)", re.IGNORECASE)
_ORGANISM = re.compile(rb"^ +ORGANISM[ \t]+(.*(?:\n {12}.*)*)", re.MULTILINE)
_NOT_LETTERS = b" \t\r\n0123456789"
_UNREADABLE = (Segment(0, -1, 1),)
ODD_QUALIFIERS = "features with a qualifier that cannot be read"  # in `Record.notes`


def read(
    path: str | Path,
    kinds: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
    qualifiers: Collection[str] | None = None,
) -> Iterator[Record]:
    """Yields the records of a GenBank flat file (plain, gzip or bgzip) in file order.

    `kinds` limits the features returned, and `qualifiers` the qualifiers read of them. `progress` is called with the
    number of bytes of the file read since the last call. A location that cannot be parsed becomes a segment that ends
    before it starts. A record without sequence, such as the master of a WGS project, has no bases.

    Raises:
      FileError, DamagedFileError: as `stream.chunks`; also for a record without its `//`, with fewer bases than on its
        LOCUS line (or more, if it is circular or they are not numbered), or with sequence lines out of order.
      FormatError: the file is not GenBank, a record has no name, is a protein or contains letters that are not IUPAC
        nucleotides, or a feature table is not aligned to its columns or has an unclosed quote. All of these errors name
        the file, and the record if one has been read.
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
    locus = _LOCUS.match(text)
    if locus is None:
        raise FormatError("its LOCUS line cannot be parsed: it needs a length in bp", field="LOCUS")
    name, length, unit, rest = locus.groups()
    if unit.lower() == b"aa":
        raise FormatError("is a protein record", remedy="give nucleotide records")
    words = rest.upper().split()
    circular, division = (
        b"CIRCULAR" in words,
        next((x.decode() for x in words if x.decode("latin-1") in _DIVISION_TAXA), ""),
    )
    origin = text.find(b"\nORIGIN")
    header = _utf8(bytes(memoryview(text)[: origin + 1 if origin >= 0 else len(text)]))
    if b"\r" in header:
        header = header.replace(b"\r\n", b"\n")
    table, begin, _ = feature_table.read(header)
    notes = {ODD_QUALIFIERS: odd} if (odd := sum(row.odd for row in table)) else {}
    codes, lower_case, numbered = _sequence(text, origin)
    declared = int(length) if unit.lower() == b"bp" else 0  # the master of a WGS project declares records
    if len(codes) and len(codes) != declared:
        if len(codes) < declared or circular or not numbered:
            raise DamagedFileError(
                f"has {len(codes)} bases, but its LOCUS line declares {declared}",
                remedy=DOWNLOAD_AGAIN if len(codes) < declared else None,
            )
        notes[LONGER] = 1
        declared = len(codes)
    accession = _accession(header[:begin], name)
    features, source = [], None
    for row in table:
        if row.kind == "source" and source is None:
            source = feature_table.qualifiers(row)
        if kinds is None or row.kind in kinds:
            segments = feature_table.segments(row.location, accession, declared if circular else None)
            features.append(Feature(row.kind, segments or _UNREADABLE, feature_table.qualifiers(row, qualifiers)))
    source = source or {}
    organism, lineage = _organism(header[:begin])
    return Record(
        accession=accession,
        declared_length=declared,
        codes=codes,
        lower_case=lower_case,
        circular=circular,
        division=division,
        organism=organism,
        lineage=lineage,
        taxon=taxon_of(source.get("organelle", ("",))[0], "plasmid" in source, lineage, division),
        features=tuple(features),
        taxon_id=next((x.removeprefix("taxon:") for x in source.get("db_xref", ()) if x.startswith("taxon:")), None),
        notes=notes,
    )


def _sequence(text: bytearray, origin: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """The codes and the lower-case runs of the sequence after the ORIGIN line, and whether its lines are numbered."""
    lower_case = np.zeros((0, 2), np.int64)
    if origin < 0:
        return np.zeros(0, np.uint8), lower_case, False
    start = text.find(b"\n", origin + 1) + 1
    end = text.rfind(b"\n//") + 1
    numbered = _check_order(text, start, end)
    lines = bytes(memoryview(text)[start:end])
    codes = lines.translate(fasta.CODES, _NOT_LETTERS)
    if (at := codes.find(fasta.OUTSIDE)) >= 0:
        letter = one_line(lines.translate(None, _NOT_LETTERS)[at : at + 1].decode("latin-1"))
        raise FormatError(f"at position {at + 1} is not a nucleotide letter", field="base", value=letter)
    if not (lines.islower() or lines.isupper()):  # not true of most records, and fast to test
        letters = np.frombuffer(lines.translate(None, _NOT_LETTERS), np.uint8)
        lower_case = fasta.soft_masked(bases.runs(letters >= ord("a")), len(letters))
    return np.frombuffer(codes, np.uint8), lower_case, numbered


def _check_order(text: bytearray, start: int, end: int) -> bool:
    """Whether each sequence line begins with the position of its first base.

    Only the usual layout is checked (a nine-digit position and six blocks of ten bases). Raises DamagedFileError if its
    lines are out of order.
    """
    width = text.find(b"\n", start) + 1 - start
    if width not in (76, 77):
        return False  # a sequence of one short line, or another layout
    lines = np.frombuffer(text, np.uint8, (end - start) // width * width, start).reshape(-1, width)
    digits = lines[:, :9].copy()
    digits[digits == ord(" ")] = ord("0")
    digits -= ord("0")
    if (lines[:, -1] != ord("\n")).any() or digits.size == 0 or digits.max() > 9:
        return False
    first = np.zeros(len(digits), np.int64)
    for column in digits.T:
        first = 10 * first + column
    wrong = np.flatnonzero(first != 1 + 60 * np.arange(len(first)))
    if len(wrong) and first[0] == 1:
        number = int(wrong[0])
        raise DamagedFileError(
            f"a sequence line starts at base {first[number]} instead of {60 * number + 1}", remedy=DOWNLOAD_AGAIN
        )
    return not len(wrong)


def _utf8(header: bytes) -> bytes:
    """The header as UTF-8, also of old records in Latin-1."""
    if not header.isascii():
        try:
            header.decode()
        except UnicodeDecodeError:
            return header.decode("latin-1").encode()
    return header


def _accession(header: bytes, name: bytes | None) -> str:
    """accession.version; without VERSION the accession; without that (local annotations) the LOCUS name."""
    for field in (rb"VERSION", rb"ACCESSION"):
        match = re.search(rb"^" + field + rb"[ \t]+(\S+)", header, re.MULTILINE)
        if match and match[1] != b".":
            return match[1].decode("utf-8", "replace")
    if name is None:
        raise FormatError("has no name, ACCESSION or VERSION", field="LOCUS")
    return name.decode("utf-8", "replace")


def _organism(header: bytes) -> tuple[str, tuple[str, ...]]:
    match = _ORGANISM.search(header)
    lines = [line.strip() for line in match[1].decode("utf-8", "replace").split("\n")] if match else [""]
    # A long organism name wraps; the lineage starts at the first line with a semicolon or a final period.
    first = next((i for i, line in enumerate(lines) if i and (";" in line or line.endswith("."))), len(lines))
    names = " ".join(lines[first:]).rstrip(".").split(";")
    return " ".join(lines[:first]), tuple(name.strip() for name in names if name.strip())
