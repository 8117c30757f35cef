"""Finds regions with the same bases, on either strand, in bounded memory."""

from collections.abc import Callable, Sequence

import numpy as np

MEMORY_BYTES = 1 << 30
_ROW_BYTES = 64  # memory per region for sorting


def repeated(
    digests: Sequence[Callable[[], np.ndarray]],
    starts: np.ndarray,
    kept: np.ndarray,
    *,
    within: bool,
    memory_bytes: int = MEMORY_BYTES,
) -> np.ndarray:
    """Whether each region has the bases of an earlier one, bool [regions], with the regions of all inputs end to end.

    `digests` read those of each input, uint64 [its regions, 2]. `starts`, int64 [inputs + 1], are the first region of
    each input, and the number of regions. `kept`, bool [regions], selects the regions that count. A copy within one
    input counts only with `within`. To limit memory to `memory_bytes`, the digests are read in several passes, each of
    which uses a subset of them.
    """
    result = np.zeros(len(kept), bool)
    passes = max(1, -(-len(kept) * _ROW_BYTES // memory_bytes))
    for current in range(passes):
        regions, keys = [], []
        for read, mask, start in zip(digests, np.split(kept, starts[1:-1]), starts[:-1], strict=True):
            rows = read()
            chosen = np.flatnonzero(mask & (rows[:, 0] % np.uint64(passes) == current))
            regions.append(start + chosen)
            keys.append(rows[chosen])
        region, keys = np.concatenate(regions), np.concatenate(keys)
        order = np.lexsort((region, keys[:, 1], keys[:, 0]))
        region, keys = region[order], keys[order]
        source = np.searchsorted(starts, region, "right")
        opens = np.ones(len(keys), bool)  # the first region with its bases
        opens[1:] = (keys[1:] != keys[:-1]).any(1)
        first = np.maximum.accumulate(np.where(opens, np.arange(len(keys)), 0))
        result[region[~opens if within else source != source[first]]] = True
    return result
