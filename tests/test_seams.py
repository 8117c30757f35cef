"""What new work plugs into, as toys from outside the package: none touches a file of it."""

import dataclasses
import functools
import itertools
import os
import signal
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gener_jax
from data_pipeline.dataset.reader import RegionSource
from gener_jax import train
from gener_jax.data.loader import TokenStream, to_devices
from gener_jax.model.decoder import stack
from gener_jax.model.sharding import ROWS, TOKENS, batch_sharding, make_mesh
from gener_jax.model.trainable import everything, merge, split
from gener_jax.runtime.errors import CheckpointError, ConfigError, Terminated
from gener_jax.storage import run_folder
from gener_jax.tasks.base import Metric, Result
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.loop import loop
from gener_jax.training.run import prepare
from gener_jax.training.step import abstract_state, make_train_step
from tests import tiny
from tests.conftest import random_params
from tests.raised import raises
from tests.test_train import log_of, state_of

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


# A data source, and an objective with a label and two values per row.


class Numbered:
    """Random sequences, each a function of its number, labelled by their first token."""

    dataset = digest = "numbered"
    axes = {"inputs": TOKENS, "labels": ROWS, "values": ("batch", None)}  # noqa: RUF012
    stats = {"tokens": 3200, "kept": 9600}  # noqa: RUF012

    def batches(self, position, batch_size, rows):
        for first in itertools.count(position, batch_size):
            inputs = np.stack([np.random.default_rng(first + row).integers(32, 96, 32, np.int32) for row in rows])
            yield {"inputs": inputs, "labels": inputs[:, 0] % 4, "values": np.float32(inputs[:, 1:3] / 96)}


@dataclasses.dataclass(frozen=True)
class Labels:
    """Cross-entropy of the label and squared errors of the values, from the mean hidden state of a row."""

    scale: float = 1.0

    def weight(self, batch):
        return jnp.float32(len(batch["labels"]))

    def sums(self, apply, params, batch):
        logits = apply.logits(params, apply.hidden(params, batch).mean(1))
        log_p = jax.nn.log_softmax(logits[:, :4])
        nll = -jnp.take_along_axis(log_p, batch["labels"][:, None], 1)
        errors = self.scale * jnp.square(logits[:, 4:6] - batch["values"])
        return {"objective": nll.sum() + errors.sum(), "right": jnp.sum(log_p.argmax(1) == batch["labels"])}

    def metrics(self, sums, weight):
        return {"accuracy": sums["right"] / weight}


def steps(config, sizes, trains=everything, dtype="float32"):
    """The metrics of three steps of both toys, the state after them, and the frozen parameters before and after."""
    mesh = make_mesh(*sizes[:3], jax.devices()[: np.prod(sizes)], context=sizes[3])
    shapes = abstract_state(config, mesh, trains)
    trained, frozen = split(jax.device_get(random_params(config.model)), trains)
    before = jax.tree.map(lambda x: x.astype(dtype), frozen)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = dataclasses.replace(state, params=trained, rate_scale=np.float32(1))
    source, found, frozen = Numbered(), [], jax.device_put(before)
    with jax.set_mesh(mesh):
        state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))
        step = make_train_step(config, mesh, Labels(), source.axes, trains)
        for batch in itertools.islice(source.batches(0, 8, range(8)), 3):
            placed = to_devices(batch, {name: batch_sharding(mesh, axes) for name, axes in source.axes.items()})
            state, metrics = step(state, frozen, placed)
            found.append({name: float(x) for name, x in metrics.items()})
    return found, jax.device_get(state), flat(before), flat(frozen)


MODEL = {"model__num_attention_heads": "4", "model__num_key_value_heads": "2", "optimizer__warmup_steps": "0"}


@functools.cache
def steps_alone():
    config = tiny.config("absent", **MODEL, model__initializer_range="0.3")
    return config, *steps(config, (1, 1, 1, 1))[:2]


@pytest.mark.parametrize(
    ("microbatches", "sizes"),
    [
        (4, (1, 2, 2, 2)),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in ((4, (1, 1, 1, 1)), (1, (1, 2, 2, 2)), (4, (2, 1, 1, 4)))),
    ],
)
def test_an_objective_of_rows_on_a_mesh_and_in_microbatches(eight_devices, microbatches, sizes):
    config, expected, alone = steps_alone()
    assert expected[-1]["loss"] < expected[0]["loss"]
    assert 0 < expected[0]["accuracy"] < 1
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=microbatches))
    found, state, *_ = steps(other, sizes)
    for one, two in zip(found, expected, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), state.params, alone.params)


