"""Ranges of numbers: what an argument, a flag or a field accepts.

Numbers of Python and NumPy are accepted, but not truth values, text or what is not finite.
"""

import argparse
import dataclasses
import math
import numbers

from data_pipeline.errors import one_line

LARGEST = 2**31 - 1  # of whole numbers, unless a range says otherwise: devices count in int32


@dataclasses.dataclass(frozen=True)
class Whole:
    """The whole numbers from `least` to `most`; argparse takes it as the `type` of an option."""

    least: int = 0
    most: int = LARGEST

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def __contains__(self, value) -> bool:
        return isinstance(value, numbers.Integral) and type(value) is not bool and self.least <= value <= self.most

    def __call__(self, text: str) -> int:
        """The number of a flag's text; raises argparse.ArgumentTypeError if it is none, or out of range."""
        return _parsed(self, int, text)


@dataclasses.dataclass(frozen=True)
class Real:
    """The finite numbers from `least` or above `above`, up to `most` or below `below`; an option's `type` too."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        named = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in named if bound is not None)
        return f"a finite number {bounds}".rstrip()

    def __contains__(self, value) -> bool:
        if not isinstance(value, numbers.Real) or type(value) is bool:
            return False
        try:
            number = float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return False
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __call__(self, text: str) -> float:
        """The number of a flag's text; raises argparse.ArgumentTypeError if it is none, or out of range."""
        return _parsed(self, float, text)


def _parsed(accepted: Whole | Real, type_: type, text: str):
    try:
        value = type_(text)
    except ValueError:
        value = None
    if value not in accepted:
        raise argparse.ArgumentTypeError(f"is {one_line(repr(text))}: must be {accepted}")  # after the flag's name
    return value
