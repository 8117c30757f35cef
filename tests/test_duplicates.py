"""Tests the search for regions with the same bases."""

import numpy as np
import pytest

from data_pipeline.splitting import duplicates


def naive_repeated(digests, kept, within):
    first, result = {}, []
    for source, (rows, mask) in enumerate(zip(digests, kept, strict=True)):
        again = np.zeros(len(rows), bool)
        for i, row in enumerate(map(tuple, rows.tolist())):
            if mask[i]:
                again[i] = row in first and (within or first[row] != source)
                first.setdefault(row, source)
        result.append(again)
    return result


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("memory", [1 << 30, 4000, 64])
def test_repeated_equals_naive(within, memory):
    generator = np.random.default_rng(0)
    # Few values, so that many digests agree in one of their two numbers only.
    digests = [generator.integers(0, 12, (n, 2)).astype(np.uint64) for n in (30, 0, 50, 1, 40)]
    kept = [generator.random(len(rows)) < 0.8 for rows in digests]
    found = duplicates.repeated(lambda i: digests[i], kept, within=within, memory_bytes=memory)
    for mine, theirs in zip(found, naive_repeated(digests, kept, within), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert sum(part.sum() for part in found) > 5


def test_no_regions():
    assert duplicates.repeated(lambda i: None, [], within=True) == []
