"""Measures how many 32-mers of the held-out regions occur in training, on either strand.

All 32-mers are used if they fit into memory; otherwise a sample, chosen by hash, whose rate the report gives.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline.sequence import bases, shared_kmers

MEMORY_KMERS = 1 << 25
NEAR_COPY = 0.1  # fraction of a region's 32-mers that a copy of 93 % identity shares
CHUNK = 1 << 17  # bases per step: their 32-mers stay in the processor's cache


def sampling(held_out_bases: int) -> int:
    """The n of a sample of one in n 32-mers, such that those of the held-out bases fit into memory."""
    return max(1, -(-held_out_bases // MEMORY_KMERS))


def hash_regions(codes: Iterable[np.ndarray], sample: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the 32-mers of regions, uint64, concatenated, and their number in each region, int64 [regions]."""
    found = [_sampled(some, sample) for some in codes]
    return np.concatenate([np.zeros(0, np.uint64), *found]), np.array([len(some) for some in found], np.int64)


def occurring(
    index: shared_kmers.Index, batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], sample: int
) -> np.ndarray:
    """Whether each member of the index occurs in any of the sequences, bool [members].

    A batch is codes, uint8 [bases], with the starts of the sequences in it and their lengths, int64 [sequences].
    """
    result = np.zeros(len(index.hashes), bool)
    for codes, starts, lengths in batches:
        windows = len(codes) - shared_kmers.LENGTH + 1
        long = lengths >= shared_kmers.LENGTH
        if not long.any():
            continue
        steps = np.zeros(windows + 1, np.int8)  # 1 at a sequence's first window, -1 after its last
        np.add.at(steps, starts[long], 1)
        np.add.at(steps, starts[long] + lengths[long] - shared_kmers.LENGTH + 1, -1)
        inside = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
        for at in range(0, windows, CHUNK):
            stop = min(at + CHUNK, windows)
            hashes = _sampled(codes[at : stop + shared_kmers.LENGTH - 1], sample, inside[at:stop])
            result[index.find(hashes)] = True
    return result


def longest_shared(codes: Iterable[np.ndarray], hashes: np.ndarray) -> int:
    """The length in bases of the longest run whose 32-mers are all among the sorted hashes; 0 if there is none.

    Repeats are short, copies long.
    """
    longest = 0
    for dna in codes:
        for first, last in bases.runs(dna < bases.N):
            found = shared_kmers.mix(shared_kmers.canonical(dna[first:last]))
            at = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
            shared = bases.runs(hashes[at] == found)
            longest = max(longest, int((shared[:, 1] - shared[:, 0]).max(initial=0)))
    return longest + shared_kmers.LENGTH - 1 if longest else 0


def train_overlaps(occurs: np.ndarray, members: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The fraction of each held-out region's 32-mers that occur in training, float32 [regions]; 0 if it has none.

    `occurs`: bool [members], whether each member of the index occurs; `members`: int64, the member index of each 32-mer
    of the regions, concatenated; `sizes`: int64 [regions], the number of 32-mers in each region.
    """
    region = np.repeat(np.arange(len(sizes)), sizes)
    return (np.bincount(region, occurs[members], len(sizes)) / np.maximum(sizes, 1)).astype(np.float32)


def _sampled(codes: np.ndarray, sample: int, chosen: np.ndarray | None = None) -> np.ndarray:
    hashes = shared_kmers.mix(shared_kmers.canonical(codes, chosen))
    return hashes if sample == 1 else hashes[hashes < np.uint64(2**64 // sample)]


def report(
    splits: np.ndarray,
    lengths: np.ndarray,
    train_overlap: np.ndarray,
    sizes: np.ndarray,
    sample: int,
    names: Sequence[str],
) -> dict:
    """For each held-out split: regions, bases, 32-mers looked up, and the fraction of these that occur in training.

    `near_copies` are the regions of which at least NEAR_COPY of the 32-mers occur there.
    """
    result = {"kmer_length": shared_kmers.LENGTH, "sampled_one_in": sample}
    for number, name in enumerate(names):
        chosen = splits == number
        if number == 0 or not chosen.any():
            continue
        near = chosen & (train_overlap >= NEAR_COPY)
        total = int(sizes[chosen].sum())
        result[name] = {
            "regions": int(chosen.sum()),
            "bases": int(lengths[chosen].sum()),
            "kmers": total,
            "fraction_in_training": round(float((train_overlap[chosen] * sizes[chosen]).sum()) / total, 6)
            if total
            else 0.0,
            "near_copies": {"regions": int(near.sum()), "bases": int(lengths[near].sum())},
        }
    return result
