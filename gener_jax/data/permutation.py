"""Keyed hashes and permutations as pure functions of (key, index), the same on every machine and NumPy version.

They make the order of data a formula: nothing is shuffled, stored or replayed, and any host can compute any position.
"""

import numpy as np

_ROUNDS = 4


def mix(key: int, x: np.ndarray) -> np.ndarray:
    """A well-mixed 64-bit hash of `x` under `key`: the finaliser of SplitMix64 (Steele et al. 2014), uint64."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, np.uint64) + np.uint64(key * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def subkey(*parts: int) -> int:
    """One 64-bit key from several integers; their order matters."""
    key = 0
    for part in parts:
        key = int(mix(key + 1, np.uint64((key ^ part) % 2**64)))
    return key


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """The images of `index` (integers in [0, size)) under a keyed permutation of range(size), int64.

    A balanced Feistel network over the next even number of bits, applied again until the image is inside the range
    (cycle walking; Black and Rogaway 2002); at most 4 applications are expected.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [subkey(key, r) for r in range(_ROUNDS)]

    def feistel(x):
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (mix(k, right) & mask)
        return (left << half) | right

    x = feistel(np.atleast_1d(np.asarray(index, np.uint64)))
    while (outside := x >= size).any():
        x[outside] = feistel(x[outside])
    return x.astype(np.int64)
