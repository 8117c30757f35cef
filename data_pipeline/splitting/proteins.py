"""Compares the proteins of coding sequences: orthologs rarely share a 32-mer of DNA, and their proteins are alike.

Two proteins are related if their local alignment (BLOSUM62, a gap of n amino acids costs 10 + n) has at least
`RELATED_BITS` bits, which unrelated ones of a few thousand proteins do not reach; their identity is the share of the
shorter one's amino acids that are the same in it. Pairs are aligned if they share many 3-mers that are rare.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.sequence import translation

RELATED_BITS = 40  # Pearson 2013, doi:10.1002/0471250953.bi0301s42
_LAMBDA, _K = 0.267, 0.041  # of gapped BLOSUM62: bits = (lambda · score − ln K) / ln 2
_SCORE = (RELATED_BITS * np.log(2) + np.log(_K)) / _LAMBDA
NO_LINKS = np.zeros((0, 2), np.int64)
_ALIGNED = 20  # proteins that each is aligned with, in each round
_BLOCK = 1000  # proteins whose shared 3-mers are in memory


def protein_of(codes: np.ndarray) -> str:
    """The amino acids of a coding sequence, uint8 [bases], from its first base on; * is an inner TAA or TAG.

    A stop codon at the end, and bases after the last codon, are left out. Any other TGA is tryptophan (NCBI's genetic
    code 4), as mycoplasmas read it; elsewhere it is rare.
    """
    codes = codes[: len(codes) // 3 * 3]
    protein = translation.translate(codes, 4)
    return protein[:-1] if translation.translate(codes[-3:], 1) == "*" else protein


def identity(one: str, other: str) -> float:
    """The identity of two proteins, from 0 to 1; 0 of unrelated ones."""
    if not one or not other or aligner("local").score(one, other) < _SCORE:
        return 0.0
    return aligner("local").align(one, other)[0].counts().identities / min(len(one), len(other))


def links(proteins: Sequence[str], max_identity: float) -> np.ndarray:
    """Pairs of proteins whose identity exceeds `max_identity`, int64 [links, 2], enough for clusters by single linkage.

    At the end, no protein has such a pair among the twenty outside its cluster that share most with it.
    """
    kmers, cluster = _kmers(proteins), np.arange(len(proteins))
    found, aligned = NO_LINKS, set()
    while True:
        pairs = {(min(pair), max(pair)) for pair in _nearest(kmers, kmers, cluster)} - aligned
        aligned |= pairs
        new = [(i, j) for i, j in sorted(pairs) if identity(proteins[i], proteins[j]) > max_identity]
        if not new:
            return found
        found = np.concatenate([found, new])
        cluster = components(len(proteins), found)


def closest(proteins: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """The identity of each of `others` with the closest of `proteins`, float32 [others]; 0 if none is related."""
    found = np.zeros(len(others), np.float32)
    for other, one in _nearest(_kmers(proteins), _kmers(others)):
        found[other] = max(found[other], identity(others[other], proteins[one]))
    return found


def components(number: int, links: np.ndarray) -> np.ndarray:
    """The cluster of each of a number of nodes, int32 [number], by links, int64 [links, 2]."""
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), (number, number))
    return connected_components(graph, directed=False)[1].astype(np.int32)


def _kmers(proteins: Sequence[str]):
    """Which 3-mers each protein has: sparse int32 [proteins, 3-mers], in five bits per letter."""
    from scipy.sparse import csr_array

    letters = [np.frombuffer(protein.encode(), np.uint8).astype(np.int32) & 31 for protein in proteins]
    found = [np.unique(x[:-2] << 10 | x[1:-1] << 5 | x[2:]) for x in letters]
    ends = np.cumsum([0, *map(len, found)])
    columns = np.concatenate([np.zeros(0, np.int32), *found])
    return csr_array((np.ones(len(columns), np.int32), columns, ends), (len(proteins), 1 << 15))


def _nearest(kmers, others, cluster: np.ndarray | None = None) -> Iterator[tuple[int, int]]:
    """Each of `others` with each of the twenty proteins that share most 3-mers with it, a rare one counting more.

    With `cluster`, int [proteins], `others` are the same proteins, and only those of other clusters count. All numbers
    are whole, so that every machine finds the same.
    """
    rarity = np.frexp(kmers.shape[0] // np.maximum(kmers.sum(0), 1))[1]
    weights = kmers.multiply(rarity[None]).T.tocsr()
    for start in range(0, others.shape[0], _BLOCK):
        shared = (others[start : start + _BLOCK] @ weights).toarray()
        if cluster is not None:
            shared[cluster[start : start + _BLOCK, None] == cluster] = 0
        for row, best in enumerate(np.argsort(-shared, axis=1, kind="stable")[:, :_ALIGNED]):
            yield from ((start + row, i) for i in best.tolist() if shared[row, i])


@functools.cache
def aligner(mode: str):
    """Biopython's aligner of proteins, "local" or "global": BLOSUM62, a gap costs 11 and 1 more for each further one.

    A gap at an end costs the same.
    """
    from Bio.Align import PairwiseAligner, substitution_matrices  # slow, and most commands align nothing

    matrix = substitution_matrices.load("BLOSUM62")
    return PairwiseAligner(mode=mode, substitution_matrix=matrix, open_gap_score=-11, extend_gap_score=-1)
