"""Labelled sequences as batches: rows in an order that is a pure function of (seed, number).

Row `number` of a run is row `permutation(number mod N)` of epoch `number div N`. So the last batch of an epoch is
filled with the first rows of the next one, every row is read once per epoch, and the whole state is the number.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, SPECIAL_TOKENS
from gener_jax.config import Config, Head
from gener_jax.data.loader import read_batches
from gener_jax.data.permutation import mix, permute, subkey
from gener_jax.inference.batches import right_pad
from gener_jax.inference.framing import Framing
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.model.sharding import ROWS

_ROWS, _STRANDS = range(100, 102)  # the purpose of a key, other than those of `loader`


def labels_of(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """Targets as the objectives take them: outputs of regression in units of their scale, float32; others unchanged."""
    if problem.kind != "regression":
        return targets
    mean, scale = (np.asarray(x, np.float64) for x in (problem.mean, problem.scale))
    return ((targets - mean) / scale).astype(np.float32)


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """The weight of each row, float32 [N]: rows / (classes · rows of its class), so that classes weigh the same."""
    return (len(targets) / (classes * np.bincount(targets, minlength=classes)))[targets].astype(np.float32)


@functools.lru_cache(maxsize=4)
def _order(rows: int, key: int) -> np.ndarray:
    """The rows of an epoch in their order, int64 [rows], computed at once: a row at a time takes as long as a step."""
    return permute(np.arange(rows), rows, key)


class _Source:
    """What both sources share: the order of rows, their strands, labels and weights."""

    def __init__(self, config: Config, problem: Problem, train: Examples, validation: Examples, settings: dict):
        """`settings`: what else decides the batches."""
        self.config, self.problem, self.train = config, problem, train
        f = config.finetune
        self.labels, self.dataset = labels_of(problem, train.targets), train.digest
        self.weights = np.ones(len(train), np.float32)
        if f.class_weights:
            self.weights = class_weights(train.targets, len(problem.names))
        settings |= {
            "dataset": train.digest,
            "validation": validation.digest,  # it chooses the checkpoint
            "problem": [problem.kind, problem.names],
            "class_weights": f.class_weights,
            "reverse_complement": f.reverse_complement,
        }
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.bases = sum(map(len, train.sequences))

    @property
    def axes(self) -> dict[str, tuple[str | None, ...]]:
        """Of the arrays of `example`, [batch, …]."""
        shapes = {name: x.ndim for name, x in self.example(0).items()}
        return {name: (*ROWS, *[None] * number) for name, number in shapes.items()}

    @property
    def provenance(self) -> dict:
        """What `storage.provenance` records: the labelled rows that the model was fine-tuned on."""
        unknown = any("N" in sequence for sequence in self.train.sequences)
        return {
            "finetune": list(self.config.finetune.train),
            "problem": self.problem.kind,
            "method": self.config.finetune.method,
            "dataset": self.dataset,
            "rows": len(self.train),
            "bases": self.bases,
            "special_tokens": [SPECIAL_TOKENS[BOS], *[SPECIAL_TOKENS[OOV]] * unknown],
        }

    def place(self, number: int) -> tuple[int, bool]:
        """The row that is the `number`-th of the run, and whether its reverse complement is read."""
        seed, rows = self.config.train.seed, len(self.train)
        epoch, at = divmod(number, rows)
        row = int(_order(rows, subkey(seed, epoch, _ROWS))[at])
        strands = self.config.finetune.reverse_complement
        return row, strands and bool(mix(subkey(seed, epoch, _STRANDS), np.uint64(row)) % np.uint64(2))

    def example(self, number: int) -> dict[str, np.ndarray]:
        """The `number`-th row of the run: its inputs, `labels` [] or [outputs], and its weight, `weights` []."""
        row, reverse = self.place(number)
        return {**self._inputs(row, reverse), "labels": self.labels[row], "weights": self.weights[row]}

    def batches(self, position: int, batch_size: int, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `example`s, as `loader.DataSource` describes."""
        data = self.config.data
        return read_batches(
            self.example, position, batch_size, rows, num_workers=data.num_workers, prefetch=data.prefetch
        )


class Rows(_Source):
    """Batches of framed sequences: `inputs` int32 [batch, length], padded with <pad>, and `lengths` int32 [batch].

    With `head.chunks` above 1 they are [batch, chunks, length] and [batch, chunks], where an absent chunk has length 0.
    """

    def __init__(
        self, config: Config, problem: Problem, head: Head, framing: Framing, train: Examples, validation: Examples
    ):
        """Sequences of `train` in rows of `data.context_length` tokens."""
        self.head, self.framing = head, framing
        settings = {
            "tokenizer": config.tokenizer.make().digest,
            "convention": config.prompt_convention,
            "length": config.data.context_length,
            "framing": [framing.longest, head.long, head.chunks, head.untrimmed],
        }
        super().__init__(config, problem, train, validation, settings)

    @property
    def chunks(self) -> int:
        """Of each row."""
        return self.head.chunks

    @functools.cached_property
    def stats(self) -> dict[str, int]:
        """Rows of an epoch, their bases (`kept`), and tokens with padding."""
        tokens = len(self.train) * self.chunks * self.config.data.context_length
        return {"rows": len(self.train), "kept": self.bases, "tokens": tokens}

    @property
    def provenance(self) -> dict:
        """As of `_Source`, with the context."""
        return {**super().provenance, "context_length": self.config.data.context_length}

    def _inputs(self, row: int, reverse: bool) -> dict[str, np.ndarray]:
        codes = bases.encode(self.train.sequences[row])
        rows = self.framing.rows(bases.reverse_complement(codes) if reverse else codes, argument=self.train.where(row))
        ids = right_pad(rows, self.config.data.context_length)
        lengths = np.array([len(x) for x in rows], np.int32)
        return {"inputs": ids, "lengths": lengths} if len(rows) > 1 else {"inputs": ids[0], "lengths": lengths[0]}


class Features(_Source):
    """Batches of `features`, float32 [batch, inputs of the head], computed before; a step reads no tokens."""

    def __init__(self, config: Config, problem: Problem, features: np.ndarray, train: Examples, validation: Examples):
        """`features`: those of `train`, float32 [strands, rows, inputs]."""
        self.features = features
        digest = hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest()
        super().__init__(config, problem, train, validation, {"features": digest})

    @functools.cached_property
    def stats(self) -> dict[str, int]:
        """Rows of an epoch and their bases (`kept`); one position per row counts as a token."""
        return {"rows": len(self.train), "kept": self.bases, "tokens": len(self.train)}

    def _inputs(self, row: int, reverse: bool) -> dict[str, np.ndarray]:
        return {"features": self.features[int(reverse), row]}
