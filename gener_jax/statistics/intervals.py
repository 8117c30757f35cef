"""How sure a metric is: bootstrap intervals over rows or groups, and of gains between models on the same rows.

The intervals are BCa (Efron 1987): quantiles of the resampled metric, shifted by its bias and acceleration. In
simulation resampling within each class covers less everywhere, since the fractions of the classes are then not
uncertain; `tests/test_intervals.py` measures coverage. Of areas under precision and recall no bootstrap covers enough
in few groups (BCa 90 % in 40): a positive row drawn twice raises its own precision. Theirs is `of_precision`.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from gener_jax.runtime.errors import InputError
from gener_jax.statistics.metrics import METRICS, Weighted, checked, mean

RESAMPLES = 1000
LEVEL = 0.95
LEAST = 30  # rows of each class, or groups, below which there is no interval
_BLOCKS = 1000  # of the jackknife, at most; no more than resamples
_ENTRIES = 2_000_000  # weights held at once, each for all values of a row


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better one model is than another on the same rows: above 0 where it is.

    Attributes:
      gain: of the metric, the mean over seeds; turned around where lower is better.
      low, high: its interval; None where there is none.
      seeds: the gain of each seed.
    """

    gain: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]


def bootstrap(
    problem: str, metric: str, targets, predictions, groups=None, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of a metric of `METRICS[problem]`, with arguments as those of `metrics.evaluate`.

    Args:
      groups: any [N] whose equal values are resampled together; None: each row alone.
      resamples: drawn with replacement.
      seed: of the draws.

    Returns:
      (low, high), or None: under 30 rows of a class or a value of a label, under 30 groups or rows, or a metric that
      does not exist.
    """
    targets, predictions = checked(problem, targets, predictions)
    if not np.isfinite(predictions).all():
        return None
    if _too_few(problem, targets, predictions.shape[1]):
        return None
    return of_metric(
        metric, METRICS[problem][metric].prepare(targets, predictions), targets.shape, groups, resamples, seed
    )


def paired(
    problem: str, metric: str, targets, first, second, groups=None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Gain:
    """The gain of the first model over the second, resampled over the rows that both predict.

    Args:
      first, second: predictions, [N, …], or [seeds, N, …] of a model trained with several seeds: each seed is compared
        with the same seed of the other model, or with its only predictions.
    """
    both = [np.asarray(x, np.float64) for x in (first, second)]
    both = [x[None] if x.ndim == 2 else x for x in both]
    seeds = max(map(len, both))
    if not all(len(x) in (1, seeds) for x in both):
        raise InputError(f"has {len(both[1])} seeds, and first {len(both[0])}", "second")
    both = [np.broadcast_to(x, (seeds, *x.shape[1:])) for x in both]
    statistic = METRICS[problem][metric]
    sign = 1 if statistic.higher_is_better else -1
    pairs = []
    for models in zip(*both, strict=True):
        targets = checked(problem, targets, models[0])[0]
        pairs.append([statistic.prepare(*checked(problem, targets, model)) for model in models])

    def each(weights):
        return [sign * (one(weights) - other(weights)) for one, other in pairs]

    gains = tuple(float(x[0]) for x in each(np.ones((1, len(targets)))))
    few = _too_few(problem, targets, both[0].shape[2]) or not all(np.isfinite(x).all() for x in both)
    found = None if few else interval(lambda w: np.mean(each(w), axis=0), targets.shape, groups, resamples, seed)
    return Gain(float(np.mean(gains)), *(found or (None, None)), gains)


def of_mean(name: str, values, groups=None, strata=None, than=None) -> dict[str, float]:
    """The mean of a value of each row, [N], as `name`, with the ends of its interval as `name_low` and `name_high`.

    Where there is no interval, its ends are left out.

    Args:
      groups: as for `bootstrap`.
      strata: as for `metrics.mean`.
      than: values of another model for the same rows; then also its gain over this one's, as `name_gain` and so on.
    """
    found, values = {}, np.asarray(values)
    gains = [] if than is None else [(f"{name}_gain", np.subtract(than, values, dtype=np.float64))]
    for key, each in ((name, values), *gains):
        found[key] = float(mean(each, strata)(np.ones((1, len(each))))[0])
        if both := mean_interval(each, groups, strata):
            found |= {f"{key}_low": both[0], f"{key}_high": both[1]}
    return found


def ends(found: dict[str, float], name: str) -> tuple[float, float] | None:
    """The ends that `of_mean` found; None where there is no interval."""
    return (found[f"{name}_low"], found[f"{name}_high"]) if f"{name}_low" in found else None


def of_metric(
    metric: str, statistic: Weighted, shape: tuple[int, ...], groups=None, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The interval that a metric of this name has: `of_precision` of auprc and auprc_trapezoid, else `interval`."""
    if metric in ("auprc", "auprc_trapezoid"):
        return of_precision(statistic, shape, groups, seed)
    return interval(statistic, shape, groups, resamples, seed)


def interval(
    statistic: Weighted, shape: tuple[int, ...], groups=None, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % BCa interval of any `Weighted`; None under 30 rows or groups, or where it does not exist.

    Args:
      shape: of its targets: (rows,) or (rows, values in each), which bounds the resamples that are held at once.
      groups, resamples, seed: as for `bootstrap`.
    """
    from scipy.stats import norm

    unit, units, held = _units(shape, groups)
    if units < LEAST:
        return None
    value = statistic(np.ones((1, shape[0])))[0]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([statistic(w[:, unit]) for w in _draws(rng, units, resamples, held)])
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) < 0.9 * resamples:
        return None
    left_out = np.concatenate(
        [statistic(w[:, unit]) for w in _blocks(rng, min(units, resamples, _BLOCKS), units, held)]
    )
    influence = left_out.mean() - left_out
    spread = (influence**2).sum() ** 1.5
    acceleration = (influence**3).sum() / (6 * spread) if spread > 0 else 0.0
    below = ((drawn < value).sum() + (drawn == value).sum() / 2) / len(drawn)
    bias = norm.ppf(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    z = bias + norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.quantile(drawn, norm.cdf(bias + z / np.maximum(1 - acceleration * z, 0.1)))
    return float(low), float(high)


def of_precision(statistic: Weighted, shape: tuple[int, ...], groups=None, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of an area under precision and recall, symmetric on the scale of its logit (Boyd et al. 2013).

    Its standard error is the jackknife's over rows or groups, at most `_BLOCKS` blocks of them, with Student's t (Tukey
    1958). The interval of an area of 0 or 1 has no width.

    Args:
      shape, groups, seed: as for `interval`.
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    unit, units, held = _units(shape, groups)
    if units < LEAST:
        return None
    value = float(statistic(np.ones((1, shape[0])))[0])
    blocks = min(units, _BLOCKS)
    weights = _blocks(np.random.default_rng(seed), blocks, units, held)
    left_out = np.concatenate([statistic(w[:, unit]) for w in weights])
    if not np.isfinite(value) or not np.isfinite(left_out).all():
        return None
    if not 0 < value < 1:
        return value, value
    error = math.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum())
    slope = 1 / (value * (1 - value))  # of the logit
    reach = t.ppf((1 + LEVEL) / 2, blocks - 1) * error * slope
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def mean_interval(values: np.ndarray, groups=None, strata=None, *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of rows; None under 30 rows or groups, in all or in a stratum.

    Resampling learns nothing from a fraction (bool) of 0 or 1. There it is Clopper and Pearson's (1934) of as many
    draws as there are groups.

    Args:
      values: bool or float [N].
      groups, seed: as for `bootstrap`.
      strata: as for `metrics.mean`.
    """
    values = np.asarray(values)
    for stratum in () if strata is None else np.unique(strata):
        inside = np.asarray(strata) == stratum
        if (inside.sum() if groups is None else len(np.unique(np.asarray(groups)[inside]))) < LEAST:
            return None
    if values.dtype == bool and len(values) and (values == values[0]).all():
        units = len(values if groups is None else np.unique(groups))
        reach = ((1 - LEVEL) / 2) ** (1 / units)
        return None if units < LEAST else (reach, 1.0) if values[0] else (0.0, 1 - reach)
    return interval(mean(values, strata), values.shape, groups, seed=seed)


def _units(shape: tuple[int, ...], groups) -> tuple[np.ndarray, int, int]:
    """The row's unit, int [N], which is drawn whole; how many units there are, and how many resamples are held at once.

    Raises:
      InputError: of `groups`, if they are not one per row.
    """
    rows, held = shape[0], max(1, _ENTRIES // max(1, math.prod(shape)))
    if groups is not None and len(groups) != rows:
        raise InputError(f"must be {rows}, one per row", "groups", len(groups))
    unit = np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    return unit, int(unit.max()) + 1 if rows else 0, held


def _too_few(problem: str, targets: np.ndarray, outputs: int) -> bool:
    if problem == "regression":
        return False  # `interval` counts the rows
    if targets.ndim == 1:
        return np.bincount(targets, minlength=outputs).min() < LEAST
    positive = (targets == 1).sum(0)
    return min(positive.min(), (len(targets) - positive).min()) < LEAST


def _draws(rng: np.random.Generator, units: int, resamples: int, held: int) -> Iterator[np.ndarray]:
    """How often each unit was drawn, float64 [R, units], few resamples at a time."""
    for start in range(0, resamples, held):
        count = min(held, resamples - start)
        drawn = rng.integers(units, size=(count, units)) + np.arange(count)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units).astype(np.float64)


def _blocks(rng: np.random.Generator, blocks: int, units: int, held: int) -> Iterator[np.ndarray]:
    """Weights that leave out one random block of units each, of one unit where there are as many, [blocks, units]."""
    block = rng.permutation(units) % blocks
    for start in range(0, blocks, held):
        yield (block != np.arange(start, min(start + held, blocks))[:, None]).astype(np.float64)
