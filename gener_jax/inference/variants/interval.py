"""Intervals of contigs: 0-based and half-open here, 1-based and closed in their text (`chr1:101-200`)."""

import re
from typing import NamedTuple

from data_pipeline.ranges import Whole

POSITION = Whole(-(2**62), 2**62)  # in bases, wrong ones before a contig's first included

_TEXT = re.compile(r"(?P<contig>.+):(?P<first>[1-9]\d{0,11})-(?P<last>\d{1,12})(?:\((?P<strand>[+-])\))?")


class Interval(NamedTuple):
    """The bases from `start` up to `end`, excluding it, of a contig, read on a strand."""

    contig: str
    start: int
    end: int
    strand: str = "+"

    @classmethod
    def parse(cls, text: str) -> "Interval | None":
        """The interval of a text as samtools writes it, with `(-)` for the minus strand; None for any other text."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        return cls(found["contig"], int(found["first"]) - 1, int(found["last"]), found["strand"] or "+")

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}-{self.end}" + ("(-)" if self.strand == "-" else "")
