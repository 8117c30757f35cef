"""Counts the rows of a split that training has already: exact copies on either strand, and near copies.

A near copy shares at least `leakage.NEAR_COPY` of its 32-mers with training, as a copy of 93 % identity does.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from data_pipeline.errors import counted
from data_pipeline.sequence import bases, shared_kmers
from data_pipeline.splitting import leakage
from gener_jax.labelled.examples import Examples

_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
_BATCH = 1 << 22  # bases


@dataclasses.dataclass(frozen=True, eq=False)
class Leaks:
    """What each row of a split shares with the training rows; arrays [N].

    Attributes:
      exact: bool, whether a training row has the same bases, on either strand.
      same_strand: bool, whether one has them on the same strand.
      conflicting: bool, whether a row with the same bases has another target.
      overlap: float32, the fraction of the row's 32-mers that occur in training; 0 for rows below 32 bases.
    """

    exact: np.ndarray
    same_strand: np.ndarray
    conflicting: np.ndarray
    overlap: np.ndarray

    @property
    def near(self) -> np.ndarray:
        """Bool [N], near copies that are not exact."""
        return (self.overlap >= leakage.NEAR_COPY) & ~self.exact

    @property
    def clean(self) -> np.ndarray:
        """Bool [N], rows that are no copies."""
        return ~(self.exact | self.near)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows, and of those that each array marks."""
        marked = {name: getattr(self, name) for name in ("exact", "same_strand", "conflicting", "near")}
        return {"rows": len(self.exact)} | {name: int(mask.sum()) for name, mask in marked.items()}

    def __str__(self) -> str:
        """The counts in words."""
        found = self.counts
        return (
            f"{counted(found['rows'], 'row')}: "
            f"{counted(found['exact'], 'exact copy', 'exact copies')} of training rows "
            f"({found['same_strand']:,} on the same strand, {found['conflicting']:,} with another label), "
            f"{counted(found['near'], 'near copy', 'near copies')}"
        )


def leaks(train: Examples, other: Examples) -> Leaks:
    """What the rows of `other` share with those of `train`."""
    strands = [set(train.sequences), set(map(_reverse_complement, train.sequences))]
    copies: dict[str, list[int]] = {sequence: [] for sequence in other.sequences if any(sequence in x for x in strands)}
    for row, sequence in enumerate(train.sequences):
        for strand in {sequence, _reverse_complement(sequence)} & copies.keys():
            copies[strand].append(row)
    conflicting = [
        any((train.targets[i] != target).any() for i in copies.get(sequence, ()))
        for sequence, target in zip(other.sequences, other.targets, strict=True)
    ]
    return Leaks(
        np.array([sequence in copies for sequence in other.sequences], bool),
        np.array([sequence in strands[0] for sequence in other.sequences], bool),
        np.array(conflicting, bool),
        _overlap(train.sequences, other.sequences),
    )


def _reverse_complement(sequence: str) -> str:
    return sequence.translate(_COMPLEMENT)[::-1]


def _overlap(train: Iterable[str], others: list[str]) -> np.ndarray:
    sample = leakage.sampling(sum(map(len, others)))
    hashes, sizes = leakage.hash_regions(map(bases.encode, others), sample)
    unique, members = np.unique(hashes, return_inverse=True)
    return leakage.train_overlaps(
        leakage.occurring(shared_kmers.Index(unique), _batches(train), sample), members, sizes
    )


def _batches(sequences: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The sequences as `leakage.occurring` reads them: codes end to end, with starts and lengths."""
    texts, size = [], 0
    for text in [*sequences, None]:
        if texts and (text is None or size + len(text) > _BATCH):
            lengths = np.array(list(map(len, texts)))
            yield bases.encode("".join(texts)), np.cumsum(lengths) - lengths, lengths
            texts, size = [], 0
        if text is not None:
            texts.append(text)
            size += len(text)
