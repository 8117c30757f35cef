"""Scores of a region of a genome: of each base as it is, and of each base replaced by the three others.

A base is scored given the bases before it (on the minus strand, those after it): `context` bases before the region, and
the region's own. A region that is longer than the model's positions allow is scored in windows, each after as many
bases.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.config import ModelSpec
from gener_jax.inference.batches import tokens_per_batch
from gener_jax.inference.likelihood import STRANDS, base_probabilities, kmer_size
from gener_jax.inference.prompt import Prompt
from gener_jax.inference.variants.genome import Genome, Stretch
from gener_jax.inference.variants.interval import POSITION, Interval
from gener_jax.inference.variants.scoring import CONTEXT, Scorer
from gener_jax.inference.variants.variant import Variant
from gener_jax.plotting import region as plots
from gener_jax.runtime.errors import InputError, whole

LETTERS = "ACGT"  # the order of columns


class Base(NamedTuple):
    """A row of `RegionScores`; `pos` is 1-based, `A` to `T` are probabilities."""

    contig: str
    pos: int
    ref: str
    log_p: float
    A: float
    C: float
    G: float
    T: float


class Substitution(NamedTuple):
    """A row of `Saturation`; `pos` is 1-based."""

    contig: str
    pos: int
    ref: str
    alt: str
    llr: float
    spread: float


@dataclasses.dataclass(frozen=True)
class RegionScores:
    """The probabilities of the bases of a region; `pandas.DataFrame(scores.rows())` is a table of them.

    Attributes:
      interval: the region, its contig named as it was given.
      reference: its bases on the + strand.
      probabilities: of A, C, G and T at each base of the + strand, float32 [bases, 4]; NaN at unknown bases.
    """

    interval: Interval
    reference: str
    probabilities: np.ndarray

    def logo(self):
        """A matplotlib figure of them as a sequence logo; see `plotting.region.logo`. Needs logomaker."""
        return plots.logo(self.probabilities, self.reference, *self.interval[:2])

    @property
    def log_p(self) -> np.ndarray:
        """The log-probability of each base of the reference, in nats, float32 [bases]; NaN at unknown bases."""
        columns = [LETTERS.find(letter) for letter in self.reference]
        with np.errstate(divide="ignore"):
            return np.log(self.probabilities[np.arange(len(columns)), columns])

    def rows(self) -> Iterator[Base]:
        """Yields a row per base."""
        for i, (ref, log_p, each) in enumerate(zip(self.reference, self.log_p, self.probabilities, strict=True)):
            yield Base(self.interval.contig, self.interval.start + i + 1, ref, float(log_p), *map(float, each))


@dataclasses.dataclass(frozen=True)
class Saturation:
    """The scores of all substitutions in a region; `pandas.DataFrame(saturation.rows())` is a table of them.

    Attributes:
      interval: the region, its contig named as it was given.
      reference: its bases on the + strand.
      protocol: how they were scored; see `Scored`.
      llr: the log-likelihood ratio of replacing each base by A, C, G and T, float64 [bases, 4], reference minus
        alternate: positive if the model prefers the reference; in the protocol's unit. 0 for the reference itself, NaN
        where it could not be scored.
      spread: the standard deviation of each over phases, float64 [bases, 4]; NaN if there is only one, or no score.
    """

    interval: Interval
    reference: str
    protocol: str
    llr: np.ndarray
    spread: np.ndarray

    @property
    def unit(self) -> str:
        """Of `llr`: "nats", "nats per k-mer" or "nats per base"."""
        return {"window": "nats per k-mer", "window_base": "nats per base"}.get(self.protocol, "nats")

    def plot(self):
        """A matplotlib figure of them as a heat map; see `plotting.region.heat_map`."""
        return plots.heat_map(self.llr, self.reference, *self.interval[:2], self.unit)

    def rows(self) -> Iterator[Substitution]:
        """Yields three rows per known base."""
        for i, ref in enumerate(self.reference):
            for alt, llr, spread in zip(LETTERS, self.llr[i], self.spread[i], strict=True):
                if ref in LETTERS and alt != ref:
                    at = self.interval.start + i + 1
                    yield Substitution(self.interval.contig, at, ref, alt, float(llr), float(spread))


def find(genome: Genome, interval: str | Interval) -> tuple[Interval, Stretch]:
    """The interval that a text names, its contig as it was written, and the stretch of the genome that contains it.

    Raises:
      InputError: if it is no interval such as chr1:101-200, is empty, or is not in the genome.
    """
    where = Interval.parse(interval) if isinstance(interval, str) else interval
    if not isinstance(where, Interval) or where.start not in POSITION or where.end not in POSITION:
        raise InputError("must be an interval such as chr1:101-200; positions start at 1", "region", interval)
    if where.strand != "+":
        raise InputError(
            "must be written without (-), as on the + strand; the option strand chooses what is scored",
            "region",
            interval,
        )
    contig = genome.contig(where.contig)
    if contig is None:
        raise InputError(genome.missing(where.contig), "region", interval)
    if not 0 <= where.start < where.end:
        raise InputError("its end must not be before its start", "region", interval)
    stretch = genome.stretch(where._replace(contig=contig))
    if stretch is None:
        held = " and ".join(f"{s.start + 1} to {s.end}" for s in genome.stretches[contig][:3])
        raise InputError(f"is outside the bases of {contig} in the FASTA, which has {held}", "region", interval)
    return where, stretch


def default_context(spec: ModelSpec) -> int:
    """The default context of a region for a model with a k-mer tokenizer, in bases; windows are as long."""
    k, longest = spec.tokenizer.k, spec.model.max_length
    return (CONTEXT if longest is None else min(CONTEXT, longest // 2 * k)) // k * k


class RegionScorer:
    """Scores the bases of regions.

    Attributes:
      context: bases before each window, whole k-mers.
      stride: bases per window, whole k-mers; parts of a region that begin at a multiple of it from the region's start
        have the scores of the whole.
    """

    def __init__(
        self,
        lm,
        *,
        given: str = "bases",
        phases: int = 1,
        strand: str = "+",
        context: int | None = None,
        batch_tokens: int | None = None,
    ):
        """See `LM.score_region` for the options; raises InputError for an invalid one."""
        k, longest = kmer_size(lm, "score_region"), lm.spec.model.max_length
        if strand not in STRANDS:
            raise InputError(f"must be one of {', '.join(STRANDS)}", "strand", strand)
        self.context = default_context(lm.spec) if context is None else whole(context, "context", k) // k * k
        lm.check_length(self.context // k + 1, "context", context)
        self.stride = self.context if longest is None else min(self.context, longest * k - self.context)
        self._lm, self._strands = lm, STRANDS[:2] if strand == "both" else (strand,)
        self._options = {"given": given, "phases": phases, "batch_tokens": tokens_per_batch(batch_tokens)}
        base_probabilities(lm, [], **self._options)  # raises for an invalid one

    def __call__(self, interval: str | Interval, genome: Genome) -> RegionScores:
        """The scores of a region.

        Raises:
          InputError: of `region`, if it is not in the genome.
        """
        where, stretch = find(genome, interval)
        windows = [(s, min(s + self.stride, where.end)) for s in range(where.start, where.end, self.stride)]
        prompts, sizes = [], []
        for strand in self._strands:
            for start, end in windows:
                codes, number = self._window(stretch, start - stretch.start, end - stretch.start, strand)
                prompts.append(Prompt(np.zeros(0, np.int32), codes))
                sizes.append(number)
        found = base_probabilities(self._lm, prompts, **self._options)
        ours = [p[len(p) - n :] for p, n in zip(found, sizes, strict=True)]
        by_strand = []
        for strand in self._strands:
            chosen, ours = ours[: len(windows)], ours[len(windows) :]
            by_strand.append(np.concatenate([p[::-1, ::-1] if strand == "-" else p for p in chosen]))
        codes = stretch.codes[where.start - stretch.start : where.end - stretch.start]
        probabilities = np.where((codes < bases.N)[:, None], np.mean(by_strand, axis=0), np.float32(np.nan))
        return RegionScores(where, bases.decode(codes), probabilities)

    def _window(self, stretch: Stretch, start: int, end: int, strand: str) -> tuple[np.ndarray, int]:
        """The context and the bases of a window on a strand, codes uint8, and the number of the latter.

        The context has no N at its beginning and is cut there to whole k-mers, so that the window begins with one.
        """
        if strand == "+":
            codes, before = stretch.codes[max(start - self.context, 0) : end], min(start, self.context)
        else:
            codes = bases.reverse_complement(stretch.codes[start : end + self.context])
            before = len(codes) - (end - start)
        known = np.flatnonzero(codes[:before] < bases.N)
        first = known[0] if len(known) else before
        first += (before - first) % self._lm.tokenizer.k
        return codes[first:], end - start


def saturate(scorer: Scorer, interval: str | Interval, genome: Genome) -> Saturation:
    """All substitutions of a region, in one stream of batches.

    Raises:
      InputError: of `region`, if it is not in the genome.
    """
    where, stretch = find(genome, interval)
    reference = bases.decode(stretch.codes[where.start - stretch.start : where.end - stretch.start])
    at = [(i, j) for i, ref in enumerate(reference) if ref in LETTERS for j in range(4) if LETTERS[j] != ref]
    variants = (Variant(where.contig, where.start + i, reference[i], LETTERS[j]) for i, j in at)
    llr, spread, protocol = np.full((len(reference), 4), np.nan), np.full((len(reference), 4), np.nan), ""
    for i, ref in enumerate(reference):
        llr[i, [letter == ref for letter in LETTERS]] = 0
    for (i, j), score in zip(at, scorer(variants, genome), strict=True):
        llr[i, j], protocol = score.llr, score.protocol or protocol
        spread[i, j] = np.nan if score.spread is None else score.spread
    return Saturation(where, reference, protocol, llr, spread)
