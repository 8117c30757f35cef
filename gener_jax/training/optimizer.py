"""AdamW, its learning-rate schedules, and its moments in bfloat16."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from gener_jax.config import Config, Optimizer


def learning_rate(config: Config) -> optax.Schedule:
    """The rate of the step that follows this many completed ones, a float32 scalar.

    It rises linearly to the peak, which is that of step `warmup_steps` (of the first step if there are none), then
    follows the schedule: `cosine` decays from there; `wsd` stays at the peak, and decays linearly in the last
    `decay_fraction` of the steps. The last of `num_steps` has `final_learning_rate_ratio` of the peak, also if there is
    no other step to decay in, and so have all after it.

    From the switch to FNS on, the peak is `objective.fns_learning_rate`; the schedule's shape continues.
    """
    o, fns, num_steps = config.optimizer, config.objective, config.train.num_steps
    final = o.final_learning_rate_ratio
    warmup = max(o.warmup_steps, 1)
    decay = num_steps - warmup if o.schedule == "cosine" else round(o.decay_fraction * num_steps)
    decay = max(min(decay, num_steps - warmup), 1)  # steps below the peak

    def rate(step):
        number = jnp.asarray(step, jnp.float32) + 1  # of the step, from 1
        progress = jnp.clip((number - (num_steps - decay)) / decay, 0, 1)
        left = 0.5 * (1 + jnp.cos(jnp.pi * progress)) if o.schedule == "cosine" else 1 - progress
        shape = jnp.minimum(number / warmup, final + (1 - final) * left)
        shape = jnp.where(number < num_steps, shape, final)  # to the last bit
        peak = o.peak_learning_rate
        if fns.fns_learning_rate is not None:
            peak = jnp.where(step < fns.fns_from_step, peak, fns.fns_learning_rate)
        return jnp.asarray(shape * peak, jnp.float32)

    return rate


def decays(boxed):
    """Which parameters decay, a bool for each: those with two or more logical axes besides that of layers,
    of which an axis without a name is none.

    `boxed`: the parameters that train, or their shapes, boxed with their logical axes as `decoder.abstract` returns
    them.
    """
    return jax.tree.map(
        lambda box: len(set(box.names) - {"layers", None}) > 1,
        boxed,
        is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
    )


def make(config: Optimizer, boxed) -> optax.GradientTransformation:
    """Clipping by global norm, Adam, decoupled weight decay of what `decays`. The train step multiplies by the rate."""
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        adam if config.state_dtype == "float32" else _in_bfloat16(adam),
        optax.add_decayed_weights(config.weight_decay, mask=decays(boxed)),
    )


def _in_bfloat16(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same with both moments stored in bfloat16 and computed in float32.

    They are rounded stochastically. Rounded to nearest, a moment that changes by less than 1/256 per step, such as the
    second with beta2 = 0.999, would never change.
    """

    def stored(state, dtype):
        return state._replace(mu=optax.tree.cast(state.mu, dtype), nu=optax.tree.cast(state.nu, dtype))

    def init(params):
        return stored(adam.init(params), jnp.bfloat16)

    def update(grads, state, params=None):
        updates, new = adam.update(grads, stored(state, jnp.float32), params)

        def rounded(tree, number):
            keys = optax.tree.split_key_like(jax.random.fold_in(jax.random.key(number), state.count), tree)
            return jax.tree.map(round_at_random, tree, keys)

        return updates, new._replace(mu=rounded(new.mu, 0), nu=rounded(new.nu, 1))

    return optax.GradientTransformation(init, update)


def round_at_random(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 to bfloat16 by stochastic rounding: up with the probability of the fraction cut off; the mean stays."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    cut = (bits + jax.random.bits(key, x.shape, jnp.uint16)) >> 16
    rounded = jax.lax.bitcast_convert_type(cut.astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
