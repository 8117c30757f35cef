"""Rotary position embedding in the rotate-half form, plain or extended to longer contexts.

Dimension key: B batch, T tokens, N heads, H head dimension.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gener_jax.config import Model


def frequencies(config: Model) -> tuple[np.ndarray, float]:
    """Frequencies in radians per token of each pair of dimensions, float32 [H/2], and the scale of cosine and sine.

    Plain: θ^(−2i/H). YaRN (Peng et al. 2023, section 3.2, with its defaults as in `transformers`): for a factor s and L
    original positions, a pair that makes more than `yarn_beta_fast` rotations in L positions keeps its frequency, and a
    pair that makes fewer than `yarn_beta_slow` has it divided by s, with a linear ramp in between; cosine and sine are
    scaled by 0.1 ln s + 1. Linear: all frequencies are divided. Llama 3.1 (as in `transformers`): a frequency is
    unchanged above `llama3_high_freq_factor` rotations in `llama3_positions`, divided by `llama3_factor` below
    `llama3_low_freq_factor`, and in between the mean of both, weighted by the rotations.
    """
    H, base, factor = config.head_dim, config.rope_theta, config.yarn_factor
    # Exponents and results are float32, as in the training of published models: the error of an angle at token 16 384
    # is 16 384 times that of its frequency, and float64 throughout changes logits by 1e-3 at 4096 tokens. Only the
    # power is float64, rounded once, because the last bit of a float32 power depends on the processor.
    exponent = np.arange(0, H, 2, dtype=np.float32) / np.float32(H)
    period = np.power(float(base), exponent.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / period / np.float32(config.linear_factor)
    scale = config.yarn_attention_factor
    if config.llama3_factor != 1:
        low, high = np.float32(config.llama3_low_freq_factor), np.float32(config.llama3_high_freq_factor)
        rotations = np.float32(config.llama3_positions) / (np.float32(2 * math.pi) / plain)
        kept = np.clip((rotations - low) / (high - low), 0, 1)
        plain = (1 - kept) * plain / np.float32(config.llama3_factor) + kept * plain
    if factor == 1:
        return plain, 1.0 if scale is None else scale

    def pair_with(rotations):
        return H * math.log(config.max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_with(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_with(config.yarn_beta_slow)), H - 1)
    ramp = np.clip((np.arange(H // 2, dtype=np.float32) - low) / np.float32(high - low or 0.001), 0, 1)
    kept = 1 - ramp
    stretched = np.float32(1) / (np.float32(factor) * period) * (1 - kept) + plain * kept
    return stretched, 0.1 * math.log(factor) + 1 if scale is None else scale


def angles(positions_BT: Int[Array, "B T"], config: Model):
    """Cosine and sine of the angles, float32 [B, T, 1, H/2]; in bfloat16 position 257 would be rounded to 256."""
    frequencies_, scale = frequencies(config)
    radians = positions_BT.astype(jnp.float32)[..., None, None] * frequencies_
    return jnp.cos(radians) * scale, jnp.sin(radians) * scale


def rotate(x_BTNH: Float[Array, "B T N H"], cos, sin) -> Float[Array, "B T N H"]:
    """Rotates each pair of dimensions that are H/2 apart by its angle; computed in float32."""
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
