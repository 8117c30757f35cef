"""What is minimised, and what is reported, from logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.tokenizer import OOV, PAD


def token_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """−log p(target) in nats a token, float32, the softmax over the full vocabulary."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def is_target(targets: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Which targets count in the objective: all but <oov>, which says nothing of the sequence, and <pad>."""
    return (targets != OOV) & (targets != PAD)


def base_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."], k: int) -> Float[Array, "... k"]:
    """−log p of each base of a k-mer given the tokens before it and the bases before it inside, in nats.

    The chain rule: p(b₁…b_j) is the sum of p over the k-mers that begin so; the k terms add up to `token_nll` (the
    mass of special tokens counts against the first base). Only meaningful where the target is a k-mer; k-mers are the
    last 4ᵏ ids.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)[..., -(4**k) :]
    rank = targets - (logits.shape[-1] - 4**k)
    prefixes = []  # log p(b₁…b_j), j = k … 1
    for _ in range(k):
        prefixes.append(jnp.take_along_axis(log_p, jnp.maximum(rank, 0)[..., None], axis=-1)[..., 0])
        log_p = jax.nn.logsumexp(log_p.reshape(*log_p.shape[:-1], -1, 4), axis=-1)
        rank = rank // 4
    cumulative = jnp.stack([jnp.zeros_like(prefixes[0]), *prefixes[::-1]], axis=-1)
    return -jnp.diff(cumulative, axis=-1)
