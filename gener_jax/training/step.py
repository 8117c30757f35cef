"""The training state, sharded from its initialization, and the jitted training step that replaces it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from gener_jax.config import Config, Optimizer
from gener_jax.model import decoder, losses, parallel
from gener_jax.model.sharding import tree_shardings
from gener_jax.training import optimizer


@struct.dataclass
class GradientStats:
    """Gradient statistics, for detecting spikes."""

    grad_norm_ema: jax.Array  # float32 [], running mean of the gradient norm over the steps taken
    taken: jax.Array  # int32 [], number of steps taken
    skipped: jax.Array  # int32 [], number of steps whose update was skipped
    consecutive_skips: jax.Array  # int32 [], number of consecutive skipped steps up to the current one


@struct.dataclass
class State:
    """Everything that a training step changes."""

    step: jax.Array  # int32 [], steps done, including skipped ones
    params: Any
    opt_state: Any
    gradient_stats: GradientStats


def _init(config: Config) -> State:
    params = decoder.init(decoder.Decoder(config.model), jax.random.key(config.train.seed))
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731 (separate arrays, because each is donated)
    gradient_stats = GradientStats(jnp.zeros((), jnp.float32), zero(), zero(), zero())
    return State(zero(), params, optimizer.make(config.optimizer, params).init(params), gradient_stats)


def abstract_state(config: Config, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of the state, into which a checkpoint is restored. Allocates nothing."""
    boxed = jax.eval_shape(functools.partial(_init, config))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), tree_shardings(boxed, mesh)
    )


def init_state(config: Config, mesh: Mesh) -> State:
    """A new state, initialized from `train.seed`; each device initializes only its own shards."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(lambda: nn.unbox(_init(config)), out_shardings=shardings)()


def loss_sums(
    config: Config, params, batch: dict[str, jax.Array], token_bases: np.ndarray, objective: str = "ce"
) -> dict[str, jax.Array]:
    """Sums over a batch, in nats, float32 scalars.

    The loss is `objective` / `weight`. Both sum over all targets but <oov> and <pad>, each weighted by the batch's
    `weights` if it has them, else by 1. The loss of a target is, for "ce", −log p(token); for "fns", the mean of
    `fns_nll` over the bases of a k-mer, and −log p / k for a special token (reference implementation: GENERator v2).
    Both objectives add the z-loss.

    `dna_nll`, and `fns_nll` with "fns", are unweighted sums over the targets that are DNA, of the token's and of the
    bases' marginal −log p; `bases` is the number of their bases.
    """
    model, targets = decoder.Decoder(config.model), batch["targets"]
    hidden, _ = model.apply(
        {"params": params},
        batch["inputs"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
    )
    logits = model.apply({"params": params}, hidden, method="logits")
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    nll = log_sum - losses.picked(logits, targets)
    bases = jnp.asarray(token_bases)[targets]
    sums = {"dna_nll": jnp.sum(nll * (bases > 0)), "bases": jnp.sum(bases)}
    loss = nll
    if objective == "fns":
        k = config.tokenizer.k
        by_base = losses.fns_nll(logits, targets, k, compat=config.objective.compat)
        loss = jnp.where(bases > 0, by_base.mean(-1), nll / k)
        sums["fns_nll"] = jnp.sum(by_base * (bases > 0)[..., None])
    if config.objective.z_loss:
        loss = loss + config.objective.z_loss * jnp.square(log_sum)
    return {**sums, "objective": jnp.sum(loss * _counted(batch)), "weight": jnp.sum(_counted(batch))}


def _counted(batch) -> jax.Array:
    """The weight of each target in the objective."""
    counted = losses.is_target(batch["targets"])
    return batch["weights"] * counted if "weights" in batch else counted


def _microbatches(batch, number: int):
    """The batch as [microbatches, rows, length]; row r goes to microbatch r mod `number`, so no row moves to another
    device.
    """
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, number, *x.shape[1:]), 1, 0), batch)


_EMA_STEPS = 50  # window of the mean gradient norm; no spike is detected until this many steps have been taken


def _updated_stats(gradient_stats: GradientStats, config: Optimizer, loss, norm) -> tuple[jax.Array, GradientStats]:
    """Whether a step is taken, and the statistics after it."""
    ok = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.grad_norm_spike_factor:
        ok &= (gradient_stats.taken < _EMA_STEPS) | (
            norm <= config.grad_norm_spike_factor * gradient_stats.grad_norm_ema
        )
    rate = 1 / jnp.minimum(gradient_stats.taken + 1, _EMA_STEPS).astype(jnp.float32)
    usual = jnp.where(
        ok, gradient_stats.grad_norm_ema + rate * (norm - gradient_stats.grad_norm_ema), gradient_stats.grad_norm_ema
    )
    in_row = jnp.where(ok, 0, gradient_stats.consecutive_skips + 1)
    return ok, GradientStats(usual, gradient_stats.taken + ok, gradient_stats.skipped + ~ok, in_row)


def make_train_step(config: Config, mesh: Mesh, token_bases: np.ndarray, objective: str = "ce"):
    """The jitted step `(state, batch) -> (state, metrics)` of an objective; the old state's buffers are donated.

    A gradient that is not finite, or whose norm exceeds `optimizer.grad_norm_spike_factor` times the usual norm, is
    skipped: only the counts of steps change.

    Metrics, scalars on the device: `loss` (of the objective, nats per token), `bits_per_base`, with "fns"
    `fns_bits_per_base`, `grad_norm`, `learning_rate`, `skipped`, `consecutive_skips`.
    """
    tx, schedule = optimizer.make(config.optimizer, decoder.abstract(config.model)), optimizer.learning_rate(config)

    def step(state: State, batch):
        batch = parallel.balance(batch)
        weight = jnp.sum(_counted(batch))
        least = np.finfo(np.float32).tiny if "weights" in batch else 1  # without any target the loss is 0, not NaN
        weight = jnp.maximum(weight, least)

        def value(params, microbatch):
            sums = loss_sums(config, params, microbatch, token_bases, objective)
            return sums["objective"] / weight, sums

        def gradient(microbatch):
            return jax.grad(value, has_aux=True)(state.params, microbatch)

        if config.train.accumulate == 1:
            grads, sums = gradient(batch)
        else:
            # Each microbatch's sum is divided by the weight of the whole batch: exact for any distribution of tokens.
            add = lambda total, microbatch: (jax.tree.map(jnp.add, total, gradient(microbatch)), None)  # noqa: E731
            microbatches = _microbatches(batch, config.train.accumulate)
            shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], microbatches))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (grads, sums), _ = jax.lax.scan(add, zeros, microbatches)
        loss, norm = sums["objective"] / weight, optax.tree.norm(grads)
        ok, gradient_stats = _updated_stats(state.gradient_stats, config.optimizer, loss, norm)
        rate = schedule(state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: jnp.where(ok, p - rate * u, p), state.params, updates)
        opt_state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), opt_state, state.opt_state)
        bases = jnp.maximum(sums["bases"], 1) * np.log(2)
        metrics = {
            "loss": loss,
            "bits_per_base": sums["dna_nll"] / bases,
            **({"fns_bits_per_base": sums["fns_nll"] / bases} if objective == "fns" else {}),
            "grad_norm": norm,
            "learning_rate": rate,
            "skipped": gradient_stats.skipped,
            "consecutive_skips": gradient_stats.consecutive_skips,
        }
        return State(state.step + 1, params, opt_state, gradient_stats), metrics

    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
