"""Parses the feature table of a GenBank record by its columns: kinds in 6, locations and qualifiers in 22.

It is strict: after a wrong quote, slash or column, what follows would be lost without an error.
"""

import functools
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from data_pipeline.errors import DOWNLOAD_AGAIN, FormatError, one_line
from data_pipeline.sequence.record import Segment

_OPENING = b"\n                     /"  # starts each qualifier but the first


def _row(continued: bytes) -> re.Pattern:
    """Matches a feature's lines; `continued` matches the start of each further line of a quoted value."""
    value = rb'"[^"\n]*+(?:(?:""|\n(?:' + continued + rb'|(?=\n)))[^"\n]*+)*+"[ \t]*\n'
    bare_value = rb'[^\s"][^\n]*+\n(?: {21}[^/\s][^\n]*+\n)*+'
    qualifier = rb' {21}/[^\s="/]+(?:=(?:' + value + rb"|" + bare_value + rb")|[ \t]*\n)"
    location = rb"(?<=\n[^\n]{21})([^/\s][^/\n]*+(?:\n {21}[^/\s][^\n]*+)*+)\n"
    return re.compile(rb" {5}([^\s/]+) +" + location + rb"((?:" + qualifier + rb"|[ \t]+\n)*+)")


_ROW, _SLASHED_ROW = _row(rb" {21}(?!/)"), _row(rb" {21}")
_BELOW = re.compile(rb"^(?:BASE COUNT|CONTIG|//).*\n?(?: {12}.*\n)*", re.MULTILINE)  # may follow the table
_PLAIN = re.compile(rb"(complement\()?<?(\d{1,12})\.\.>?(\d{1,12})(?(1)\))")
_PLAIN_JOIN = re.compile(rb"(complement\()?join\((<?\d{1,12}\.\.>?\d{1,12}(?:,<?\d{1,12}\.\.>?\d{1,12})*)\)(?(1)\))")
# A base; or in old records several that it may be, (3.5) or one-of(3,5).
_BASE = rb"([<>]?-?\d{1,15}+|\(\d{1,15}\.\d{1,15}\)|one-of\([<>]?\d{1,15}(?:,[<>]?\d{1,15})*\))"
_SPAN = re.compile(rb"(?:([\w.|-]+):)?" + _BASE + rb"(?:(\.\.|\^)" + _BASE + rb")?")
_OPERATOR = re.compile(rb"(complement|join|order|bond|one-of)\((@\d+(?:,@\d+)*)\)")


class Row(NamedTuple):
    """A feature as written: its kind, its location, and the lines of its qualifiers."""

    kind: str
    location: bytes
    qualifiers: bytes
    slashed: bool  # a line inside a quoted value starts with a slash, as qualifiers do


def read(header: bytes) -> tuple[list[Row], int]:
    """The rows of a record's table, and the start of the table in `header`, the record's text above ORIGIN.

    Lines end in a line feed alone. Raises FormatError, without file and record, with the first line (`value`) that
    cannot be parsed.
    """
    found, first = [], re.search(rb"\nFEATURES[ \t]+Location/Qualifiers[ \t]*\n", header)
    if first is None:
        if b"\n     source  " in header or b"\nFEATURES" in header:
            raise FormatError(
                "has no line `FEATURES   Location/Qualifiers` before its features",
                field="FEATURES",
                remedy=DOWNLOAD_AGAIN,
            )
        return found, len(header)
    at = first.end()
    while match := _ROW.match(header, at):
        if header[match.end() : match.end() + 21].isspace():  # the match ended before the feature
            match = _SLASHED_ROW.match(header, at) or match
        kind, location, lines = match.groups()
        found.append(Row(kind.decode("utf-8", "replace"), location, lines, match.re is _SLASHED_ROW))
        at = match.end()
    if stray := _BELOW.sub(b"", header[at:]).strip():
        line = one_line(stray[:80].split(b"\n")[0].decode("utf-8", "replace"))
        raise FormatError(
            "cannot be parsed: it is out of its columns, or a quote is not closed",
            field="feature table line", value=line, remedy=DOWNLOAD_AGAIN,
        )  # fmt: skip
    return found, first.end()


