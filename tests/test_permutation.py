"""Tests the keyed permutation that orders training data."""

import numpy as np
import pytest

from gener_jax.data.permutation import mix, permute, subkey

SIZES = [*range(1, 70), 100, 127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 5000]


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_every_index_occurs_once(key):
    for size in SIZES:
        images = permute(np.arange(size), size, key)
        assert images.dtype == np.int64
        assert np.array_equal(np.sort(images), np.arange(size)), size


def test_single_indices_equal_an_array_of_all():
    for size in (1, 2, 3, 17, 1025):
        images = permute(np.arange(size), size, 7)
        assert [int(permute(np.array(i), size, 7)[0]) for i in range(size)] == images.tolist()


def test_keys_give_different_orders():
    orders = {tuple(permute(np.arange(50), 50, key).tolist()) for key in range(100)}
    assert len(orders) == 100
    # A bijection could still be a rotation or keep neighbours: the differences between neighbouring images must vary.
    assert len(set(np.diff(permute(np.arange(1000), 1000, 3)).tolist())) > 500


def test_images_spread_over_keys():
    """Over many keys, index 0 goes to each of 8 positions about equally often."""
    counts = np.bincount([int(permute(np.array(0), 8, subkey(key))[0]) for key in range(4000)], minlength=8)
    assert counts.min() > 400
    assert counts.max() < 600


def test_golden_values():
    """The order of the data belongs to a run, so these numbers must never change."""
    assert [int(x) for x in mix(0, np.arange(3))] == [0, 6238072747940578789, 15839785061582574730]
    assert subkey(1, 2, 3) == 3608568315839255725
    assert permute(np.arange(10), 10, 0).tolist() == [0, 6, 8, 4, 7, 5, 2, 3, 9, 1]
    assert permute(np.arange(5), 10**12, 42).tolist() == [
        91586225245,
        90302283793,
        978261360989,
        700339089639,
        474698768531,
    ]


def test_subkey_depends_on_all_words_and_their_order():
    keys = {subkey(0), subkey(0, 0), subkey(0, 1), subkey(1, 0), subkey(1), subkey(2**64 - 1), subkey()}
    assert len(keys) == 7
    assert all(0 <= key < 2**64 for key in keys)