class Recorded:
    """Another source, whose batches are recorded; the run is interrupted after `stop` of them."""

    def __init__(self, source, stop=None):
        self.source, self.stop, self.rows = source, stop, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def batches(self, *where):
        for batch in itertools.islice(self.source.batches(*where), self.stop):
            self.rows += [row.tobytes() for row in batch["inputs"]]
            yield batch
        raise KeyboardInterrupt


FEW = {"eval__max_regions": "1", "eval__every_steps": "100"}


def run(config, folder, **parts):
    """A run without its final report: what it was prepared with, and its parameters at the end."""
    prepared = prepare(config, folder, **parts)
    with Watchdog(0) as watchdog, Termination(folder) as termination:
        return prepared, merge(loop(prepared, termination, watchdog).state.params, prepared.frozen)


def test_a_run_of_both_toys_resumes_to_the_same_bits(dataset, tmp_path):
    config, objective = tiny.config(dataset, **FEW, train__num_steps="6"), lambda step: Labels()
    run(config, tmp_path / "straight", source=Numbered(), objective=objective)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", source=Recorded(Numbered(), stop=5), objective=objective)
    resumed, _ = run(config, tmp_path / "run", source=Numbered(), objective=objective)
    assert resumed.position == 24  # after step 3
    same(state_of(tmp_path / "run")[0], state_of(tmp_path / "straight")[0])


def same(one, other):
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert np.asarray(x).tobytes() == np.asarray(other[name]).tobytes(), name


def test_another_batch_size_reads_every_window_once(dataset, tmp_path):
    config = tiny.config(dataset)
    stream = TokenStream(RegionSource(dataset, "train"), config.tokenizer.make(), config.data, config.train.seed)
    read, num_steps = [], 0
    allowed = {"checkpoint__every_steps": "2", "train__allow_changes": "train.batch_size,train.num_steps"}
    for batch_size, more in ((8, 3), (16, 3), (8, 2)):
        source, num_steps = Recorded(stream), num_steps + more
        changed = {"train__batch_size": batch_size, "train__num_steps": num_steps}
        run(tiny.config(dataset, **FEW, **allowed, **changed), tmp_path / "run", source=source)
        read += source.rows
        assert run_folder.read_loader_state(tmp_path / "run", num_steps)["position"] == len(read)
    assert read == [stream.example(i)["inputs"].tobytes() for i in range(8 * 3 + 16 * 3 + 8 * 2)]
    assert len({stream.window(i) for i in range(len(read))}) == len(read)


# What trains.


def head(path):
    return path == "lm_head"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_parameters_do_not_move(eight_devices, dtype):
    found, state, before, after = steps(tiny.config("absent", **MODEL), (1, 2, 2, 2), head, dtype)
    assert found[-1]["loss"] < found[0]["loss"]
    assert state.params.keys() == {"lm_head"}
    assert len(before) == 11
    assert {str(x.dtype) for x in after.values()} == {dtype}
    same(after, before)


