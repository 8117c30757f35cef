"""Variant effect without training: does a model find harmful variants less likely than the reference?

The score of a variant is the log-likelihood ratio of its alleles, reference minus alternate, so that a higher one means
more harm; it is compared with classes (AUROC, AUPRC) and with measured effects (Spearman), by consequence and by exon,
element or chromosome. Intervals draw the variants of one position together, or whole match groups. `variant_sets` has
the sets, `variant_baselines` what a model must beat.
"""

import functools
from typing import NamedTuple

import numpy as np

from gener_jax.plotting import evaluation, prediction
from gener_jax.plotting.figure import COLOURS
from gener_jax.statistics import matched
from gener_jax.statistics.metrics import Metric
from gener_jax.tasks import annotation_columns, published, variant_baselines
from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks import variant_tables as tables
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.variant_statistics import Statistics
from gener_jax.tasks.variant_tables import Classes, Rows, Values, VariantSet

_ROOM = 8  # tokens of a model's positions that are left for <s>, alleles and the bases after them
_SCORE = "score (higher: more deleterious)"
_RESAMPLES = (300, 1000)  # at least and at most: few suffice where rows are many, and cost much there


class Scores(NamedTuple):
    """The score of each row of a set.

    Attributes:
      scores: float64 [rows], the mean over strands; NaN where a row has none.
      by_strand: those of each strand alone.
      flags: why a row has none; "" where it has one.
      unique: distinct variants that were scored.
      context: bases of context.
    """

    scores: np.ndarray
    by_strand: dict[str, np.ndarray]
    flags: list[str]
    unique: int
    context: int


def context_for(model, wanted: int) -> int:
    """The context that the model can take, in bases: the one that is wanted, or a shorter one.

    A shorter window has the variant at the same base of its k-mer as a longer one.
    """
    if model.max_bases is None or wanted <= model.max_bases - _ROOM * model.k:
        return wanted
    step = 2 * model.k
    most = model.max_bases - _ROOM * model.k
    context = most - (most - wanted) % step
    if context < step:
        raise NotRun(f"needs a context of {step} bases and room for alleles; the model takes {model.max_bases}")
    return context


