"""Linear models of k-mer counts: logistic regression for classes and labels, ridge regression for values."""

import warnings
from collections.abc import Sequence

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.baselines.base import Baseline, worth
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem

KS = (3, 4, 5, 6)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # per training row; a large one shrinks more


def counts(sequences: Sequence[str], k: int, canonical: bool):
    """How often each k-mer occurs in each sequence, sparse float64 [N, 4^k], overlapping ones included.

    A k-mer's column is its codes read as a number in base 4; with `canonical`, the smaller of its own and its reverse
    complement's. K-mers with a base other than A, C, G, T are omitted.
    """
    from scipy.sparse import csr_array

    codes = bases.encode("N".join(sequences))
    windows = max(len(codes) - k + 1, 0)
    forward, backward = np.zeros(windows, np.int64), np.zeros(windows, np.int64)
    known = np.ones(windows, bool)
    for i in range(k):
        base = codes[i : i + windows]
        known &= base != bases.N
        forward = forward * 4 + base
        backward += (base ^ 1).astype(np.int64) << (2 * i)
    column = np.minimum(forward, backward) if canonical else forward
    row = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])[:windows]
    column, row = column[known], row[known]
    found = csr_array((np.ones(len(row)), (row, column)), shape=(len(sequences), 4**k))
    found.sum_duplicates()
    return found
