"""k-mers in a model's vocabulary: ids ↔ bases, and the probabilities of bases from those of k-mers.

k-mers are the last 4^k ids of a vocabulary. The rank of one among them is its base codes (A, T, C, G), read as a number
in base 4. Logits are of the whole vocabulary, or of the k-mers alone: a softmax over these excludes special tokens.

Dimension key: V vocabulary, or k-mers alone; k bases per k-mer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import kmer_codes


def picked(x: Float[Array, "... V"], ids: Int[Array, "..."]) -> Float[Array, "..."]:
    """The entry of `x` at each id: x[..., id]."""
    return jnp.take_along_axis(x, ids[..., None], axis=-1)[..., 0]


def of(x: Float[Array, "... V"], k: int) -> Float[Array, "... kmers"]:
    """The entries of `x` for the k-mers."""
    return x[..., -(4**k) :]


def num_special(vocab_size: int, k: int) -> int:
    """The number of special tokens, which is also the id of the first k-mer; 0 if there are only k-mers."""
    return vocab_size - 4**k


def ranks(codes: Int[Array, "... k"]) -> Int[Array, "..."]:
    """The rank of each k-mer of base codes among the k-mers."""
    return (codes * 4 ** jnp.arange(codes.shape[-1])[::-1]).sum(-1)


def base_nll(logits: Float[Array, "... V"], targets: Int[Array, "..."], k: int) -> Float[Array, "... k"]:
    """−log p of each base of a k-mer, given the tokens before and the bases before it in the k-mer, in nats.

    By the chain rule: p(b₁…b_j) is the sum of p over the k-mers with this prefix. The k terms add up to `token_nll`
    (the probability of special tokens is part of the first base's loss). Only meaningful if the target is a k-mer.
    """
    logits = logits.astype(jnp.float32)
    rank = jnp.maximum(targets - num_special(logits.shape[-1], k), 0)
    cumulative, agreeing = [jax.nn.logsumexp(logits, axis=-1)], of(logits, k)
    for j in reversed(range(k)):  # the k-mers with the same first bases are a quarter of those with one base less
        quarters = agreeing.reshape(*rank.shape, 4, -1)
        agreeing = jnp.take_along_axis(quarters, (rank // 4**j % 4)[..., None, None], axis=-2)[..., 0, :]
        cumulative.append(jax.nn.logsumexp(agreeing, axis=-1))
    return -jnp.diff(jnp.stack(cumulative, axis=-1))


def log_masses(log_p: Float[Array, "... kmers"], codes: Int[Array, "... k"]) -> Float[Array, "... k 4"]:
    """For position j and base b: log Σ p over the k-mers with base b at j that agree with the known bases before j."""
    tables = [log_p]  # log-probabilities of the first k, k-1, …, 1 bases
    for _ in range(codes.shape[-1] - 1):
        tables.append(jax.nn.logsumexp(tables[-1].reshape(*log_p.shape[:-1], -1, 4), axis=-1))
    agree = jnp.ones((*log_p.shape[:-1], 1), bool)
    found = []
    for j, table in enumerate(reversed(tables)):
        by_base = table.reshape(*table.shape[:-1], -1, 4)
        found.append(jax.nn.logsumexp(jnp.where(agree[..., None], by_base, -jnp.inf), axis=-2))
        code = codes[..., j, None, None]
        agree = (agree[..., None] & ((jnp.arange(4) == code) | (code >= bases.N))).reshape(*agree.shape[:-1], -1)
    return jnp.stack(found, axis=-2)


@functools.cache
def _indicator(size: int, k: int, compat: bool) -> np.ndarray:
    """1 where an entry has a base at a position of the k-mer, else 0: [size, 4k]."""
    out = np.zeros((size, k, 4), np.float32)
    out[-(4**k) :] = kmer_codes(k)[..., None] == np.arange(4)
    out[: -(4**k), :, 0] = compat
    return out.reshape(size, 4 * k)


def marginals(p: Float[Array, "... V"], k: int, *, compat: bool = False) -> Float[Array, "... k 4"]:
    """The probability of A, T, C and G at each position of a k-mer, from float32 probabilities of tokens.

    The four add up to 1 minus the special tokens' probability; with `compat` that is added to A, as in the published
    code of FNS.
    """
    out = jnp.einsum("...v,vc->...c", p, _indicator(p.shape[-1], k, compat), precision="highest")
    return out.reshape(*out.shape[:-1], k, 4)
