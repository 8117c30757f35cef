"""What a baseline is, and how one of several candidates is chosen."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gener_jax.labelled.problem import Problem
from gener_jax.statistics.metrics import METRICS, evaluate


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A fitted model.

    Attributes:
      name: what it is.
      choices: what was chosen on the validation rows.
      predict: sequences → probabilities [N, classes] or [N, labels], or values in the labels' unit [N, outputs].
    """

    name: str
    choices: dict[str, str | int | float]
    predict: Callable[[Sequence[str]], np.ndarray]


def worth(problem: Problem, metric: str | None, targets: np.ndarray, predictions: np.ndarray) -> float:
    """The metric of predictions of validation rows (None: the problem's first), larger for better ones.

    A metric that does not exist is worth less than any.
    """
    metrics = METRICS[problem.kind]
    metric = metric or next(iter(metrics))
    value = evaluate(problem.kind, targets, predictions)[metric]
    return -np.inf if np.isnan(value) else value if metrics[metric].higher_is_better else -value
