"""One training step: accumulation, skipped steps, the switch of objectives, the dtype of the optimizer state."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV, PAD, KmerTokenizer
from gener_jax import config
from gener_jax.model import decoder, lora
from gener_jax.model.sharding import TOKENS, batch_sharding, make_mesh
from gener_jax.runtime.errors import ConfigError
from gener_jax.training import optimizer
from gener_jax.training.objectives import FNS, Apply, CrossEntropy, of_config
from gener_jax.training.step import abstract_state, make_train_step
from tests.conftest import random_params
from tests.raised import raises

K = 2
SMALL = config.Config(
    model=config.Model(
        vocab_size=NUM_SPECIAL + 16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention="reference", initializer_range=0.3,
    ),
    tokenizer=config.Tokenizer(k=K),
    data=config.Data(context_length=12),
    optimizer=config.Optimizer(warmup_steps=1, peak_learning_rate=1e-2, grad_norm_spike_factor=0),
    train=config.Train(num_steps=20, batch_size=10),
)  # fmt: skip
AXES = dict.fromkeys(("inputs", "targets", "weights"), TOKENS)


def changed(**fields):
    """SMALL with fields of sections, as section__field."""
    c = SMALL
    for name, value in fields.items():
        section, field = name.split("__")
        c = dataclasses.replace(c, **{section: dataclasses.replace(getattr(c, section), **{field: value})})
    return c


def batch(seed=0, rows=10, padded=True):
    """A batch whose rows are padded to very different lengths, so that microbatches have unequal numbers of targets."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(NUM_SPECIAL, NUM_SPECIAL + 16, (rows, 13)).astype(np.int32)
    ids[rng.random(ids.shape) < 0.1] = BOS
    targets = ids[:, 1:].copy()
    if padded:
        targets[np.arange(12)[None] >= rng.integers(1, 13, rows)[:, None]] = PAD
        targets[[0, 5]] = OOV  # rows without targets, one whole microbatch of five
    return {"inputs": ids[:, :-1], "targets": targets, "weights": np.ones(targets.shape, np.float32)}


def first_state(c, mesh):
    shapes = abstract_state(c, mesh)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    initial = dataclasses.replace(zeros, params=jax.device_get(random_params(c.model)), rate_scale=np.float32(1))
    return jax.device_put(initial, jax.tree.map(lambda x: x.sharding, shapes))


TOKENIZER = KmerTokenizer(K)  # the same objects give the same compiled step


@functools.cache
def step_of(c, mesh, at):
    return make_train_step(c, mesh, of_config(c, TOKENIZER)(at), AXES)


def run(c, batches, at=0, sizes=(1, 1, 1), state=None):
    """The metrics of each step, with the objective of step `at`, and the final state, as numpy arrays."""
    mesh = make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        step, out = step_of(c, mesh, at), []
        state = first_state(c, mesh) if state is None else jax.device_put(state, mesh.devices.item())
        for one in batches:
            state, metrics = step(state, {}, jax.device_put(one, batch_sharding(mesh)))
            out.append({n: x.item() for n, x in jax.device_get(metrics).items()})
        return out, jax.device_get(state)


def close(one, other, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), one.params, other.params)


SWITCHED = changed(objective__fns_from_step=2, objective__fns_learning_rate=2e-2, objective__z_loss=1e-3)
ACCUMULATED = dataclasses.replace(
    SWITCHED,
    train=dataclasses.replace(SWITCHED.train, accumulate=5),
    optimizer=dataclasses.replace(SWITCHED.optimizer, grad_norm_spike_factor=4.0),
)


@pytest.fixture(autouse=True)
def usual_after_three(monkeypatch):
    monkeypatch.setattr("gener_jax.training.step._EMA_STEPS", 3)


