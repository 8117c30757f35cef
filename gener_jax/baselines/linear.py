"""Linear models of any features: logistic regression for classes and labels, ridge regression for values."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from gener_jax.baselines.base import worth
from gener_jax.labelled.problem import Problem

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)  # of the squared weights, beside the mean loss of a row; the simplest model first


def fit(
    train_features,
    train_targets: np.ndarray,
    validation_features,
    validation_targets: np.ndarray,
    problem: Problem,
    metric: str | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Callable[..., np.ndarray], dict[str, float], float]:
    """The best of several penalties by the metric of the validation rows; the first one, if others are only as good.

    Dense features are standardised on the training rows and divided by the root of their number, so that the squares
    of a row add up to about 1, whatever their number, and a penalty means the same. Sparse ones are taken as they are.
    The fit has no randomness.

    Args:
      train_features, validation_features: [N, F], dense or sparse.
      train_targets, validation_targets: as in `Examples`.
      problem: "single_label", "multi_label" or "regression" (which needs its `scale`).
      metric: of `METRICS[problem.kind]` [its first].

    Returns:
      predict: features → predictions, as `Baseline.predict` gives them.
      choices: the penalty.
      value: of the metric on the validation rows, turned around where lower is better (see `base.worth`).
    """
    scaled = _scaling(train_features)
    rows, held_out, best = scaled(train_features), scaled(validation_features), None
    for penalty in penalties:
        model = _model(rows, train_targets, problem, penalty)
        value = worth(problem, metric, validation_targets, model(held_out))
        if best is None or value > best[0]:
            best = value, penalty, model
    value, penalty, model = best
    return lambda features: model(scaled(features)), {"penalty": penalty}, value


def _scaling(features) -> Callable:
    """What is done to features before a model sees them: dense ones are standardised, by the training rows."""
    if not isinstance(features, np.ndarray):
        return lambda x: x
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1.0) * np.sqrt(features.shape[1])
    return lambda x: (x - mean) / spread


def _model(rows, targets, problem: Problem, penalty: float) -> Callable[..., np.ndarray]:
    """A fitted model: features → predictions."""
    if problem.kind == "regression":
        from sklearn.linear_model import Ridge

        scale = np.asarray(problem.scale)
        solver = "auto" if isinstance(rows, np.ndarray) else "sparse_cg"
        model = Ridge(alpha=penalty * len(targets), solver=solver).fit(rows, targets / scale)
        return lambda x: model.predict(x).reshape(x.shape[0], -1) * scale
    if targets.ndim == 1:
        return _logistic(rows, targets, len(problem.names), penalty)
    labels = [_logistic(rows, column.astype(np.int64), 2, penalty) for column in targets.T]
    return lambda x: np.stack([label(x)[:, 1] for label in labels], axis=1)


def _logistic(rows, targets, classes: int, penalty: float) -> Callable[..., np.ndarray]:
    """Probabilities [N, classes] by logistic regression; a class without a row has probability 0."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(targets)
    if len(present) == 1:
        return lambda x: np.tile(np.arange(classes) == present, (x.shape[0], 1)).astype(np.float64)
    model = LogisticRegression(C=1 / (penalty * len(targets)), max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the validation rows judge it as any other candidate
        model.fit(rows, targets)

    def predict(x):
        p = np.zeros((x.shape[0], classes))
        p[:, present] = model.predict_proba(x)
        return p

    return predict
