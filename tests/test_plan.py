"""Plans: formulas compared with allocations, suggestions, and the parameter shardings of every experiment."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gener_jax import plan
from gener_jax.cli import command
from gener_jax.config import Finetune, Mesh, override
from gener_jax.model import flops, memory
from gener_jax.model.sharding import check_divides, make_mesh
from gener_jax.runtime import flags
from gener_jax.runtime.devices import DEVICES, device_of
from gener_jax.runtime.errors import ConfigError
from gener_jax.training import planning
from gener_jax.training.planning import Machine, collectives, scan_bytes, seconds
from gener_jax.training.step import abstract_state
from tests.raised import raises

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py"))
DUMPS = Path(__file__).parent / "shardings"
SAME_SHAPES = {
    "euk_1b_fns": "euk_1b",
    "euk_1b_long": "euk_1b",
    "finetune_family": "euk_1b",  # until the base is read
    "finetune_promoter": "euk_1b",
    "my_genome": "quickstart",
    "prok_1b": "euk_1b",
    "prok_3b": "euk_3b",
    "tiny": "quickstart",
}


def config_of(name, **overrides):
    values = command.load_experiment(str(ROOT / "experiments" / f"{name}.py"))
    return override(values, {k.replace("__", "."): str(v) for k, v in overrides.items()})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_shardings_of_an_experiment(name):
    """`GENER_JAX_WRITE=1` rewrites the files."""
    config, lines = config_of(name), []
    for sizes in ((1, 8, 1, 1), (1, 2, 2, 2)):
        mesh = make_mesh(*sizes[:3], context=sizes[3])
        lines.append("mesh " + " ".join(f"{axis}={size}" for axis, size in mesh.shape.items()))
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state(config, mesh)):
            spec = ", ".join("·".join(a) if isinstance(a, tuple) else str(a or "-") for a in leaf.sharding.spec)
            parameter = jax.tree_util.keystr(path, simple=True, separator="/")
            lines.append(
                f"{parameter} {leaf.dtype} {list(leaf.shape)} [{spec}] {list(leaf.sharding.shard_shape(leaf.shape))}"
            )
    text = "\n".join(lines) + "\n"
    file = DUMPS / f"{SAME_SHAPES.get(name, name)}.txt"
    if os.environ.get("GENER_JAX_WRITE"):
        DUMPS.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text


def test_the_state_is_what_the_formula_says():
    for name, sizes in (("euk_1b", (1, 8, 1, 1)), ("euk_3b", (1, 2, 2, 2)), ("unified_7b", (2, 1, 4, 1))):
        config = dataclasses.replace(config_of(name), mesh=Mesh(*sizes))
        state = abstract_state(config, make_mesh(*sizes[:3], context=sizes[3]))

        def gib(tree):
            leaves = jax.tree.leaves(tree)
            return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in leaves) / 2**30

        need = memory.training_needs(config, 8)
        assert need["parameters"] == pytest.approx(gib(state.params), rel=1e-6)
        assert need["optimizer"] == pytest.approx(gib(state.opt_state), rel=1e-6)
        assert need["frozen"] == 0
        parts = memory.training_needs(config, 8, trains=lambda path: path.startswith("layers"))
        assert parts["parameters"] == parts["gradients"] == pytest.approx(gib(state.params["layers"]), rel=1e-6)
        assert parts["parameters"] + 2 * parts["frozen"] == pytest.approx(need["parameters"])  # in bfloat16
        assert parts["activations"] == need["activations"]
    low = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, state_dtype="bfloat16"))
    assert memory.training_needs(low, 8)["optimizer"] == need["optimizer"] / 2


def test_operations_equal_a_direct_count():
    m = config_of("euk_1b").model
    expected = 26 * (2048 * 2048 * 2 + 2 * 2048 * 256 + 3 * 2048 * 5632) + 2048 * 4128
    assert flops.matrix_parameters(m) == expected
    mean_keys = sum(min(i + 1, 100) for i in range(1000)) / 1000
    assert flops.mean_keys(1000, 100) == pytest.approx(mean_keys)
    assert flops.mean_keys(1000) == 500.5
    forward = 2 * expected + 26 * 2 * 2 * 2048 * 500.5  # products of scores and values
    config = config_of("euk_1b", data__context_length=1000)
    assert flops.training(config) == 3 * forward
    labelled, head = {"data__context_length": 1000, "finetune__problem": "single_label"}, 2 * 2048 * 4128
    adapters, attention = 26 * 8 * (2048 + 2048), 26 * 2 * 2 * 2048 * 500.5
    for fields, operations in (
        ({"finetune__method": "full"}, 3 * (forward - head)),
        ({"finetune__method": "lora", "finetune__targets": "q"}, 2 * (forward - head) + attention + 6 * adapters),
        ({"finetune__method": "frozen"}, forward - head),
        ({"finetune__method": "frozen", "finetune__problem": "token"}, 2 * (forward - head)),
    ):
        config = config_of("euk_1b", **labelled | fields)
        assert flops.training(config, **plan.parts(config)) == operations
    assert device_of("NVIDIA H100 80GB HBM3").tflops == 989
    assert device_of("TPU v5 lite").tflops == 197
    assert device_of("TPU v5").tflops == 459
    assert device_of("NVIDIA B200").tflops == 2250
    assert device_of("NVIDIA GB200") is None  # faster than a B200
    assert device_of("cpu") is None


def run(capsys, *arguments):
    plan.main(list(arguments))
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("euk_1b", ("--devices=8", "--device=h100", "--device_memory_gib=80")),
        ("prok_3b", ("--devices=64", "--device=h100")),
        ("euk_3b", ("--topology=v5p:4x4x4",)),
        ("unified_7b", ("--topology=v5e:16x16",)),
    ],
)
def test_what_is_suggested_can_be_trained(capsys, name, machine):
    """Checks the mesh and the memory formula as training does, with the printed flags."""
    out, result = run(capsys, f"--config={ROOT / 'experiments' / name}.py", *machine)
    best = result["suggested"]
    [line] = [x for x in out.splitlines() if x.startswith("  set ")]
    fields = dict(x.removeprefix("--config.").split("=") for x in line.split()[1:])
    config = config_of(name, **{k.replace(".", "__"): v for k, v in fields.items()})
    check_divides(config, best["mesh"])
    assert sum(memory.training_needs(config, result["devices"]).values()) <= min(
        best["peak_gib"] + 0.01, 0.92 * result["device_memory_gib"]
    )
    assert best["days"] > 0.1
    assert out.count("inference on one device") == 1


def test_why_a_suggestion_is_better(capsys):
    """Its days are the same, since both have the same share of the peak."""
    given = "--config.model.remat=full", "--config.train.accumulate=16"
    _, result = run(capsys, f"--config={ROOT / 'experiments' / 'euk_1b'}.py", "--devices=8", "--device=h100", *given)
    assert result["given"]["fits"]
    assert result["given"]["days"] == result["suggested"]["days"]
    why, best = result["suggested"]["why"], result["suggested"]
    assert f"remat {best['remat']}, not full" in why
    assert f"{best['accumulate']} microbatches per step, not 16" in why
    sent = [sum(result[name]["sent_gib_per_step"].values()) for name in ("suggested", "given")]
    assert (f"sends {sent[0]:.1f} GiB" in why) == (sent[0] < sent[1])
    assert ("needs" in why) == (best["peak_gib"] < result["given"]["peak_gib"])
    chosen = {f"mesh.{name}": size for name, size in best["mesh"].items()}
    chosen |= {"model.remat": best["remat"], "train.accumulate": best["accumulate"]}
    chosen["model.scan_unroll"] = 26 if best["layers_unrolled"] else 1
    given = [f"--config.{name}={value}" for name, value in chosen.items()]
    _, again = run(capsys, f"--config={ROOT / 'experiments' / 'euk_1b'}.py", "--devices=8", "--device=h100", *given)
    assert again["suggested"] == again["given"] | {"why": again["suggested"]["why"]}


def test_what_a_scan_over_layers_costs():
    """1.2b on one H200: of a step of 510 ms 26 were zeros and copies of its stacks, and unrolled layers saved 27."""
    config = config_of("euk_1b", train__batch_size=16, data__context_length=2048, train__xla_flags=False)
    machine = Machine(1, 139.8, DEVICES["h200"], None)
    by_token = 2 * (2 * 2048 + 2 * 2048 + 2 * 256 + 2 * 5632) + 4 * 32
    assert scan_bytes(config, machine) == 3 * 26 * by_token * 16 * 2048
    flagged = dataclasses.replace(config, train=dataclasses.replace(config.train, xla_flags=True))
    assert scan_bytes(flagged, machine) == scan_bytes(config, machine) * 2 / 3  # no zeros
    unrolled = dataclasses.replace(config, model=dataclasses.replace(config.model, scan_unroll=26))
    assert scan_bytes(unrolled, machine) == scan_bytes(config, machine)
    in_microbatches = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=4))
    assert scan_bytes(in_microbatches, machine) == scan_bytes(config, machine)
    frozen = dataclasses.replace(config, finetune=Finetune(problem="single_label", method="frozen"))
    assert scan_bytes(frozen, machine, **plan.parts(frozen)) == 0
    saved = seconds(config, machine, 0.492) - seconds(unrolled, machine, 0.492)
    assert saved == pytest.approx(0.027, abs=0.001)
    assert saved / seconds(config, machine, 0.492) == pytest.approx(1 - 64237 / 67867, abs=0.01)


def test_layers_are_unrolled_on_gpus_where_it_fits_and_pays(capsys):
    shape = (
        f"--config={ROOT / 'experiments' / 'euk_1b'}.py",
        "--config.train.batch_size=16",
        "--config.data.context_length=2048",
        "--devices=1",
    )
    out, result = run(capsys, *shape, "--device=h200")
    assert result["suggested"]["layers_unrolled"]
    assert not result["given"]["layers_unrolled"]
    assert "suggested: one device; remat dots; layers unrolled; 16 sequences" in out
    assert f"would write and read {result['suggested']['scan_gib_per_step']:.1f} GiB per step" in out
    assert "unrolls the layers" in result["suggested"]["why"]
    assert "--config.model.scan_unroll=26" in out

    unrolled = "--config.model.scan_unroll=26"
    out, result = run(capsys, *shape, "--device=h200", unrolled)
    assert result["suggested"]["layers_unrolled"]
    assert "no other takes" in result["suggested"]["why"]
    for machine in (
        ("--device=h200", "--mfu=0.05"),  # the gain is below that of a tie
        ("--device=h200", "--device_memory_gib=28.5"),  # only one row in a scan fits
        ("--device=v5p",),
        ("--device_memory_gib=139.8",),
    ):
        out, result = run(capsys, *shape, *machine)
        assert not result["suggested"]["layers_unrolled"]
        assert "unrolled" not in out.replace("layers_unrolled", "")
        assert "--config.model.scan_unroll=1" in out
    _, result = run(capsys, *shape, "--device=h200", "--device_memory_gib=28.5", unrolled)
    assert not result["suggested"]["layers_unrolled"]


def test_a_tie_keeps_the_given_mesh_or_takes_less_memory(capsys):
    """On a v5p:4x4x4, data 64 and fsdp 64 of euk_1b take the same time."""
    arguments = f"--config={ROOT / 'experiments' / 'euk_1b'}.py", "--topology=v5p:4x4x4"
    for mesh in ("data", "fsdp"):
        sizes = {"data": 1, "fsdp": 1} | {mesh: 64}
        given = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
        _, result = run(capsys, *arguments, *given)
        assert result["suggested"]["mesh"] == result["given"]["mesh"]
    slow = (
        "--config.mesh.data=1",
        "--config.mesh.fsdp=8",
        "--config.mesh.tensor=8",
        "--config.model.num_key_value_heads=8",
    )
    _, result = run(capsys, *arguments, *slow)
    assert (result["suggested"]["mesh"]["fsdp"], result["suggested"]["mesh"]["data"]) == (64, 1)


def test_adapters_fit_where_the_whole_model_does_not(capsys):
    fine = (
        "--config.finetune.problem=single_label",
        "--config.train.batch_size=16",
        "--config.data.context_length=512",
    )
    machine = f"--config={ROOT / 'experiments' / 'euk_1b'}.py", "--devices=1", "--device=v5e", *fine
    out, _ = run(capsys, *machine)
    assert "nothing fits" in out
    out, lora = run(capsys, *machine, "--config.finetune.method=lora")
    assert lora["given"]["fits"]
    with raises(ConfigError, field="--compile"):
        plan.main([machine[0], *fine, "--topology=v5e:2x2", "--compile"])


def test_a_model_that_does_not_fit_is_reported(capsys):
    small = f"--config={ROOT / 'experiments' / 'unified_7b'}.py", "--devices=4", "--device_memory_gib=16"
    out, result = run(capsys, *small)
    assert "nothing fits" in out
    assert "suggested" not in result
    assert not result["given"]["fits"]
    assert "days" not in result["given"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([], "--devices"),
        (["--devices=8"], None),
        (["--topology=v5p"], "--topology"),
        (["--topology=v9:2x2"], "--topology"),
        (["--topology=v5p:²"], "--topology"),
        (["--topology=h100:8"], "--topology"),
        (["--topology=v5e:2x2", "--devices=8"], None),
        (["--topology=v5p:64x64x64"], "--topology"),
        (["--devices=8", "--device=B200", "--compile"], "--compile"),
        (["--devices=8", "--device_memory_gib=80", "--compile=given"], "--compile"),
    ],
)
def test_command_lines_that_are_wrong(arguments, field):
    with raises(ConfigError, field=field):
        plan.main([f"--config={ROOT / 'experiments' / 'euk_1b'}.py", *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--devices=8", "--device=h100", "--compile=given"], [("gpu", True)]),
        (["--topology=v5e:2x2", "--compile"], [("tpu", True)]),
        (["--devices=8", "--device=h100", "--compile", "--config.train.xla_flags=false"], []),
        (["--devices=1", "--device=h100", "--compile"], [("gpu", False)]),
        (["--devices=8", "--device=h100"], []),
    ],
)
def test_a_step_is_compiled_with_the_flags_that_train_sets(arguments, expected, monkeypatch, capsys):
    added = []
    monkeypatch.setattr(flags, "add", lambda *given: added.append(given))
    monkeypatch.setattr(planning, "report", lambda *given, **parts: {})
    plan.main([f"--config={ROOT / 'experiments' / 'euk_1b'}.py", *arguments])
    assert added == expected


def test_a_similar_name_is_not_the_same_device(capsys):
    with pytest.raises(SystemExit):
        plan.main([f"--config={ROOT / 'experiments' / 'euk_1b'}.py", "--devices=8", "--device=gb200"])
    err = capsys.readouterr().err
    assert "b200, h100" in err
    assert "did you mean" not in err


def test_communication_equals_a_direct_count():
    config = config_of("euk_1b", mesh__data=2, mesh__fsdp=4, train__batch_size=8, model__remat="none")
    found = {key: gib * 2**30 for key, gib in collectives(config, 8).items()}
    n = 1_162_061_824
    assert found["all-gather", "fsdp"] == pytest.approx(2 * n * 2 * 3 / 4)  # bfloat16, for both passes
    assert found["reduce-scatter", "fsdp"] == pytest.approx(n * 4 * 3 / 4)
    assert found["all-reduce", "data"] == pytest.approx(2 * n / 4 * 4 / 2)
    assert found["all-reduce", "tensor"] == found["all-gather", "context"] == 0
    config = dataclasses.replace(config, finetune=Finetune(problem="single_label", method="lora"))
    sent = {key: gib * 2**30 for key, gib in collectives(config, 8, **plan.parts(config)).items()}
    trained = 26 * 8 * (2048 + 2048 + 2048 + 256) + 2 * 2048 + 2  # of q and v, and the head
    assert sent["all-gather", "fsdp"] == pytest.approx(2 * (n + trained) * 2 * 3 / 4)
    assert sent["reduce-scatter", "fsdp"] == pytest.approx(trained * 4 * 3 / 4)
    assert sent["all-reduce", "data"] == pytest.approx(2 * trained / 4 * 4 / 2)


def has_libtpu():
    return subprocess.run([sys.executable, "-c", "import libtpu"], capture_output=True).returncode == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not has_libtpu(), reason="needs libtpu: pip install -e '.[tpu]'")
def test_the_formula_is_near_the_tpu_compilers(tmp_path):
    """Compiles the 1.2b training step with splash attention for a TPU, which takes minutes."""
    command_ = [
        sys.executable,
        "-m",
        "gener_jax.plan",
        "--config=experiments/euk_1b.py",
        "--topology=v5p:4x4x4",
        "--compile",
    ]
    done = subprocess.run(command_, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result["compiled"], result["suggested"])
    layers = config_of("euk_1b").model.num_hidden_layers * result["suggested"]["accumulate"]
    assert result["compiled"]["kernels"]["splash"]["forward"] == layers
    assert abs(result["suggested"]["peak_gib"] / result["compiled"]["peak_gib"] - 1) < 0.15
