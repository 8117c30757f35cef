"""Which checkpoints are kept, what is restored, and the errors if that fails, with a state of a few hundred numbers."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from gener_jax import __version__
from gener_jax.config import resolve
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import run_folder
from gener_jax.storage.pretrained import abstract_params
from gener_jax.tasks.held_out import HeldOut
from gener_jax.tasks.recovery import Recovery
from gener_jax.training import checkpoint
from gener_jax.training.checkpoint import Checkpoints
from gener_jax.training.step import abstract_state
from tests import tiny
from tests.raised import raises


@pytest.fixture(scope="module")
def config():
    return tiny.config("absent", train__num_steps="100")


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, -1, 1)


@pytest.fixture(scope="module")
def state(config, mesh):
    """A state in which most numbers differ from those of a new one."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jax.device_put(generator.integers(-9, 9, x.shape).astype(x.dtype), x.sharding),
        abstract_state(config, mesh),
    )


BITS, ACCURACY = HeldOut, Recovery


def save(folder, config, state, bits, every=10):
    run_folder.describe(folder, config)
    checkpoints = Checkpoints(folder, 2, BITS)
    for i, value in enumerate(bits, 1):
        checkpoints.save(every * i, state, {"position": every * i, "digest": "d"}, config, value)
    checkpoints.close()
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b)) for a, b in leaves
    )


@pytest.mark.parametrize(
    ("bits", "kept", "best"),
    [
        ([None, 2.0, 1.5, None, 1.8, None, None], [30, 60, 70], 30),
        ([2.0, 1.9, 1.8, 1.7], [30, 40], 40),
        ([1.0, 2.0, 3.0], [10, 20, 30], 10),
        ([None, None, None, None], [30, 40], None),  # none was evaluated
        ([1.5, math.nan, None, math.nan, math.nan], [10, 40, 50], 10),  # a run that diverged
    ],
)
def test_the_newest_two_and_the_best_are_kept(tmp_path, config, mesh, state, bits, kept, best):
    assert save(tmp_path, config, state, bits) == kept
    target = abstract_params(config.model, mesh)
    if best is None:
        with raises(CheckpointError, path=tmp_path):
            run_folder.restore_params(tmp_path, target, "best")
    else:
        assert run_folder.restore_params(tmp_path, target, "best")[1] == best
    assert run_folder.restore_params(tmp_path, target)[1] == kept[-1]
    assert run_folder.restore_params(tmp_path, target, kept[0])[1] == kept[0]
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == kept  # reading removes nothing


def test_the_best_of_a_resumed_run(tmp_path, config, state):
    save(tmp_path, config, state, [1.0, 2.0, 2.0])
    checkpoints = Checkpoints(tmp_path, 2, BITS)
    for step in (40, 50, 60):
        checkpoints.save(step, state, {}, config, 3.0)
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [10, 50, 60]


def test_the_best_by_another_metric(tmp_path, config, state, mesh):
    """Higher is better; checkpoints of another metric are not compared with it."""
    save(tmp_path, config, state, [-1.0, -2.0])
    run_folder.describe(tmp_path, tiny.config("absent", checkpoint__best="recovery.accuracy"))
    checkpoints = Checkpoints(tmp_path, 2, ACCURACY)
    for step, value in ((30, 0.3), (40, 0.4), (50, 0.2), (60, None)):
        checkpoints.save(step, state, {}, config, value)
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [40, 50, 60]
    assert run_folder.restore_params(tmp_path, abstract_params(config.model, mesh), "best")[1] == 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory, config, state):
    folder = tmp_path_factory.mktemp("run")
    save(folder, config, state, [None, 2.0])
    return folder


@pytest.mark.parametrize(("sizes", "devices"), [((1, 8, 1), 8), ((1, 1, 1), 1), ((8, 1, 1), 8), ((1, 2, 2), 4)])
def test_any_mesh_restores_every_bit(saved, config, state, sizes, devices):
    mesh = make_mesh(*sizes, devices=jax.devices()[:devices])
    target = abstract_state(config, mesh)
    checkpoints = Checkpoints(saved, 2)
    restored, loader = checkpoints.restore(checkpoints.latest_step, target)
    checkpoints.close()
    assert loader == {"position": 20, "digest": "d"}
    assert int(restored.step) == 20
    assert same(restored.params, state.params)
    assert same(restored.opt_state, state.opt_state)
    assert same((restored.gradient_stats, restored.rate_scale), (state.gradient_stats, state.rate_scale))
    assert jax.tree.all(jax.tree.map(lambda x, t: x.sharding == t.sharding, restored, target))
    params, step = run_folder.restore_params(saved, abstract_params(config.model, mesh))
    assert step == 20
    assert same(params, state.params)


def test_one_device_to_eight(tmp_path, config, state, mesh):
    one = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    placed = jax.tree.map(lambda x, t: jax.device_put(np.asarray(x), t.sharding), state, abstract_state(config, one))
    save(tmp_path, config, placed, [1.0])
    checkpoints = Checkpoints(tmp_path, 2)
    restored, _ = checkpoints.restore(10, abstract_state(config, mesh))
    checkpoints.close()
    assert same(restored.params, state.params)
    assert same(restored.opt_state, state.opt_state)


def replaced(config, **fields):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


@pytest.mark.parametrize(
    ("fields", "wanted"), [({"intermediate_size": 64}, "(1, 64, 16)"), ({"num_hidden_layers": 2}, "(2, 32, 16)")]
)
def test_another_shape_is_one_line(saved, config, mesh, fields, wanted):
    other = replaced(config, **fields)
    checkpoints = Checkpoints(saved, 2)
    for restore in (
        lambda: run_folder.restore_params(saved, abstract_params(other.model, mesh)),
        lambda: checkpoints.restore(20, abstract_state(other, mesh)),
    ):
        with raises(CheckpointError, name="['layers']['down']", value=(1, 32, 16)) as caught:
            restore()
        assert wanted in str(caught.value)
    checkpoints.close()


