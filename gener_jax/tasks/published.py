"""Figures that others report, with where each stands: the tables `assets.PUBLISHED`.

Their columns are suite, task, metric, model, value, standard_error (empty: not known) and source; a value whose metric
ends in "percent" is in percent there. Each figure stands beside a task, or `NOT_TASKS` has the reason why it does not.
"""

import csv
import functools
from pathlib import Path

from gener_jax import assets
from gener_jax.storage.results import Published

_OF_CLINVAR = (
    "of 39,473 coding and 15,258 non-coding variants that Carbon chose, with 24,000 bases of context; the set of the "
    "task clinvar does not tell coding from non-coding"
)
_OF_TOKENIZERS = "of a comparison of tokenizers by models of 3 billion parameters that had seen 50 billion tokens"
NOT_TASKS = {  # (suite, task) → why its figures stand beside no task here
    ("carbon_suite", "clinvar_coding_auroc"): _OF_CLINVAR,
    ("carbon_suite", "clinvar_noncoding_auroc"): _OF_CLINVAR,
    ("tokenizer_ablation_3B_50B_tokens", "sequence_recovery"): _OF_TOKENIZERS,
    ("tokenizer_ablation_3B_50B_tokens", "brca2_auroc"): _OF_TOKENIZERS,
}


@functools.cache
def rows() -> tuple[dict[str, str], ...]:
    """The rows of the tables."""
    return tuple(row for path in assets.PUBLISHED for row in _read(path))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def of(suite: str, task: str, metric: str, *, as_metric: str, comparable: bool) -> tuple[Published, ...]:
    """What is reported for a task, the highest value first (of all these metrics, higher is better).

    Args:
      suite, task, metric: as in the tables; percent become fractions.
      as_metric: the name of our metric that corresponds.
      comparable: whether rows, split and metric are those of our task.

    Raises:
      KeyError: if no table has such a row.
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
