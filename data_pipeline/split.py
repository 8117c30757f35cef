"""Train, validation and test: what belongs together stays together, and a region's part never moves.

What belongs together (BY): a region with all that overlap it, on either strand and over the origin, transitively; or
its contig; its assembly; its organism. Its place, a number that depends on the seed and on its name alone, decides its
part, so that more input leaves it where it was. `clusters` joins groups that share sequence.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.genome import Record
from data_pipeline.regions import Span

_VERSIONED = re.compile(r"\.[0-9]+$")
SPLITS = ("train", "validation", "test")
BY = ("group", "contig", "assembly", "taxon", "cluster")


def check_shares(validation_share: float, test_share: float) -> None:
    """Raises DataError unless both shares are 0 or more and leave something to train on."""
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise DataError(f"{name} {share} is not a share: give 0 or more, below 1")
    if validation_share + test_share >= 1:
        raise DataError(f"validation_share {validation_share} and test_share {test_share} leave nothing to train on")


def groups(spans: Sequence[Span], record_length: int) -> np.ndarray:
    """The overlap group of each span, int64 [spans]: its first member's number."""
    pieces = [(*piece, number) for number, span in enumerate(spans) for piece in span.intervals(record_length)]
    joined = list(range(len(spans)))  # each points to a member before it, the first of a group to itself

    def first(number: int) -> int:
        while joined[number] != number:
            joined[number] = joined[joined[number]]
            number = joined[number]
        return number

    reach, last = -1, -1
    for start, end, number in sorted(pieces):
        if start < reach:
            one, other = sorted((first(last), first(number)))
            joined[other] = one
        if end > reach:
            reach, last = end, number
    return np.array([first(number) for number in range(len(spans))], np.int64)


def split_hashes(record: Record, spans: Sequence[Span], *, by: str, seed: int, assembly: str) -> list[int]:
    """Where each span stands between 0 and 2**64: the hash of what it belongs to, one of BY.

    `cluster` gives the overlap groups' places. The organism is NCBI's taxon number, lacking that the organism's name,
    lacking that the assembly. A name without a version (`chr1`) is one of its assembly's.
    """
    contig = full_name(record.accession, assembly)
    if by == "contig":
        names = [f"contig\t{contig}"] * len(spans)
    elif by == "assembly":
        names = [f"assembly\t{assembly}"] * len(spans)
    elif by == "taxon":
        names = [f"taxon\t{record.taxon_id or record.organism or assembly}"] * len(spans)
    else:
        found = groups(spans, len(record.codes)).tolist()
        starts: dict[int, int] = {}
        for group, span in zip(found, spans, strict=True):
            starts[group] = min(span.start, starts.get(group, span.start))
        names = [f"{contig}\t{starts[group]}" for group in found]
    known = {name: _hash(seed, name) for name in dict.fromkeys(names)}
    return [known[name] for name in names]


def full_name(accession: str, assembly: str) -> str:
    """What tells a sequence from all others: accession.version; or a name as `chr1`, and the assembly it is of."""
    return accession if _VERSIONED.search(accession) else f"{assembly}\t{accession}"


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\t{name}".encode(), digest_size=8).digest(), "big")


def splits_of(split_hashes: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The parts, int8 numbers of SPLITS, of places, uint64: validation at the low end, test at the high one."""
    share = split_hashes.astype(np.float64) / 2**64
    return np.select([share < validation_share, share >= 1 - test_share], [1, 2], 0).astype(np.int8)
