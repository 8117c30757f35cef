"""Finds regions with the same bases, on either strand, or with another key in common, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

MEMORY_BYTES = 1 << 30
_ROW_BYTES = 64  # memory per key for sorting

Keys = Callable[[], tuple[np.ndarray, np.ndarray]]  # keys, uint64 [n, columns], and the region of each, int64 [n]


def equal_keys(
    inputs: Sequence[Keys], starts: np.ndarray, kept: np.ndarray, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields regions, int64 [n], sorted by key and then by number, and where the first one with each one's key is.

    `inputs` read the keys of each input, with its regions counted from 0; `starts`, int64 [inputs + 1], are the first
    region of each input when those of all are end to end, and their number. `kept`, bool [regions], selects the regions
    that count. To limit memory to `memory_bytes`, the keys are read in several passes, each of which uses a subset.
    """
    passes = max(1, -(-sum(len(read()[0]) for read in inputs) * _ROW_BYTES // memory_bytes))
    for current in range(passes):
        regions, keys = [], []
        for read, start in zip(inputs, starts[:-1].tolist(), strict=True):
            some, owners = read()
            chosen = np.flatnonzero((some[:, 0] % np.uint64(passes) == current) & kept[start + owners])
            regions.append(start + owners[chosen])
            keys.append(some[chosen])
        region, key = np.concatenate(regions), np.concatenate(keys)
        order = np.lexsort((region, *key.T))
        region, key = region[order], key[order]
        opens = np.ones(len(key), bool)  # the first region with its key
        opens[1:] = (key[1:] != key[:-1]).any(1)
        yield region, np.maximum.accumulate(np.where(opens, np.arange(len(key)), 0))


def repeated(
    digests: Sequence[Keys],
    starts: np.ndarray,
    kept: np.ndarray,
    *,
    within: bool,
    memory_bytes: int = MEMORY_BYTES,
) -> np.ndarray:
    """Whether each region has the bases of an earlier one, bool [regions]; the arguments are those of `equal_keys`.

    `digests` have a key for each region. A copy within one input counts only with `within`.
    """
    result = np.zeros(len(kept), bool)
    for region, first in equal_keys(digests, starts, kept, memory_bytes):
        source = region if within else np.searchsorted(starts, region, "right")
        result[region[source != source[first]]] = True
    return result
