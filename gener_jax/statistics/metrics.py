"""What predictions are worth: the metrics of each problem, each computed for many weightings of the rows at once.

A function here prepares a metric (it sorts the scores once) and returns a `Weighted`, which maps weights, float64
[R, N] for R weightings of the N rows, to values, float64 [R]. Row weights of a bootstrap are whole numbers: a row that
was drawn three times weighs 3. The metric itself is the value at weights of 1. So an interval is of exactly the number
beside it, and a thousand resamples cost about as much as ten calls of scikit-learn, which has no such form; the tests
compare all with scikit-learn and SciPy. A value that does not exist (AUROC of one class, Pearson of a constant) is NaN.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gener_jax.runtime.errors import InputError

Weighted = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a number is: its unit ("bits per base"; empty for a plain number) and direction (None: it has none)."""

    unit: str
    higher_is_better: bool | None


@dataclasses.dataclass(frozen=True)
class Statistic(Metric):
    """A metric of labelled rows: `prepare(targets, predictions)` gives its `Weighted`."""

    prepare: Callable[[np.ndarray, np.ndarray], Weighted]


class _Ties:
    """Rows in the order of a key, equal keys together: sums over each, float64 [R, distinct], in the key's order."""

    def __init__(self, keys: np.ndarray):
        self.order = np.argsort(keys, kind="stable")
        ordered = keys[self.order]
        self.starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.keys = ordered[self.starts]
        self.sizes = np.diff(np.append(self.starts, len(keys)))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        ordered = weights[:, self.order]
        return ordered if len(self.starts) == len(self.order) else np.add.reduceat(ordered, self.starts, axis=1)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value of each distinct key, [R, distinct], given to its rows, [R, N]."""
        out = np.empty((len(values), len(self.order)))
        out[:, self.order] = np.repeat(values, self.sizes, axis=1)
        return out


def _ratio(numerator, denominator) -> np.ndarray:
    """The quotient; NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)


def mean(values: np.ndarray, strata=None) -> Weighted:
    """The mean of a value of each row, [N]; with strata, any [N], the mean over them of the mean in each.

    A weighting that leaves a stratum without rows, as a bootstrap may draw it, has the mean over the others.
    """
    values = np.asarray(values, np.float64)
    if strata is None:
        return lambda weights: _ratio(weights @ values, weights.sum(1))
    names, of_row = np.unique(np.asarray(strata), return_inverse=True)
    member = (of_row.reshape(-1, 1) == np.arange(len(names))).astype(np.float64)

    def over_strata(weights):
        means = _ratio(weights @ (member * values[:, None]), weights @ member)
        there = ~np.isnan(means)
        return _ratio(np.where(there, means, 0).sum(1), there.sum(1))

    return over_strata


def means_by(groups: Sequence[str], values: dict[str, np.ndarray], counted: str) -> dict[str, dict[str, float]]:
    """Group → the mean in it of each of the values, [N] by name, and the number of its rows as `counted`."""
    found = {}
    for group in dict.fromkeys(groups):
        here = np.array([name == group for name in groups])
        found[group] = {name: float(np.asarray(x)[here].mean()) for name, x in values.items()}
        found[group][counted] = int(here.sum())
    return found


def auroc(positive: np.ndarray, scores: np.ndarray) -> Weighted:
    """Probability that a positive row scores above a negative one, ties half; bool [N], [N]."""
    ties = _Ties(scores)

    def values(weights):
        of_positive, of_all = ties.sums(weights * positive), ties.sums(weights)
        of_negative = of_all - of_positive
        below = np.cumsum(of_negative, axis=1) - of_negative / 2
        return _ratio((of_positive * below).sum(1), of_positive.sum(1) * of_negative.sum(1))

    return values


def average_precision(positive: np.ndarray, scores: np.ndarray) -> Weighted:
    """Sum over thresholds of precision times the recall gained (scikit-learn's `average_precision_score`)."""
    return _precision_recall(positive, scores, lambda precision, before: precision)


def auprc_trapezoid(positive: np.ndarray, scores: np.ndarray) -> Weighted:
    """Area under straight lines through (recall, precision), from (0, 1): the figure of GENERator's ClinVar script."""
    return _precision_recall(positive, scores, lambda precision, before: (precision + before) / 2)


