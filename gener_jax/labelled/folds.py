"""Divides rows into folds: every class in every fold, and the rows of a group in one."""

import hashlib

import numpy as np

from data_pipeline.errors import ArgumentError
from gener_jax.labelled.examples import Examples


def assign(examples: Examples, number: int, seed: int, stratify: bool) -> np.ndarray:
    """The fold of each row, int32 [N], from 0 to number - 1.

    Groups are placed one by one, the largest first and those of one size in an order that `seed` decides, in the fold
    that has the fewest of their rows' classes (with `stratify`; else of all rows), then the fewest rows. Without
    groups, each row is one by itself.

    Raises:
      ArgumentError: there are fewer groups than folds.
    """
    rows = len(examples)
    group = np.arange(rows) if examples.groups is None else np.unique(examples.groups, return_inverse=True)[1]
    groups = int(group.max()) + 1
    if groups < number:
        what = "rows" if examples.groups is None else "groups"
        raise ArgumentError(f"exceeds the number of {what}, {groups}", field="finetune.folds", value=number)
    classes = examples.targets if stratify else np.zeros(rows, np.int64)
    counts = np.zeros((groups, int(classes.max()) + 1), np.int64)
    np.add.at(counts, (group, classes), 1)
    hashes = [hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=8).digest() for i in range(groups)]
    order = sorted(range(groups), key=lambda i: (-int(counts[i].sum()), hashes[i]))
    share = counts.sum(0)  # a fold's deviation is measured in parts of a class
    filled, placed = np.zeros((number, counts.shape[1])), np.zeros(groups, np.int32)
    for i in order:
        fullness = filled @ (counts[i] / share)
        placed[i] = at = np.lexsort((filled.sum(1), fullness))[0]
        filled[at] += counts[i]
    return placed[group]
