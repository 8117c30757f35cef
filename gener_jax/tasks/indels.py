"""Insertions and deletions without the bias of their length.

Under any model a sequence is less likely the longer it is: a base costs about 1.4 nats, so a plain difference of two
windows calls insertions harmful and deletions harmless, whatever they do. Three scores are compared:

- `window`: the plain difference; both windows hold the same other bases.
- `equal_window`: both windows have the same total length (`inference.variants.window`).
- `regressed`: the plain difference less what the inserted and the deleted bases of harmless variants cost, a slope
  each, which is fitted to the other folds, so that no row corrects itself.

Beside them stand the length alone, and whether it is a multiple of three.
"""

import functools

import numpy as np

from gener_jax.plotting import evaluation
from gener_jax.statistics import matched
from gener_jax.statistics.intervals import LEAST
from gener_jax.statistics.metrics import Metric
from gener_jax.tasks import annotation_columns, variant_baselines
from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks import variant_tables as tables
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.variant_effect import VariantEffect
from gener_jax.tasks.variant_statistics import Statistics
from gener_jax.tasks.variant_tables import Classes, VariantSet

SCORES = ("equal_window", "window", "regressed")
_SIZES = ((1, "1"), (2, "2"), (3, "3"), (9, "4-9"), (10**9, "10 or more"))  # of changes of length, in bases


def lengths(variants) -> np.ndarray:
    """The bases that the alternate allele of each variant has more than the reference, int [variants]."""
    return np.array([len(v.alt) - len(v.ref) for v in variants], np.int64)