@pytest.fixture(scope="module")
def base(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("base") / "model"
    config = tiny.config(dataset)
    run_folder.write_params(folder, config.spec, random_params(config.model))
    return folder


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_run_that_trains_one_matrix(dataset, base, tmp_path, dtype):
    config = tiny.config(dataset, **FEW, train__num_steps="6", train__init_from=base, model__dtype=dtype)
    straight, params = run(config, tmp_path / "straight", trains=head)
    expected, moved = split(random_params(config.model), head)[1], params.pop("lm_head")
    assert {str(x.dtype) for x in jax.tree.leaves(straight.frozen)} == {dtype, "float32"}  # the norms
    expected = flat(jax.tree.map(lambda x, like: x.astype(like.dtype), expected, straight.frozen))
    same(flat(straight.frozen), expected)
    same(flat(params), expected)
    assert not np.array_equal(moved, random_params(config.model)["lm_head"])
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", source=Recorded(straight.stream, stop=5), trains=head)
    assert run(config, tmp_path / "run", trains=head)[0].position == 24
    one, other = (state_of(tmp_path / name, trains=head)[0] for name in ("run", "straight"))
    same(one, other)
    assert sum("lm_head" in name for name in one) == 3  # with its moments
    assert not [name for name in one if "embed" in name or "layers" in name]
    assert run_folder.base_of(tmp_path / "run")["path"] == str(base)
    loaded = flat(stack(gener_jax.load(tmp_path / "run").params))
    same(loaded, {**expected, "lm_head": moved.astype(dtype)})


def test_the_base_of_a_run_may_not_change(dataset, base, tmp_path):
    config = tiny.config(dataset, train__init_from=base)
    prepare(config, tmp_path / "run", trains=head)
    other = tmp_path / "other"
    run_folder.write_params(other, config.spec, random_params(config.model, seed=1))
    changed = tiny.config(dataset, train__init_from=other, train__allow_changes="train.init_from")
    with raises(CheckpointError, path=tmp_path / "run" / "base.json", name="checksum"):
        prepare(changed, tmp_path / "run", trains=head)
    with raises(ConfigError, field="train.init_from"):
        prepare(tiny.config(dataset), tmp_path / "none", trains=head)


def flat(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


# A task, and a hook.


class Smallness:
    """Minus the norm of a matrix, which grows in training."""

    name, metric = "smallness", "value"
    metrics: ClassVar = {"value": Metric("", higher_is_better=True)}

    def prepare(self, spec, mesh):
        def run(params, progress):
            progress(1, 1)
            value = -float(np.linalg.norm(jax.device_get(params["lm_head"])))
            return Result({"value": value}, {"matrices": 1}, text=f"as small as {value:.3f}")

        return run


def test_a_task_chooses_the_best_checkpoint(dataset, tmp_path, capsys):
    config = tiny.config(dataset, **FEW, checkpoint__best="smallness.value", optimizer__weight_decay="0")
    result = train.train(config, tmp_path / "run", tasks=[Smallness()])
    assert result["smallness"].metrics["value"].higher_is_better
    out = capsys.readouterr().out
    assert f"as small as {result['smallness']['value']:.3f}" in out
    logged = {line["step"]: line["smallness"]["value"] for line in log_of(tmp_path / "run") if "smallness" in line}
    assert logged[12] == result["smallness"]["value"]
    assert f"best: step 3, {logged[3]:.4f} (--step best)" in out
    assert sorted(int(folder.name) for folder in (tmp_path / "run" / "checkpoints").iterdir()) == [3, 9, 12]
    assert gener_jax.load(tmp_path / "run", step="best").step == 3 == max(logged, key=logged.get)
    assert all("bits_per_base" in line["held_out"] for line in log_of(tmp_path / "run") if "smallness" in line)
    with raises(ConfigError, field="checkpoint.best", value="smallness.value"):
        train.train(config, tmp_path / "other")
    with raises(ConfigError, field="eval.tasks", value=["held_out", "smallness", "smallness"]):
        train.train(config, tmp_path / "other", tasks=[Smallness(), Smallness()])


class Patience:
    """Halves the rate after an evaluation without progress, and ends the run after three."""

    name = "patience"

    def __init__(self):
        self.state = {"best": None, "waited": 0, "losses": []}

    def due(self, step):
        return step % 4 == 0

    def __call__(self, now):
        loss, state = now.results["held_out"].metrics["loss"], self.state
        state["losses"].append((now.step, loss, now.metrics["loss"]))
        if state["best"] is None or loss < state["best"] - 0.1:
            state["best"], state["waited"] = loss, 0
        else:
            state["waited"] += 1
            now.scale_rate(0.5)
        if state["waited"] == 3:
            now.stop = "no progress"


class Kill:
    """SIGTERM after step 7; it is noticed after step 8, before what is due there."""

    name, state = "kill", None

    def due(self, step):
        return step == 7

    def __call__(self, now):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_hook_with_a_state_resumes_to_the_same_decisions(dataset, tmp_path, capsys):
    options = {"eval__every_steps": "4", "eval__max_regions": "1", "train__num_steps": "40"}
    config, alone = tiny.config(dataset, **options, train__log_every_steps="5"), Patience()
    straight, _ = run(config, tmp_path / "straight", hooks=[alone])
    assert alone.state["waited"] == 3
    assert straight.now.step == alone.state["losses"][-1][0] < 40
    interrupted = Recorded(straight.stream, stop=5)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", source=interrupted, hooks=[Patience()])
    with raises(Terminated, signal=signal.SIGTERM, step=8):
        run(config, tmp_path / "run", hooks=[Patience(), Kill()])
    for _ in range(2):  # the second time it stays ended
        resumed = Patience()
        run(config, tmp_path / "run", hooks=[resumed])
        assert [tuple(x) for x in resumed.state.pop("losses")] == alone.state["losses"]
        assert resumed.state == {name: value for name, value in alone.state.items() if name != "losses"}
        same(state_of(tmp_path / "run")[0], state_of(tmp_path / "straight")[0])
        assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    assert float(state_of(tmp_path / "run")[0][".rate_scale"]) < 1
    assert f"ends at step {straight.now.step}: no progress" in capsys.readouterr().err
