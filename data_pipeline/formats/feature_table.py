"""Parses the feature table of a GenBank record by its columns: kinds in 6, locations and qualifiers in 22.

gb-io parses a table by its words alone: after a wrong quote, slash or column it loses what follows, and of a location
it keeps what it can parse, without an error. So this module parses the table strictly, including its plain locations,
and gb-io parses the other locations.
"""

import functools
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from data_pipeline.errors import DOWNLOAD_AGAIN, FormatError, one_line

_OPENING = b"\n                     /"  # starts each qualifier but the first


def _row(continued: bytes) -> re.Pattern:
    """Matches a feature's lines; `continued` matches the start of each further line of a quoted value."""
    value = rb'"[^"\n]*+(?:(?:""|\n(?:' + continued + rb'|(?=\n)))[^"\n]*+)*+"[ \t]*\n'
    bare_value = rb'[^\s"][^\n]*+\n(?: {21}[^/\s][^\n]*+\n)*+'
    qualifier = rb' {21}/[^\s="/]+(?:=(?:' + value + rb"|" + bare_value + rb")|[ \t]*\n)"
    location = rb"(?<=\n[^\n]{21})([^/\s][^/\n]*+(?:\n {21}[^/\s][^\n]*+)*+)\n"
    return re.compile(rb" {5}([^\s/]+) +" + location + rb"((?:" + qualifier + rb"|[ \t]+\n)*+)")


_ROW, _SLASHED_ROW = _row(rb" {21}(?!/)"), _row(rb" {21}")
_PLAIN = re.compile(rb"<?(\d{1,12})\.\.>?(\d{1,12})|complement\(<?(\d{1,12})\.\.>?(\d{1,12})\)")
_SPAN = re.compile(rb"(?:[\w.|-]+:)?[<>]?-?\d{1,15}+(?:(?:\.\.|\^)[<>]?-?\d{1,15}+)?")
_OPERATOR = re.compile(rb"(?:[\w.|-]+:)?(?:complement|join|order|bond|one-of)\(@(?:,@)*\)")
_UNCERTAIN = re.compile(rb"one-of\(\d[^()\n]{0,60}\)|\(\d{1,15}\.\d{1,15}\)")


class Row(NamedTuple):
    """A feature as written: its kind, its location, and the lines of its qualifiers."""

    kind: str
    location: bytes
    qualifiers: bytes
    slashed: bool  # a line inside a quoted value starts with a slash, as qualifiers do


def read(header: bytes) -> tuple[list[Row], int, int]:
    """The rows of a record's table, and the start and end of the table in `header`, the record's text above ORIGIN.

    Lines end in a line feed alone. Raises FormatError, without file and record, with the first line (`value`) that
    cannot be parsed.
    """
    found, at = [], header.find(b"\nFEATURES ")
    if at < 0:
        if b"\n     source  " in header:
            raise FormatError("features without a FEATURES line before them", field="FEATURES", remedy=DOWNLOAD_AGAIN)
        return found, len(header), len(header)
    begin = at = header.find(b"\n", at + 1) + 1
    while match := _ROW.match(header, at):
        if header[match.end() : match.end() + 21].isspace():  # the match ended before the feature
            match = _SLASHED_ROW.match(header, at) or match
        kind, location, lines = match.groups()
        found.append(Row(kind.decode("utf-8", "replace"), location, lines, match.re is _SLASHED_ROW))
        at = match.end()
    if header[at : at + 1].isspace():
        line = one_line(header[at:].lstrip()[:80].split(b"\n")[0].decode("utf-8", "replace"))
        raise FormatError(
            "cannot be parsed: it is out of its columns, or a quote is not closed",
            field="feature table line", value=line, remedy=DOWNLOAD_AGAIN,
        )  # fmt: skip
    return found, begin, at


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


def plain(location: bytes) -> tuple[int, int, int] | None:
    """The start, end and strand of `3..7` or `complement(3..7)`, 0-based half-open; None for any other location."""
    match = _PLAIN.fullmatch(location)
    if match is None:
        return None
    start, end, reverse_start, reverse_end = match.groups()
    if start is not None:
        return int(start) - 1, int(end), 1
    return int(reverse_start) - 1, int(reverse_end), -1


def is_location(text: bytes) -> bool:
    """Whether the text of a location is valid."""
    if b"\n" in text:
        text = re.sub(rb"\s*\n\s*", b"", text)
    text = _SPAN.sub(b"@", text.strip()) if b"@" not in text else b""
    while b"(" in text:
        shorter = _OPERATOR.sub(b"@", text)
        if shorter == text:
            return False
        text = shorter
    return text == b"@"


def certain(location: bytes) -> bytes:
    """Replaces the uncertain positions of a location, `(3.5)..7` and `3..one-of(5,7)`, by their outermost base.

    gb-io takes them for other records or returns the wrong span. Only old records contain them.
    """

    def outermost(match: re.Match) -> bytes:
        numbers = [int(number) for number in re.findall(rb"\d+", match.group())]
        if b".." in match.group():
            return match.group()  # one-of() of whole spans: gb-io returns the correct outer span
        if location[match.end() : match.end() + 2] == b"..":
            return b"%d" % min(numbers)
        if location[: match.start()].endswith(b".."):
            return b"%d" % max(numbers)
        return b"%d..%d" % (min(numbers), max(numbers))

    return _UNCERTAIN.sub(outermost, location)
