"""Losses from logits: the objectives of training and the quantities that are reported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.sequence.tokenizer import OOV, PAD


def token_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """−log p(target) in nats per token, float32; the softmax is over the full vocabulary."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - picked(logits, targets)


def picked(x: Float[Array, "... V"], ids: Int[Array, "..."]) -> Float[Array, "..."]:
    """The entry of `x` at each id: x[..., id]."""
    return jnp.take_along_axis(x, ids[..., None], axis=-1)[..., 0]


def is_target(targets: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Which targets count in the objective: all but <pad> and <oov>, which carries no information on the sequence."""
    return (targets != OOV) & (targets != PAD)


def base_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."], k: int) -> Float[Array, "... k"]:
    """−log p of each base of a k-mer, given the tokens before and the bases before it in the k-mer, in nats.

    By the chain rule: p(b₁…b_j) is the sum of p over the k-mers with this prefix. The k terms add up to `token_nll`
    (the probability of special tokens is part of the first base's loss). Only meaningful if the target is a k-mer;
    k-mers are the last 4ᵏ ids.
    """
    logits = logits.astype(jnp.float32)
    rank = jnp.maximum(targets - (logits.shape[-1] - 4**k), 0)
    cumulative, kmers = [jax.nn.logsumexp(logits, axis=-1)], logits[..., -(4**k) :]
    for j in reversed(range(k)):  # the k-mers with the same first bases are a quarter of those with one base less
        quarters = kmers.reshape(*rank.shape, 4, -1)
        kmers = jnp.take_along_axis(quarters, (rank // 4**j % 4)[..., None, None], axis=-2)[..., 0, :]
        cumulative.append(jax.nn.logsumexp(kmers, axis=-1))
    return -jnp.diff(jnp.stack(cumulative, axis=-1))


@functools.cache
def kmer_bases(k: int) -> np.ndarray:
    """The base at each position of each k-mer, as its index in A, T, C, G (the vocabulary's order): [4^k, k]."""
    return np.arange(4**k)[:, None] // 4 ** np.arange(k - 1, -1, -1) % 4


@functools.cache
def _indicator(vocab_size: int, k: int, compat: bool) -> np.ndarray:
    """1 where a token has a base at a position of the k-mer, else 0: [V, 4k]."""
    out = np.zeros((vocab_size, k, 4), np.float32)
    out[-(4**k) :] = kmer_bases(k)[..., None] == np.arange(4)
    out[: -(4**k), :, 0] = compat
    return out.reshape(vocab_size, 4 * k)


def marginals(logits: Float[Array, "... V"], k: int, *, compat: bool = False) -> Float[Array, "... k 4"]:
    """The probability of A, T, C and G at each position of the next k-mer, float32; k-mers are the last 4^k ids.

    The softmax is over the full vocabulary, so the four add up to 1 minus the special tokens' probability; with
    `compat` that is added to A, as in the published code.
    """
    p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    out = jnp.einsum("...v,vc->...c", p, _indicator(logits.shape[-1], k, compat), precision="highest")
    return out.reshape(*out.shape[:-1], k, 4)


FNS_FLOOR = 1e-8  # lower bound of a marginal, as published; below it the loss is flat, so no gradient is infinite


def fns_nll(
    logits: Float[Array, "... V"], targets: Int[Array, "..."], k: int, *, compat: bool = False
) -> Float[Array, "... k"]:
    """−log p^(j)(b_j) of each base of a k-mer target, in nats: factorised nucleotide supervision (GENERator v2).

    Unlike `base_nll` it uses the marginal of each base, not conditioned on the bases before it in the k-mer; the mean
    over the k bases is L_FNS. Only meaningful if the target is a k-mer.
    """
    rank = jnp.maximum(targets - (logits.shape[-1] - 4**k), 0)
    p = picked(marginals(logits, k, compat=compat), jnp.asarray(kmer_bases(k))[rank])
    return -jnp.log(jnp.maximum(p, FNS_FLOOR))