def _precision_recall(positive, scores, height) -> Weighted:
    ties = _Ties(-scores)

    def values(weights):
        of_positive = ties.sums(weights * positive)
        found, called = np.cumsum(of_positive, axis=1), np.cumsum(ties.sums(weights), axis=1)
        precision = np.where(called == 0, 1.0, found / np.maximum(called, 1e-300))
        before = np.concatenate([np.ones((len(weights), 1)), precision[:, :-1]], axis=1)
        return _ratio((of_positive * height(precision, before)).sum(1), found[:, -1])

    return values


def _each(prepare, macro: bool, targets, predictions) -> Weighted:
    """A binary metric of each column of bool [N, L] and scores, averaged over those that have it.

    Columns count alike (macro), or by their positive rows.
    """
    columns = [prepare(targets[:, i], predictions[:, i]) for i in range(targets.shape[1])]

    def values(weights):
        each = np.stack([column(weights) for column in columns], axis=1)
        counts = np.ones(targets.shape[1]) if macro else weights @ targets
        counts = np.where(np.isnan(each), 0.0, counts)
        return _ratio((counts * np.nan_to_num(each)).sum(1), counts.sum(1))

    return values


def _of_classes(prepare):
    """A binary metric for classes: of the second of two; one against the rest of several, weighted by their rows."""

    def prepared(targets, predictions):
        if predictions.shape[1] == 2:
            return prepare(targets == 1, predictions[:, 1])
        return _each(prepare, False, targets[:, None] == np.arange(predictions.shape[1]), predictions)

    return prepared


def _of_labels(prepare):
    """A binary metric of each label, the mean over labels with both values."""
    return lambda targets, predictions: _each(prepare, True, targets == 1, predictions)


def _micro(prepare):
    """A binary metric of all (row, label) pairs as one list."""

    def prepared(targets, predictions):
        pairs = prepare(targets.ravel() == 1, predictions.ravel())
        return lambda weights: pairs(np.repeat(weights, targets.shape[1], axis=1))

    return prepared


def _of_confusion(compute):
    """A metric of the confusion matrix, [R, C, C] by target and predicted class (the most probable)."""

    def prepared(targets, predictions):
        classes = predictions.shape[1]
        cells = _Ties(targets * np.int64(classes) + predictions.argmax(1))

        def values(weights):
            matrix = np.zeros((len(weights), classes * classes))
            matrix[:, cells.keys] = cells.sums(weights)
            return compute(matrix.reshape(-1, classes, classes))

        return values

    return prepared


def _accuracy(matrix):
    return _ratio(np.trace(matrix, axis1=1, axis2=2), matrix.sum((1, 2)))


