"""What training minimises: objectives, as frozen (hashable) dataclasses, of which the training step takes one.

A new objective is a class with the methods of `Objective`; nothing else knows which ones there are.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Config
from gener_jax.model import decoder, kmers, losses

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Apply:
    """The model as an objective calls it, with the whole tree of parameters, trained and frozen."""

    model: decoder.Decoder

    def _call(self, params, *args, **kwargs):
        return self.model.apply(decoder.variables(params), *args, **kwargs)

    def hidden(self, params, batch: Batch, *, final_norm: bool = True) -> Float[Array, "B T D"]:
        """Hidden states of `inputs`, at the `positions` and within the `segment_ids` of the batch, if it has them.

        They are those after the final norm, or before it.

        On a mesh with a context axis they, and all arrays with a `length` axis, are in the balanced order.
        """
        positions, segment_ids = batch.get("positions"), batch.get("segment_ids")
        return self._call(
            params, batch["inputs"], positions_BT=positions, segment_ids_BT=segment_ids, final_norm=final_norm
        )[0]

    def logits(self, params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """float32 logits of the next token."""
        return self._call(params, hidden, method="logits")


class Objective(Protocol):
    """The loss is `sums(…)["objective"]` / `weight(batch)`, for any number of microbatches."""

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """What the sum is divided by; positive, and of the batch alone, so that it is known before any microbatch."""

    def sums(self, apply: Apply, params, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Sums over the rows of a batch or microbatch, which holds what the data source gave; with "objective"."""

    def metrics(self, sums: dict[str, Float[Array, ""]], weight: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
        """What is logged beside the loss, from the sums over the whole batch."""


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The mean of −log p(target), in nats, plus the z-loss.

    The mean is over all `targets` but <oov> and <pad>, each weighted by the batch's `weights` if it has them. If it has
    `known_bases`, only so many first bases of each target are known (none of a special token): p is then the sum over
    the k-mers that begin with them. k-mers alone can be known in part.
    """

    tokenizer: Tokenizer
    z_loss: float = 0.0  # coefficient of the squared log-sum-exp of the logits

    def weight(self, batch):
        """The sum of the weights; without any target the loss is 0, not NaN."""
        least = np.finfo(np.float32).tiny if "weights" in batch else 1
        return jnp.maximum(jnp.sum(_counted(batch)), least)

    def sums(self, apply, params, batch):
        """With `dna_nll`, the unweighted sum of −log p over the targets that are DNA, and `bases`, their number."""
        targets = batch["targets"]
        logits = apply.logits(params, apply.hidden(params, batch))
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        nll = log_sum - kmers.picked(logits, targets)
        bases = jnp.asarray(self.tokenizer.token_bases)[targets]
        first = None
        if "known_bases" in batch:
            bases, k = batch["known_bases"], self.tokenizer.k
            first = jnp.arange(k) < bases[..., None]
            partly = jnp.sum(kmers.base_nll(logits, targets, k) * first, axis=-1)
            nll = jnp.where((bases > 0) & (bases < k), partly, nll)
        sums = {"dna_nll": jnp.sum(nll * (bases > 0)), "bases": jnp.sum(bases)}
        loss, more = self._loss(logits, targets, nll, bases, first)
        if self.z_loss:
            loss = loss + self.z_loss * jnp.square(log_sum)
        return {**sums, **more, "objective": jnp.sum(loss * _counted(batch))}

    def _loss(self, logits, targets, nll, bases, first):
        """The loss of each target, and further sums; `first`, bool [..., k], are the known bases, None: all are."""
        return nll, {}

    def metrics(self, sums, weight):
        """`bits_per_base`, with FNS also `fns_bits_per_base`."""
        bases = jnp.maximum(sums["bases"], 1) * np.log(2)
        names = {"bits_per_base": "dna_nll", "fns_bits_per_base": "fns_nll"}
        return {name: sums[nll] / bases for name, nll in names.items() if nll in sums}


@dataclasses.dataclass(frozen=True)
class FNS(CrossEntropy):
    """The same with the loss of GENERator v2: for a k-mer the mean of `losses.fns_nll` over its bases, for a special
    token −log p / k. An unknown base adds 0 to the mean. The sums also hold `fns_nll`, that of the bases' marginal
    −log p.
    """

    compat: bool = False  # see `kmers.marginals`

    def _loss(self, logits, targets, nll, bases, first):
        k = self.tokenizer.k
        by_base = losses.fns_nll(logits, targets, k, compat=self.compat)
        if first is not None:
            by_base = by_base * first
        return jnp.where(bases > 0, by_base.mean(-1), nll / k), {"fns_nll": jnp.sum(by_base * (bases > 0)[..., None])}


def _counted(batch: Batch) -> jax.Array:
    """The weight of each target in the objective."""
    counted = losses.is_target(batch["targets"])
    return batch["weights"] * counted if "weights" in batch else counted


def of_config(config: Config, tokenizer: Tokenizer) -> Callable[[int], Objective]:
    """The objective of the step that follows `step` completed ones, as a function of `step`."""
    o = config.objective
    first, then = CrossEntropy(tokenizer, o.z_loss), FNS(tokenizer, o.z_loss, o.compat)
    return lambda step: first if o.fns_from_step is None or step < o.fns_from_step else then
