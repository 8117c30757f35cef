"""A variant, its alleles on a strand of the genome, and its score."""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from gener_jax.inference.variants.interval import DIGITS, Interval, position
from gener_jax.runtime.errors import InputError

_TEXT = re.compile(rf"(?P<contig>.+)([:-])(?P<position>{DIGITS})\2(?P<ref>[A-Za-z]+)\2(?P<alt>[A-Za-z]+)")
_HGVS = re.compile(rf"(?P<contig>.+):g\.(?P<position>{DIGITS})(?P<ref>[ACGT])>(?P<alt>[ACGT])")
_REDIRECTED = re.compile(rf".+:g\.(?:{DIGITS})[ACGT]")  # what a shell leaves of an HGVS name without quotes


class Variant(NamedTuple):
    """One alternate allele; `start` is the 0-based position of the first base of `ref`."""

    contig: str
    start: int
    ref: str
    alt: str

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """The variant of `CONTIG:POSITION:REF:ALT`, 1-based as in VCF, or of HGVS `CONTIG:g.POSITIONREF>ALT`.

        `chr17:43045705:T:A`, gnomAD's `17-43045705-T-A` and `NC_000017.11:g.43045705T>A` are the same one; thousands
        may be separated by commas. Insertions and deletions are written as in VCF, with the base before them: HGVS
        describes them relative to the reference sequence.

        Raises:
          InputError: if the text is neither, or the position is 0.
        """
        found = _TEXT.fullmatch(text) or _HGVS.fullmatch(text)
        if found is None and _REDIRECTED.fullmatch(text):
            raise InputError(
                "ends at the reference base; quote it: the shell took the > and what follows", "variant", text
            )
        if found is None:
            raise InputError(
                "must be CONTIG:POSITION:REF:ALT, 1-based as in VCF (chr17:43045705:T:A, 17-43045705-T-A), or a "
                "substitution of HGVS, in quotes in a shell ('NC_000017.11:g.43045705T>A')", "variant", text,
            )  # fmt: skip
        if position(found["position"]) < 1:
            raise InputError("its position is 0; positions start at 1", "variant", text)
        return cls(found["contig"], position(found["position"]) - 1, found["ref"].upper(), found["alt"].upper())

    @classmethod
    def of(cls, value: "str | tuple[str, int, str, str]") -> "Variant":
        """The variant of a text (see `parse`), or of its four fields."""
        if isinstance(value, str):
            return cls.parse(value)
        try:
            return cls(*value)
        except TypeError:
            raise InputError("must be (contig, start, ref, alt) or a text", "variant", value) from None

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}:{self.ref}:{self.alt}"

    @property
    def interval(self) -> Interval:
        """The bases of the reference allele."""
        return Interval(self.contig, self.start, self.start + len(self.ref))


class Site(NamedTuple):
    """The alleles of a variant and the bases before and after them on the scored strand, as codes uint8 [bases]."""

    before: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    after: np.ndarray


class Ratios(NamedTuple):
    """What a protocol computes of a site.

    Attributes:
      protocol: as in `Scored`.
      phases: (llr, log_p_ref, log_p_alt) per phase, float64 [phases, 3].
      flag: empty, or one line with the reason why there are no phases.
    """

    protocol: str
    phases: np.ndarray
    flag: str = ""


@dataclasses.dataclass(frozen=True)
class Scored:
    """The score of a variant, or the reason why it has none; `pandas.DataFrame` makes a table of several.

    Attributes:
      protocol: how it was scored: "next_kmer", "next_kmer_sequence" (exact likelihoods of more than one k-mer),
        "window", "equal_window" (an insertion or deletion, by windows of the same length), or "window_base" (mean
        log-marginals per base).
      llr: the log-likelihood ratio, reference minus alternate: positive if the model prefers the reference allele. In
        nats (windows: per k-mer; "window_base": per base); the mean over strands and phases.
      spread: the standard deviation of `llr` over phases; None if there is only one.
      log_p_ref, log_p_alt: the log-probabilities in nats that are compared, also means over strands and phases: of the
        allele after the context ("next_kmer", "next_kmer_sequence"), or of the window with it ("window_base": per
        base).
      flag: empty, or one line with the reason why there is no score.
    """

    protocol: str
    llr: float = float("nan")
    spread: float | None = None
    log_p_ref: float = float("nan")
    log_p_alt: float = float("nan")
    flag: str = ""