def _mcc(matrix):
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where targets or predictions are constant."""
    total, true, predicted = matrix.sum((1, 2)), matrix.sum(2), matrix.sum(1)
    covariance = np.trace(matrix, axis1=1, axis2=2) * total - (true * predicted).sum(1)
    variances = (total**2 - (true**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    return np.nan_to_num(_ratio(covariance, np.sqrt(variances)))


def _f1_by_class(matrix):
    return _ratio(2 * np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(1) + matrix.sum(2))


def _f1_weighted(matrix):
    return _ratio((np.nan_to_num(_f1_by_class(matrix)) * matrix.sum(2)).sum(1), matrix.sum((1, 2)))


def _f1_macro(matrix):
    each = _f1_by_class(matrix)
    return _ratio(np.nan_to_num(each).sum(1), (~np.isnan(each)).sum(1))


def f1_max(targets: np.ndarray, predictions: np.ndarray) -> Weighted:
    """The largest F1 over all thresholds, protein-centric: [N, L] of 0 and 1, and scores.

    At a threshold precision is the mean over rows with a score at or above it, recall the mean over all rows (0 for a
    row without labels), F1 of the two means; as in CAFA, and in GENERator's script but for its order within ties.
    """
    rows, labels = targets.shape
    order = np.argsort(-predictions, axis=1, kind="stable")
    hits = np.cumsum(np.take_along_axis(targets == 1, order, 1), axis=1)
    precision, recall = hits / np.arange(1, labels + 1), hits / np.maximum(hits[:, -1:], 1)
    row = np.repeat(np.arange(rows), labels)
    # What each score adds, as the threshold falls to it, to the precision, the recall and the count of its row.
    gains = [np.diff(x, axis=1, prepend=0).ravel() for x in (precision, recall, np.ones_like(precision))]
    ties = _Ties(-np.take_along_axis(predictions, order, 1).ravel())

    def values(weights):
        by_pair = weights[:, row]
        precision, recall, called = (np.cumsum(ties.sums(by_pair * gain), axis=1) for gain in gains)
        precision = precision / np.where(called > 0.5, called, np.inf)
        recall = recall / weights.sum(1, keepdims=True)
        total = precision + recall
        return (2 * precision * recall / np.where(total > 0, total, 1.0)).max(1)

    return values


def _pearson(x, y, weights) -> np.ndarray:
    """Correlation under weights [R, N] of x and y, [N] or [R, N]; NaN where either is constant."""
    total = weights.sum(1)
    x, y = np.atleast_2d(x - x.mean()), np.atleast_2d(y - y.mean())
    sum_x, sum_y, sum_xx, sum_yy, sum_xy = (
        np.einsum("rn,rn->r", *np.broadcast_arrays(weights, v)) for v in (x, y, x * x, y * y, x * y)
    )
    spread_x, spread_y = sum_xx - sum_x**2 / total, sum_yy - sum_y**2 / total
    constant = (spread_x <= 1e-12 * sum_xx) | (spread_y <= 1e-12 * sum_yy)
    return _ratio(sum_xy - sum_x * sum_y / total, np.where(constant, 0.0, np.sqrt(np.abs(spread_x * spread_y))))


def pearson(targets: np.ndarray, predictions: np.ndarray) -> Weighted:
    """Pearson's correlation of one output, [N] and [N]."""
    return lambda weights: _pearson(targets, predictions, weights)


def spearman(targets: np.ndarray, predictions: np.ndarray) -> Weighted:
    """Spearman's correlation of one output, [N] and [N]: Pearson's of the ranks, equal values sharing theirs."""
    both = _Ties(targets), _Ties(predictions)

    def values(weights):
        sums = [ties.sums(weights) for ties in both]
        ranks = [ties.spread(np.cumsum(x, axis=1) - x / 2) for ties, x in zip(both, sums, strict=True)]
        return _pearson(*ranks, weights)

    return values


def _r2(targets, predictions) -> Weighted:
    """Fraction of the targets' variance explained, of one output; below 0 where their mean would predict better."""
    residual, centred = (targets - predictions) ** 2, targets - targets.mean()

    def values(weights):
        total = weights.sum(1)
        squares = weights @ centred**2
        spread = squares - (weights @ centred) ** 2 / total
        return 1 - _ratio(weights @ residual, np.where(spread <= 1e-12 * squares, 0.0, spread))

    return values


def _mean_error(error):
    return lambda targets, predictions: lambda weights: _ratio(weights @ error(targets - predictions), weights.sum(1))


def _of_outputs(prepare):
    """A metric of one output for several: the mean over outputs; NaN if that of an output is."""

    def prepared(targets, predictions):
        outputs = [prepare(*pair) for pair in zip(targets.T, predictions.T, strict=True)]
        return lambda weights: np.mean([output(weights) for output in outputs], axis=0)

    return prepared


def _pooled(prepare):
    """A metric of one output for all (row, output) pairs as one list."""

    def prepared(targets, predictions):
        pairs = prepare(targets.ravel(), predictions.ravel())
        return lambda weights: pairs(np.repeat(weights, targets.shape[1], axis=1))

    return prepared


def _higher(prepare) -> Statistic:
    return Statistic("", True, prepare)


