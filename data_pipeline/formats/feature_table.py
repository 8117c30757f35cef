"""Parses the feature table of a GenBank record by its columns: kinds in 6, locations and qualifiers in 22.

A wrong quote, slash or column must not lose what follows, so each line must be part of a feature, or the table is
rejected.
"""

import functools
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from data_pipeline.errors import FormatError, one_line
from data_pipeline.sequence.record import Segment

_OPENING = b"\n                     /"  # starts each qualifier but the first


def _row(continued: bytes, key: bytes = rb'[^\s="/]+') -> re.Pattern:
    """Matches a feature's lines; `continued` matches the start of each further line of a quoted value."""
    value = rb'"[^"\n]*+(?:(?:""|\n(?:' + continued + rb'|(?=\n)))[^"\n]*+)*+"[ \t]*\n'
    bare_value = rb'[^\s"][^\n]*+\n(?: {21}[^/\s][^\n]*+\n)*+'
    qualifier = rb" {21}/" + key + rb"(?:=(?:" + value + rb"|" + bare_value + rb")|[ \t]*\n)"
    location = rb"(?<=\n[^\n]{21})([^/\s][^/\n]*+(?:\n {21}[^/\s][^\n]*+)*+)\n"
    return re.compile(rb" {5}([^\s/]+) +" + location + rb"((?:" + qualifier + rb"|[ \t]+\n)*+)")


# The second is for a line in quotes that starts with a slash, the last for a qualifier whose name is none.
_ROWS = _row(rb" {21}(?!/)"), _row(rb" {21}"), _row(rb" {21}", rb'[^\n="]++')
_AFTER = re.compile(rb"(?:[A-Z][A-Z_ ]*(?:[ \t][^\n]*)?\n(?: {12}[^ \n][^\n]*\n)*|[ \t]*\n)*(?://[^\n]*\n)?")
_PLAIN = re.compile(rb"<?(\d{1,12})\.\.>?(\d{1,12})|complement\(<?(\d{1,12})\.\.>?(\d{1,12})\)")
_SPAN = rb"[<>]?(-?\d{1,15}+)(?:(\.\.|\^)[<>]?(-?\d{1,15}+))?"
_TOKEN = re.compile(rb"(?:([\w.|-]+):)?(?:(complement|join|order|bond|one-of)\(|" + _SPAN + rb")|[),]")
_UNCERTAIN = re.compile(rb"one-of\(\d[^()\n]{0,60}\)|\(\d{1,15}\.\d{1,15}\)")


class Row(NamedTuple):
    """A feature as written: its kind, its location, and the lines of its qualifiers."""

    kind: str
    location: bytes
    qualifiers: bytes
    slashed: bool  # a line inside a quoted value starts with a slash, as qualifiers do
    odd: bool  # it has a qualifier whose name has a blank or slash


def read(header: bytes) -> tuple[list[Row], int, int]:
    """The rows of a record's table, and the start and end of the table in `header`, the record's text above ORIGIN.

    Lines end in a line feed alone. Raises FormatError, without file and record, with the first line (`value`) that
    cannot be parsed.
    """
    found, at = [], header.find(b"\nFEATURES ")
    if at < 0:
        if b"\n     source  " in header:
            raise FormatError("features without a FEATURES line before them", field="FEATURES")
        return found, len(header), len(header)
    begin = at = header.find(b"\n", at + 1) + 1
    while match := _ROWS[0].match(header, at):
        for pattern in _ROWS[1:]:
            if header[match.end() : match.end() + 21].isspace():  # the match ended before the feature
                match = pattern.match(header, at) or match
        kind, location, lines = match.groups()
        form = _ROWS.index(match.re)
        found.append(Row(kind.decode("utf-8", "replace"), location, lines, form > 0, form > 1))
        at = match.end()
    after = _AFTER.match(header, at).end()
    if after < len(header):
        line = one_line(header[after:].lstrip()[:80].split(b"\n")[0].decode("utf-8", "replace"))
        raise FormatError(
            "cannot be parsed: it is out of its columns, or a quote is not closed",
            field="feature table line", value=line,
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


def segments(location: bytes, accession: str, circle: int | None) -> tuple[Segment, ...] | None:
    """The segments of a location, 5' to 3'; None if it cannot be parsed.

    `accession` is that of the record, and `circle` its length if it is circular: a span across the origin is then two
    segments. A location between two bases is an empty segment.
    """
    if match := _PLAIN.fullmatch(location):
        start, end, reverse_start, reverse_end = match.groups()
        if start is not None:
            return tuple(_span(int(start) - 1, int(end), 1, circle))
        return tuple(_span(int(reverse_start) - 1, int(reverse_end), -1, circle))
    text = _certain(re.sub(rb"\s*\n\s*", b"", location.strip()))
    found, outer, at, operand = [], [], 0, True  # operand: a span or an operator must follow
    while match := _TOKEN.match(text, at):
        at = match.end()
        other, operator, first, between, last = match.groups()
        if operand == (match[0] in (b")", b",")) or (not operand and not outer):
            return None
        if operator:
            outer.append((found, operator, other))
            found = []
        elif first:
            empty = between == b"^"
            start, end = (int(first), int(first)) if empty else (int(first) - 1, int(last or first))
            found += _elsewhere(_span(start, end, 1, None if other or empty else circle), other, accession)
            operand = False
        elif match[0] == b",":
            operand = True
        else:
            inner = found
            found, operator, other = outer.pop()
            found += _elsewhere(_complement(inner) if operator == b"complement" else inner, other, accession)
    return tuple(found) if at == len(text) and not outer and not operand else None


def _span(start: int, end: int, strand: int, circle: int | None) -> list[Segment]:
    if circle is not None and 0 < end <= start < circle:
        return [Segment(start, circle, strand), Segment(0, end, strand)][::strand]
    return [Segment(start, end, strand)]


def _complement(found: list[Segment]) -> list[Segment]:
    return [Segment(start, end, -strand, other) for start, end, strand, other in reversed(found)]


def _elsewhere(found: list[Segment], other: bytes | None, accession: str) -> list[Segment]:
    """The segments on the record `other`."""
    name = other and other.decode("utf-8", "replace")
    return [segment._replace(accession=name) for segment in found] if name not in (None, accession) else found


def _certain(location: bytes) -> bytes:
    """Replaces the uncertain positions of a location, `(3.5)..7` and `3..one-of(5,7)`, by their outermost base.

    Only old records contain them.
    """

    def outermost(match: re.Match) -> bytes:
        numbers = [int(number) for number in re.findall(rb"\d+", match.group())]
        if b".." in match.group():
            return match.group()  # one-of() of whole spans: all of them
        if location[match.end() : match.end() + 2] == b"..":
            return b"%d" % min(numbers)
        if location[: match.start()].endswith(b".."):
            return b"%d" % max(numbers)
        return b"%d..%d" % (min(numbers), max(numbers))

    return _UNCERTAIN.sub(outermost, location)
