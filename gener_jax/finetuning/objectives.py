"""What fine-tuning minimises: objectives of labelled rows, in float32, over the global batch.

Dimension key: B rows, C classes, O outputs, I inputs of the head.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gener_jax.config import Config, Head
from gener_jax.inference.embeddings import padding
from gener_jax.model import heads
from gener_jax.runtime.errors import ConfigError
from gener_jax.training.objectives import Apply, Batch, Objective


def head_inputs(apply: Apply, params, batch: Batch, head: Head) -> Float[Array, "B I"]:
    """What the head reads of each row, float32: the batch's `features`, or pooled hidden states of its `inputs`.

    The hidden states of chunks, `inputs` [B, chunks, length], are concatenated; absent ones, of length 0, are zeros.
    """
    if "features" in batch:
        return batch["features"]
    ids, lengths = batch["inputs"], batch["lengths"]
    rows, lengths = {"inputs": ids.reshape(-1, ids.shape[-1])}, lengths.reshape(-1)
    if head.pool_at_end:
        rows["segment_ids"] = padding(rows["inputs"])
    hidden = apply.hidden(params, rows, final_norm=head.layer is None)
    pooled = heads.pool(hidden, jnp.maximum(lengths, 1), head.pooling, at_end=head.pool_at_end)
    if head.chunks > 1:
        pooled = jnp.where(lengths[:, None] > 0, pooled, 0)
    return pooled.reshape(len(ids), -1)


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the objectives share: the outputs of the head, and a weighted mean over the rows of a batch."""

    head: Head

    def outputs(self, apply: Apply, params, batch: Batch) -> Float[Array, "B O"]:
        """The outputs of the head, float32."""
        return heads.outputs(params["head"], head_inputs(apply, params, batch, self.head))

    def weight(self, batch):
        """The sum of the rows' weights."""
        return jnp.maximum(jnp.sum(batch["weights"]), np.finfo(np.float32).tiny)

    def sums(self, apply, params, batch):
        """With what the metrics need."""
        found = self.outputs(apply, params, batch)
        loss, more = self._losses(found, batch["labels"])
        return {"objective": jnp.sum(loss * batch["weights"]), "rows": jnp.float32(len(loss)), **more}

    def _losses(self, outputs, labels):
        """The loss of each row, and further sums."""
        raise NotImplementedError

    def metrics(self, sums, weight):
        """`accuracy`, if it was counted: of rows, or of rows and labels."""
        return {"accuracy": sums["right"] / sums["rows"]} if "right" in sums else {}


@dataclasses.dataclass(frozen=True)
class SingleLabel(Labels):
    """The cross-entropy of classes in nats: the mean over rows, weighted by those of their classes."""

    def _losses(self, outputs, labels):
        log_p = jax.nn.log_softmax(outputs)
        right = jnp.sum(outputs.argmax(-1) == labels).astype(jnp.float32)
        return -jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0], {"right": right}


@dataclasses.dataclass(frozen=True)
class MultiLabel(Labels):
    """The binary cross-entropy of labels in nats: the mean over rows and labels."""

    def _losses(self, outputs, labels):
        right = jnp.mean((outputs > 0) == (labels > 0.5), -1, dtype=jnp.float32).sum()
        return optax.sigmoid_binary_cross_entropy(outputs, labels).mean(-1), {"right": right}


@dataclasses.dataclass(frozen=True)
class Regression(Labels):
    """The mean over rows and outputs of squared errors, in squared units of `Head.scale`."""

    def _losses(self, outputs, labels):
        return jnp.square(outputs - labels).mean(-1), {}


@dataclasses.dataclass(frozen=True)
class Pearson(Labels):
    """1 − Pearson's r over the rows of the global batch, the mean over outputs; plus `huber` times the Huber loss.

    With 0.2 it is the loss of DREAM's promoter models. It cannot be split into microbatches.
    """

    huber: float = 0.0

    def weight(self, batch):
        """1: the loss is of the batch as a whole."""
        return jnp.float32(1)

    def sums(self, apply, params, batch):
        """`objective` is the loss itself; with the sum of r."""
        x, y = self.outputs(apply, params, batch), batch["labels"]
        dx, dy = x - x.mean(0), y - y.mean(0)
        # The small term keeps the gradient finite where a batch's outputs or labels are all equal.
        r = jnp.mean(jnp.sum(dx * dy, 0) * jax.lax.rsqrt(jnp.sum(dx * dx, 0) * jnp.sum(dy * dy, 0) + 1e-12))
        loss = 1 - r
        if self.huber:
            loss += self.huber * optax.huber_loss(x, y).mean()
        return {"objective": loss, "r": r}

    def metrics(self, sums, weight):
        """`pearson` of the batch."""
        return {"pearson": sums["r"]}


def of_config(config: Config, head: Head) -> Objective:
    """The objective of a problem.

    Raises:
      ConfigError: if the loss cannot be accumulated.
    """
    if head.problem != "regression":
        return {"single_label": SingleLabel, "multi_label": MultiLabel}[head.problem](head)
    if config.finetune.loss == "mse":
        return Regression(head)
    if config.train.accumulate > 1:
        problem = f"must be 1, since finetune.loss {config.finetune.loss} is of all rows of a batch at once"
        raise ConfigError(problem, "train.accumulate", config.train.accumulate)
    return Pearson(head, 0.2 if config.finetune.loss == "pearson_huber" else 0.0)
