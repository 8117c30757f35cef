"""Counts of a build: every region and base that was found is kept, or dropped for a named reason."""

import collections

from data_pipeline.errors import DataError

NO_SEQUENCE = "records without sequence"
NO_TAXON = "records of unknown taxon"
DUPLICATE_RECORD = "duplicate records"
ELSEWHERE = "segments on other records"
DUPLICATE = "duplicate locations"
MALFORMED = "malformed locations"


class Ledger:
    """Counts of records, regions and bases, which add up: read = used + skipped, found + cut = kept + dropped.

    `read` counts the records read, `skipped` those skipped, by reason. `found` counts the regions, `dropped` those
    dropped, by reason. `notes` counts other facts (segments on other records, translations by outcome). Each value is
    [count, bases]. `cut` is the number of regions added by cutting long ones. A reason may drop bases without dropping
    a region: runs of N that were cut out of it.
    """

    def __init__(self):
        self.read, self.found, self.cut = [0, 0], [0, 0], 0
        self.skipped: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self.dropped: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self.notes: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def record(self, bases: int) -> None:
        """Counts a record that was read."""
        _add(self.read, 1, bases)

    def skip(self, reason: str, bases: int) -> None:
        """Counts a record that was read and skipped."""
        _add(self.skipped[reason], 1, bases)

    def find(self, bases: int) -> None:
        """Counts a region of the annotation, kept or not."""
        _add(self.found, 1, bases)

    def drop(self, reason: str, bases: int, regions: int = 1) -> None:
        """Counts a region that was found and dropped; with `regions` 0, bases dropped from a region that was kept."""
        _add(self.dropped[reason], regions, bases)

    def split(self, count: int) -> None:
        """Counts a region that was cut into `count` regions."""
        self.cut += count - 1

    def note(self, name: str, bases: int = 0, count: int = 1) -> None:
        """Counts something that is neither a record nor a region."""
        _add(self.notes[name], count, bases)

    def add(self, content: dict) -> None:
        """Adds the counts of another ledger, in the form that `content` returns."""
        _add(self.read, **content["records"]["read"])
        _add(self.found, **content["regions"]["found"])
        self.cut += content["regions"]["cut"]
        for mine, theirs in (
            (self.skipped, content["records"]["skipped"]),
            (self.dropped, content["regions"]["dropped"]),
            (self.notes, content["notes"]),
        ):
            for name, row in theirs.items():
                _add(mine[name], **row)

    def content(self) -> dict:
        """The counts as JSON values."""
        return {
            "records": {"read": _row(self.read), "skipped": _rows(self.skipped)},
            "regions": {"found": _row(self.found), "cut": self.cut, "dropped": _rows(self.dropped)},
            "notes": _rows(self.notes),
        }

    def check(self, kept_regions: int, kept_bases: int) -> None:
        """Raises DataError unless found = kept + dropped, in regions and in bases."""
        dropped = [sum(row[i] for row in self.dropped.values()) for i in (0, 1)]
        found = [self.found[0] + self.cut, self.found[1]]
        if found != [kept_regions + dropped[0], kept_bases + dropped[1]]:
            raise DataError(
                f"found {found[0]} regions of {found[1]} bases, but kept {kept_regions} of {kept_bases} and dropped "
                f"{dropped[0]} of {dropped[1]}",
                remedy="this is a bug: please report it",
            )


def _add(row: list[int], count: int, bases: int) -> None:
    row[0] += count
    row[1] += bases


def _row(row: list[int]) -> dict[str, int]:
    return {"count": row[0], "bases": row[1]}


def _rows(rows: dict[str, list[int]]) -> dict[str, dict[str, int]]:
    return {name: _row(rows[name]) for name in sorted(rows)}
