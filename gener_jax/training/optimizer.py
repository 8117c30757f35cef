"""AdamW with warm-up and cosine decay."""

import jax
import optax

from gener_jax.config import Optimizer


def learning_rate(config: Optimizer, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then half a cosine down to `final_share` of it at `num_steps`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.peak_learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(num_steps, config.warmup_steps + 1),
        end_value=config.peak_learning_rate * config.final_share,
    )


def is_matrix(params):
    """Which leaves weight decay applies to: all but the norms' scales, which look like matrices when stacked."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "scale" not in jax.tree_util.keystr(path), params)


def make(config: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, Adam, decoupled decay of matrices, the schedule."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=is_matrix),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
    )
