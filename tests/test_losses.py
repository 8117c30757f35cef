import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV, PAD, KmerTokenizer
from gener_jax import config
from gener_jax.model import decoder, losses
from gener_jax.model.losses import FNS_FLOOR, fns_nll, is_target
from gener_jax.model.sharding import TOKENS, batch_sharding, make_mesh
from gener_jax.training.objectives import FNS, Apply, CrossEntropy
from gener_jax.training.step import abstract_state, make_train_step
from tests.conftest import random_params

token_nll = jax.jit(losses.token_nll)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def random_logits(*shape, scale=3.0):
    return np.random.default_rng(len(shape)).normal(scale=scale, size=shape).astype(np.float32)


def test_token_nll_is_minus_log_softmax_in_float32():
    logits = random_logits(2, 5, 48)
    targets = np.random.default_rng(1).integers(0, 48, (2, 5))
    expected = -np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_nll(logits, targets), expected, atol=1e-5)
    low = logits.astype(jnp.bfloat16)
    assert token_nll(low, targets).dtype == jnp.float32
    assert np.array_equal(token_nll(low, targets), token_nll(low.astype(np.float32), targets))


def test_token_nll_of_extreme_logits_is_finite():
    logits = np.float32([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(token_nll(logits.repeat(3, 0), np.arange(3)), [0.0, 2e4, 1e4])


def test_all_but_oov_and_pad_are_targets():
    ids = np.arange(NUM_SPECIAL + 16).reshape(2, -1)
    assert set(ids[~np.asarray(jax.jit(is_target)(ids))]) == {OOV, PAD}


SMALL = config.Config(
    model=config.Model(
        vocab_size=NUM_SPECIAL + 16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, attention="reference",
    ),
    tokenizer=config.Tokenizer(k=2),
    data=config.Data(context_length=12),
    optimizer=config.Optimizer(warmup_steps=1),
    train=config.Train(num_steps=9, batch_size=8),
)  # fmt: skip
TOKENIZER = KmerTokenizer(2)
APPLY = Apply(decoder.Decoder(SMALL.model))
AXES = dict.fromkeys(("inputs", "targets", "weights"), TOKENS)


@functools.cache
def params():
    return random_params(dataclasses.replace(SMALL.model, initializer_range=0.5))


def weighted_batch(seed=0):
    """A batch whose targets include <s>, <oov> and <pad>, with weights from 0 to 1."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(NUM_SPECIAL, NUM_SPECIAL + 16, (8, 12))
    targets[rng.random((8, 12)) < 0.2] = rng.choice([BOS, OOV, PAD])
    inputs = rng.integers(NUM_SPECIAL, NUM_SPECIAL + 16, (8, 12))
    weights = rng.choice([0.0, 0.25, 0.5, 1.0], (8, 12))
    return {"inputs": inputs.astype(np.int32), "targets": targets.astype(np.int32), "weights": np.float32(weights)}


@jax.jit
def log_p(params, ids):
    """Log-probabilities of every token at every position, by the model of SMALL."""
    model = decoder.Decoder(SMALL.model)
    hidden, _ = model.apply({"params": params}, ids)
    return jax.nn.log_softmax(model.apply({"params": params}, hidden, method="logits"))


@functools.cache
def sums_of(kind=CrossEntropy):
    """The jitted (params, batch) -> sums and weight of an objective, without a gradient."""
    one = kind(TOKENIZER)
    return jax.jit(lambda params, batch: (one.sums(APPLY, params, batch), one.weight(batch)))


def unweighted(batch):
    return {name: x for name, x in batch.items() if name != "weights"}


@functools.cache
def objective():
    """The jitted (params, batch) -> (the objective's gradient, sums), without a step."""

    def run(p, batch):
        def nll(p):
            sums = CrossEntropy(TOKENIZER).sums(APPLY, p, batch)
            return sums["objective"], sums

        return jax.grad(nll, has_aux=True)(p)

    return jax.jit(run)


@functools.cache
def program(sizes):
    """A mesh and the jitted training step on it."""
    mesh = make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])
    return mesh, make_train_step(SMALL, mesh, CrossEntropy(TOKENIZER), AXES)


def step(batch, sizes=(1, 1, 1)):
    """Metrics of one training step from the same parameters, and the parameters after it."""
    mesh, run = program(sizes)
    with jax.set_mesh(mesh):
        shardings = jax.tree.map(lambda x: x.sharding, abstract_state(SMALL, mesh))
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_state(SMALL, mesh))
        state = dataclasses.replace(state, params=jax.device_get(params()), rate_scale=np.float32(1))
        state = jax.device_put(state, shardings)
        state, metrics = run(state, {}, jax.device_put(batch, batch_sharding(mesh)))
        return {name: float(value) for name, value in metrics.items()}, jax.device_get(state.params)


