"""A variant, its alleles on a strand of the genome, and its score."""

import dataclasses
from typing import NamedTuple

import numpy as np

from gener_jax.inference.variants.interval import Interval


class Variant(NamedTuple):
    """One alternate allele; `start` is the 0-based position of the first base of `ref`."""

    contig: str
    start: int
    ref: str
    alt: str

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
        "window", or "window_base" (mean log-marginals per base).
      llr: the log-likelihood ratio, reference minus alternate: positive if the model prefers the reference allele. In
        nats ("window": per k-mer, "window_base": per base); the mean over strands and phases.
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
