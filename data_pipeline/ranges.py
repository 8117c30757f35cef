"""Ranges of numbers: what an argument, a flag or a field accepts.

Numbers of Python and NumPy are accepted, but not truth values, text or what is not finite. A range is also the `type`
of an argparse option.
"""

import argparse
import dataclasses
import numbers
from typing import ClassVar

import numpy as np

from data_pipeline.errors import ArgumentError, one_line

LARGEST = 2**31 - 1  # of whole numbers, unless a range says otherwise: devices count in int32
_SMALLEST, _HIGHEST = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)


class Range:
    """What both kinds of range do; `value in range` says whether a value is accepted."""

    type: ClassVar[type]

    def __call__(self, text: str):
        """The number of a flag's text.

        Raises:
          argparse.ArgumentTypeError: if it is none, or out of range.
        """
        try:
            value = self.type(text)
        except ValueError:
            value = None
        if value not in self:
            raise argparse.ArgumentTypeError(f"must be {self}, not {one_line(repr(text))}")
        return value

    def check(self, value, field: str):
        """The value as a number of Python.

        Raises:
          ArgumentError: of `field`, if it is not accepted.
        """
        if value not in self:
            raise ArgumentError(f"must be {self}", field=field, value=value)
        return self.type(value)


@dataclasses.dataclass(frozen=True)
class Whole(Range):
    """The whole numbers from `least` to `most`."""

    least: int = 0
    most: int = LARGEST
    type = int

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def __contains__(self, value) -> bool:
        return isinstance(value, numbers.Integral) and type(value) is not bool and self.least <= value <= self.most


@dataclasses.dataclass(frozen=True)
class Real(Range):
    """The numbers from `least` or above `above`, up to `most` or below `below`; with `zero`, also 0.

    Programs compute in float32, so a number that is infinite there, or 0 though it is not 0, is not accepted; nor is
    one that is rounded to the bounds `above` and `below`.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    zero: bool = False
    type = float

    def __str__(self) -> str:
        named = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in named if bound is not None)
        if self.least is not None and self.most is not None:
            bounds = f"from {self.least:g} to {self.most:g}"
        kind = "a float32 number" if self.most is not None or self.below is not None else "a finite float32 number"
        return ("0, or " if self.zero else "") + f"{kind} {bounds}".rstrip()

    def __contains__(self, value) -> bool:
        if not isinstance(value, numbers.Real) or type(value) is bool:
            return False
        if not (value == 0 or _SMALLEST <= abs(value) <= _HIGHEST):
            return False
        rounded = np.float32(value)
        return (self.zero and value == 0) or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or rounded > self.above)
            and (self.below is None or rounded < self.below)
        )


SEED = Whole(0, 2**32 - 1)  # of random streams, uint32
