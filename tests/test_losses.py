import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokenizer import BOS, NUM_SPECIAL, OOV, PAD, KmerTokenizer
from gener_jax.training import losses
from gener_jax.training.losses import is_target

token_nll = jax.jit(losses.token_nll)
base_nll = jax.jit(losses.base_nll, static_argnums=2)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def random_logits(*shape, scale=3.0):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(scale=scale, size=shape), jnp.float32)


def test_token_nll_is_minus_log_softmax_in_float32():
    logits = random_logits(2, 5, 48)
    targets = np.random.default_rng(1).integers(0, 48, (2, 5))
    expected = -np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]
    actual = token_nll(logits, jnp.asarray(targets))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    low = logits.astype(jnp.bfloat16)
    assert token_nll(low, jnp.asarray(targets)).dtype == jnp.float32
    assert np.array_equal(token_nll(low, targets), token_nll(low.astype(jnp.float32), targets))


def test_token_nll_of_extreme_logits_is_finite():
    logits = jnp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(token_nll(logits.repeat(3, 0), jnp.arange(3)), [0.0, 2e4, 1e4])


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_base_nll_is_the_chain_rule_over_a_kmer(k):
    tokenizer = KmerTokenizer(k)
    kmers = ["".join(bases) for bases in itertools.product("ATCG", repeat=k)]
    assert tokenizer.tokens[NUM_SPECIAL:] == kmers
    logits = random_logits(3, 4, tokenizer.vocab_size)
    ranks = np.random.default_rng(k).integers(0, 4**k, (3, 4))
    actual = np.asarray(base_nll(logits, jnp.asarray(ranks + NUM_SPECIAL), k))
    assert actual.shape == (3, 4, k)
    np.testing.assert_allclose(actual.sum(-1), token_nll(logits, jnp.asarray(ranks + NUM_SPECIAL)), atol=2e-5)
    p = np.exp(log_softmax(logits))[..., NUM_SPECIAL:]
    for b, t in np.ndindex(3, 4):
        target = kmers[ranks[b, t]]
        for j in range(1, k + 1):  # the first j bases: the sum over every k-mer that begins with them
            begins = np.array([kmer.startswith(target[:j]) for kmer in kmers])
            np.testing.assert_allclose(actual[b, t, :j].sum(), -np.log(p[b, t, begins].sum()), atol=2e-5)


def test_base_nll_charges_special_mass_to_the_first_base():
    logits = jnp.zeros(NUM_SPECIAL + 16).at[BOS].set(20.0)
    first, second = base_nll(logits, jnp.asarray(NUM_SPECIAL + 7), 2)
    np.testing.assert_allclose(second, np.log(4), atol=1e-5)
    np.testing.assert_allclose(first, token_nll(logits, jnp.asarray(NUM_SPECIAL + 7)) - np.log(4), atol=1e-5)
    assert first > 15


def test_all_but_oov_and_pad_are_targets():
    ids = np.arange(NUM_SPECIAL + 16)
    assert set(ids[~np.asarray(is_target(jnp.asarray(ids)))]) == {OOV, PAD}
    assert is_target(jnp.asarray([[BOS, PAD], [OOV, NUM_SPECIAL]])).tolist() == [[True, False], [False, True]]