def test_the_loss_is_the_weighted_mean_over_targets():
    batch = weighted_batch()
    by_token = np.asarray(log_p(params(), batch["inputs"]), np.float64)
    total = weight = nats = bases = 0.0
    for row, column in np.ndindex(8, 12):
        target = int(batch["targets"][row, column])
        nll = -by_token[row, column, target]
        if target not in (OOV, PAD):
            total += float(batch["weights"][row, column]) * nll
            weight += float(batch["weights"][row, column])
        if target >= NUM_SPECIAL:
            nats += nll
            bases += 2
    metrics, _ = step(batch)
    assert metrics["loss"] == pytest.approx(total / weight, rel=1e-5)
    assert metrics["bits_per_base"] == pytest.approx(nats / bases / np.log(2), rel=1e-5)  # never weighted
    plain, plain_weight = sums_of()(params(), unweighted(batch))
    one, _ = step({**batch, "weights": np.ones((8, 12), np.float32)})
    assert one["loss"] == pytest.approx(float(plain["objective"]) / float(plain_weight), rel=1e-6)
    assert one["bits_per_base"] == pytest.approx(metrics["bits_per_base"], rel=1e-6)
    assert abs(metrics["loss"] - one["loss"]) > 1e-3


def test_a_target_of_weight_0_does_not_contribute_to_the_gradient():
    batch = weighted_batch()
    other = {**batch, "targets": batch["targets"].copy()}
    silent = (batch["weights"] == 0) & (batch["targets"] >= NUM_SPECIAL)
    assert silent.sum() > 9
    other["targets"][silent] = NUM_SPECIAL + (other["targets"][silent] - NUM_SPECIAL + 5) % 16
    (gradient, sums), (other_gradient, other_sums) = (objective()(params(), b) for b in (batch, other))
    assert sums["objective"] == other_sums["objective"]
    assert sums["dna_nll"] != other_sums["dna_nll"]
    assert jax.tree.all(jax.tree.map(np.array_equal, gradient, other_gradient))
    heard = {**batch, "weights": batch["weights"] + np.float32(0.1)}
    third, _ = objective()(params(), {**heard, "targets": other["targets"]})
    fourth, _ = objective()(params(), heard)
    assert not jax.tree.all(jax.tree.map(np.array_equal, third, fourth))


