"""Sequences with their targets, as training, evaluation and baselines use them."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Rows of a split.

    Attributes:
      name: of the split: "train", "validation" or "test".
      sequences: A, C, G, T and N in upper case, one per row.
      targets: of classes, their number, int32 [N]; of several labels, 0 or 1, float32 [N, labels]; of regression,
        float32 [N, outputs] in their own unit; without labels, float32 [N, 0].
      places: the file and line, or record, of each row, as text.
      groups: the number of each row's group, int32 [N], the same in all splits; None without groups.
      conditions: the special tokens before each sequence, such as "<mam><cds>"; None: the same before all.
    """

    name: str
    sequences: list[str]
    targets: np.ndarray
    places: list[str]
    groups: np.ndarray | None = None
    conditions: list[str] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def where(self, row: int) -> str:
        """Where a row is: "FILE: line 17"."""
        return self.places[row]

    def take(self, rows: Sequence[int] | np.ndarray, name: str | None = None) -> "Examples":
        """Some of the rows, by number or as bool [N], under the same or another name."""
        rows = np.arange(len(self))[np.asarray(rows)] if len(rows) else np.zeros(0, np.int64)
        return Examples(
            name or self.name,
            [self.sequences[i] for i in rows],
            self.targets[rows],
            [self.places[i] for i in rows],
            None if self.groups is None else self.groups[rows],
            None if self.conditions is None else [self.conditions[i] for i in rows],
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the sequences, targets, groups and conditions, in their order; not of where they come from."""
        found = hashlib.sha256()
        for values in (self.targets, self.groups if self.groups is not None else np.zeros(0, np.int32)):
            found.update(f"{values.dtype.str}{values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
        for text in [*self.sequences, *(self.conditions or ())]:
            found.update(text.encode())
            found.update(b"\n")
        return found.hexdigest()
