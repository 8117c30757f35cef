"""Figures that others report, with where each stands: `assets/published.tsv`.

Its columns are suite, task, metric, model, value, standard_error (empty: not known) and source; a value whose metric
ends in "percent" is in percent there.
"""

import csv
import functools

from gener_jax import assets
from gener_jax.storage.results import Published


@functools.cache
def rows() -> tuple[dict[str, str], ...]:
    """The rows of the table."""
    with assets.PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def of(suite: str, task: str, metric: str, *, as_metric: str, comparable: bool) -> tuple[Published, ...]:
    """What is reported for a task, the highest value first (of all these metrics, higher is better).

    Args:
      suite, task, metric: as in the table; percent become fractions.
      as_metric: the name of our metric that corresponds.
      comparable: whether rows, split and metric are those of our task.

    Raises:
      KeyError: if the table has no such row.
    """
    found = [row for row in rows() if (row["suite"], row["task"], row["metric"]) == (suite, task, metric)]
    if not found:
        raise KeyError(f"no published figure of {suite}, {task}, {metric}")
    scale = 100 if metric.endswith("percent") else 1

    def number(text: str) -> float | None:
        return round(float(text) / scale, 6) if text else None

    made = [
        Published(
            row["model"], as_metric, number(row["value"]), number(row["standard_error"]), row["source"], comparable
        )
        for row in found
    ]
    return tuple(sorted(made, key=lambda each: -each.value))