def slopes(length: np.ndarray, scores: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """What an inserted and a deleted base cost: the slopes of neutral variants' scores, float64 [2].

    0 for a kind of which all have the same length, as nothing is known of its slope.

    Args:
      length: as of `lengths`.
      neutral: bool [variants]; the rows that are fitted.
    """
    x = _bases(length)[neutral]
    return np.linalg.lstsq(x - x.mean(0), scores[neutral] - scores[neutral].mean(), rcond=1e-9)[0]


def regressed(length: np.ndarray, scores: np.ndarray, neutral: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores without what their length costs, by the neutral variants of the other folds, float64 [variants].

    All are NaN if those of one fold are fewer than 30: the others would not be the rows of the other scores.
    """
    found, known = np.full(len(scores), np.nan), np.isfinite(scores)
    for fold in np.unique(folds):
        inside, others = folds == fold, (folds != fold) & neutral & known
        if others.sum() < LEAST:
            return np.full(len(scores), np.nan)
        found[inside] = scores[inside] - _bases(length[inside]) @ slopes(length, scores, others)
    return found


def _bases(length: np.ndarray) -> np.ndarray:
    """Inserted and deleted bases, float64 [variants, 2]."""
    return np.stack([np.maximum(length, 0), np.maximum(-length, 0)], axis=1).astype(np.float64)


class Indels(ModelTask):
    """The task on one set. The positive class is the harmful one; `Classes.what` of the set's first target names it.

    Its plain metrics are of `equal_window`; those of the other scores have their name at the end. A model has
    `score_variants`, `max_bases` and `k`.
    """

    def __init__(self, options: Options, variants: VariantSet, *, name: str = "", strand: str | None = None):
        """`strand`: as of `LM.score_variants`; None: the set's.

        Raises:
          NotRun: if a file is missing.
        """
        self.set, self.options, self.name = variants, options, name or variants.name
        self._scored = {
            protocol: VariantEffect(options, variants, protocol=protocol, strand=strand)
            for protocol in ("window", "equal_window")
        }
        self.metrics = {name: Metric(what, True) for name, what, *_ in self._measures()}
        self.metric = "auroc"
        self._stratum = next(iter(variants.macro), "")  # over which all metrics are means, if the set has one

    def _measures(self):
        """Yields the name, the unit, the `matched` metric, the target and the score of each metric."""
        for score in SCORES:
            for target in (*self.set.classes, *self.set.values):
                for metric in ("auroc", "auprc") if isinstance(target, Classes) else matched.VALUES:
                    parts = (metric, target.name, "" if score == SCORES[0] else score)
                    yield "_".join(filter(None, parts)), target.what, metric, target, score

    def __call__(self, model, progress: Progress = silent) -> Result:
        """What each score is worth.

        Raises:
          NotRun: if the model's context is too short, or no row has a score.
        """
        made, flags = {}, None
        for number, (protocol, task) in enumerate(self._scored.items()):
            found = task.scored(model, lambda done, total, n=number: progress(n * total + done, 2 * total))
            made[protocol], context = found.scores, found.context
            flags = [a or b for a, b in zip(flags or found.flags, found.flags, strict=True)]
        rows = self._scored["window"].rows
        length, truth = lengths(rows.variants), self.set.target(rows.table, self.set.classes[0])
        folds = np.array(rows.table.values(self.set.folds, "folds"))
        made["regressed"] = regressed(length, made["window"], truth == 0, folds)
        known = np.isfinite(made["window"]) & np.isfinite(made["equal_window"])  # the same rows for all
        if not (known & np.isfinite(truth)).any():
            raise NotRun(f"has no row with a score: {next(iter(tables.reasons(flags)), 'there is none')}")
        return self._result(
            {name: np.where(known, made[name], np.nan) for name in SCORES}, length, truth, flags, context
        )

    @functools.cached_property
    def _statistics(self) -> Statistics:
        return Statistics(self.set, self._scored["window"].rows, self.options.seed)

    def _result(self, scores: dict, length: np.ndarray, truth: np.ndarray, flags: list[str], context: int) -> Result:
        rows, spec, main = self._scored["window"].rows, self.set, scores[SCORES[0]]
        metrics, intervals = {}, {}
        for name, _, metric, target, score in self._measures():
            of = metric, spec.target(rows.table, target), self._stratum
            metrics[name] = self._statistics.value(*of, scores[score])
            intervals[name] = self._statistics.interval(*of, scores[score])
        columns, missing = annotation_columns.scores(rows.variants, self.options, spec.scores)
        baselines = {
            "length": np.abs(length).astype(np.float64),
            "inserted": length.astype(np.float64),
            "out_of_frame": (length % 3 != 0).astype(np.float64),
            **variant_baselines.fitted(spec, rows, truth),
            **columns,
        }
        of = "auroc", truth, self._stratum
        baselines = {name: self._statistics.baseline("auroc", of, main, x) for name, x in baselines.items()}
        used = np.isfinite(truth) & np.isfinite(main)
        in_frame = used & (length % 3 == 0)
        reasons = tables.reasons(flags)
        counts = {
            **rows.counts,
            "rows": int(used.sum()),
            "context_bases": context,
            "insertions": int((used & (length > 0)).sum()),
            "deletions": int((used & (length < 0)).sum()),
            "positives_in_frame": int((truth[in_frame] == 1).sum()),
            "negatives_in_frame": int((truth[in_frame] == 0).sum()),
            "negatives": int((truth[used] == 0).sum()),
            "positives": int((truth[used] == 1).sum()),
        }
        column, weighting = spec.macro.get(self._stratum, (None, "size"))
        shown = {score: scores[score][used] for score in SCORES if np.isfinite(scores[score][used]).all()}
        return Result(
            metrics,
            counts,
            baselines={name: row for name, row in baselines.items() if row},
            breakdown=self._breakdown(scores, length, truth, reasons),
            intervals=intervals,
            text="\n".join(f"{name}: {reason}" for name, reason in missing.items()),
            note=f"{spec.note} {_NOTE} No published figure is of these rows.",
            predictions={
                "row": np.flatnonzero(used),  # a variant may have several, as elements were measured in several assays
                "variant": [str(rows.variants[i]) for i in np.flatnonzero(used)],
                **({column: np.array(rows.table.values(column, "macro"))[used]} if column else {}),
                "length": length[used],
                "class": truth[used].astype(np.int64),
                **{name: values[used] for name, values in scores.items()},
                "position": self._statistics.units[used],
            },
            paired=Paired(
                "multi_label", "auroc", SCORES[:1], ("class",), "position", "row", strata=column, weighting=weighting
            ),
            figures={
                f"{self.name}_by_length": lambda: evaluation.scores_by_length(
                    f"{self.name}: {spec.classes[0].what}", length[used], truth[used] == 1, shown
                )
            },
        )

    def _breakdown(self, scores: dict, length: np.ndarray, truth: np.ndarray, reasons: dict[str, int]) -> dict:
        """AUROC of each score by kind and length, what a base costs, and the reasons for no score."""
        neutral = (truth == 0) & np.isfinite(scores[SCORES[0]])

        def summary(inside):
            inside = inside & np.isfinite(scores[SCORES[0]]) & np.isfinite(truth)
            row = {}
            for score in SCORES:
                of = "auroc", np.where(inside, truth, np.nan), self._stratum
                value = self._statistics.value(*of, scores[score])
                row |= {"auroc" if score == SCORES[0] else f"auroc_{score}": value} if np.isfinite(value) else {}
            return {**row, "rows": int(inside.sum()), "positives": int((truth[inside] == 1).sum())}

        size = np.abs(length)
        ends = [0, *(end for end, _ in _SIZES)]
        found = {
            "kind": {"insertion": summary(length > 0), "deletion": summary(length < 0)},
            "frame": {"kept": summary(length % 3 == 0), "shifted": summary(length % 3 != 0)},
            "bases": {
                name: summary((size > low) & (size <= high)) for low, (high, name) in zip(ends, _SIZES, strict=False)
            },
        }
        found = {column: {name: row for name, row in by.items() if row["rows"]} for column, by in found.items()}
        if neutral.sum() >= LEAST:
            fitted = {name: values for name, values in scores.items() if np.isfinite(values[neutral]).all()}
            costs = {name: slopes(length, values, neutral) for name, values in fitted.items()}
            found["score_of_a_base"] = {
                kind: {name: float(cost[i]) for name, cost in costs.items()}
                for i, kind in enumerate(("inserted", "deleted"))
            }
        if reasons:
            found["without_score"] = {reason: {"rows": number} for reason, number in reasons.items()}
        return found


_NOTE = (
    "Scored by windows of the same total length; the plain difference (window) and the same with length regressed out "
    "on harmless variants of other folds (regressed) beside it. An AUROC that the plain difference alone has is one of "
    "length."
)


def _entry(variants: VariantSet, name: str, quick: int | None = None) -> Entry:
    return Entry(name, lambda config: Indels(Options.of(config), variants, name=name), quick, "indels")


ENTRIES: tuple[Entry, ...] = (
    _entry(sets.BRCA2_INDELS, "brca2_indels", quick=300),
    _entry(sets.BARD1_DELETIONS, "bard1_deletions", quick=300),
    _entry(sets.MPRA_DELETIONS, "mpra_indels"),
)
