"""The account of a build: every region and every base that was found is kept, or dropped for a named reason."""

import collections

from data_pipeline.errors import DataError

NO_SEQUENCE = "records without sequence"
DUPLICATE_RECORD = "duplicate records"
ELSEWHERE = "segments on other records"
DUPLICATE = "duplicate locations"
MALFORMED = "malformed locations"


class Ledger:
    """Counts of records, regions and bases, which add up: read = used + skipped, found + cut = kept + dropped.

    `records` counts the records read and those skipped by reason; `dropped` the regions left out by reason; `notes`
    what is worth knowing and no region (parts on other records, translations by their outcome). Each value is
    [count, bases]; `cut` is how many more regions there are because long ones were cut. A reason may drop bases and no
    region: N that were cut out of one.
    """

    def __init__(self):
        self.read, self.found, self.cut = [0, 0], [0, 0], 0
        self.skipped: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self.dropped: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self.notes: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def record(self, bases: int) -> None:
        """Counts a record that was read."""
        self.read[0] += 1
        self.read[1] += bases

    def skip(self, reason: str, bases: int) -> None:
        """Counts a record that was read and left out whole."""
        _add(self.skipped[reason], 1, bases)

    def find(self, bases: int) -> None:
        """Counts a region that the annotation holds, kept or not."""
        _add(self.found, 1, bases)

    def drop(self, reason: str, bases: int, regions: int = 1) -> None:
        """Counts a region that was found and left out; or, with `regions` 0, bases of one that was kept."""
        _add(self.dropped[reason], regions, bases)

    def split(self, pieces: int) -> None:
        """Counts a region that became `pieces` regions."""
        self.cut += pieces - 1

    def note(self, name: str, bases: int = 0, count: int = 1) -> None:
        """Counts something that is neither a record nor a region."""
        _add(self.notes[name], count, bases)

    def add(self, content: dict) -> None:
        """Adds another ledger, as `content` gives it."""
        _add(self.read, *_pair(content["records"]["read"]))
        _add(self.found, *_pair(content["regions"]["found"]))
        self.cut += content["regions"]["cut"]
        for mine, theirs in (
            (self.skipped, content["records"]["skipped"]),
            (self.dropped, content["regions"]["dropped"]),
            (self.notes, content["notes"]),
        ):
            for name, row in theirs.items():
                _add(mine[name], *_pair(row))

    def content(self) -> dict:
        """The counts as plain values for JSON."""
        return {
            "records": {"read": _row(self.read), "skipped": _rows(self.skipped)},
            "regions": {"found": _row(self.found), "cut": self.cut, "dropped": _rows(self.dropped)},
            "notes": _rows(self.notes),
        }

    def check(self, kept_regions: int, kept_bases: int) -> None:
        """Raises DataError unless what was found is what was kept and dropped, in regions and in bases."""
        dropped = [sum(row[i] for row in self.dropped.values()) for i in (0, 1)]
        found = [self.found[0] + self.cut, self.found[1]]
        if found != [kept_regions + dropped[0], kept_bases + dropped[1]]:
            raise DataError(
                f"found {found[0]} regions of {found[1]} bases, but kept {kept_regions} of {kept_bases} and dropped "
                f"{dropped[0]} of {dropped[1]}: a fault of this program, report it"
            )


def _add(row: list[int], count: int, bases: int) -> None:
    row[0] += count
    row[1] += bases


def _row(row: list[int]) -> dict[str, int]:
    return {"count": row[0], "bases": row[1]}


def _rows(rows: dict[str, list[int]]) -> dict[str, dict[str, int]]:
    return {name: _row(rows[name]) for name in sorted(rows)}


def _pair(row: dict[str, int]) -> tuple[int, int]:
    return row["count"], row["bases"]
