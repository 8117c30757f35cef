"""The training state, born sharded, and the jitted step that replaces it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from gener_jax import losses
from gener_jax.config import Config, Optimizer
from gener_jax.model import decoder, parallel
from gener_jax.model.sharding import tree_shardings
from gener_jax.training import optimizer


@struct.dataclass
class Guard:
    """What is known of the gradients so far, to tell one that is out of order."""

    usual_norm: jax.Array  # float32 [], a running mean of the norms of the steps that were taken
    taken: jax.Array  # int32 [], steps taken
    skipped: jax.Array  # int32 [], steps whose update was left out
    skipped_in_row: jax.Array  # int32 [], of them the last ones


@struct.dataclass
class State:
    """All that a step changes."""

    step: jax.Array  # int32 [], steps done, the skipped ones too
    params: Any
    opt_state: Any
    guard: Guard


def _init(config: Config) -> State:
    params = decoder.init(decoder.Decoder(config.model), jax.random.key(config.train.seed))
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731 (arrays of their own: each is donated)
    guard = Guard(jnp.zeros((), jnp.float32), zero(), zero(), zero())
    return State(zero(), params, optimizer.make(config.optimizer).init(params), guard)


def abstract_state(config: Config, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of the state: what a checkpoint is restored into. Allocates nothing."""
    boxed = jax.eval_shape(functools.partial(_init, config))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), tree_shardings(boxed, mesh)
    )


def init_state(config: Config, mesh: Mesh) -> State:
    """A new state of `train.seed`; each device makes only its own part."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(lambda: nn.unbox(_init(config)), out_shardings=shardings)()


def loss_sums(
    config: Config, params, batch: dict[str, jax.Array], token_bases: np.ndarray, objective: str = "ce"
) -> dict[str, jax.Array]:
    """Sums over a batch, in nats, float32 scalars.

    `objective` and `weight`: what is minimised is their ratio. Of every target but <oov> and <pad>, by the batch's
    `weights` where it has them, else 1: with "ce" −log p(token); with "fns" the mean over a k-mer's bases of `fns_nll`,
    and a kth of −log p of a special token (reference implementation: GENERator v2); with both the z-loss.
    `dna_nll` (and `fns_nll`, in an FNS run) over `bases`, never weighed: of the targets that are DNA, by token and by
    the bases' marginals.
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
    """How much each target counts in the objective."""
    counted = losses.is_target(batch["targets"])
    return batch["weights"] * counted if "weights" in batch else counted


def _parts(batch, number: int):
    """The batch in so many parts, [part, rows, length]: row r goes to r mod `number`, so each device cuts its own."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, number, *x.shape[1:]), 1, 0), batch)


_USUAL_STEPS = 50  # over about so many steps the usual norm is a mean, and before so many it is not known


def _guarded(guard: Guard, config: Optimizer, loss, norm) -> tuple[jax.Array, Guard]:
    """Whether a step is taken, and what is known behind it."""
    ok = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.spike_factor:
        ok &= (guard.taken < _USUAL_STEPS) | (norm <= config.spike_factor * guard.usual_norm)
    share = 1 / jnp.minimum(guard.taken + 1, _USUAL_STEPS).astype(jnp.float32)
    usual = jnp.where(ok, guard.usual_norm + share * (norm - guard.usual_norm), guard.usual_norm)
    in_row = jnp.where(ok, 0, guard.skipped_in_row + 1)
    return ok, Guard(usual, guard.taken + ok, guard.skipped + ~ok, in_row)


def make_train_step(config: Config, mesh: Mesh, token_bases: np.ndarray, objective: str = "ce"):
    """The jitted `(state, batch) -> (state, metrics)` of an objective; the old state's buffers are reused.

    A gradient that is not finite, or over `optimizer.spike_factor` times its usual norm, changes nothing but the count.

    Metrics, scalars on the device: `loss` (of the objective, nats a token), `bits_per_base`, with "fns"
    `fns_bits_per_base`, `grad_norm`, `learning_rate`, `skipped`, `skipped_in_row`.
    """
    tx, schedule = optimizer.make(config.optimizer), optimizer.learning_rate(config)

    def step(state: State, batch):
        batch = parallel.balance(batch)
        weight = jnp.sum(_counted(batch))
        least = np.finfo(np.float32).tiny if "weights" in batch else 1  # where nothing counts, 0 and not NaN
        weight = jnp.maximum(weight, least)

        def value(params, part):
            sums = loss_sums(config, params, part, token_bases, objective)
            return sums["objective"] / weight, sums

        def gradient(part):
            return jax.grad(value, has_aux=True)(state.params, part)

        if config.train.accumulate == 1:
            grads, sums = gradient(batch)
        else:
            # Each part's sum over the whole batch's weight: exact, however unequal the parts' tokens are.
            add = lambda total, part: (jax.tree.map(jnp.add, total, gradient(part)), None)  # noqa: E731
            parts = _parts(batch, config.train.accumulate)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts))
            )
            (grads, sums), _ = jax.lax.scan(add, zeros, parts)
        loss, norm = sums["objective"] / weight, optax.tree.norm(grads)
        ok, guard = _guarded(state.guard, config.optimizer, loss, norm)
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
            "skipped": guard.skipped,
            "skipped_in_row": guard.skipped_in_row,
        }
        return State(state.step + 1, params, opt_state, guard), metrics

    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
