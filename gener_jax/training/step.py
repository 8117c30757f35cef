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
from gener_jax.config import Config
from gener_jax.model import decoder
from gener_jax.model.sharding import tree_shardings
from gener_jax.training import optimizer


@struct.dataclass
class State:
    """All that a step changes."""

    step: jax.Array  # int32 [], steps done
    params: Any
    opt_state: Any


def _init(config: Config) -> State:
    params = decoder.init(decoder.Decoder(config.model), jax.random.key(config.train.seed))
    tx = optimizer.make(config.optimizer, config.train.num_steps)
    return State(jnp.zeros((), jnp.int32), params, tx.init(params))


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


def loss_sums(model: decoder.Decoder, params, batch: dict[str, jax.Array], token_bases: np.ndarray) -> dict:
    """Sums over a batch: `nll` and `weight` of the objective; `dna_nll` and `bases` of the targets that are DNA.

    In the objective a target counts by the batch's `weights`, where it has them, else 1; the other two never weigh.
    """
    hidden, _ = model.apply(
        {"params": params},
        batch["inputs"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
    )
    logits = model.apply({"params": params}, hidden, method="logits")
    nll = losses.token_nll(logits, batch["targets"])
    counted = losses.is_target(batch["targets"])
    if "weights" in batch:
        counted = batch["weights"] * counted
    bases = jnp.asarray(token_bases)[batch["targets"]]
    return {
        "nll": jnp.sum(nll * counted),
        "weight": jnp.sum(counted),
        "dna_nll": jnp.sum(nll * (bases > 0)),
        "bases": jnp.sum(bases),
    }


def make_train_step(config: Config, mesh: Mesh, token_bases: np.ndarray):
    """The jitted `(state, batch) -> (state, metrics)`; the old state's buffers are reused.

    Metrics, float32 scalars on the device: `loss` (nats a token), `bits_per_base`, `grad_norm`, `learning_rate`.
    """
    model = decoder.Decoder(config.model)
    tx = optimizer.make(config.optimizer, config.train.num_steps)
    schedule = optimizer.learning_rate(config.optimizer, config.train.num_steps)

    def step(state: State, batch):
        def objective(params):
            sums = loss_sums(model, params, batch, token_bases)
            least = np.finfo(np.float32).tiny if "weights" in batch else 1  # where nothing counts, 0 and not NaN
            return sums["nll"] / jnp.maximum(sums["weight"], least), sums

        (loss, sums), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "bits_per_base": sums["dna_nll"] / jnp.maximum(sums["bases"], 1) / np.log(2),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