def test_accumulated_microbatches_equal_the_whole_batch():
    """Five microbatches of two rows on two devices against ten rows at once; targets are unequal, one has none."""
    batches = [batch(0), batch(1)]
    for i, b in enumerate(batches):
        b["weights"] = np.random.default_rng(i).choice([0, 0.5, 1], b["targets"].shape).astype(np.float32)
    (expected, alone), (found, state) = (
        run(SWITCHED, batches, 2), run(ACCUMULATED, batches, 2, sizes=(2, 1, 1)),
    )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    close(state, alone, 1e-5)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = step_of(ACCUMULATED, mesh, 0).lower(abstract_state(ACCUMULATED, mesh), {}, batch())
    assert "tensor<5x2x12xi32>" in program.as_text()  # the switch was on
    # The mean of the microbatches' means would be another loss, so the comparison can fail.
    b = batch(0)
    only = [{**b, "targets": np.where(np.arange(10)[:, None] == i, b["targets"], PAD)} for i in (1, 2)]
    rows = [run(SWITCHED, [one], 2)[0][0]["loss"] for one in only]
    counts = [(b["targets"][i] != PAD).sum() for i in (1, 2)]
    assert counts[0] != counts[1]
    assert abs(np.mean(rows) - np.average(rows, weights=counts)) > 1e-3


def with_nan(c, batches, at, value=np.nan):
    """A run in which the target weights of the batches `at` are `value`."""
    batches = [{**b, "weights": np.full_like(b["weights"], value if i in at else 1)} for i, b in enumerate(batches)]
    return run(c, batches)


def test_a_gradient_that_is_not_finite_is_skipped():
    batches = [batch(i) for i in range(4)]
    metrics, state = with_nan(SMALL, batches, at=(1, 2))
    assert [m["skipped"] for m in metrics] == [0, 1, 2, 2]
    assert [m["consecutive_skips"] for m in metrics] == [0, 1, 2, 0]
    assert np.isnan(metrics[1]["loss"])
    assert int(state.step) == 4
    assert (int(state.gradient_stats.taken), int(state.gradient_stats.skipped)) == (2, 2)
    adam = next(x for x in state.opt_state if hasattr(x, "mu"))
    assert int(adam.count) == 2
    _, before = with_nan(SMALL, batches[:1], at=())
    _, after = with_nan(SMALL, batches[:3], at=(1, 2))
    same = jax.tree.map(np.array_equal, (before.params, before.opt_state), (after.params, after.opt_state))
    assert jax.tree.all(same)  # only the counts change


def test_a_gradient_far_above_the_usual_is_skipped():
    batches = [batch(i, padded=False) for i in range(6)]
    # A single target has a far larger gradient than the mean of 120.
    batches[4]["weights"][:] = 0
    batches[4]["weights"][0, 0] = 1
    metrics, state = run(ACCUMULATED, batches, 2, sizes=(2, 1, 1))
    norms = [m["grad_norm"] for m in metrics]
    assert norms[4] > 4 * np.mean(norms[:4])
    assert [m["skipped"] for m in metrics] == [0, 0, 0, 0, 1, 1]
    assert float(state.gradient_stats.grad_norm_ema) < 2 * np.mean(norms[:4])  # the spike does not enter the average
    assert run(SMALL, batches)[0][-1]["skipped"] == 0
    early = [batches[0], batches[4], *batches[1:3]]  # before the average exists, nothing exceeds it
    assert run(ACCUMULATED, early, 2, sizes=(2, 1, 1))[0][-1]["skipped"] == 0


def test_the_switch_of_objectives():
    assert [type(of_config(SWITCHED, TOKENIZER)(step)) for step in range(4)] == [CrossEntropy, CrossEntropy, FNS, FNS]
    batches = [batch(i) for i in range(4)]
    straight, other = run(SMALL, batches)
    metrics, state = run(SWITCHED, batches[2:], 2, state=run(SMALL, batches[:2])[1])
    assert all("fns_bits_per_base" in m for m in metrics)
    assert not any("fns_bits_per_base" in m for m in straight)
    assert [m["learning_rate"] for m in straight + metrics] == pytest.approx([*rates(4), *(2 * rates(4)[2:])], rel=1e-5)
    assert metrics[0]["loss"] != straight[2]["loss"]
    # The parameters are the same, so the bits by token are the same under either loss.
    assert metrics[0]["bits_per_base"] == pytest.approx(straight[2]["bits_per_base"], rel=1e-6)
    assert not np.array_equal(state.params["lm_head"], other.params["lm_head"])
    with raises(ConfigError, field="objective.fns_learning_rate", value=1e-4):
        config.Objective(fns_learning_rate=1e-4)


