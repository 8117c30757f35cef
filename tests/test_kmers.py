"""k-mers in the vocabulary: each function against sums over the k-mers as text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, KmerTokenizer, kmer_codes
from gener_jax.model import kmers
from tests.test_losses import log_softmax, random_logits

base_nll = jax.jit(kmers.base_nll, static_argnums=2)
log_masses = jax.jit(kmers.log_masses)
marginals = jax.jit(kmers.marginals, static_argnums=1, static_argnames="compat")


@functools.cache
def texts(k):
    return KmerTokenizer(k).tokens[NUM_SPECIAL:]


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_ids_are_bases_in_base_4(k):
    assert ["".join("ATCG"[code] for code in codes) for codes in kmer_codes(k)] == texts(k)
    assert np.array_equal(kmers.ranks(jnp.asarray(kmer_codes(k))), np.arange(4**k))
    assert kmers.num_special(KmerTokenizer(k).vocab_size, k) == NUM_SPECIAL
    assert np.array_equal(kmers.of(np.arange(NUM_SPECIAL + 4**k), k), np.arange(4**k) + NUM_SPECIAL)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_base_nll_is_the_chain_rule_over_a_kmer(k):
    logits = random_logits(3, 4, NUM_SPECIAL + 4**k)
    ranks = np.random.default_rng(k).integers(0, 4**k, (3, 4))
    actual = np.asarray(base_nll(logits, ranks + NUM_SPECIAL, k))
    assert actual.shape == (3, 4, k)
    p = np.exp(log_softmax(logits))[..., NUM_SPECIAL:]
    for b, t in np.ndindex(3, 4):
        target = texts(k)[ranks[b, t]]
        for j in range(1, k + 1):  # the first j bases: the sum over all k-mers that begin with them
            begins = np.array([kmer.startswith(target[:j]) for kmer in texts(k)])
            np.testing.assert_allclose(actual[b, t, :j].sum(), -np.log(p[b, t, begins].sum()), atol=2e-5)


def test_base_nll_charges_special_mass_to_the_first_base():
    logits = np.zeros((3, 4, NUM_SPECIAL + 16), np.float32)
    logits[..., BOS] = 20.0
    first, second = np.moveaxis(np.asarray(base_nll(logits, np.full((3, 4), NUM_SPECIAL + 7), 2)), -1, 0)
    np.testing.assert_allclose(second, np.log(4), atol=1e-5)
    np.testing.assert_allclose(first, -log_softmax(logits)[..., NUM_SPECIAL + 7] - np.log(4), atol=1e-5)
    assert (first > 15).all()
    alone = base_nll(logits[..., NUM_SPECIAL:], np.full((3, 4), 7), 2)  # without special tokens
    np.testing.assert_allclose(alone, np.log(4), atol=1e-5)


@pytest.mark.parametrize("known", ["NNN", "ANN", "NCN", "GTN", "ATC"])
def test_log_masses_agree_with_the_known_bases_before(known):
    log_p = np.asarray(jax.nn.log_softmax(random_logits(2, 64)), np.float32)
    actual = np.exp(log_masses(log_p, np.tile(bases.encode(known), (2, 1)).astype(np.int32)))
    for j, b in np.ndindex(3, 4):
        agree = [t[j] == "ATCG"[b] and all(x in ("N", y) for x, y in zip(known[:j], t, strict=False)) for t in texts(3)]
        np.testing.assert_allclose(actual[:, j, b], np.exp(log_p)[:, np.array(agree)].sum(1), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_marginals_and_special_mass_add_up_to_one(scale):
    logits = random_logits(2, 5, NUM_SPECIAL + 4**6, scale=scale)
    exact = np.exp(log_softmax(logits))
    p = np.asarray(marginals(exact.astype(np.float32), 6))
    assert p.shape == (2, 5, 6, 4)
    has_g = np.array([text[4] == "G" for text in texts(6)])
    np.testing.assert_allclose(p[..., 4, 3], exact[..., NUM_SPECIAL:][..., has_g].sum(-1), atol=1e-6)
    special = exact[..., :NUM_SPECIAL].sum(-1)
    np.testing.assert_allclose(p.sum(-1) + special[..., None], 1, atol=1e-5)
    np.testing.assert_allclose(marginals(exact[..., NUM_SPECIAL:].astype(np.float32), 6), p, atol=1e-6)  # k-mers alone
    compat = np.asarray(marginals(exact.astype(np.float32), 6, compat=True))
    np.testing.assert_allclose(compat.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(compat[..., 0] - p[..., 0], np.broadcast_to(special[..., None], (2, 5, 6)), atol=1e-5)
    assert np.array_equal(compat[..., 1:], p[..., 1:])