def test_another_optimizer_state_is_one_line(saved, config, mesh):
    """Also of a checkpoint from before something was added to the state."""
    checkpoints = Checkpoints(saved, 2)
    with raises(CheckpointError, path=saved / "checkpoints" / "20"):
        checkpoints.restore(20, abstract_state(config, mesh, lambda path: path == "lm_head"))
    checkpoints.close()


def test_missing_checkpoints(tmp_path, saved, config, mesh):
    target = abstract_params(config.model, mesh)
    with raises(CheckpointError, path=tmp_path):
        run_folder.restore_params(tmp_path, target)
    (tmp_path / "checkpoints").mkdir()
    with raises(CheckpointError, path=tmp_path, name=None):
        run_folder.restore_params(tmp_path, target)
    for step in (15, "worst"):
        with raises(CheckpointError, path=saved, name="step", value=step) as caught:
            run_folder.restore_params(saved, target, step)
        assert "10, 20" in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from tensorstore's threads
@pytest.mark.parametrize("damage", ["truncated", "absent", "metadata"])
@pytest.mark.parametrize("item", ["params", "optimizer"])
def test_damage_is_one_line(tmp_path, saved, config, mesh, damage, item):
    shutil.copytree(saved, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "20" / item
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    if damage == "truncated":
        for path in files:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "absent":
        shutil.rmtree(folder)
    else:
        (folder / "_METADATA").write_text("{")
    checkpoints = Checkpoints(tmp_path / "run", 2)
    with pytest.raises(CheckpointError, match="20: ") as caught:
        checkpoints.restore(20, abstract_state(config, mesh))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    restored, _ = checkpoints.restore(10, abstract_state(config, mesh))  # the previous one is intact
    assert int(restored.step) == 10
    checkpoints.close()


def test_the_rest_of_a_killed_save_is_removed(tmp_path, saved, config, mesh, state):
    shutil.copytree(saved, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    left = folder / "30.orbax-checkpoint-tmp"
    shutil.copytree(folder / "20", left, ignore=lambda *_: ["commit_success.txt"])
    assert run_folder.restore_params(tmp_path / "run", abstract_params(config.model, mesh))[1] == 20
    assert left.exists()  # reading changes nothing, since the run may be alive
    checkpoints = Checkpoints(tmp_path / "run", 2)
    assert checkpoints.latest_step == 20
    checkpoints.save(40, state, {}, config, None)  # waits for the removal
    checkpoints.close()
    assert not left.exists()


def test_fields_that_decide_the_result_may_not_change(tmp_path, config):
    checkpoint.check_folder(tmp_path / "new", config)
    run_folder.describe(tmp_path, config)
    checkpoint.check_folder(tmp_path, config)
    assert run_folder.read(tmp_path) == config
    values = dataclasses.asdict(config)

    def changed(allow=(), **fields):
        new = json.loads(json.dumps(values))
        for name, value in fields.items():
            section, field = name.split("__")
            new[section][field] = value
        new["train"]["allow_changes"] = allow
        new["model"]["vocab_size"] = None  # the tokenizer's
        return resolve(new)

    deciding = {
        "model__hidden_size": 32, "data__context_length": 64, "data__random_phase": False, "optimizer__beta2": 0.9,
        "train__seed": 1, "train__batch_size": 16, "train__num_steps": 50, "tokenizer__k": 2,
        "train__gradient_dtype": "compute",
    }  # fmt: skip
    for name, value in deciding.items():
        dotted = name.replace("__", ".")
        with pytest.raises(ConfigError) as caught:
            checkpoint.check_folder(tmp_path, changed(**{name: value}))
        old = values[name.split("__")[0]][name.split("__")[1]]
        assert f"({dotted}: {old} → {value})" in str(caught.value)
        if dotted in ("model.hidden_size", "tokenizer.k"):  # no checkpoint can follow, so there is nothing to allow
            assert "allow_changes" not in str(caught.value)
            with pytest.raises(ConfigError):
                checkpoint.check_folder(tmp_path, changed([dotted], **{name: value}))
            continue
        assert str(caught.value).endswith(f"--config.train.allow_changes={dotted}")
        checkpoint.check_folder(tmp_path, changed([dotted], **{name: value}))
    with pytest.raises(ConfigError) as caught:
        checkpoint.check_folder(tmp_path, changed(["train.seed"], train__seed=1, train__batch_size=16))
    assert str(caught.value).endswith("--config.train.allow_changes=train.seed,train.batch_size")
    with pytest.raises(ConfigError) as caught:
        checkpoint.check_folder(tmp_path, changed(["train.seed"], **deciding))
    assert str(caught.value).count("→") == len(deciding) - 1
    free = {
        "mesh__data": 2,
        "checkpoint__every_steps": 7,
        "eval__every_steps": 9,
        "data__num_workers": 3,
        "sample__seed": 9,
    }
    checkpoint.check_folder(tmp_path, changed(**free))


def test_environment(tmp_path, config):
    run_folder.describe(tmp_path, config)
    run_folder.describe(tmp_path, config)
    environment, _ = json.loads((tmp_path / "environment.json").read_text())  # one object per start
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["versions"]["gener_jax"] == __version__
    assert len(environment["devices"]) == 8
    assert environment["command"]
    assert {"commit", "python", "platform"} <= environment.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "environment.json"]
