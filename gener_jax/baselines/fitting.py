"""All baselines that suit a problem."""

from gener_jax.baselines import cnn, constant, kmer
from gener_jax.baselines.base import Baseline
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem


def fit(
    train: Examples, validation: Examples, problem: Problem, *, metric: str | None = None, seed: int = 0
) -> list[Baseline]:
    """A constant, a linear model of k-mer counts and, from `cnn.LEAST_ROWS` training rows on, a small CNN."""
    kinds = (constant, kmer, cnn) if len(train) >= cnn.LEAST_ROWS else (constant, kmer)
    return [kind.fit(train, validation, problem, metric=metric, seed=seed) for kind in kinds]
