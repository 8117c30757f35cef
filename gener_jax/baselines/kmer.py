"""Linear models of k-mer counts: logistic regression for classes and labels, ridge regression for values."""

import warnings
from collections.abc import Sequence

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.baselines.base import Baseline, worth
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem

KS = (3, 4, 5, 6)
PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)  # of the squared weights, beside the mean loss of a row; the simplest model first


def fit(
    train: Examples, validation: Examples, problem: Problem, *, metric: str | None = None, seed: int = 0
) -> Baseline:
    """The best of all k, strands ("one": as written; "both": a k-mer is its reverse complement) and penalties.

    The features are square roots of k-mer frequencies, so that sequences of any length have length 1 as vectors. The
    fit is the same for every seed.
    """
    best = None
    for k in KS:
        for strands in ("one", "both"):
            rows, held_out = (features(x.sequences, k, strands == "both") for x in (train, validation))
            for penalty in PENALTIES:
                model = _linear(rows, train.targets, problem, penalty)
                value = worth(problem, metric, validation, model(held_out))
                if best is None or value > best[0]:
                    best = value, {"k": k, "strands": strands, "penalty": penalty}, model
    _, choices, model = best
    name = "k-mer ridge" if problem.kind == "regression" else "k-mer logistic"
    k, canonical = choices["k"], choices["strands"] == "both"
    return Baseline(name, choices, lambda sequences: model(features(sequences, k, canonical)))


def features(sequences: Sequence[str], k: int, canonical: bool):
    """Square roots of the k-mer frequencies, sparse float64 [N, 4^k]; a row without a k-mer is 0."""
    found = counts(sequences, k, canonical)
    per_row = np.diff(found.indptr)
    found.data = np.sqrt(found.data / np.repeat(found.sum(1), per_row))
    return found


def _linear(rows, targets, problem: Problem, penalty: float):
    """A fitted linear model: features → predictions, as `Baseline.predict` gives them."""
    if problem.kind == "regression":
        from sklearn.linear_model import Ridge

        scale = np.asarray(problem.scale)
        model = Ridge(alpha=penalty * len(targets), solver="sparse_cg").fit(rows, targets / scale)
        return lambda x: model.predict(x).reshape(x.shape[0], -1) * scale
    if targets.ndim == 1:
        return _logistic(rows, targets, len(problem.names), penalty)
    labels = [_logistic(rows, column.astype(np.int64), 2, penalty) for column in targets.T]
    return lambda x: np.stack([label(x)[:, 1] for label in labels], axis=1)


def _logistic(rows, targets, classes: int, penalty: float):
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


def counts(sequences: Sequence[str], k: int, canonical: bool):
    """How often each k-mer occurs in each sequence, sparse float64 [N, 4^k], overlapping ones included.

    A k-mer's column is its codes read as a number in base 4; with `canonical`, the smaller of its own and its reverse
    complement's. K-mers with a base other than A, C, G, T are omitted.
    """
    from scipy.sparse import csr_array

    codes = bases.encode("N".join(sequences))
    windows = max(len(codes) - k + 1, 0)
    forward, backward = np.zeros(windows, np.int32), np.zeros(windows, np.int32)
    known = np.ones(windows, bool)
    for i in range(k):
        base = codes[i : i + windows]
        known &= base != bases.N
        forward = forward * 4 + base
        backward += (base ^ 1).astype(np.int32) << (2 * i)
    column = np.minimum(forward, backward) if canonical else forward
    row = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])[:windows]
    column, row = column[known], row[known]
    found = csr_array((np.ones(len(row)), (row, column)), shape=(len(sequences), 4**k))
    found.sum_duplicates()
    return found
