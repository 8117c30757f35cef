"""What a model predicts for rows, with the parameters as training has them, and the task that measures it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.sequence import bases
from gener_jax.config import Config, Head
from gener_jax.data.loader import to_devices
from gener_jax.finetuning.objectives import head_inputs
from gener_jax.inference.batches import batched, right_pad, tokens_per_batch
from gener_jax.inference.framing import Framing
from gener_jax.inference.prediction import of_outputs
from gener_jax.labelled.examples import Examples
from gener_jax.model import heads, kernels
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import batch_sharding
from gener_jax.runtime.transfer import fetch
from gener_jax.statistics.metrics import evaluate
from gener_jax.storage.results import Dataset
from gener_jax.tasks.base import Progress, Result, silent
from gener_jax.tasks.labelled_rows import metrics_of
from gener_jax.training.objectives import Apply

# (params, progress) → outputs of the head, float32 [rows, outputs], the mean over its strands
Outputs = Callable[..., np.ndarray]


def strands(sequence: str, both: bool) -> list[np.ndarray]:
    """The base codes of a sequence, and of its reverse complement if `both`."""
    codes = bases.encode(sequence)
    return [codes, bases.reverse_complement(codes)] if both else [codes]


def of_rows(config: Config, head: Head, framing: Framing, examples: Examples, mesh: jax.sharding.Mesh) -> Outputs:
    """The outputs of a tree of parameters, with adapters or without, for the sequences of a split."""
    apply, whole = Apply(Decoder(kernels.for_any_mask(config.model))), NamedSharding(mesh, PartitionSpec())
    rows = [framing.rows(codes) for sequence in examples.sequences for codes in strands(sequence, head.average_strands)]
    if head.pool_at_end and head.pooling != "mean":  # the padding is read as if it were tokens
        width = max(len(chunk) for row in rows for chunk in row)
        rows = [[right_pad([chunk], width)[0] if len(chunk) else chunk for chunk in row] for row in rows]
        head = dataclasses.replace(head, pool_at_end=False)
    per_row = head.chunks
    longest = [max(map(len, row)) for row in rows]

    @functools.partial(jax.jit, out_shardings=whole)
    def compute(params, ids, lengths):
        """Of [rows of sequences · chunks, length]; absent chunks have length 0."""
        ids, lengths = ids.reshape(-1, per_row, ids.shape[-1]), lengths.reshape(-1, per_row)
        if per_row == 1:
            ids, lengths = ids[:, 0], lengths[:, 0]
        return heads.outputs(params["head"], head_inputs(apply, params, {"inputs": ids, "lengths": lengths}, head))

    def outputs(params, progress: Progress = silent) -> np.ndarray:
        found = np.zeros((len(rows), len(head.names)), np.float32)
        done = 0

        def batch(chosen, number, length):
            ids = np.concatenate([right_pad(rows[i], length) for i in chosen])
            ids = right_pad(list(ids), length, number * per_row)
            sizes = np.zeros(number * per_row, np.int32)
            flat = [len(chunk) for i in chosen for chunk in rows[i]]
            sizes[: len(flat)] = flat
            placed = to_devices({"ids": ids, "lengths": sizes}, {"ids": batch_sharding(mesh), "lengths": whole})
            return compute(params, **placed)

        budget = max(tokens_per_batch() // per_row, 1)
        for chosen, values in batched(batch, mesh, longest, budget, config.data.context_length):
            found[chosen] = values[: len(chosen)]
            done += len(chosen)
            progress(done, len(rows))
        return found.reshape(len(examples), -1, len(head.names)).mean(1)

    return outputs


def of_features(features: np.ndarray, mesh: jax.sharding.Mesh) -> Outputs:
    """The outputs of the head of a tree for features, float32 [strands, rows, inputs]."""
    whole = NamedSharding(mesh, PartitionSpec())
    compute = jax.jit(heads.outputs, out_shardings=whole)

    def outputs(params, progress: Progress = silent) -> np.ndarray:
        found = fetch(compute(params["head"], to_devices({"features": features}, whole)["features"]))
        progress(features.shape[1], features.shape[1])
        return np.asarray(found).mean(0)

    return outputs


def numbers(head: Head, outputs: np.ndarray) -> np.ndarray:
    """What outputs stand for, float32 [N, C]: probabilities, or values in the unit of the labels."""
    found = of_outputs(head, outputs)
    return found.values if found.probabilities is None else found.probabilities


class Finetune:
    """The task `finetune`: the metrics of a split, here of validation rows."""

    name = "finetune"

    def __init__(
        self,
        metric: str,
        head: Head,
        examples: Examples,
        dataset: Dataset,
        outputs: Callable[[Examples, jax.sharding.Mesh], Outputs],
    ):
        """`metric`: the main one. `dataset`: what the rows are called. `outputs`: of rows, on a mesh."""
        self.metric, self.metrics = metric, metrics_of(head.problem)
        self._head, self._examples, self._dataset, self._outputs = head, examples, dataset, outputs

    def prepare(self, spec, mesh: jax.sharding.Mesh):
        """See `tasks.base.Task`."""
        outputs = self._outputs(self._examples, mesh)

        def run(params, progress: Progress = silent) -> Result:
            found = numbers(self._head, outputs(params, progress))
            values = evaluate(self._head.problem, self._examples.targets, found)
            return Result(values, {"rows": len(self._examples)}, dataset=self._dataset)

        return run
