"""Assigns splits to regions that share sequence: repeats, duplicated genes and homologues stay in one split.

Regions of one overlap group, and regions whose sketches (`shared_kmers.sketch`) share a 32-mer, are linked. Inputs are
processed in order, so that a later input does not move earlier regions: a region linked to an earlier input takes the
split of the first region to which it is linked. The remaining regions form clusters, and the split hash of a cluster's
first region decides its split. If a cluster has more bases than its held-out split may have (the fraction of all bases
read so far), it goes to training: in a genome full of mobile elements nearly all genes form one cluster. A region that
still shares a 32-mer with an earlier region of another split would leak, and is dropped.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline.sequence import shared_kmers
from data_pipeline.splitting import proteins
from data_pipeline.splitting.duplicates import MEMORY_BYTES, Keys, equal_keys
from data_pipeline.splitting.split import splits_of


def assign(
    sketches: Sequence[Keys],
    starts: np.ndarray,
    split_hash: np.ndarray,
    length: np.ndarray,
    kept: np.ndarray,
    fixed: Sequence[int | None],
    validation_fraction: float,
    test_fraction: float,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """The split of each region, int8 [regions], and whether it links two splits, bool [regions].

    The regions of all inputs are end to end.

    Args:
      sketches: read those of each input: hashes, uint64 [n, 1], and the region of the input that each is of, int64 [n].
      starts: int64 [inputs + 1], the first region of each input, and the number of regions.
      split_hash: uint64 [regions], equal within an overlap group.
      length: int64 [regions], bases.
      kept: bool [regions]; the others are ignored.
      fixed: the split of all regions of an input, if the manifest fixes it, or None.
      validation_fraction, test_fraction: fractions of the clusters.
      memory_bytes: to stay below this, the sketches are read in several passes.
    """
    # Imported here because it is slow and the workers do not need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = [np.zeros((0, 2), np.int64)]
    for region, first in equal_keys(sketches, starts, kept, memory_bytes):
        links.append(np.unique(np.stack([region[:-1], region[1:]], 1)[first[1:] == first[:-1]], axis=0))
    links = np.concatenate(links)
    links = links[np.argsort(links[:, 1], kind="stable")]
    bounds = np.searchsorted(links[:, 1], starts)
    split = np.zeros(len(split_hash), np.int8)
    bases = 0
    for number, (begin, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        here = begin + np.flatnonzero(kept[begin:end])
        bases += int(length[here].sum())
        if fixed[number] is not None:
            split[begin:end] = fixed[number]
            continue
        by_hash = here[np.argsort(split_hash[here], kind="stable")]
        neighbours = np.flatnonzero(split_hash[by_hash[1:]] == split_hash[by_hash[:-1]])
        edges = np.concatenate(
            [links[bounds[number] : bounds[number + 1]], np.stack([by_hash[neighbours], by_hash[neighbours + 1]], 1)]
        )
        nodes = np.unique(np.concatenate([edges.ravel(), here]))
        ends = np.searchsorted(nodes, edges)
        graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (len(nodes), len(nodes)))
        count, cluster = connected_components(graph, directed=False)
        first = nodes[np.unique(cluster, return_index=True)[1]]  # nodes are sorted: the earliest of each cluster
        size = np.bincount(cluster, length[nodes], count)
        decided = splits_of(split_hash[first], validation_fraction, test_fraction)
        room = np.array([1.0, validation_fraction, test_fraction])[decided] * bases
        decided[size > room] = 0
        old = first < begin
        decided[old] = split[first[old]]
        new = nodes >= begin
        split[nodes[new]] = decided[cluster[new]]
    leaking = np.zeros(len(split_hash), bool)
    for region, first in equal_keys(sketches, starts, kept, memory_bytes):
        leaking[region[split[region] != split[region[first]]]] = True
    return split, leaking


def of_sequences(codes: Iterable[np.ndarray], links: np.ndarray = proteins.NO_LINKS) -> np.ndarray:
    """The number of each sequence's cluster, int32 [sequences].

    Sequences, uint8 [bases], that share any 32-mer on either strand are in one cluster, those of `links`, int64
    [links, 2], and those linked by others; tandem repeats do not count. All 32-mers are in memory.
    """
    sequences = [shared_kmers.sketch(each, one_in=1) for each in codes]
    owner = np.repeat(np.arange(len(sequences)), list(map(len, sequences)))
    hashes = np.concatenate([np.zeros(0, np.uint64), *sequences])
    order = np.argsort(hashes, kind="stable")
    equal = hashes[order[1:]] == hashes[order[:-1]]
    shared = np.stack([owner[order[:-1]][equal], owner[order[1:]][equal]], 1)
    return proteins.components(len(sequences), np.concatenate([shared, links]))