def qualifiers(row: Row, wanted: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The qualifiers of a feature (only those `wanted`) with all their values; wrapped lines are joined by blanks."""
    if row.slashed or wanted is None:
        found = _all(row.qualifiers)
    else:
        found = _selected(frozenset(wanted)).findall(b"\n" + row.qualifiers)
    values: dict[str, tuple[str, ...]] = {}
    for key, quoted, bare in found:
        value = quoted or bare
        if b"\n" in value:
            value = b" ".join([line.strip() for line in value.split(b"\n")])
        if b'""' in quoted:
            value = value.replace(b'""', b'"')
        name, text = key.decode("utf-8", "replace"), value.decode("utf-8", "replace")
        if wanted is None or name in wanted:
            values[name] = (*values[name], text) if name in values else (text,)
    return values


@functools.cache
def _selected(wanted: frozenset[str]) -> re.Pattern:
    """Matches the key and the value, quoted or bare, of some qualifiers: much faster than parsing each qualifier."""
    keys = b"|".join(re.escape(name.encode()) for name in sorted(wanted))
    bare = rb"[^\n]*(?:\n {21}[^/\s][^\n]*)*"
    return re.compile(rb"\n {21}/(" + keys + rb')(?:="([^"]*(?:""[^"]*)*)"|=(' + bare + rb"))?[ \t]*(?=\n)")


def _all(lines: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields the same of every qualifier, also where a line of a quoted value starts with a slash."""
    parts = iter(lines[22:].split(_OPENING))
    for part in parts:
        while part.count(b'"') % 2:
            part += _OPENING[:1] + b"/" + next(parts)
        key, _, value = part.partition(b"=")
        value = value.rstrip()
        if key := key.strip():
            yield (key, value[1:-1], b"") if value[:1] == b'"' else (key, b"", value)


def segments(location: bytes, accession: str, circle: int | None) -> tuple[Segment, ...] | None:
    """The segments of a location in 5' to 3' order; None if it is not a valid location.

    `accession` is that of the record; `circle` its length if it is circular: a span across the origin then becomes two
    segments. A base that may be one of several is the outermost one. `3^4` lies between two bases: it is empty.
    """
    if match := _PLAIN.fullmatch(location):
        return _span(int(match[2]) - 1, int(match[3]), -1 if match[1] else 1, circle)
    location = re.sub(rb"\s*\n\s*", b"", location.strip())
    if match := _PLAIN_JOIN.fullmatch(location):  # not needed, but three times faster than what follows
        numbers, strand = _numbers(match[2]), -1 if match[1] else 1
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        return tuple(part for start, end in pairs[::strand] for part in _span(start - 1, end, strand, circle))
    found: list[tuple[Segment, ...]] = []  # what @0, @1 … stand for in the text, which is evaluated from the inside

    def numbered(part: tuple[Segment, ...]) -> bytes:
        found.append(part)
        return b"@%d" % (len(found) - 1)

    def span(match: re.Match) -> bytes:
        name, first, kind, last = match.groups()
        start, end = min(_numbers(first)), max(_numbers(last or first))
        if kind == b"^":
            return numbered((Segment(start, start, 1),))
        if name is None:
            return numbered(_span(start - 1, end, 1, circle))
        other = name.decode("utf-8", "replace")
        return numbered((Segment(start - 1, end, 1, None if other == accession else other),))

    def joined(match: re.Match) -> bytes:
        part = [segment for number in match[2][1:].split(b",@") for segment in found[int(number)]]
        if match[1] == b"complement":
            part = [Segment(start, end, -strand, other) for start, end, strand, other in reversed(part)]
        return numbered(tuple(part))

    text, shorter = b"", _SPAN.sub(span, location.replace(b"@", b"!"))
    while shorter != text:
        text, shorter = shorter, _OPERATOR.sub(joined, shorter)
    return found[-1] if re.fullmatch(rb"@\d+", text) else None


def _numbers(text: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"-?\d+", text)]


def _span(start: int, end: int, strand: int, circle: int | None) -> tuple[Segment, ...]:
    if circle is not None and 0 < end <= start < circle:  # across the origin
        return (Segment(start, circle, strand), Segment(0, end, strand))[::strand]
    return (Segment(start, end, strand),)
