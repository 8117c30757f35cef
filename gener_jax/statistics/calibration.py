"""Whether a probability is one: temperature scaling, reliability bins, expected calibration error, Brier score."""

import dataclasses

import numpy as np

from gener_jax.runtime.errors import InputError

BINS = 10
_TEMPERATURES = (0.02, 50.0)


def temperature(logits, targets) -> float:
    """The temperature that makes held-out labels most likely (Guo et al. 2017): logits are to be divided by it.

    Where all rows are right, they are likelier the lower the temperature is. So what they should predict is not 1 but,
    as in Platt (1999), what the rule of succession gives: (n + 1) / (n + C) for a class of n rows, of C classes.

    Args:
      logits: float [N, C]; those of classes if `targets` are, else of labels, each a sigmoid's.
      targets: int [N], or 0 and 1 [N, C]; of rows that trained nothing.

    Returns:
      A number from 0.02 to 50; 1 without rows.

    Raises:
      InputError: of `logits`, if they are not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    if not np.isfinite(logits).all():
        raise InputError("must be finite", "logits")
    if not len(targets):
        return 1.0
    if targets.ndim == 1:
        happened = targets[:, None] == np.arange(logits.shape[1])
    else:  # of each label two classes: it is, or is not
        happened = np.stack([targets == 0, targets == 1], -1)
        logits = np.stack([np.zeros_like(logits), logits], -1)
    expected = np.einsum("n...i,...ij->n...j", happened, _shares(happened))

    def nll(log_temperature):
        return -(expected * log_softmax(logits / np.exp(log_temperature), -1)).sum(-1).mean()

    found = minimize_scalar(nll, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _shares(happened: np.ndarray) -> np.ndarray:
    """What a row of each class should predict of all, float64 [..., C, C], from its rows, bool [N, ..., C]."""
    number, classes = happened.sum(0)[..., None], happened.shape[-1]
    return (1 + number * np.eye(classes)) / (number + classes)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Probabilities beside what happened, in bins of equal width; bins without rows are omitted.

    Attributes:
      predicted, observed: mean probability, and fraction that happened, of each bin, float64 [bins].
      count: pairs in each bin, int64 [bins].
      ece: expected calibration error: the mean over pairs of |predicted - observed| of the pair's bin.
      brier: mean squared distance of probabilities from what happened; over both of two classes half the sum, so that
        it is that of the positive one, and over several classes the sum over classes.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    ece: float
    brier: float


def reliability(targets, probabilities, bins: int = BINS) -> Reliability:
    """How far probabilities can be taken at their word.

    Of two classes the pairs are the second's probability and whether it is the label; of several, the probability of
    the most probable one and whether that is the label; of labels, every label of every row.

    Args:
      targets: int [N], or 0 and 1 [N, labels].
      probabilities: [N, classes] or [N, labels].
      bins: of equal width, from 0 to 1.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, np.float64)
    if targets.ndim == 2:
        chance, happened = probabilities.ravel(), targets.ravel() == 1
        brier = (chance - happened) ** 2
    else:
        classes = probabilities.shape[1]
        one_hot = targets[:, None] == np.arange(classes)
        brier = ((probabilities - one_hot) ** 2).sum(1) / (2 if classes == 2 else 1)
        called = np.ones_like(targets) if classes == 2 else probabilities.argmax(1)
        chance, happened = probabilities[np.arange(len(targets)), called], targets == called
    where = np.minimum((chance * bins).astype(np.int64), bins - 1)
    count = np.bincount(where, minlength=bins)
    taken = count > 0
    predicted, observed = (np.bincount(where, x, bins)[taken] / count[taken] for x in (chance, happened))
    ece = (count[taken] * np.abs(predicted - observed)).sum() / max(count.sum(), 1)
    return Reliability(predicted, observed, count[taken], float(ece), float(brier.mean()) if len(brier) else np.nan)