_OF_CLASSES = {
    "mcc": _higher(_of_confusion(_mcc)),
    "accuracy": _higher(_of_confusion(_accuracy)),
    "f1": _higher(_of_confusion(_f1_weighted)),
    "f1_macro": _higher(_of_confusion(_f1_macro)),
    "auroc": _higher(_of_classes(auroc)),
    "auprc": _higher(_of_classes(average_precision)),
    "auprc_trapezoid": _higher(_of_classes(auprc_trapezoid)),
}
_OF_OUTPUT = {
    "pearson": _higher(pearson),
    "spearman": _higher(spearman),
    "r2": _higher(_r2),
    "mse": Statistic("squared units of the labels", False, _mean_error(np.square)),
    "mae": Statistic("units of the labels", False, _mean_error(np.abs)),
}
# Problem → name → metric, the problem's main one first.
METRICS: dict[str, dict[str, Statistic]] = {
    "single_label": _OF_CLASSES,
    "multi_label": {
        "f1_max": _higher(f1_max),
        "auprc": _higher(_micro(average_precision)),
        "auprc_trapezoid": _higher(_micro(auprc_trapezoid)),
        "auroc": _higher(_of_labels(auroc)),
    },
    "regression": {
        "pearson": _higher(_of_outputs(pearson)),
        "pearson_pooled": _higher(_pooled(pearson)),
        **{
            name: dataclasses.replace(metric, prepare=_of_outputs(metric.prepare))
            for name, metric in _OF_OUTPUT.items()
            if name != "pearson"
        },
    },
    "token": _OF_CLASSES,
}
_OF_LABEL = {"auroc": auroc, "auprc": average_precision, "auprc_trapezoid": auprc_trapezoid}


def evaluate(problem: str, targets, predictions) -> dict[str, float]:
    """All metrics of a problem, by name.

    Args:
      problem: a key of `METRICS`.
      targets: of classes, int [N] (token: of all labelled bases); of labels, 0 and 1 [N, labels]; of regression, in
        the unit of the labels, [N, outputs].
      predictions: probabilities [N, classes] or [N, labels], or values [N, outputs]. Where there are two classes the
        second is the positive one.

    Raises:
      InputError: of `predictions`, if its shape is not that of the targets.
    """
    targets, predictions = checked(problem, targets, predictions)
    once = np.ones((1, len(targets)))
    known = len(targets) and np.isfinite(predictions).all()
    return {
        name: float(metric.prepare(targets, predictions)(once)[0]) if known else float("nan")
        for name, metric in METRICS[problem].items()
    }


def breakdown(problem: str, targets, predictions, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics of each class, label or output by its name, with `rows`: those of the class or with the label, or all.

    A class or label has auroc, auprc and auprc_trapezoid against the rest; a class also precision, recall and f1 of
    the most probable class; an output what regression has.
    """
    targets, predictions = checked(problem, targets, predictions)
    once = np.ones((1, len(targets)))
    of_classes = targets.ndim == 1
    found = {}
    for i, name in enumerate(names):
        column, scores = (targets == i if of_classes else targets[:, i]), predictions[:, i]
        if problem == "regression":
            row = {"rows": len(targets)}
            prepared = {name: metric.prepare for name, metric in _OF_OUTPUT.items()}
        else:
            column = column == 1
            row, prepared = {"rows": int(column.sum())}, _OF_LABEL
        if of_classes:
            called = predictions.argmax(1) == i
            both = (called & column).sum()
            row |= {
                "precision": float(_ratio(both, called.sum())),
                "recall": float(_ratio(both, column.sum())),
                "f1": float(_ratio(2 * both, called.sum() + column.sum())),
            }
        found[name] = row | {key: float(prepare(column, scores)(once)[0]) for key, prepare in prepared.items()}
    return found


def checked(problem: str, targets, predictions) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, predictions in float64.

    Raises:
      InputError: of `predictions`, if its shape is not that of the targets; of `problem`, if it is unknown.
    """
    if problem not in METRICS:
        raise InputError(f"must be one of {', '.join(METRICS)}", "problem", problem)
    targets, predictions = np.asarray(targets), np.asarray(predictions, np.float64)
    of_classes = problem in ("single_label", "token")
    if not of_classes:
        targets = targets.astype(np.float64)
    fits = predictions.ndim == 2 and (
        targets.shape == predictions.shape[:1] if of_classes else targets.shape == predictions.shape
    )
    if not fits:
        raise InputError(f"does not fit targets {targets.shape}", "predictions", predictions.shape)
    return targets, predictions
