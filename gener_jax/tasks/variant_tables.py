"""What a set of variants with labels or measured effects is, and the reader of its table.

A table has a row for each variant, with its 1-based position as in VCF and its alleles; a row may occur in several
targets: divisions of the rows in two classes, and measured values.
"""

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.data.permutation import permute
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import Variant
from gener_jax.labelled import table
from gener_jax.labelled.table import Table
from gener_jax.tasks.base import Options

MISSING = frozenset(("", "-", ".", "NA", "nan", "None"))  # values of tables that stand for none


@dataclasses.dataclass(frozen=True)
class Classes:
    """A division of rows in two classes.

    Attributes:
      name: "" for a set's main one; else what its metrics are called after, as in `auroc_without_int`.
      columns: that decide; with several a row has a class only where all agree.
      positive: the values of the positive class, the deleterious one; or a number: rows with at most that much.
      negative: the values of the other class; unused if `positive` is a number.
      what: both classes, in words.
    """

    name: str
    columns: tuple[str, ...]
    positive: tuple[str, ...] | float
    negative: tuple[str, ...]
    what: str


@dataclasses.dataclass(frozen=True)
class Values:
    """A measured value.

    Attributes:
      name: as of `Classes`.
      column: of the value.
      sign: 1 if a larger value is more deleterious, -1 if a smaller one is, 0 if its distance from 0 counts.
      what: the value so turned, in words.
    """

    name: str
    column: str
    sign: int
    what: str


@dataclasses.dataclass(frozen=True)
class Score:
    """A column that predicts by itself, as a baseline.

    Attributes:
      column: of the score.
      sign: 1 if a larger one is more deleterious, -1 if a smaller one is.
      targets: the names of those that it may predict; empty: all.
    """

    column: str
    sign: int = 1
    targets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reported:
    """Figures of the published table: rows of a suite, task and metric, and the metric of ours that they stand by."""

    suite: str
    task: str
    metric: str
    as_metric: str


@dataclasses.dataclass(frozen=True)
class VariantSet:
    """What a set is.

    Attributes:
      name: of the task.
      file, genome: the table, and the FASTA of its reference, below the folder of the data.
      source: where both come from, as a command or an address.
      note: what was measured; what a reader must know before comparing.
      classes, values: its targets; the first is the main one.
      columns: contig, position, reference and alternate allele.
      keep: column → its values, or the least number, of the rows of this set.
      groups: columns that results are broken down by.
      macro: name → (column, weighting): means over strata; see `statistics.matched.prepare`.
      metric: the main metric.
      consequence: the column of the consequence; "" if there is none.
      folds: the column (exon, element, chromosome) whose other values a fitted baseline learns from; "" for none.
      regions: whether a fold is a stretch of neighbouring positions, so that the place in it can predict.
      block: bases without a variant that divide two blocks, which the column "block" names; 0: no such column.
      match: the column of match groups, one positive and its controls in each; "" for none.
      scores: name → a column that predicts by itself.
      protocol, context, strand: of the published evaluation; see `LM.score_variants`.
      reported: published figures.
      reported_base: those of base marginals; empty if there are none.
      same_rows: whether a full run has the rows, classes and protocol of those figures.
    """

    name: str
    file: str
    genome: str
    source: str
    note: str
    classes: tuple[Classes, ...] = ()
    values: tuple[Values, ...] = ()
    columns: tuple[str, str, str, str] = ("chrom", "pos_hg38", "ref", "alt")
    keep: Mapping[str, tuple[str, ...] | float] = dataclasses.field(default_factory=dict)
    groups: tuple[str, ...] = ()
    macro: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    metric: str = "auroc"
    consequence: str = ""
    folds: str = ""
    regions: bool = False
    block: int = 0
    match: str = ""
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)
    protocol: str = "window"
    context: int = 8192
    strand: str = "+"
    reported: tuple[Reported, ...] = ()
    reported_base: tuple[Reported, ...] = ()
    same_rows: bool = False

    def files(self, options: Options) -> tuple[Path, Path]:
        """The table and the FASTA.

        Raises:
          NotRun: if one is missing.
        """
        return options.file(self.file, self.source), options.file(self.genome, self.source)

    def read(self, options: Options) -> "Rows":
        """The chosen rows; see `Rows`.

        Raises:
          NotRun: if a file is missing.
          DataError: if one cannot be read, a column is missing, or a position is no number.
        """
        path, fasta = self.files(options)
        found = table.read(path)
        counts = {"rows_in_file": len(found)}
        for column, accepted in self.keep.items():
            if isinstance(accepted, tuple):
                values = found.values(column, "keep")
                found = found.take(i for i, value in enumerate(values) if value in accepted)
            else:
                found = found.take(np.flatnonzero(numbers(found, column) >= accepted).tolist())
        counts["rows_of_set"] = len(found)
        targets = [self.target(found, each) for each in (*self.classes, *self.values)]
        found = found.take(np.flatnonzero(~np.isnan(targets).all(0)).tolist())
        counts["rows_with_target"] = len(found)
        if self.block:  # of all rows, so that a limit of rows divides none
            contigs, positions = found.values(self.columns[0], "columns"), numbers(found, self.columns[1])
            found.columns["block"] = blocks(contigs, positions, self.block)
        found = found.take(self._chosen(found, options))
        return self._rows(found, Genome.read(fasta), counts)

    def _chosen(self, found: Table, options: Options) -> list[int]:
        """Which rows are taken, in the order of the file: whole match groups, if there are any."""
        if options.rows is None or options.rows >= len(found):
            return list(range(len(found)))
        if not self.match:
            return sorted(permute(np.arange(options.rows), len(found), options.seed).tolist())
        groups = np.unique(found.columns[self.match], return_inverse=True)[1]
        number = int(groups.max()) + 1
        order = permute(np.arange(number), number, options.seed)
        some = np.cumsum(np.bincount(groups)[order]) <= options.rows
        return np.flatnonzero(np.isin(groups, order[some])).tolist()

    def _rows(self, found: Table, genome: Genome, counts: dict[str, int]) -> "Rows":
        contigs, positions, refs, alts = (found.values(column, "columns") for column in self.columns)
        variants, problems = [], []
        for row, (contig, position, ref, alt) in enumerate(zip(contigs, positions, refs, alts, strict=True)):
            if not position.isdecimal() or int(position) < 1:
                found.refuse(row, self.columns[1], "is not a position, which is a whole number from 1")
            variant = Variant(contig, int(position) - 1, ref.upper(), "" if alt == "-" else alt.upper())
            variant, problem = placed(variant, genome)
            variants.append(variant)
            problems.append(problem)
        counts["reference_mismatches"] = sum(problem == MISMATCH for problem in problems)
        return Rows(tuple(variants), tuple(problems), found, genome, counts)

    @staticmethod
    def target(found: Table, of: Classes | Values) -> np.ndarray:
        """Classes as 1 and 0, or values as numbers that grow with the harm, float64 [rows]; NaN where a row has none.

        Raises:
          FormatError: there is no such column, or a value is not a number.
        """
        if isinstance(of, Values):
            value = numbers(found, of.column)
            return value * of.sign if of.sign else np.abs(value)
        each = []
        for column in of.columns:
            if isinstance(of.positive, tuple):
                values = np.array(found.values(column, "classes"))
                is_positive, is_negative = np.isin(values, of.positive), np.isin(values, of.negative)
            else:
                value = numbers(found, column)
                is_positive, is_negative = value <= of.positive, value > of.positive
            each.append(np.where(is_positive, 1.0, np.where(is_negative, 0.0, np.nan)))
        return np.where(np.ptp(each, axis=0) == 0, each[0], np.nan)


