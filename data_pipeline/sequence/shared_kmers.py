"""The canonical 32-mers of a sequence, which distinguish near copies from unrelated sequences.

A 32-mer is a uint64 with two bits per base; the canonical one is the smaller of it and its reverse complement. A copy
of identity p shares a fraction p³² of them: a fifth at 95 %, a tenth at 93 %.
"""

import functools
from pathlib import Path

import numpy as np

from data_pipeline.sequence import bases

LENGTH = 32  # bases
SKETCH = 8  # a sketch contains one 32-mer in this many


def canonical(codes: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """The canonical 32-mer at each position, uint64 [length - 31], of codes, uint8 [length].

    32-mers with N are omitted; `chosen`, bool [length - 31], selects positions.
    """
    if len(codes) < LENGTH:
        return np.zeros(0, np.uint64)
    forward = codes & 3
    backward = forward ^ 1  # the complement, with its first base in the low bits
    # From words of one base to words of 2, 4, 8, 16 and 32 bases, each in the smallest type that fits.
    for width, kind in ((1, np.uint8), (2, np.uint8), (4, np.uint16), (8, np.uint32), (16, np.uint64)):
        shift = kind(2 * width)
        forward, backward = forward.astype(kind, copy=False), backward.astype(kind, copy=False)
        forward = forward[:-width] << shift | forward[width:]
        backward = backward[width:] << shift | backward[:-width]
    found = np.minimum(forward, backward)
    if codes.max() == bases.N:
        unknown = np.cumsum(np.concatenate([[0], codes == bases.N]))
        known = unknown[LENGTH:] == unknown[:-LENGTH]
        chosen = known if chosen is None else chosen & known
    return found if chosen is None else found[chosen]


def mix(kmers: np.ndarray) -> np.ndarray:
    """A hash of each 32-mer, uint64, one to one (the finaliser of splitmix64)."""
    kmers = (kmers ^ kmers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    kmers = (kmers ^ kmers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return kmers ^ kmers >> np.uint64(31)


def sketch(codes: np.ndarray, one_in: int = SKETCH) -> np.ndarray:
    """A sample of a sequence's 32-mers, chosen by hash alone: hashes, uint64, sorted and unique.

    One in `one_in` is chosen. Tandem repeats of up to six bases (`CACACA…`, `AAAA…`), which unrelated sequences share,
    are omitted.
    """
    kmers = canonical(codes)
    hashes = mix(kmers)
    taken = np.flatnonzero(hashes <= np.uint64(2**64 // one_in - 1))
    kmers, hashes = kmers[taken], hashes[taken]
    simple = np.zeros(len(kmers), bool)
    for period in range(1, 7):
        rest = np.uint64(2 ** (2 * (LENGTH - period)) - 1)
        simple |= (kmers >> np.uint64(2 * period)) == (kmers & rest)
    return np.unique(hashes[~simple])


class Index:
    """A set of 32-mer hashes for fast lookup of many other hashes."""

    def __init__(self, hashes: np.ndarray):
        """`hashes`: uint64, sorted and unique."""
        self.hashes = hashes
        bits = min(max(len(hashes).bit_length() + 4, 12), 26)
        # Two filters, on different bits, reject most other hashes without a search.
        self.shifts = np.uint64(64 - bits), np.uint64(64 - 2 * bits)
        self.mask = np.uint64((1 << bits) - 1)
        self.filters = tuple(np.zeros(1 << bits, bool) for _ in self.shifts)
        for shift, table in zip(self.shifts, self.filters, strict=True):
            table[hashes >> shift & self.mask] = True

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The indices of the members that occur in `hashes`, int64, in any order and possibly repeated."""
        if not len(self.hashes):
            return np.zeros(0, np.int64)
        for shift, table in zip(self.shifts, self.filters, strict=True):
            hashes = hashes[table.take((hashes >> shift & self.mask).view(np.int64))]
        hashes = np.sort(hashes)  # so that the search traverses the set once: ten times faster
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return at[self.hashes[at] == hashes]

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each hash is a member, bool [hashes]."""
        result = np.zeros(len(hashes), bool)
        possible = np.arange(len(hashes)) if len(self.hashes) else np.zeros(0, np.int64)
        for shift, table in zip(self.shifts, self.filters, strict=True):
            possible = possible[table.take((hashes[possible] >> shift & self.mask).view(np.int64))]
        found = hashes[possible]
        at = np.minimum(np.searchsorted(self.hashes, found), len(self.hashes) - 1)
        result[possible] = self.hashes[at] == found
        return result


def load(file: Path) -> Index:
    """The index of the hashes in a .npy file, made once per process and content of the file."""
    return _load(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)  # of the excluded sequences, and of the held-out regions
def _load(file: Path, written: int) -> Index:
    return Index(np.load(file, mmap_mode="r"))
