"""Losses from logits, of tokens and of bases."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.sequence.tokenizer import OOV, PAD, kmer_codes
from gener_jax.model.kmers import marginals, num_special, picked


def token_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """−log p(target) in nats per token, float32; the softmax is over the full vocabulary."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - picked(logits, targets)


def is_target(targets: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Which targets count in the objective: all but <pad> and <oov>, which carries no information on the sequence."""
    return (targets != OOV) & (targets != PAD)


FNS_FLOOR = 1e-8  # lower bound of a marginal, as published; below it the loss is flat, so no gradient is infinite


def fns_nll(
    logits: Float[Array, "... V"], targets: Int[Array, "..."], k: int, *, compat: bool = False
) -> Float[Array, "... k"]:
    """−log p^(j)(b_j) of each base of a k-mer target, in nats: factorised nucleotide supervision (GENERator v2).

    Unlike `kmers.base_nll` it uses the marginal of each base, not conditioned on the bases before it in the k-mer; the
    mean over the k bases is L_FNS. Only meaningful if the target is a k-mer. `compat`: see `kmers.marginals`.
    """
    rank = jnp.maximum(targets - num_special(logits.shape[-1], k), 0)
    p = marginals(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), k, compat=compat)
    return -jnp.log(jnp.maximum(picked(p, jnp.asarray(kmer_codes(k))[rank]), FNS_FLOOR))