MISMATCH = "the reference allele is not that of the genome"
OUTSIDE = "the position is outside the reference sequences"


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a set.

    Attributes:
      variants: of each row; 0-based.
      problems: why a row cannot be scored, one of MISMATCH and OUTSIDE; "" if nothing is wrong.
      table: all their columns as text.
      genome: the reference.
      counts: the rows in the file, of the set, with a target, and those whose reference allele is not the genome's.
    """

    variants: tuple[Variant, ...]
    problems: tuple[str, ...]
    table: Table
    genome: Genome
    counts: dict[str, int]


def numbers(found: Table, column: str) -> np.ndarray:
    """A column as numbers, float64 [rows]; NaN where there is none.

    Raises:
      FormatError: there is no such column, or a value is neither a number nor one of `MISSING`.
    """
    made = np.full(len(found), np.nan)
    for row, value in enumerate(found.values(column, "column")):
        if value.strip() not in MISSING:
            try:
                made[row] = float(value)
            except ValueError:
                found.refuse(row, column, "is not a number")
    return made


def blocks(contigs: list[str], positions: np.ndarray, gap: int) -> list[str]:
    """The block of each variant, by its first position: in a block, neighbours are at most `gap` bases apart."""
    order, names = np.lexsort((positions, contigs)), [""] * len(contigs)
    last, first = None, ""
    for row in order.tolist():
        contig, position = contigs[row], positions[row]
        if last is None or contig != last[0] or position - last[1] > gap:
            first = f"{contig}:{position:.0f}"
        names[row], last = first, (contig, position)
    return names


def placed(variant: Variant, genome: Genome) -> tuple[Variant, str]:
    """A variant with a sequence in both alleles, and what is wrong with it ("": nothing).

    A deletion without an alternate allele gets the base before it in both, as in VCF; at the first base of a sequence
    the base after it.
    """
    contig = genome.contig(variant.contig)
    where = None if contig is None else genome.stretch(variant.interval._replace(contig=contig))
    if where is None:
        return variant, OUTSIDE
    at = variant.start - where.start
    if bases.decode(where.codes[at : at + len(variant.ref)]) != variant.ref:
        return variant, MISMATCH
    if variant.alt:
        return variant, ""
    if at:
        before = bases.decode(where.codes[at - 1 : at])
        return Variant(variant.contig, variant.start - 1, before + variant.ref, before), ""
    end = at + len(variant.ref)
    after = bases.decode(where.codes[end : end + 1])
    return Variant(variant.contig, variant.start, variant.ref + after, after), "" if after else OUTSIDE


def reasons(flags: list[str]) -> dict[str, int]:
    """How many rows have no score for each reason, the most frequent first."""
    return dict(collections.Counter(filter(None, flags)).most_common())