@pytest.mark.parametrize("weights", [0.0, 1e-6])
def test_a_batch_of_repeats_alone_gives_no_nan(weights):
    batch = {**weighted_batch(), "weights": np.full((8, 12), weights, np.float32)}
    metrics, after = step(batch)
    assert all(np.isfinite(x) for x in metrics.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    if weights == 0:
        assert metrics["loss"] == metrics["grad_norm"] == 0
    else:  # equal weights: the plain mean
        plain, plain_weight = sums_of()(params(), unweighted(batch))
        assert metrics["loss"] == pytest.approx(float(plain["objective"]) / float(plain_weight), rel=1e-5)


def test_weights_on_many_devices():
    batch = weighted_batch()
    (one, after), (many, after_many) = step(batch), step(batch, (2, 2, 2))
    assert many == pytest.approx(one, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after_many, after)


@pytest.mark.parametrize("attention", ["reference", "blockwise"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_means_float32_in_a_step(dtype, attention):
    """GPUs and TPUs round the inputs of a float32 matrix product to fewer bits unless it requests highest precision."""
    model = dataclasses.replace(SMALL.model, dtype=dtype, attention=attention, attention_block=4)
    c, mesh = dataclasses.replace(SMALL, model=model), make_mesh(1, 1, 1, jax.devices()[:1])
    batch = unweighted(weighted_batch())
    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):  # the default outside the tests
        step = make_train_step(c, mesh, CrossEntropy(TOKENIZER), AXES)
        text = step.lower(abstract_state(c, mesh), {}, batch).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 20
    highest = [line for line in products if "[HIGHEST, HIGHEST]" in line]
    assert len(highest) == (len(products) if dtype == "float32" else 0)


def direct_fns(logits, target, k):
    """L_FNS of one k-mer target by 4k sums over the vocabulary, and its gradient, in float64."""
    p = np.exp(log_softmax(logits))
    kmers = ["".join(t) for t in itertools.product("ATCG", repeat=k)]
    total, gradient = 0.0, np.zeros(len(p))
    for j in range(k):
        for base in "ATCG":
            has = np.array([False] * NUM_SPECIAL + [kmer[j] == base for kmer in kmers])
            mass = p[has].sum()
            if kmers[target - NUM_SPECIAL][j] == base:
                total -= np.log(max(mass, FNS_FLOOR))
                gradient -= p * (has - mass) / mass if mass > FNS_FLOOR else 0
    return total / k, gradient / k


@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.value_and_grad, has_aux=True)
def fns_and_gradient(logits, targets, k):
    each = fns_nll(logits, targets, k).mean(-1)
    return each.sum(), each


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("k", [3, 6])
def test_fns_is_the_direct_form(k, scale):
    rng = np.random.default_rng(k)
    logits = rng.normal(size=(6, NUM_SPECIAL + 4**k)).astype(np.float32)
    if scale > 1:
        logits = np.where(rng.random(logits.shape) < 0.5, -scale, scale).astype(np.float32)
        logits[3:] = -scale  # and rows where one token has all the mass
        logits[3, NUM_SPECIAL + 5] = logits[4, BOS] = logits[5, NUM_SPECIAL] = scale
    targets = NUM_SPECIAL + rng.integers(0, 4**k, 6)
    targets[5] = NUM_SPECIAL  # the token with all the mass

    (_, values), gradient = jax.device_get(fns_and_gradient(logits, targets, k))
    expected, slow = zip(*(direct_fns(x, t, k) for x, t in zip(logits, targets, strict=True)), strict=True)
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, slow, atol=2e-6)
    assert np.abs(gradient).max() > (1e-3 if scale == 1 else 0)
    if scale > 1:
        assert values[4] == pytest.approx(-np.log(FNS_FLOOR), rel=1e-5)  # all mass on <s>
        assert values[5] == pytest.approx(0, abs=1e-6)


def test_a_marginal_below_the_floor_counts_as_the_floor():
    logits = np.zeros((1, 36), np.float32)
    logits[0, 32] = np.log(35 * FNS_FLOOR / 2)  # the probability of A is half the floor
    np.testing.assert_allclose(fns_nll(logits, np.array([32]), 1), -np.log(FNS_FLOOR), rtol=1e-6)


def test_fns_weights_special_tokens_by_one_kth():
    """A k-mer counts with the mean over its bases, <s> with 1/k of its cross-entropy, <oov> and <pad> not at all."""
    batch = unweighted(weighted_batch())
    (sums, weight), by_token = sums_of(FNS)(params(), batch), np.asarray(log_p(params(), batch["inputs"]), np.float64)
    total = count = 0
    for position in np.ndindex(8, 12):
        target = int(batch["targets"][position])
        if target in (OOV, PAD):
            continue
        count += 1
        total += (
            direct_fns(by_token[position], target, 2)[0] if target >= NUM_SPECIAL else -by_token[*position, target] / 2
        )
    assert float(sums["objective"]) == pytest.approx(total, rel=1e-5)
    assert int(weight) == count