def test_the_rate_scale_multiplies_the_schedules_rate_and_stays():
    mesh, batches = make_mesh(1, 1, 1, jax.devices()[:1]), [batch(0), batch(1)]
    begin = jax.device_get(first_state(SMALL, mesh))
    (full, _), (half, after_half) = (
        run(SMALL, batches, state=dataclasses.replace(begin, rate_scale=np.float32(x))) for x in (1, 0.5)
    )
    assert [m["learning_rate"] for m in half] == [m["learning_rate"] / 2 for m in full]
    assert after_half.rate_scale == 0.5
    (_, after), (_, after_half) = (
        run(SMALL, batches[:1], state=dataclasses.replace(begin, rate_scale=np.float32(x))) for x in (1, 0.5)
    )
    moved, moved_half = (x.params["lm_head"] - begin.params["lm_head"] for x in (after, after_half))
    np.testing.assert_allclose(moved_half, moved / 2, atol=1e-7)
    assert np.abs(moved).max() > 1e-3


def test_fns_trains():
    metrics, _ = run(SWITCHED, [batch(0)] * 20, 2)
    bits = [m["fns_bits_per_base"] for m in metrics]
    assert bits[-1] < bits[0] - 0.3


def test_z_loss_is_added():
    b, apply = batch(0), Apply(decoder.Decoder(SMALL.model))

    @jax.jit
    def computed(params):
        logits = apply.logits(params, apply.hidden(params, b))
        return logits, [CrossEntropy(TOKENIZER, z).sums(apply, params, b) for z in (0.0, 0.5)]

    logits, (plain, with_z) = computed(random_params(SMALL.model))
    counted = (b["targets"] != PAD) & (b["targets"] != OOV)
    squares = np.square(np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)))[counted].sum()
    assert with_z.pop("objective") - plain.pop("objective") == pytest.approx(0.5 * squares, rel=1e-4)
    assert with_z == plain


def test_the_moments_in_bfloat16():
    c = changed(optimizer__state_dtype="bfloat16", train__accumulate=5)
    batches = [batch(i % 3) for i in range(12)]
    metrics, state = run(c, batches)
    expected, _ = run(SMALL, batches)
    adam = next(x for x in state.opt_state if hasattr(x, "mu"))
    assert {x.dtype for x in jax.tree.leaves((adam.mu, adam.nu))} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.2
    np.testing.assert_allclose([m["loss"] for m in metrics], [m["loss"] for m in expected], atol=0.03)


def test_stochastic_rounding_is_unbiased():
    x = np.float32([1.0, 1 + 1 / 512, -3.14159, 1e-30, 0.0, np.inf, -np.inf])

    def moved(moment, key):
        return optimizer.round_at_random(moment.astype(jnp.float32) * 0.999 + 0.001 * 2, key), None

    @jax.jit
    def draws():
        keys = jax.random.split(jax.random.key(0), 4000)
        drawn = jax.vmap(lambda key: optimizer.round_at_random(jnp.asarray(x), key))(keys)
        return drawn, jax.lax.scan(moved, jnp.full(2000, 1.0, jnp.bfloat16), keys[:1000])[0]

    drawn, moment = (np.asarray(found, np.float64) for found in draws())
    nearest = x.astype(jnp.bfloat16).astype(np.float64)
    assert np.array_equal(drawn[:, [0, 4, 5, 6]], np.broadcast_to(nearest[[0, 4, 5, 6]], (4000, 4)))
    for i in (1, 2, 3):
        assert len(set(drawn[:, i])) == 2  # the two neighbours
        assert abs(drawn[:, i].mean() / float(x[i]) - 1) < 3e-4
        assert abs(nearest[i] / float(x[i]) - 1) > 1e-4
    # A moment that changes by a thousandth per step moves; rounding to nearest would leave it unchanged.
    assert 1.6 < moment.mean() < 1.66  # 2 − 0.999^1000
    assert jnp.bfloat16(1.0 * 0.999 + 0.001 * 2) == 1


def rates(number=101, **fields):
    return np.asarray(jax.jit(jax.vmap(optimizer.learning_rate(changed(**fields))))(np.arange(number)))


