"""Assigns regions to train, validation and test; related regions share a split, and more input does not move a region.

Related (BY) are: all regions that overlap on either strand, transitively, also across the origin; or those of a contig;
of an assembly; of an organism. The split of a group is decided by its split hash, which depends on the seed and the
group's name alone, so that adding inputs does not change it. `clusters` also joins groups that share sequence.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import ArgumentError
from data_pipeline.ranges import Real
from data_pipeline.regions.extraction import Region
from data_pipeline.sequence.record import Record

_VERSIONED = re.compile(r"\.[0-9]+$")
SHARE = Real(least=0, below=1)
SPLITS = ("train", "validation", "test")
BY = ("group", "contig", "assembly", "taxon", "cluster")


def check_fractions(validation_fraction: float, test_fraction: float) -> None:
    """Raises ArgumentError unless both fractions are at least 0 and their sum is below 1."""
    for name, share in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        SHARE.check(share, name)
    if validation_fraction + test_fraction >= 1:
        raise ArgumentError(
            f"and validation_fraction {validation_fraction} leave nothing to train on",
            field="test_fraction", value=test_fraction, remedy="give fractions with a sum below 1",
        )  # fmt: skip


def groups(spans: Sequence[Region], record_length: int) -> np.ndarray:
    """The overlap group of each span, int64 [spans]: the number of the group's first span."""
    intervals = [(*interval, number) for number, span in enumerate(spans) for interval in span.intervals(record_length)]
    joined = list(range(len(spans)))  # each points to an earlier member of its group; the first one points to itself

    def first(number: int) -> int:
        while joined[number] != number:
            joined[number] = joined[joined[number]]
            number = joined[number]
        return number

    reach, last = -1, -1
    for start, end, number in sorted(intervals):
        if start < reach:
            one, other = sorted((first(last), first(number)))
            joined[other] = one
        if end > reach:
            reach, last = end, number
    return np.array([first(number) for number in range(len(spans))], np.int64)


def split_hashes(record: Record, spans: Sequence[Region], *, by: str, seed: int, assembly: str) -> list[int]:
    """The split hash of each span, from 0 to 2**64: the hash of the name of its group, which `by` (one of BY) selects.

    `cluster` returns the hashes of the overlap groups. The organism is NCBI's taxon number; without it, the organism's
    name; without that, the assembly. A sequence name without a version (`chr1`) is qualified by its assembly.
    """
    contig = full_name(record.accession, assembly)
    whole = {"contig": contig, "assembly": assembly, "taxon": record.taxon_id or record.organism or assembly}
    if by in whole:
        names = [f"{by}\t{whole[by]}"] * len(spans)
    else:
        found = groups(spans, len(record.codes)).tolist()
        starts: dict[int, int] = {}
        for group, span in zip(found, spans, strict=True):
            starts[group] = min(span.start, starts.get(group, span.start))
        names = [f"{contig}\t{starts[group]}" for group in found]
    known = {name: _hash(seed, name) for name in dict.fromkeys(names)}
    return [known[name] for name in names]


def full_name(accession: str, assembly: str) -> str:
    """A unique name of a sequence: its accession.version, or a name such as `chr1` with its assembly."""
    return accession if _VERSIONED.search(accession) else f"{assembly}\t{accession}"


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\t{name}".encode(), digest_size=8).digest(), "big")


def splits_of(split_hashes: np.ndarray, validation_fraction: float, test_fraction: float) -> np.ndarray:
    """The splits, int8 indices of SPLITS, of split hashes, uint64: low ones are validation, high ones are test."""
    share = split_hashes.astype(np.float64) / 2**64
    return np.select([share < validation_fraction, share >= 1 - test_fraction], [1, 2], 0).astype(np.int8)
