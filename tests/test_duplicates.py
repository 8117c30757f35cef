"""Tests the search for regions with the same bases."""

import numpy as np
import pytest

from data_pipeline.dataset.packing import starts_of
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
    starts = starts_of([len(rows) for rows in digests])
    readers = [lambda rows=rows: rows for rows in digests]
    found = duplicates.repeated(readers, starts, np.concatenate(kept), within=within, memory_bytes=memory)
    np.testing.assert_array_equal(found, np.concatenate(naive_repeated(digests, kept, within)))
    assert found.sum() > 5


def test_no_regions():
    digests = [lambda: np.zeros((0, 2), np.uint64)]
    assert duplicates.repeated(digests, starts_of([0]), np.zeros(0, bool), within=True).shape == (0,)