def expected_rate(step, schedule, steps, warmup, fraction=0.2, final=0.1):
    """The rate of step 1, 2, … relative to the peak, from the definition; one step at a time, in Python's floats."""
    if step >= steps:
        return final
    warmup = max(warmup, 1)  # without a warm-up the first step is at the peak
    if step <= warmup:
        return step / warmup
    if schedule == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    decaying = max(min(round(fraction * steps), steps - warmup), 1)
    return 1 - (1 - final) * max(step - (steps - decaying), 0) / decaying


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (1, 1), (2, 0), (2, 2), (3, 1), (10, 0), (10, 2), (41, 10), (7, 7)]
)
def test_the_first_rate_is_positive_and_the_last_the_final_one(schedule, steps, warmup):
    fields = {"train__num_steps": steps, "optimizer__warmup_steps": warmup, "optimizer__schedule": schedule}
    found = rates(steps + 3, optimizer__peak_learning_rate=1e-3, **fields)
    expected = [1e-3 * expected_rate(step, schedule, steps, warmup) for step in range(1, steps + 4)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32
    assert found[0] > 0
    assert found[steps - 1] == found[steps] == np.float32(1e-3) * np.float32(0.1)


def test_the_rates_of_ten_steps():
    """By hand: two steps up to 1e-3, then down to a tenth of it, at the tenth step."""
    fields = {"train__num_steps": 10, "optimizer__warmup_steps": 2, "optimizer__peak_learning_rate": 1e-3}
    cosine = [5, 10, 9.65745, 8.68198, 7.22208, 5.5, 3.77792, 2.31802, 1.34255, 1]
    np.testing.assert_allclose(rates(10, **fields), np.array(cosine) * 1e-4, rtol=1e-5)
    wsd = rates(10, optimizer__schedule="wsd", optimizer__decay_fraction=0.3, **fields)
    np.testing.assert_allclose(wsd, np.array([5, 10, 10, 10, 10, 10, 10, 7, 4, 1]) * 1e-4, rtol=1e-5)


def test_fns_has_a_peak_of_its_own_from_its_first_step_on():
    fields = {"train__num_steps": 100, "optimizer__warmup_steps": 10, "optimizer__schedule": "wsd"}
    plain = rates(100, optimizer__peak_learning_rate=1.0, **fields)
    fns = {"objective__fns_from_step": 40, "objective__fns_learning_rate": 0.25}
    found = rates(100, optimizer__peak_learning_rate=1.0, **fns, **fields)
    np.testing.assert_allclose(found, np.where(np.arange(1, 101) <= 40, plain, 0.25 * plain), rtol=1e-6)


def test_what_decays_is_declared_by_axes_and_not_by_name():
    boxed = jax.tree.map(lambda x: x, decoder.abstract(SMALL.model))
    adapters = lora.init(jax.random.key(0), boxed, lambda path: path == "layers/q", rank=2, alpha=2)
    bias = boxed["layers"]["input_norm"]["scale"]
    decays = optimizer.decays({**boxed, "bias": bias, "scale_of_lora": adapters["layers"]["q"]})
    kept = [path for path, decay in traverse_util.flatten_dict(decays, sep="/").items() if not decay]
    assert sorted(kept) == ["bias", "layers/input_norm/scale", "layers/post_attention_norm/scale", "norm/scale"]


def test_the_optimizer_is_adamw_after_clipping():
    batches = [batch(0, padded=False), batch(1, padded=False)]
    metrics, state = run(SMALL, batches)
    assert all(m["grad_norm"] > 2 * SMALL.optimizer.clip_norm for m in metrics)
    o, rate = SMALL.optimizer, rates(2)

    @jax.jit
    @jax.grad
    def gradient(params, b):
        objective = CrossEntropy(TOKENIZER)
        return objective.sums(Apply(decoder.Decoder(SMALL.model)), params, b)["objective"] / objective.weight(b)

    params, structure = jax.tree.flatten(jax.device_get(random_params(SMALL.model)))
    decayed = jax.tree.leaves(optimizer.decays(decoder.abstract(SMALL.model)))
    mean, square = [0.0] * len(params), [0.0] * len(params)
    for t, b in enumerate(batches, 1):
        grads = [np.float64(g) for g in jax.tree.leaves(gradient(structure.unflatten(params), b))]
        norm = np.sqrt(sum(np.square(g).sum() for g in grads))
        for i, g in enumerate(grads):
            g = g / max(1, norm / o.clip_norm)
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.95 * square[i] + 0.05 * g**2
            update = mean[i] / (1 - 0.9**t) / (np.sqrt(square[i] / (1 - 0.95**t)) + 1e-8) + 0.1 * decayed[i] * params[i]
            params[i] = np.float32(params[i] - rate[t - 1] * update)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), state.params, structure.unflatten(params))
