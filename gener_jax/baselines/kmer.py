"""Linear models of k-mer counts (see `linear`)."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.baselines import linear
from gener_jax.baselines.base import Baseline
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem

KS = (3, 4, 5, 6)


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
            model, choices, value = linear.fit(rows, train.targets, held_out, validation.targets, problem, metric)
            if best is None or value > best[0]:
                best = value, {"k": k, "strands": strands, **choices}, model
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