class VariantEffect(ModelTask):
    """The task on one set. The positive class is the deleterious one; `Classes.what` names it.

    A model has `score_variants`, `max_bases` and `k`.
    """

    def __init__(
        self,
        options: Options,
        variants: VariantSet,
        *,
        name: str = "",
        protocol: str | None = None,
        context: int | None = None,
        phases: int = 1,
        strand: str | None = None,
        marginals: bool = False,
    ):
        """Options as those of `LM.score_variants`; None: as the set's published evaluation has them.

        With strand "both" the breakdown has each strand alone, too. `name`: of the task, if not that of the set.

        Raises:
          NotRun: if a file is missing.
        """
        self.set, self.options, self.name = variants, options, name or variants.name
        self.protocol, self.context = protocol or variants.protocol, context or variants.context
        self.phases, self.strand, self.marginals = phases, strand or variants.strand, marginals
        self.metric = variants.metric
        self.metrics = {found: Metric(what, True) for found, what, *_ in self._measures()}
        variants.files(options)

    @functools.cached_property
    def rows(self) -> Rows:
        """The rows of the set; see `VariantSet.read`."""
        return self.set.read(self.options)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """What scores of these rows are worth."""
        return Statistics(self.set, self.rows, self.options.seed, _RESAMPLES)

    @functools.cached_property
    def _annotations(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        return annotation_columns.scores(self.rows.variants, self.options, self.set.scores)

    @functools.cached_property
    def _fixed(self) -> dict[str, np.ndarray]:
        return variant_baselines.fixed(self.set, self.rows) | self._annotations[0]

    def baselines(self, target: Classes | Values, truth: np.ndarray) -> dict[str, np.ndarray]:
        """The baselines' scores for a target, whose values are `truth`; the strongest usually first."""
        of = {name: score.targets for name, score in self.set.scores.items()}
        known = variant_baselines.fitted(self.set, self.rows, truth) | self._fixed
        return {name: values for name, values in known.items() if not of.get(name) or target.name in of[name]}

    def _measures(self):
        """Yields for each metric its name, unit, `matched` metric, target and, of a mean over strata, its name."""
        for target in (*self.set.classes, *self.set.values):
            for metric in matched.CLASSES if isinstance(target, Classes) else matched.VALUES:
                name = "_".join(filter(None, (metric, target.name)))
                yield name, target.what, metric, target, ""
                for stratum in self.set.macro:
                    yield f"{name}_by_{stratum}", f"{target.what}; mean over {stratum}s", metric, target, stratum

    def __call__(self, model, progress: Progress = silent) -> Result:
        """What the scores are worth.

        Raises:
          NotRun: if the model's context is too short.
          DataError: if a file cannot be read.
        """
        return self._result(*self.scored(model, progress))

    def scored(self, model, progress: Progress = silent) -> Scores:
        """The scores alone; see `Scores`."""
        rows, context = self.rows, context_for(model, self.context)
        strands = "+-" if self.strand == "both" else (self.strand,)
        by_strand, flags = [], list(rows.problems)
        unique = list(dict.fromkeys(v for v, flag in zip(rows.variants, flags, strict=True) if not flag))
        for number, strand in enumerate(strands):
            scored = model.score_variants(
                unique, rows.genome, protocol=self.protocol, context=context, phases=self.phases, strand=strand,
                marginals=self.marginals,
            )  # fmt: skip
            found = {}
            for variant, score in zip(unique, scored, strict=True):
                found[variant] = score
                progress(number * len(unique) + len(found), len(strands) * len(unique))
            each = [found.get(v) for v in rows.variants]
            flags = [flag or (score.flag if score else "") for flag, score in zip(flags, each, strict=True)]
            by_strand.append(np.array([score.llr if score else np.nan for score in each]))
        scores = np.where([flag == "" for flag in flags], np.mean(by_strand, axis=0), np.nan)
        flags = [flag or ("" if ok else "no score") for flag, ok in zip(flags, np.isfinite(scores), strict=True)]
        return Scores(scores, dict(zip(strands, by_strand, strict=True)), flags, len(unique), context)

    def _result(self, scores: np.ndarray, by_strand: dict, flags: list[str], unique: int, context: int) -> Result:
        rows, spec = self.rows, self.set
        main = spec.target(rows.table, (*spec.classes, *spec.values)[0])
        scored = np.isfinite(scores)
        counts = {
            **rows.counts,
            "rows": len(scores),
            "distinct_variants": unique,
            "scored": int(scored.sum()),
            "context_bases": context,
            **({"match_groups": self._match_groups(scored)} if spec.match else {}),
            "negatives": int((scored & (main == 0)).sum()),
            "positives": int((scored & (main == 1)).sum()),
        }
        metrics, intervals, baselines = {}, {}, {}
        for name, _, metric, target, stratum in self._measures():
            truth = spec.target(rows.table, target)
            of = metric, truth, stratum
            metrics[name], intervals[name] = self.statistics.value(*of, scores), self.statistics.interval(*of, scores)
            headline = name in (self.metric, "auroc") or (metric == "spearman" and not stratum)
            for baseline, values in self.baselines(target, truth).items():
                row = self.statistics.baseline(name, of, scores, values, headline)
                baselines.setdefault(baseline, {}).update(row)
        reasons = tables.reasons(flags)
        return Result(
            metrics,
            counts,
            baselines={name: row for name, row in baselines.items() if row},
            breakdown=self._breakdown(scores, by_strand, reasons),
            intervals=intervals,
            text="\n".join(
                [
                    *(f"{number} rows without a score: {reason}" for reason, number in reasons.items()),
                    *(f"{baseline}: {reason}" for baseline, reason in self._annotations[1].items()),
                ]
            ),
            published=self._published(context),
            note=self._note(context),
            predictions=self._predictions(scores, flags),
            paired=self._paired(),
            figures=self._figures(scores, main),
        )

    def _match_groups(self, scored: np.ndarray) -> int:
        """The match groups, each of which has one positive row and controls, as far as their rows have a score."""
        groups = np.array(self.rows.table.values(self.set.match, "match"))
        positive = self.set.target(self.rows.table, self.set.classes[0]) == 1
        matched.check(positive, groups)
        return len(np.unique(groups[scored]))

    def _breakdown(self, scores: np.ndarray, by_strand: dict, reasons: dict[str, int]) -> dict:
        """The plain metrics in each group of the set's columns, of each strand alone, and the reasons for no score."""
        spec, found = self.set, {}
        targets = [
            (name, m, spec.target(self.rows.table, t)) for name, _, m, t, stratum in self._measures() if not stratum
        ]

        def summary(of, inside):
            row = {}
            for name, metric, truth in targets:
                value = self.statistics.value(metric, np.where(inside, truth, np.nan), "", of)
                row |= {name: value} if np.isfinite(value) else {}
            first = targets[0][2][inside & np.isfinite(of)]
            return {**row, "rows": int((inside & np.isfinite(of)).sum()), "positives": int((first == 1).sum())}

        for column in spec.groups:
            values = np.array(self.rows.table.values(column, "groups"))
            found[column] = {
                name or "not given": summary(scores, values == name) for name in sorted(set(values.tolist()))
            }
        if len(by_strand) > 1:
            names = {"+": "forward", "-": "reverse"}
            found["strand"] = {names[s]: summary(x, np.isfinite(scores)) for s, x in by_strand.items()}
        if reasons:
            found["without_score"] = {reason: {"rows": number} for reason, number in reasons.items()}
        return found

    def _published(self, context: int) -> tuple:
        reported = (self.marginals and self.set.reported_base) or self.set.reported
        as_published = (self.protocol, context, self.strand, self.phases) == (
            *(self.set.protocol, self.set.context, self.set.strand), 1,
        )  # fmt: skip
        same_score = bool(self.set.reported_base) or not self.marginals
        comparable = self.set.same_rows and as_published and same_score and self.options.rows is None
        found = [
            published.of(r.suite, r.task, r.metric, as_metric=r.as_metric, comparable=comparable) for r in reported
        ]
        return tuple(row for rows in found for row in rows)

    def _note(self, context: int) -> str:
        where = "before the variant" if self.protocol == "next_kmer" else "around the variant"
        cut = "" if context == self.context else f", cut from {self.context} to what the model takes"
        how = "base-marginal" if self.marginals else "token"
        missing = ", ".join(self._annotations[1])
        absent = f" Not run here, as their files are not in the folder of the data: {missing}." if missing else ""
        return (
            f"{self.set.note} Scored by {how} likelihood, strand {self.strand}, {context} bases {where}{cut}.{absent}"
        )

    def _predictions(self, scores: np.ndarray, flags: list[str]) -> dict:
        spec, table, variants = self.set, self.rows.table, self.rows.variants
        targets = {_column(target): spec.target(table, target) for target in (*spec.classes, *spec.values)}
        strata = (column for column, _ in spec.macro.values())
        columns = dict.fromkeys(filter(None, (spec.consequence, spec.folds, spec.match, *spec.groups, *strata)))
        return {
            "contig": [v.contig for v in variants],
            "position": [v.start + 1 for v in variants],
            "ref": [v.ref for v in variants],
            "alt": [v.alt for v in variants],
            "score": scores,
            "flag": flags,
            "drawn_with": self.statistics.units,
            **targets,
            **{column: table.columns[column] for column in columns},
            **{f"baseline_{name}": values for name, values in self._fixed.items()},
        }

    def _paired(self) -> Paired:
        """How two models are compared: by the main metric."""
        metric, target, stratum = next(found for name, _, *found in self._measures() if name == self.metric)
        problem = "multi_label" if isinstance(target, Classes) else "regression"
        column, weighting = self.set.macro.get(stratum, (None, "size"))
        return Paired(
            problem, metric, ("score",), (_column(target),), "drawn_with", strata=column, weighting=weighting
        )  # fmt: skip

    def _figures(self, scores: np.ndarray, main: np.ndarray) -> dict:
        spec, table, name = self.set, self.rows.table, self.name
        found = {}
        if spec.classes:
            curves = {}
            for each, values in ({"model": scores} | self.baselines(spec.classes[0], main)).items():
                chosen = np.isfinite([main, scores, values]).all(0)
                curves[each] = main[chosen] == 1, values[chosen]
            curves = dict(list(curves.items())[: len(COLOURS)])
            found[f"{name}_roc"] = lambda: prediction.roc(name, curves)
        for value in spec.values:
            truth = spec.target(table, value)
            both = np.isfinite(truth) & np.isfinite(scores)
            found["_".join(filter(None, (name, "measured", value.name)))] = functools.partial(
                prediction.measured, name, {value.what: (truth[both], scores[both])}, _SCORE
            )
        if spec.consequence:
            values = np.array(table.columns[spec.consequence])
            groups = {
                each or "not given": (scores[here], main[here] == 1)
                for each in sorted(set(values.tolist()))
                if (here := (values == each) & np.isfinite(scores)).any()
            }
            found[f"{name}_by_consequence"] = lambda: evaluation.scores_by_group(name, _SCORE, groups)
        return found


def _column(target: Classes | Values) -> str:
    """The column of predictions that has a target."""
    return "_".join(filter(None, ("class" if isinstance(target, Classes) else "value", target.name)))


def _entry(variants: VariantSet, quick: int | None = None, suffix: str = "", **settings) -> Entry:
    name = variants.name + suffix

    def make(config):
        return VariantEffect(Options.of(config), variants, name=name, **settings)

    return Entry(name, make, quick=quick, group="variants")


ENTRIES: tuple[Entry, ...] = (
    _entry(sets.BRCA1, quick=300),
    _entry(sets.BRCA1, suffix="_both_strands", strand="both"),
    _entry(sets.BRCA1, suffix="_base_marginals", marginals=True),
    _entry(sets.BRCA1_CLINVAR, quick=300),
    _entry(sets.BRCA2_SGE, quick=300),
    _entry(sets.BRCA2_CLINVAR),
    _entry(sets.BARD1, quick=600),
    _entry(sets.MPRA),
    _entry(sets.MPRA_DELETIONS),
    _entry(sets.TRAITGYM_MENDELIAN),
    _entry(sets.TRAITGYM_MENDELIAN, suffix="_base_marginals", marginals=True),
    _entry(sets.TRAITGYM_COMPLEX),
    _entry(sets.CLINVAR),
    _entry(sets.CLINVAR_EXAMPLE),
)
