"""Rotary position embedding, plain or stretched to longer contexts by YaRN, in the rotate-half form.

Dimension key: B batch, T tokens, N heads, H head dimension.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gener_jax.config import Model


def frequencies(config: Model) -> tuple[np.ndarray, float]:
    """Radians a token of each pair of dimensions, float32 [H/2], and what cosine and sine are multiplied by.

    Plain: θ^(−2i/H). YaRN (Peng et al. 2023, section 3.2; its defaults, as `transformers` reads them): with a factor s
    and L positions before, a pair that turns over `yarn_beta_fast` times in L keeps its frequency, one that turns under
    `yarn_beta_slow` times has it divided by s, a ramp between; cosine and sine are multiplied by 0.1 ln s + 1.
    """
    H, base, factor = config.head_dim, config.rope_theta, config.yarn_factor
    # Exponents and what follows in float32, as published models were trained: an angle at token 16 384 is 16 384 times
    # as wrong as its frequency, and float64 throughout moves logits by 1e-3 at 4096 tokens. The power alone in float64,
    # rounded once: in float32 its last bit is the processor's.
    exponent = np.arange(0, H, 2, dtype=np.float32) / np.float32(H)
    period = np.power(float(base), exponent.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / period
    scale = config.yarn_attention_factor
    if factor == 1:
        return plain, 1.0 if scale is None else scale

    def pair_that_turns(times):
        return H * math.log(config.max_position_embeddings / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(config.yarn_beta_slow)), H - 1)
    ramp = np.clip((np.arange(H // 2, dtype=np.float32) - low) / np.float32(high - low or 0.001), 0, 1)
    kept = 1 - ramp
    stretched = np.float32(1) / (np.float32(factor) * period) * (1 - kept) + plain * kept
    return stretched, 0.1 * math.log(factor) + 1 if scale is None else scale


def angles(positions_BT: Int[Array, "B T"], config: Model):
    """Cosine and sine, float32 [B, T, 1, H/2]; bf16 would turn position 257 into 256."""
    frequencies_, scale = frequencies(config)
    radians = positions_BT.astype(jnp.float32)[..., None, None] * frequencies_
    return jnp.cos(radians) * scale, jnp.sin(radians) * scale


def rotate(x_BTNH: Float[Array, "B T N H"], cos, sin) -> Float[Array, "B T N H"]:
    """Pairs that are H/2 apart, turned by the angles; computed in float32."""
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
