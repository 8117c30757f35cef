"""What predictions of labelled rows are worth: metrics, by class, without copies of training rows, beside baselines."""

import math
from collections.abc import Mapping

import numpy as np

from gener_jax.labelled.audit import Leaks
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.statistics.calibration import reliability
from gener_jax.statistics.intervals import bootstrap, paired
from gener_jax.statistics.metrics import METRICS, Metric, breakdown, evaluate
from gener_jax.tasks.base import Result

_COLUMNS = {"single_label": "class", "multi_label": "label", "regression": "output"}  # of the breakdown


def metrics_of(problem: str) -> dict[str, Metric]:
    """The metrics of a problem, its main one first; of classes and labels also those of their probabilities."""
    found = {name: Metric(x.unit, x.higher_is_better) for name, x in METRICS[problem].items()}
    return found if problem == "regression" else {**found, **dict.fromkeys(("ece", "brier"), Metric("", False))}


def measure(problem: Problem, rows: Examples, numbers: np.ndarray, metric: str, copies: Leaks | None = None) -> Result:
    """The result of predictions of rows.

    Args:
      numbers: probabilities, or values in the unit of the labels, [N, C].
      metric: that has an interval, over rows or whole groups.
      copies: what the rows have in common with training rows; None: it was not looked for.
    """
    kind, names = problem.kind, problem.names
    values = evaluate(kind, rows.targets, numbers)
    if kind != "regression":
        found = reliability(rows.targets, numbers)
        values |= {"ece": found.ece, "brier": found.brier}
    groups, counts = {}, {"rows": len(rows)}
    if len(names) > 1:
        groups[_COLUMNS[kind]] = breakdown(kind, rows.targets, numbers, names)
    if copies is not None:
        counts = {"exact_copies": int(copies.exact.sum()), "near_copies": int(copies.near.sum()), **counts}
        if not copies.clean.all() and copies.clean.any():
            clean = evaluate(kind, rows.targets[copies.clean], numbers[copies.clean])
            groups["rows"] = {
                "all": {**values, "rows": len(rows)},
                "without copies of training rows": {**clean, "rows": int(copies.clean.sum())},
            }
    between = {metric: bootstrap(kind, metric, rows.targets, numbers, rows.groups)}
    return Result(values, counts, breakdown=groups, intervals=between)


def beside(
    problem: str, rows: Examples, numbers: np.ndarray, metric: str, others: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """The metrics of what others predict for the same rows; of `metric` also its interval, and what is gained over it.

    Args:
      numbers: what the model predicts.
      others: name → the same of a baseline.
    """
    found = {}
    for name, theirs in others.items():
        gain = paired(problem, metric, rows.targets, numbers, theirs, rows.groups)
        low, high = bootstrap(problem, metric, rows.targets, theirs, rows.groups) or (math.nan, math.nan)
        row = {**evaluate(problem, rows.targets, theirs), f"{metric}_low": low, f"{metric}_high": high}
        gains = {f"{metric}_gain": gain.gain, f"{metric}_gain_low": gain.low, f"{metric}_gain_high": gain.high}
        found[name] = row | gains
    return found
