"""A linear probe of variants: what the hidden states of a frozen model predict of harm, beside its likelihoods.

The windows with the reference and with the alternate allele have the same length; their embeddings are means over
tokens. A logistic regression reads the difference of the two, or both. It is cross-validated by exon, element,
chromosome or match group, never by variant: the rows of a place share windows, consequences and assays, so a probe that
saw some of them recognises the place in the others. What is chosen (layer, features, penalty) is chosen on groups that
are held out of each training fold.
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.baselines import linear
from gener_jax.inference.variants import window
from gener_jax.inference.variants.normalize import sites_of
from gener_jax.labelled.problem import Problem
from gener_jax.plotting import prediction
from gener_jax.runtime.errors import InputError
from gener_jax.statistics import matched
from gener_jax.statistics.intervals import LEAST
from gener_jax.statistics.metrics import Metric
from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks import variant_tables as tables
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.variant_effect import VariantEffect, context_for
from gener_jax.tasks.variant_tables import VariantSet

CONTEXT = 1020  # bases of a window: in a mean over more tokens the few that a variant changes weigh less
FEATURES = ("difference", "both")  # alternate minus reference; both, one after the other
FOLDS = 5
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_TWO_CONTEXTS = (
    " The gain over zero_shot, which reads the context of the set, is of probe and context together; that over "
    "zero_shot_same_windows, which reads the windows of the probe, is of the probe alone."
)
_PROBLEM = Problem("single_label", ("harmless", "harmful"))
_BLOCK = 512  # sequences that are embedded between two reports of progress


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one fold chose on its validation groups: features, layer (None: after the final norm) and penalty."""

    features: str
    layer: int | None
    penalty: float
    value: float


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Predictions of rows by models that saw no row of their groups.

    Attributes:
      scores: features → float64 [rows], the log-odds of harm less those of the training rows, so that folds with other
        fractions of harmful rows can be pooled.
      chosen: the same, of the features that each fold chose.
      choices: of each fold.
    """

    scores: dict[str, np.ndarray]
    chosen: np.ndarray
    choices: tuple[Choice, ...]


def assigned(groups: Sequence, folds: int = FOLDS) -> np.ndarray:
    """The fold of each row, int [rows]: a group is in one fold, and the folds have about as many rows.

    Raises:
      InputError: there are fewer than three groups: one to test, one to choose by, one to learn from.
    """
    names, group, rows = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 3:
        raise InputError("must be at least 3", "groups", len(names))
    fold, filled = np.zeros(len(names), np.int64), np.zeros(min(folds, len(names)), np.int64)
    for i in np.argsort(-rows, kind="stable"):
        fold[i] = np.argmin(filled)
        filled[fold[i]] += rows[i]
    return fold[group.reshape(-1)]


def out_of_fold(
    layers: Iterable[tuple[int | None, np.ndarray, np.ndarray]], harmful: np.ndarray, fold: np.ndarray, metric: str
) -> OutOfFold:
    """Predictions of each fold's rows by a probe of the others.

    The fold after it chooses layer, features and penalty, and is then learned from too.

    Args:
      layers: the layer, and the embeddings [rows, hidden] of the reference and of the alternate windows; only one layer
        is held at a time.
      harmful: bool [rows].
      fold: of each row, from 0 on.
      metric: of `METRICS["single_label"]`, by which is chosen.
    """
    target, folds, best = harmful.astype(np.int32), int(fold.max()) + 1, {}
    for layer, reference, alternate in layers:
        for name in FEATURES:
            x = alternate - reference if name == "difference" else np.concatenate([reference, alternate], axis=1)
            for i in range(folds):
                test, held_out = fold == i, fold == (i + 1) % folds
                train, validation = ~(test | held_out), (x[held_out], target[held_out], _PROBLEM, metric)
                _, choice, value = linear.fit(x[train], target[train], *validation, PENALTIES)
                if (i, name) not in best or value > best[i, name][0].value:
                    predict, _, _ = linear.fit(x[~test], target[~test], *validation, (choice["penalty"],))
                    odds = _log_odds(predict(x[test])[:, 1]) - _log_odds(target[~test].mean())
                    best[i, name] = Choice(name, layer, choice["penalty"], value), odds
    scores = {name: np.zeros(len(fold)) for name in FEATURES}
    chosen, choices = np.zeros(len(fold)), []
    for i in range(folds):
        for name in FEATURES:
            scores[name][fold == i] = best[i, name][1]
        choice, chosen[fold == i] = max((best[i, name] for name in FEATURES), key=lambda found: found[0].value)
        choices.append(choice)
    return OutOfFold(scores, chosen, tuple(choices))


def _log_odds(p):
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


class VariantProbe(ModelTask):
    """The task on one set. The positive class is the harmful one; `Classes.what` of the set's first target names it.

    A model has `embed`, `score_variants`, `max_bases`, `num_layers` and `k`.
    """

    metric = "auroc"

    def __init__(
        self,
        options: Options,
        variants: VariantSet,
        *,
        name: str = "",
        context: int = CONTEXT,
        layers: Sequence[int | None] | None = None,
        strand: str | None = None,
    ):
        """`context`: bases of a window; `strand`: whose embeddings are read, "both" for their mean, None: the set's.

        `layers`: those to choose from, None among them after the final norm [after each quarter of the model].

        Raises:
          InputError: if the set has no column of groups.
          NotRun: if a file is missing.
        """
        if not (variants.folds or variants.match):
            problem = "has no column of groups; folds of single variants would have rows of one place on both sides"
            raise InputError(problem, "variants", variants.name)
        self.set, self.options, self.name = variants, options, name or f"{variants.name}_probe"
        self.context, self.layers, self.strand = context, layers, strand or variants.strand
        self.metrics = {name: Metric(variants.classes[0].what, True) for name in ("auroc", "auprc")}
        self._zero_shot = VariantEffect(options, variants)

    def __call__(self, model, progress: Progress = silent) -> Result:
        """What the probe's predictions are worth.

        Raises:
          NotRun: if the model's context is too short, or there are too few groups.
        """
        rows, layers, context = self._zero_shot.rows, self._layers(model), context_for(model, self.context)
        parts = len(layers) + 2

        def part(number):
            return lambda done, total: progress(1000 * number + 1000 * done // max(total, 1), 1000 * parts)

        zero_shot = self._zero_shot.scored(model, part(0))
        scores = {"zero_shot": zero_shot.scores}
        if zero_shot.context != context:
            scores["zero_shot_same_windows"] = self._in_windows(context).scored(model, part(1)).scores
        pairs, flags = self._windows(context, model.k, zero_shot.flags)
        harmful = self.set.target(rows.table, self.set.classes[0])
        used = np.isfinite([harmful, *scores.values()]).all(0) & [flag == "" for flag in flags]
        used, scores = np.flatnonzero(used), {name: values[used] for name, values in scores.items()}
        harmful = harmful[used] == 1
        groups = np.array(rows.table.values(self.set.folds or self.set.match, "folds"))[used]
        if len(np.unique(groups)) < 3 or len(np.unique(harmful)) < 2:
            raise NotRun(f"needs rows of both classes in three groups, and has {len(used)} in {len(np.unique(groups))}")
        fold, pairs = assigned(groups), [pairs[i] for i in used]
        embedded = ((layer, *self._embedded(model, pairs, layer, part(i + 2))) for i, layer in enumerate(layers))
        metric = "auprc" if self.set.metric.startswith("auprc") else "auroc"
        found = out_of_fold(embedded, harmful, fold, metric)
        return self._result(found, scores, used, harmful, groups, fold, flags, context)

    def _in_windows(self, context: int) -> VariantEffect:
        """The task without training in windows of the probe."""
        task = copy.copy(self._zero_shot)
        task.protocol, task.context, task.strand = "window", context, self.strand
        return task

    def _layers(self, model) -> Sequence[int | None]:
        if self.layers is not None:
            return self.layers
        return (*sorted({max(model.num_layers * i // 4, 1) for i in (1, 2, 3)}), None)

    def _windows(self, context: int, k: int, flags: Sequence[str]) -> tuple[list, list[str]]:
        """The two windows of each row on each strand as text, whole tokens; and why a row has none."""
        rows, pairs, flags = self._zero_shot.rows, [], list(flags)
        strands = "+-" if self.strand == "both" else self.strand
        for i, variant in enumerate(rows.variants):
            found = "" if flags[i] else sites_of(variant, rows.genome, context, context // 4, strands)
            made = [] if isinstance(found, str) else [_window_pair(site, context, k) for site in found]
            if None in made or not made:
                flags[i] = flags[i] or found if isinstance(found, str) else "the window ends with the variant"
            pairs.append(made)
        return pairs, flags

    def _embedded(self, model, pairs: list, layer: int | None, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the reference and of the alternate windows, the mean of the strands, float32 [rows, hidden]."""
        unique = {text: i for i, text in enumerate(dict.fromkeys(t for made in pairs for pair in made for t in pair))}
        texts, blocks = list(unique), []
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            blocks.append(np.asarray(model.embed(block, pooling="mean", layer=layer), np.float32))
            progress(start + len(block), len(texts))
        states = np.concatenate(blocks)
        at = np.array([[[unique[text] for text in pair] for pair in made] for made in pairs])  # rows, strands, alleles
        return states[at[:, :, 0]].mean(1), states[at[:, :, 1]].mean(1)

    def _result(
        self, found: OutOfFold, scores: Mapping[str, np.ndarray], used, harmful, groups, fold, flags, context: int
    ) -> Result:
        """`scores`: without training, of the rows that are used, by the name of the baseline."""
        rows, spec, zero_shot = self._zero_shot.rows, self.set, scores["zero_shot"]
        unit, drawn = self._units(used, groups)
        rest = {"groups": unit, "seed": self.options.seed}
        metrics = {name: matched.value(name, harmful, found.chosen) for name in self.metrics}
        intervals = {name: matched.bootstrap(name, harmful, found.chosen, **rest) for name in self.metrics}
        others = self._zero_shot.baselines(spec.classes[0], spec.target(rows.table, spec.classes[0]))
        baselines = {baseline: {} for baseline in scores}
        for baseline, values in scores.items():
            for name in self.metrics:
                gain = matched.paired(name, harmful, found.chosen, values, **rest)
                low, high = matched.bootstrap(name, harmful, values, **rest) or (None, None)
                row = {"": matched.value(name, harmful, values), "_low": low, "_high": high, "_gain": gain.gain}
                row |= {"_gain_low": gain.low, "_gain_high": gain.high}
                baselines[baseline] |= {f"{name}{end}": value for end, value in row.items() if value is not None}
        for baseline, values in others.items():
            known = np.isfinite(values[used])
            row = {name: matched.value(name, harmful[known], values[used][known]) for name in self.metrics}
            if np.isfinite(row["auroc"]):
                baselines[baseline] = row if known.all() else {**row, "rows": int(known.sum())}
        reasons = tables.reasons(flags)
        counts = {
            **rows.counts,
            "rows": len(used),
            "negatives": int((~harmful).sum()),
            "positives": int(harmful.sum()),
            "context_bases": context,
            "groups": len(np.unique(groups)),
            "folds": int(fold.max()) + 1,
            "without_window": sum(reasons.values()),
        }
        title = f"{self.name}: {spec.classes[0].what}"
        curves = {"probe": found.chosen, **{name.replace("_", " "): values for name, values in scores.items()}}
        curves = {name: (harmful, values) for name, values in curves.items()}
        return Result(
            metrics,
            counts,
            baselines=baselines,
            breakdown=self._breakdown(found, zero_shot, harmful, groups, fold),
            intervals=intervals,
            text=_text(found.choices, groups, fold),
            note=(
                f"{spec.note} A logistic regression of frozen embeddings in windows of {context} bases, cross-"
                f"validated by {spec.folds or spec.match}; the bootstrap draws {drawn}. Trained on these labels, so it "
                "compares with no zero-shot figure but those beside it, which are of the same rows."
                f"{_TWO_CONTEXTS * (len(scores) > 1)}"
            ),
            predictions={
                "variant": [f"{rows.variants[i]} {name}" for i, name in zip(used, unit, strict=True)],
                "class": harmful.astype(np.int64),
                "score": found.chosen,
                **{f"score_{features}": values for features, values in found.scores.items()},
                **scores,
                "group": groups,
                "fold": fold,
                "drawn_together": unit,
            },
            paired=Paired("multi_label", "auroc", ("score",), ("class",), groups="drawn_together", rows="variant"),
            figures={f"{self.name}_roc": lambda: prediction.roc(title, curves)},
        )

    def _units(self, used, groups) -> tuple[np.ndarray, str]:
        """What the bootstrap draws together, and its name: match groups, enough other groups, or positions."""
        rows = self._zero_shot.rows
        if self.set.match:
            return np.array(rows.table.values(self.set.match, "match"))[used], "match groups"
        if len(np.unique(groups)) >= LEAST:
            return groups, "the same groups"
        positions = np.array([f"{rows.variants[i].contig}:{rows.variants[i].start}" for i in used])
        few = len(np.unique(groups))
        return positions, f"positions, since there are only {few} groups, so it leaves out how these differ"

    def _breakdown(self, found: OutOfFold, zero_shot, harmful, groups, fold) -> dict:
        """The metrics of each kind of features on all rows, of each group and of each fold, beside zero-shot's."""

        def summary(inside, scores):
            row = {name: matched.value(name, harmful[inside], scores[inside]) for name in self.metrics}
            row["zero_shot_auroc"] = matched.value("auroc", harmful[inside], zero_shot[inside])
            row = {name: value for name, value in row.items() if np.isfinite(value)}
            return {**row, "rows": int(inside.sum()), "positives": int(harmful[inside].sum())}

        every, by_group = np.ones(len(harmful), bool), {}
        if self.set.folds:
            by_group[self.set.folds] = {str(g): summary(groups == g, found.chosen) for g in np.unique(groups)}
        return {
            "features": {name: summary(every, scores) for name, scores in found.scores.items()},
            **by_group,
            "fold": {str(i + 1): summary(fold == i, found.chosen) for i in range(int(fold.max()) + 1)},
        }


