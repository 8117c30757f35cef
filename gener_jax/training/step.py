"""The training state, sharded from its initialization, and the jitted training step that replaces it."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from gener_jax.config import Config, Optimizer
from gener_jax.model import decoder, parallel
from gener_jax.model.sharding import tree_shardings
from gener_jax.model.trainable import everything, merge, split
from gener_jax.training import optimizer
from gener_jax.training.objectives import Apply, Objective


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
    params: Any  # those that are trained, float32
    opt_state: Any
    gradient_stats: GradientStats
    rate_scale: jax.Array  # float32 [], a factor of the schedule's learning rate; 1 unless something changes it


def _trained(config: Config, trains, init):
    """The initial parameters that are trained, boxed with their logical axes."""
    init = init or functools.partial(decoder.init, decoder.Decoder(config.model))
    return split(init(jax.random.key(config.train.seed)), trains)[0]


def _init(config: Config, trains, init) -> State:
    params = _trained(config, trains, init)
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731 (separate arrays, because each is donated)
    gradient_stats = GradientStats(jnp.zeros((), jnp.float32), zero(), zero(), zero())
    opt_state = optimizer.make(config.optimizer, params).init(params)
    return State(zero(), params, opt_state, gradient_stats, jnp.ones((), jnp.float32))


def abstract_state(config: Config, mesh: Mesh, trains=everything, init=None) -> State:
    """Shapes, dtypes and shardings of the state, into which a checkpoint is restored. Allocates nothing.

    Args:
      config: of the run.
      mesh: the devices.
      trains: a predicate over the paths of parameters ("layers/q"): those that the state holds. The step takes the
        others as `frozen`.
      init: the whole tree from a key, boxed with its logical axes; default: the decoder's.
    """
    boxed = jax.eval_shape(functools.partial(_init, config, trains, init))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), tree_shardings(boxed, mesh)
    )


def init_state(config: Config, mesh: Mesh, trains=everything, init=None) -> State:
    """A new state, initialized from `train.seed`; each device initializes only its own shards.

    The arguments are those of `abstract_state`.
    """
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh, trains, init))
    return jax.jit(lambda: nn.unbox(_init(config, trains, init)), out_shardings=shardings)()


def _microbatches(batch, number: int):
    """Every array [rows, …] of the batch as [microbatches, rows, …]; row r goes to microbatch r mod `number`, so no row
    moves to another device.
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


def make_train_step(
    config: Config, mesh: Mesh, objective: Objective, axes: Mapping[str, tuple], trains=everything, init=None
):
    """The jitted step `(state, frozen, batch) -> (state, metrics)`; the old state's buffers are donated, no others.

    A gradient that is not finite, or whose norm exceeds `optimizer.grad_norm_spike_factor` times the usual norm, is
    skipped: only the counts of steps change.

    Metrics, scalars on the device: `loss` (of the objective), those of the objective, `grad_norm`, `learning_rate`,
    `skipped`, `consecutive_skips`.

    Args:
      config: of the run.
      mesh: the devices.
      objective: see `objectives.Objective`.
      axes: the logical axes of each array of a batch, as its data source declares them.
      trains: as in `abstract_state`. `frozen` is the tree of the other parameters, of any dtype; {} if there are none.
      init: as in `abstract_state`.
    """
    boxed = jax.eval_shape(functools.partial(_init, config, trains, init)).params
    tx, schedule = optimizer.make(config.optimizer, boxed), optimizer.learning_rate(config)
    apply = Apply(decoder.Decoder(config.model, config.train.gradient_dtype))

    def step(state: State, frozen, batch):
        batch = parallel.balance(batch, axes)
        weight = objective.weight(batch)

        def value(params, microbatch):
            sums = objective.sums(apply, merge(params, frozen), microbatch)
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
        rate = schedule(state.step) * state.rate_scale
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: jnp.where(ok, p - rate * u, p), state.params, updates)
        opt_state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), opt_state, state.opt_state)
        metrics = {
            "loss": loss,
            **objective.metrics(sums, weight),
            "grad_norm": norm,
            "learning_rate": rate,
            "skipped": gradient_stats.skipped,
            "consecutive_skips": gradient_stats.consecutive_skips,
        }
        return State(state.step + 1, params, opt_state, gradient_stats, state.rate_scale), metrics

    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh, trains, init))
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
