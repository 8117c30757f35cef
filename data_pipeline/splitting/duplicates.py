"""Finds regions with the same bases, on either strand, in bounded memory."""

from collections.abc import Callable, Sequence

import numpy as np

MEMORY_BYTES = 1 << 30
_ROW_BYTES = 64  # memory per region for sorting


def repeated(
    digests: Callable[[int], np.ndarray],
    kept: Sequence[np.ndarray],
    *,
    within: bool,
    memory_bytes: int = MEMORY_BYTES,
) -> list[np.ndarray]:
    """Whether each region has the bases of an earlier one, bool [regions] for each input.

    `digests(i)` reads the digests of input i, uint64 [regions, 2]. `kept`, bool [regions] for each input, selects the
    regions that count. A copy within one input counts only with `within`. To limit memory to `memory_bytes`, the
    digests are read in several passes, each of which uses a subset of them.
    """
    result = [np.zeros(len(mask), bool) for mask in kept]
    passes = max(1, -(-sum(map(len, kept)) * _ROW_BYTES // memory_bytes))
    for current in range(passes):
        chosen, keys = [], [np.zeros((0, 2), np.uint64)]
        for number, mask in enumerate(kept):
            rows = digests(number)
            chosen.append(np.flatnonzero(mask & (rows[:, 0] % np.uint64(passes) == current)))
            keys.append(rows[chosen[-1]])
        keys = np.concatenate(keys)
        source = np.repeat(np.arange(len(kept)), [len(rows) for rows in chosen])
        region = np.concatenate([np.zeros(0, np.int64), *chosen])
        order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
        keys, source, region = keys[order], source[order], region[order]
        opens = np.ones(len(keys), bool)  # the first region with its bases
        opens[1:] = (keys[1:] != keys[:-1]).any(1)
        first = np.maximum.accumulate(np.where(opens, np.arange(len(keys)), 0))
        again = ~opens if within else source != source[first]
        for number in np.unique(source[again]).tolist():
            result[number][region[again & (source == number)]] = True
    return result
