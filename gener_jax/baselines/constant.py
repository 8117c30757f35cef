"""The same prediction for every sequence: the shares of the classes or labels, or the mean."""

import numpy as np

from gener_jax.baselines.base import Baseline
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem


def fit(
    train: Examples, validation: Examples, problem: Problem, *, metric: str | None = None, seed: int = 0
) -> Baseline:
    """Predicts what is true of the training rows on average; the most probable class is the majority's."""
    if train.targets.ndim == 1:
        constant = np.bincount(train.targets, minlength=len(problem.names)) / len(train.targets)
    else:
        constant = train.targets.mean(0, dtype=np.float64)
    name = "mean" if problem.kind == "regression" else "majority"
    return Baseline(name, {}, lambda sequences: np.tile(constant, (len(sequences), 1)))
