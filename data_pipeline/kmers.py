"""The 32-mers of a sequence, read without regard to strand: what tells near copies apart from strangers.

A 32-mer is a uint64 of two bits a base; it and its reverse complement count as one, the smaller. A copy of identity p
keeps a share p³² of them: 95 % a fifth, 93 % a tenth.
"""

import numpy as np

from data_pipeline import bases

LENGTH = 32  # bases
SKETCH = 8  # a sketch holds one in so many
_SMALL = np.uint64(2**64 // SKETCH)


def canonical(codes: np.ndarray) -> np.ndarray:
    """The canonical 32-mer at each place, uint64 [length - 31], of codes, uint8 [length]; those with N are left out."""
    if len(codes) < LENGTH:
        return np.zeros(0, np.uint64)
    forward = (codes & 3).astype(np.uint64)
    backward = forward ^ np.uint64(1)  # the complement, its first base in the low bits
    width = 1
    while width < LENGTH:
        shift = np.uint64(2 * width)
        forward = forward[:-width] << shift | forward[width:]
        backward = backward[width:] << shift | backward[:-width]
        width *= 2
    found = np.minimum(forward, backward)
    if bases.N in codes:
        unknown = np.cumsum(np.concatenate([[0], codes == bases.N]))
        found = found[unknown[LENGTH:] == unknown[:-LENGTH]]
    return found


def mix(kmers: np.ndarray) -> np.ndarray:
    """A hash of each 32-mer, uint64, one to one (the finaliser of splitmix64)."""
    kmers = (kmers ^ kmers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    kmers = (kmers ^ kmers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return kmers ^ kmers >> np.uint64(31)


def sketch(codes: np.ndarray) -> np.ndarray:
    """A sample of a sequence's 32-mers, the same ones wherever they stand: hashes, uint64, sorted, each once.

    One in SKETCH is taken. Repeats of up to six bases (`CACACA…`, `AAAA…`), which strangers share, are left out.
    """
    kmers = canonical(codes)
    hashes = mix(kmers)
    taken = np.flatnonzero(hashes < _SMALL)
    kmers, hashes = kmers[taken], hashes[taken]
    simple = np.zeros(len(kmers), bool)
    for period in range(1, 7):
        rest = np.uint64(2 ** (2 * (LENGTH - period)) - 1)
        simple |= (kmers >> np.uint64(2 * period)) == (kmers & rest)
    return np.unique(hashes[~simple])


class Index:
    """A set of 32-mer hashes to look many others up in."""

    def __init__(self, hashes: np.ndarray):
        """`hashes`: uint64, sorted, each once."""
        self.hashes = hashes
        bits = min(max(len(hashes).bit_length() + 4, 12), 28)
        self.shift = np.uint64(64 - bits)
        self.filter = np.zeros(1 << bits, bool)  # most of the others end here, in the processor's cache
        self.filter[hashes >> self.shift] = True

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Which members of the set stand in `hashes`: their places, int64, in any order and several times."""
        hashes = hashes[self.filter[hashes >> self.shift]]
        if not len(self.hashes):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return at[self.hashes[at] == hashes]
