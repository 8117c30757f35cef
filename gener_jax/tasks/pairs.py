"""Predictions of a task as a table of text, and the gain of one model over another on the rows of two such tables."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text
from gener_jax.statistics import intervals, matched
from gener_jax.statistics.metrics import METRICS, mean
from gener_jax.tasks.base import Paired

Table = dict[str, list[str]]  # column → the text of each row


def table_of(predictions: Mapping[str, Sequence]) -> Table:
    """Predictions as text: numbers in full precision, truth values as 1 and 0, what is unknown empty.

    Raises:
      ValueError: if the columns differ in length.
    """
    made = {name: [_text(value) for value in values] for name, values in predictions.items()}
    if len(lengths := {name: len(column) for name, column in made.items()}) and len(set(lengths.values())) > 1:
        raise ValueError(f"columns of predictions differ in length: {lengths}")
    return made


def _text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else repr(float(value))
    return str(value)


def write(path: Path, table: Table) -> None:
    """Writes a table as TSV, atomically; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    rows.writerow(table)
    rows.writerows(zip(*table.values(), strict=True))
    write_text(path, text.getvalue())


def read(path: Path) -> Table:
    """A table that `write` wrote.

    Raises:
      ValueError: if it is not one.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            header, *rows = csv.reader(file, delimiter="\t")
        except csv.Error as error:
            raise ValueError(str(error)) from None
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return {name: list(column) for name, column in zip(header, columns, strict=True)}


def check(paired: Paired, table: Table) -> None:
    """Raises ValueError if a table has not what a task declares of it."""
    named = [*paired.scores, *paired.targets, *filter(None, (paired.groups, paired.rows, paired.strata))]
    if absent := [name for name in named if name not in table]:
        raise ValueError(f"paired names {absent[0]}, which is no column of the predictions: {', '.join(table)}")
    if paired.rows is not None and len(set(table[paired.rows])) < len(table[paired.rows]):
        raise ValueError(f"paired.rows is {paired.rows}, in which several rows have one name")
    if paired.problem != "mean" and paired.metric not in METRICS[paired.problem]:
        raise ValueError(f"paired.metric is {paired.metric}, which is no metric of {paired.problem}")
    _numbers(table, (*paired.scores, *paired.targets))


def gain(paired: Paired, first: Table, second: Table) -> tuple[intervals.Gain, int] | None:
    """The gain of the first model over the second on the rows that both have, and their number.

    None if there are no such rows, or the truth of one differs: the two were not measured on the same data.
    """
    names = [paired.rows] if paired.rows else []
    if any(set(names) - set(table) for table in (first, second)):
        return None
    keys = [table[paired.rows] if paired.rows else range(len(table[paired.scores[0]])) for table in (first, second)]
    if not paired.rows and len(keys[0]) != len(keys[1]):
        return None
    place = {key: i for i, key in enumerate(keys[1])}
    of_first = np.array([i for i, key in enumerate(keys[0]) if key in place], np.int64)
    of_second = np.array([place[keys[0][i]] for i in of_first], np.int64)
    truth = [_numbers(table, paired.targets)[at] for table, at in ((first, of_first), (second, of_second))]
    scores = [_numbers(table, paired.scores)[at] for table, at in ((first, of_first), (second, of_second))]
    if not np.array_equal(*truth, equal_nan=True):
        return None
    kept = np.isfinite(np.concatenate([*scores, truth[0]], axis=1)).all(1)
    if not kept.any():
        return None
    one, other = (each[kept] for each in scores)
    groups = None if paired.groups is None else np.array(first[paired.groups])[of_first][kept]
    if paired.problem == "mean":
        difference = (one - other)[:, 0] * (1 if paired.higher_is_better else -1)
        ends = intervals.interval(mean(difference), difference.shape, groups) or (None, None)
        return intervals.Gain(float(difference.mean()), *ends, (float(difference.mean()),)), len(difference)
    targets = truth[0][kept]
    if paired.strata is not None:
        strata, target = np.array(first[paired.strata])[of_first][kept], targets[:, 0]
        target = target == 1 if paired.metric in matched.CLASSES else target
        both = paired.metric, target, one[:, 0], other[:, 0], groups, strata, paired.weighting
        return matched.paired(*both), len(target)
    if paired.problem in ("single_label", "token"):
        targets = targets[:, 0].astype(np.int64)
    return intervals.paired(paired.problem, paired.metric, targets, one, other, groups), len(targets)


def _numbers(table: Table, names: Sequence[str]) -> np.ndarray:
    """Columns as numbers, float64 [rows, columns]; NaN where there is none."""
    rows = len(next(iter(table.values()), ()))
    columns = [[float(text) if text else math.nan for text in table[name]] for name in names]
    return np.array(columns, np.float64).reshape(len(names), rows).T
