"""The tables of the fine-tuning matrix: metrics with 95 % intervals, gains over random weights and baselines, overlap.

A value is the mean of the metric over seeds; its interval is of that mean, over rows (or groups) of the test set, and
says nothing of other training rows. Rows of outer folds are joined. The best baseline is chosen on validation rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.splitting.leakage import NEAR_COPY
from gener_jax.benchmarks.finetune_cells import PRETRAINED, RANDOM, predictions_file
from gener_jax.statistics import intervals
from gener_jax.statistics.metrics import METRICS, checked

COLUMNS = (  # arm, weights
    ("frozen", RANDOM), ("frozen", PRETRAINED), ("full", RANDOM), ("full", PRETRAINED), ("lora", PRETRAINED),
    ("published", PRETRAINED),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Truth:
    """The test rows of some folds: problem, targets, groups or None, and whether each is a copy or was seen before."""

    problem: str
    targets: np.ndarray
    groups: np.ndarray | None
    copies: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, matrix, task: str, folds: Sequence[int]) -> "Truth":
        """The rows of these folds, joined."""
        rows = [matrix.rows[task, fold] for fold in folds]
        if rows[0].fields["problem"] == "token":  # its rows are labelled bases, and its groups windows
            bases = [np.load(x.bases) for x in rows]
            targets = np.concatenate([x["targets"] for x in bases]).astype(np.int32)
            windows = np.concatenate([x["windows"] + i * 10**6 for i, x in enumerate(bases)])
            return cls("token", targets, windows, *np.zeros((2, len(targets)), bool))
        tests, masks = [x.splits.test for x in rows], [x.masks for x in rows]
        groups = None if tests[0].groups is None else [x.groups + i * 10**6 for i, x in enumerate(tests)]
        return cls(
            rows[0].fields["problem"],
            np.concatenate([x.targets for x in tests]),
            None if groups is None else np.concatenate(groups),
            np.concatenate([x["copy"] for x in masks]),
            np.concatenate([x["overlap"] for x in masks]) >= NEAR_COPY,
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """What an arm or baseline predicts for the test rows of `folds`, [seeds, N, C]; of a base the class alone."""

    name: str
    folds: tuple[int, ...]
    predicted: np.ndarray


def of_arm(matrix, task, arm: str, weights: str) -> Model | None:
    """An arm at its chosen rate; None unless all seeds of all folds are done."""
    cells = matrix.finished(task, arm, weights)
    if not cells:
        return None
    folds = tuple(dict.fromkeys(cell.fold for cell in cells))
    name = f"{arm}, {weights}"
    by_seed = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(np.load(predictions_file(matrix.output, cell.key)))
    return Model(name, folds, np.stack([np.concatenate(x) for x in by_seed.values()]))


def best_baseline(matrix, task, folds: Sequence[int]) -> Model | None:
    """The baseline that is best on the validation rows of these folds, on average; None if they are not done."""
    worth: dict[str, list[float]] = {}
    for row in matrix.done.values():
        if "baseline" in row and row["task"] == task.name and row["fold"] in folds:
            worth.setdefault(row["baseline"], []).append(-np.inf if row["worth"] is None else row["worth"])
    worth = {name: x for name, x in worth.items() if len(x) == len(folds)}
    if not worth:
        return None
    name = max(worth, key=lambda name: np.mean(worth[name]))
    found = [np.load(predictions_file(matrix.output, f"{task.name}.{fold}.{name}")) for fold in folds]
    return Model(name, tuple(folds), np.concatenate(found)[None])


def of_bases(matrix, task, metric: str) -> tuple[str, str]:
    """The linear model of the k-mers around a base, on a sample of the test bases of fold 0, and the gain of the
    pre-trained frozen model over it on the same bases; empty if that cell is not done.
    """
    cells = matrix.finished(task, "frozen", PRETRAINED)
    row = matrix.done[cells[0].key]["baselines"].get("k-mer logistic") if cells else None
    if row is None:
        return "", ""
    ends = row[f"{metric}_gain_low"], row[f"{metric}_gain_high"]
    between = "" if ends[0] is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    name = f"k-mer logistic on {int(row['bases']):,} bases"
    return f"{row[metric]:.3f} ({name})", f"{row[f'{metric}_gain']:+.3f}{between} ({name})"


def measured(truth: Truth, model: Model, kept: np.ndarray | None = None) -> str:
    """The main metric, the mean over seeds, with its interval; of the rows `kept`, bool [N], if given."""
    kept = np.ones(len(truth.targets), bool) if kept is None else kept
    if not kept.any():
        return "no rows"
    targets, groups = truth.targets[kept], None if truth.groups is None else truth.groups[kept]
    main, metric = next(iter(METRICS[truth.problem].items()))
    each = [metric.prepare(*checked(truth.problem, targets, x[kept])) for x in model.predicted]

    def mean(weights):
        return np.mean([one(weights) for one in each], axis=0)

    text = f"{mean(np.ones((1, len(targets))))[0]:.3f}"
    one = intervals.bootstrap(truth.problem, main, targets, model.predicted[0][kept], groups, resamples=100)
    found = None if one is None else intervals.interval(mean, targets.shape, groups)
    return text if found is None else f"{text} [{found[0]:.3f}, {found[1]:.3f}]"


def gain(truth: Truth, first: Model | None, second: Model | None) -> str:
    """The gain of one model over another on the same rows, with its interval, and of each seed."""
    if first is None or second is None:
        return ""
    main = next(iter(METRICS[truth.problem]))
    found = intervals.paired(truth.problem, main, truth.targets, first.predicted, second.predicted, truth.groups)
    between = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.gain:+.3f}{between} ({', '.join(f'{x:+.3f}' for x in found.seeds)})"


def report(matrix) -> str:
    """All tables, as Markdown, of what is done; test rows in the training data of the base are counted first."""
    matrix.measure_overlap()
    main = [["task", "metric", "train / test rows", "best baseline", *(f"{a}, {w}" for a, w in COLUMNS), "note"]]
    gains = [["task", "arm", "pre-trained − random", "pre-trained − best baseline"]]
    overlap = [
        ["task", "copies of training rows (exact, near)", "test rows seen in pre-training", "without both: rows"]
    ]
    overlap[0] += ["best baseline", *(f"{arm}, {weights}" for arm, weights in COLUMNS[:4])]
    for task in matrix.tasks.values():
        rows = matrix.rows[task.name, 0]
        if rows.refused:
            main.append([task.name, *[""] * (len(main[0]) - 2), f"refused: {rows.refused}"])
            continue
        models = {column: of_arm(matrix, task, *column) for column in COLUMNS}
        shown = {column: model for column, model in models.items() if model is not None}
        metric = next(iter(METRICS[task.problem]))
        if task.problem == "token":
            truths = {x: Truth.of(matrix, task.name, x) for x in {model.folds for model in shown.values()}}
            values = [measured(truths[x.folds], x) if x else "" for x in models.values()]
            counts = f"{max((len(x.targets) for x in truths.values()), default=0):,} bases"
            baseline, over = of_bases(matrix, task, metric)
            main.append([task.name, metric, counts, baseline, *values, task.note])
            pretrained, random = (models["frozen", weights] for weights in (PRETRAINED, RANDOM))
            if pretrained is not None:
                gains.append([task.name, "frozen", gain(truths[pretrained.folds], pretrained, random), over])
            continue
        folds = tuple(range(task.folds))
        truths = {x: Truth.of(matrix, task.name, x) for x in {folds, *(model.folds for model in shown.values())}}
        baseline = best_baseline(matrix, task, folds)
        cells = [f"{measured(truths[folds], baseline)} ({baseline.name})" if baseline else ""]
        cells += [
            (measured(truths[model.folds], model) + " (fold 0)" * (model.folds != folds)) if model else ""
            for model in models.values()
        ]
        counts = f"{rows.facts['rows']['train']:,} / {len(truths[folds].targets):,}"
        notes = [task.note, *(f"{task.folds} outer folds" for _ in folds[1:2])]
        notes += [x for x in rows.facts["notes"] if "left out" in x]
        main.append([task.name, metric, counts, *cells, "; ".join(filter(None, notes))])
        for arm in dict.fromkeys(arm for arm, _ in shown):
            pretrained, random = models.get((arm, PRETRAINED)), models.get((arm, RANDOM))
            if pretrained is not None:
                truth = truths[pretrained.folds]
                against = best_baseline(matrix, task, pretrained.folds)
                gains.append([task.name, arm, gain(truth, pretrained, random), gain(truth, pretrained, against)])
        truth, copies = truths[folds], [matrix.rows[task.name, fold].facts["copies"] for fold in folds]
        kept = ~(truth.copies | truth.seen)
        exact, near = (sum(x[name] for x in copies) for name in ("exact", "near"))
        compared = all(np.isfinite(matrix.rows[task.name, fold].masks["overlap"]).all() for fold in folds)
        counted = [f"{exact:,}, {near:,}", f"{int(truth.seen.sum()):,}" if compared else "not compared"]
        without = [
            measured(truths[x.folds], x, ~(truths[x.folds].copies | truths[x.folds].seen)) if x else ""
            for x in (baseline, *(models[column] for column in COLUMNS[:4]))
        ]
        overlap.append([task.name, *counted, f"{int(kept.sum()):,} of {len(kept):,}", *without])
    settings = f"Base: {matrix.base}; at most {matrix.num_rows:,} training rows, {matrix.epochs} epochs."
    text = ["# Fine-tuning matrix", "", settings]
    for title, table in (("Metrics on test rows", main), ("Gains", gains), ("Without overlap", overlap)):
        lines = [f"| {' | '.join(row)} |" for row in table]
        text += ["", f"## {title}", "", lines[0], "|---" * len(table[0]) + "|", *lines[1:]]
    text += ["", _LEGEND, ""]
    return "\n".join(text)


_LEGEND = """\
Values are means over seeds with 95 % intervals over test rows, or groups of them; none where a class has fewer than 30
rows. Gains are of the same test rows (paired bootstrap), in brackets those of each seed. Rates, layers, k and penalties
were chosen on validation rows. "Seen in pre-training": a tenth or more of a row's 32-mers occur in the training data of
the base, on either strand. No published number stands beside a row: none has the same split and metric."""
