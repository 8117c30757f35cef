"""Intervals of contigs: 0-based and half-open here, 1-based and closed in their text (`chr1:101-200`)."""

import re
from typing import NamedTuple

from data_pipeline.ranges import Whole

POSITION = Whole(-(2**62), 2**62)  # in bases, wrong ones before a contig's first included

DIGITS = r"\d{1,12}|\d{1,3}(?:,\d{3}){1,3}"  # of a position, also with a comma between thousands
_TEXT = re.compile(rf"(?P<contig>.+):(?P<first>{DIGITS})-(?P<last>{DIGITS})(?:\((?P<strand>[+-])\))?")


def position(digits: str) -> int:
    """The number of a text that matches DIGITS."""
    return int(digits.replace(",", ""))


class Interval(NamedTuple):
    """The bases from `start` up to `end`, excluding it, of a contig, read on a strand."""

    contig: str
    start: int
    end: int
    strand: str = "+"

    @classmethod
    def parse(cls, text: str) -> "Interval | None":
        """The interval of a text as samtools writes it, with `(-)` for the minus strand; None for any other text.

        Thousands may be separated by commas.
        """
        found = _TEXT.fullmatch(text)
        if found is None or position(found["first"]) < 1:
            return None
        return cls(found["contig"], position(found["first"]) - 1, position(found["last"]), found["strand"] or "+")

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}-{self.end}" + ("(-)" if self.strand == "-" else "")