def _window_pair(site, context: int, k: int) -> tuple[str, str] | None:
    """The windows with both alleles as text, whole tokens; None if they end before they differ."""
    pair = window.windows(site, context, 0, k, True)
    if pair is None:
        return None
    size = min(map(len, pair)) // k * k
    texts = tuple(bases.decode(each[:size]) for each in pair)
    return texts if texts[0] != texts[1] else None


def _text(choices: Sequence[Choice], groups, fold) -> str:
    """What each fold chose, a line each."""
    lines = []
    for i, choice in enumerate(choices):
        names = [str(name) for name in np.unique(groups[fold == i])]
        inside = ", ".join(names) if len(names) <= 6 else f"{len(names)} groups"
        layer = "after the final norm" if choice.layer is None else f"layer {choice.layer}"
        lines.append(f"fold {i + 1} ({inside}): {choice.features}, {layer}, penalty {choice.penalty:g}")
    return "\n".join(lines)


def _entry(variants: VariantSet, quick: int | None = None) -> Entry:
    name = f"{variants.name}_probe"
    return Entry(name, lambda config: VariantProbe(Options.of(config), variants), quick, "variant_probes")


ENTRIES: tuple[Entry, ...] = (
    _entry(sets.BRCA1, quick=300),
    _entry(sets.BRCA2_SGE),
    _entry(sets.BRCA2_CLINVAR),
    _entry(sets.BARD1),
    _entry(sets.TRAITGYM_MENDELIAN),
    _entry(sets.TRAITGYM_COMPLEX),
)
