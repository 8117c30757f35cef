"""Sets of variants with labels or measured effects, as data, and the reader of their tables.

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
_GENOME = "human/GRCh38.fa"
_HUMAN = (
    f"FOLDER/{_GENOME}: curl -L https://ftp.ensembl.org/pub/release-107/fasta/homo_sapiens/dna/"
    f"Homo_sapiens.GRCh38.dna_sm.primary_assembly.fa.gz | gunzip > FOLDER/{_GENOME} && "
    f"samtools faidx FOLDER/{_GENOME}"
)
_HUB = "https://huggingface.co/datasets"


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


_SHARED = "the shared data of this project, whose SOURCES.md names repository, commit and checksum"
_TRUE, _FALSE = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")
_BRCA1_CLASSES = (
    Classes(
        "", ("func.class",), ("LOF",), ("FUNC", "INT"),
        "loss of function (positive) against functional and intermediate",
    ),
    Classes(
        "without_int", ("func.class",), ("LOF",), ("FUNC",),
        "loss of function (positive) against functional, without intermediate",
    ),
)  # fmt: skip
BRCA1 = VariantSet(
    name="brca1",
    file="variants/brca1_sge.tsv.gz",
    genome="variants/human_NC_000017.11_42425000-43600000.fa.gz",
    source=_SHARED,
    note=(
        "BRCA1 saturation genome editing (Findlay et al. 2018, hg38): single-base changes in 13 exons, by survival of "
        "cells that need the gene. 2,989 of the 3,893 published variants, so not the rows of the published figures."
    ),
    classes=_BRCA1_CLASSES,
    values=(Values("", "function.score.mean", -1, "loss of function (minus the function score)"),),
    columns=("chromosome", "pos_hg38", "reference", "alt"),
    groups=("consequence", "experiment"),
    consequence="consequence",
    folds="experiment",
    regions=True,
    scores={"CADD": Score("CADD.score"), "phyloP": Score("phyloP (mammalian)")},
    reported=(Reported("brca1", "all", "auroc", "auroc"),),
)
BRCA1_CLINVAR = dataclasses.replace(
    BRCA1,
    name="brca1_clinvar",
    note=(
        "The ClinVar classes of the BRCA1 table, by GENERator's ClinVar protocol (next k-mer). One gene and a few "
        "hundred rows: the published ClinVar figures are of tens of thousands in all genes and do not compare."
    ),
    classes=(
        Classes(
            "", ("clinvar_simple",), ("Pathogenic", "Likely pathogenic"), ("Benign", "Likely benign"),
            "(likely) pathogenic (positive) against (likely) benign",
        ),
    ),
    values=(),
    protocol="next_kmer",
    reported=(
        Reported("clinvar", "clinvar_overall", "auroc", "auroc"),
        Reported("clinvar", "clinvar_overall", "auprc", "auprc_trapezoid"),
    ),
)  # fmt: skip
_BRCA2_GENOME = "variants/human_chr13_BRCA2_hg38_32310480-32401672.fa.gz"
BRCA2_SGE = VariantSet(
    name="brca2_sge",
    file="variants/brca2_sge_mayo_nci.tsv.gz",
    genome=_BRCA2_GENOME,
    source=_SHARED,
    note=(
        "BRCA2 exons 15-26 saturation genome editing by two laboratories (Huang et al., Sahu et al. 2025, hg38). Their "
        "published classes are not public in a repository: scores derived from the read counts stand in, scaled to "
        "synonymous 0 and stop gained -1, and half way is the limit of the classes. The laboratories agree at Spearman "
        "0.36 only, which the baseline other_laboratory shows: no model can be seen to be much better. Carbon's BRCA2 "
        "figures are of 6,836 SNVs with the published classes and do not compare."
    ),
    classes=(
        Classes(
            "", ("mayo_score_derived",), -0.5, (), "Mayo score at most -0.5 (positive) against above",
        ),
        Classes(
            "nci", ("nci_score_derived",), -0.5, (), "NCI score at most -0.5 (positive) against above",
        ),
        Classes(
            "both", ("mayo_score_derived", "nci_score_derived"), -0.5, (),
            "both scores at most -0.5 (positive) against both above",
        ),
        Classes(
            "clinvar", ("clinvar_pb_mayo",), ("P",), ("B",), "ClinVar pathogenic (positive) against benign",
        ),
    ),
    values=(
        Values("mayo", "mayo_score_derived", -1, "loss of function by the Mayo screen"),
        Values("nci", "nci_score_derived", -1, "loss of function by the NCI screen"),
    ),
    groups=("consequence", "exon"),
    consequence="consequence",
    folds="exon",
    regions=True,
    scores={
        "other_laboratory": Score("nci_score_derived", -1, ("", "mayo")),
        "other_laboratory_mayo": Score("mayo_score_derived", -1, ("nci",)),
    },
    reported=(Reported("carbon_suite", "brca2_auroc", "percent", "auroc"),),
)  # fmt: skip
BRCA2_CLINVAR = VariantSet(
    name="brca2_clinvar",
    file="variants/brca2_clinvar_hg38.tsv.gz",
    genome=_BRCA2_GENOME,
    source=_SHARED,
    note=(
        "Single-base changes of BRCA2 with ClinVar labels (hg38). Most pathogenic ones stop the protein or change a "
        "splice site. The consequences are gnomAD's and are empty for variants that gnomAD has not seen, which alone "
        "predicts much. No published figure is of these rows."
    ),
    classes=(Classes("", ("label_PB",), ("P",), ("B",), "(likely) pathogenic (positive) against (likely) benign"),),
    keep={"kind": ("SNV",)},
    groups=("consequence_gnomad", "review_status"),
    consequence="consequence_gnomad",
    folds="block",
    block=500,  # divides exons; windows of the probe on both sides of a border share about half of their bases at most
)
BARD1 = VariantSet(
    name="bard1",
    file="variants/bard1_sge.tsv.gz",
    genome="variants/bard1_sge_windows_hg38.fa.gz",
    source=_SHARED,
    note=(
        "BARD1 saturation genome editing (hg38): single-base changes in 11 exons. The reference is only the edited "
        "stretches of 56 to 548 bases without what surrounds them, and a variant's window is its whole stretch: much "
        "less context than a model uses elsewhere, so compare with no figure of a full genome."
    ),
    classes=(
        Classes(
            "", ("functional_consequence",), ("functionally_abnormal",), ("functionally_normal", "indeterminate"),
            "functionally abnormal (positive) against normal and indeterminate",
        ),
        Classes(
            "without_indeterminate", ("functional_consequence",), ("functionally_abnormal",), ("functionally_normal",),
            "functionally abnormal (positive) against normal",
        ),
        Classes("clinvar", ("label_PB",), ("P",), ("B",), "ClinVar pathogenic (positive) against benign"),
    ),
    values=(Values("", "score", -1, "loss of function (minus the function score)"),),
    keep={"var_type": ("snv",)},
    groups=("consequence", "exon"),
    consequence="consequence",
    folds="exon",
    regions=True,
    scores={
        "CADD": Score("cadd_score"),
        "phyloP": Score("phyloP"),
        "SpliceAI": Score("max_SpliceAI"),
        "AlphaMissense": Score("am_score"),
        "REVEL": Score("revel_score"),
    },
    context=1200,  # twice the longest stretch: a window is always a whole stretch
)  # fmt: skip
MPRA = VariantSet(
    name="mpra",
    file="variants/satmut_mpra_kircher2019.tsv.gz",
    genome="variants/satmut_mpra_elements_hg38.fa.gz",
    source=_SHARED,
    note=(
        "Saturation mutagenesis of 21 promoters and enhancers in 29 reporter assays (Kircher et al. 2019, hg38): "
        "single-base changes with at least 10 barcodes. The reference is the elements alone, 187 to 601 bases, and a "
        "window is a whole element. A score against an effect of either sign (absolute) is the usual question to a "
        "language model; loss of activity is the other. Replicates correlate at 0.67 to 0.94. The CAGI5 split is in "
        "the breakdown; the challenge's figures are of trained models and do not compare."
    ),
    classes=(Classes("", ("p_value",), 1e-5, (), "an effect with p at most 1e-5 (positive) against any other"),),
    values=(
        Values("absolute", "log2_effect", 0, "the size of the log2 effect"),
        Values("loss", "log2_effect", -1, "loss of activity (minus the log2 effect)"),
    ),
    keep={"barcodes": 10.0, "alt": ("A", "C", "G", "T")},
    groups=("element", "cagi5_set"),
    macro={"element": ("element", "equal")},
    metric="spearman_absolute_by_element",
    folds="element",
    regions=True,
    context=1200,
)
MPRA_DELETIONS = dataclasses.replace(
    MPRA,
    name="mpra_deletions",
    note=MPRA.note.replace("single-base changes", "deletions of one base"),
    keep={"barcodes": 10.0, "alt": ("-",)},
    groups=("element",),
)
TRAITGYM_MENDELIAN = VariantSet(
    name="traitgym_mendelian",
    file="variants/traitgym_mendelian_traits_matched_9.parquet",
    genome=_GENOME,
    source=(
        f"curl -L {_HUB}/songlab/TraitGym/resolve/main/mendelian_traits_matched_9/test.parquet "
        "-o FOLDER/variants/traitgym_mendelian_traits_matched_9.parquet "
        f"(columns chrom, pos, ref, alt, label, consequence, match_group; 3,380 rows); {_HUMAN}"
    ),
    note=(
        "TraitGym: causal variants of Mendelian traits outside of coding sequence (positive), each with nine matched "
        "controls. The main metric is the average precision by chromosome, weighted by rows, from the mean of both "
        "strands."
    ),
    classes=(Classes("", ("label",), _TRUE, _FALSE, "causal (positive) against nine matched controls each"),),
    columns=("chrom", "pos", "ref", "alt"),
    groups=("consequence", "chrom"),
    macro={"chromosome": ("chrom", "size"), "consequence": ("consequence", "equal")},
    metric="auprc_by_chromosome",
    consequence="consequence",
    folds="chrom",
    match="match_group",
    strand="both",
    reported=(Reported("carbon_suite", "traitgym_mendelian_auprc_token", "percent", "auprc_by_chromosome"),),
    reported_base=(Reported("carbon_suite", "traitgym_mendelian_auprc_base", "percent", "auprc_by_chromosome"),),
    same_rows=True,
)
TRAITGYM_COMPLEX = dataclasses.replace(
    TRAITGYM_MENDELIAN,
    name="traitgym_complex",
    file="variants/traitgym_complex_traits_matched_9.parquet",
    source=TRAITGYM_MENDELIAN.source.replace("mendelian_traits", "complex_traits").replace("3,380", "11,400"),
    note=TRAITGYM_MENDELIAN.note.replace(
        "causal variants of Mendelian traits", "fine-mapped variants of complex traits"
    ),
    reported=(),
    reported_base=(),
)
CLINVAR = VariantSet(
    name="clinvar",
    file="variants/ClinVar_VEP_results.parquet",
    genome=_GENOME,
    source=(
        f"curl -L {_HUB}/GenerTeam/variant-effect-prediction/resolve/main/ClinVar_VEP_results.parquet "
        "-o FOLDER/variants/ClinVar_VEP_results.parquet "
        f"(columns chrom, pos, ref, alt, label); {_HUMAN}"
    ),
    note=(
        "ClinVar in all genes by GENERator's protocol (next k-mer, 8192 bases before the variant). The published "
        "figures are older than this context, which was 6144 bases until June 2026."
    ),
    classes=(Classes("", ("label",), _TRUE, _FALSE, "pathogenic (positive) against benign"),),
    columns=("chrom", "pos", "ref", "alt"),
    groups=("chrom",),
    macro={"chromosome": ("chrom", "size")},
    folds="chrom",
    protocol="next_kmer",
    reported=BRCA1_CLINVAR.reported,
    same_rows=True,
)
CLINVAR_EXAMPLE = dataclasses.replace(
    CLINVAR,
    name="clinvar_example",
    file="variants/clinvar_example_750_b38.tsv.gz",
    source=f"the table from {_SHARED}; {_HUMAN}",
    note=(
        "The first 749 ClinVar alleles of chromosome 1 (2017), by GENERator's ClinVar protocol: an example of the file "
        "format, not a benchmark."
    ),
    classes=(
        Classes(
            "",
            ("clinical_significance",),
            ("Pathogenic", "Likely pathogenic", "Pathogenic/Likely pathogenic"),
            ("Benign", "Likely benign", "Benign/Likely benign"),
            "(likely) pathogenic (positive) against (likely) benign",
        ),
    ),
    groups=("gold_stars",),
    macro={},
    folds="symbol",
    same_rows=False,
)
SETS: tuple[VariantSet, ...] = (
    BRCA1,
    BRCA1_CLINVAR,
    BRCA2_SGE,
    BRCA2_CLINVAR,
    BARD1,
    MPRA,
    MPRA_DELETIONS,
    TRAITGYM_MENDELIAN,
    TRAITGYM_COMPLEX,
    CLINVAR,
    CLINVAR_EXAMPLE,
)
