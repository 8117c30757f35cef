"""XLA's flags for training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gener_jax import finetune, train
from gener_jax.benchmarks import device
from gener_jax.benchmarks import train as benchmark
from gener_jax.runtime import flags
from gener_jax.runtime.environment import environment

GPU, TPU = (list(flags.FLAGS[name]) for name in ("gpu", "tpu"))


def status(program: str, **variables: str) -> int:
    """The exit status of a Python program with these variables of the environment."""
    env = {name: value for name, value in os.environ.items() if name not in flags.VARIABLES.values()} | variables
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("more", "known"), [("", True), (" --xla_gpu_no_such_flag=true", False)])
def test_xla_knows_the_flags_for_gpus(more, known):
    """The CPU's part of XLA reads them too, and ends the process at one that it does not know."""
    program = "import jax; jax.config.update('jax_platforms', 'cpu'); jax.devices()"
    assert (status(program, XLA_FLAGS=" ".join(flags.missing("gpu", "")) + more) == 0) == known


def test_xla_knows_the_flags_that_benchmarks_compare():
    program = "import jax; jax.config.update('jax_platforms', 'cpu'); jax.devices()"
    assert status(program, XLA_FLAGS=" ".join(job.xla_flags for job in device.JOBS)) == 0


@pytest.mark.parametrize(("more", "known"), [("", True), (" --xla_tpu_no_such_flag=true", False)])
def test_libtpu_knows_the_flags_for_tpus(more, known):
    pytest.importorskip("libtpu")
    program = "from jax.experimental import topologies; topologies.get_topology_desc('v5e:2x2', 'tpu')"
    alone = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    text = " ".join(flags.missing("tpu", "")) + more
    assert (status(program, JAX_PLATFORMS="cpu", LIBTPU_INIT_ARGS=text, **alone) == 0) == known


def test_the_guide_lists_the_flags_with_their_reasons():
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    for name, known in flags.FLAGS.items():
        rows = [f"| `{flag}={value}` | {reason} |" for flag, (value, reason) in known.items()]
        listed = [row.replace("mesh.data", "`mesh.data`") for row in rows]
        assert all(row in text for row in listed), name
    assert text.count("| `xla_") == sum(map(len, flags.FLAGS.values()))


@pytest.mark.parametrize(
    ("variables", "files", "packages", "expected"),
    [
        ({}, [], ["libtpu", "jax_cuda13_plugin"], ("cpu", 1)),  # packages without their devices
        ({}, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], ["jax_cuda13_plugin"], ("gpu", 2)),
        ({}, ["nvidia0", "nvidia1"], [], ("cpu", 1)),  # jax cannot use them
        ({}, ["dxg"], ["jax_cuda12_plugin"], ("gpu", 1)),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["nvidia0", "nvidia1"], ["jax_cuda13_plugin"], ("gpu", 1)),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ["nvidia0", "nvidia1", "nvidia2"], ["jax_cuda13_plugin"], ("gpu", 2)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], ["jax_cuda13_plugin"], ("cpu", 1)),
        ({"JAX_PLATFORMS": "cpu"}, ["nvidia0"], ["jax_cuda13_plugin"], ("cpu", 1)),
        ({"JAX_PLATFORMS": "cuda,cpu"}, ["nvidia0"], ["jax_cuda13_plugin"], ("gpu", 1)),
        ({}, ["accel0", "accel1", "nvidia0"], ["libtpu", "jax_cuda13_plugin"], ("tpu", 2)),
        ({}, ["vfio/0", "vfio/1", "vfio/vfio"], ["libtpu"], ("tpu", 2)),
    ],
)
def test_platform(tmp_path, monkeypatch, variables, files, packages, expected):
    for name in files:
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(flags.importlib.util, "find_spec", lambda name: name in packages or None)
    assert flags.platform(variables, tmp_path) == expected


@pytest.fixture
def machine(monkeypatch):
    """Sets the platform, its number of devices, XLA's variable, and whether jax was imported."""

    def make(name, number, text="", *, late=False):
        for variable in flags.VARIABLES.values():
            monkeypatch.setenv(variable, "")
        monkeypatch.setenv(flags.VARIABLES.get(name, "XLA_FLAGS"), text)
        monkeypatch.setattr(flags, "platform", lambda: (name, number))
        if not late:
            monkeypatch.delitem(sys.modules, "jax", raising=False)

    return make


def test_several_gpus_get_their_flags(machine):
    machine("gpu", 2, "--xla_dump_to=/x")
    line = flags.apply()
    first, *added = os.environ["XLA_FLAGS"].split()
    assert first == "--xla_dump_to=/x"
    assert added == flags.missing("gpu", "")
    assert [flag.partition("=")[0].removeprefix("--") for flag in added] == GPU
    assert line.endswith(f"XLA_FLAGS: {' '.join(added)}")
    assert flags.current() == {"XLA_FLAGS": os.environ["XLA_FLAGS"]}
    assert flags.apply() is None  # none is set twice
    assert os.environ["XLA_FLAGS"].split() == [first, *added]


def test_flags_of_the_user_are_kept(machine):
    machine("gpu", 8, f"--{GPU[0]}=false --{GPU[4]}=1")
    flags.apply()
    words = os.environ["XLA_FLAGS"].split()
    assert words[:2] == [f"--{GPU[0]}=false", f"--{GPU[4]}=1"]
    assert [word.split("=")[0] for word in words[2:]] == [f"--{x}" for x in GPU if x not in (GPU[0], GPU[4])]
    assert flags.missing("tpu", f"--no{TPU[0]} --{TPU[1]}=false") == []


@pytest.mark.parametrize(
    ("name", "number", "wanted", "processes", "expected"),
    [
        ("gpu", 1, True, 2, True), ("gpu", 1, False, None, False), ("gpu", 8, False, 2, False),
        ("tpu", 4, True, 1, True), ("tpu", 1, True, 1, False), ("metal", 4, True, 1, False),
    ],
)  # fmt: skip
def test_when_flags_are_set(machine, name, number, wanted, processes, expected):
    machine(name, number)
    assert (flags.apply(wanted, processes) is not None) == expected
    assert bool(os.environ[flags.VARIABLES.get(name, "XLA_FLAGS")]) == expected


def test_one_gpu_gets_the_flag_that_is_not_about_transfers(machine):
    machine("gpu", 1)
    line = flags.apply()
    [added] = os.environ["XLA_FLAGS"].split()
    assert added == "--xla_gpu_enable_dus_accumulator_zero_init_elimination=true"
    assert line.endswith(f"XLA_FLAGS: {added}")
    machine("gpu", 1, added.replace("true", "false"))
    assert flags.apply() is None
    machine("tpu", 1, "/a/file")
    assert flags.apply() is None  # there is none to add


def test_a_runs_folder_records_them(machine):
    machine("gpu", 2, "--xla_cpu_enable_fast_math=false", late=True)  # its default
    assert environment()["xla_flags"] == {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}


def test_processes_of_a_batch_system_have_several_gpus(machine, monkeypatch):
    machine("gpu", 1)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    flags.apply()
    assert len(os.environ["XLA_FLAGS"].split()) == len(GPU)


def test_a_file_of_flags_is_left_as_it_is(machine):
    machine("gpu", 2, "/a/file")
    assert "names a file, /a/file" in flags.apply()
    assert os.environ["XLA_FLAGS"] == "/a/file"


def test_too_late(machine):
    machine("gpu", 2, late=True)
    assert "jax was imported before XLA_FLAGS" in flags.apply()
    assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("module", [train, finetune, benchmark])
def test_commands_that_train_apply_them_first(tmp_path, monkeypatch, module, wanted):
    class Asked(Exception):
        pass

    def apply(*given):
        raise Asked(given[0])

    monkeypatch.setattr(flags, "apply", apply)
    experiment = tmp_path / "x.py"
    experiment.write_text("from gener_jax.config import base as get_config\n")
    monkeypatch.setattr(sys, "argv", ["x", f"--config={experiment}", f"--config.train.xla_flags={wanted}"])
    with pytest.raises(Asked) as caught:
        module.main()
    assert caught.value.args == (wanted,)


def test_a_benchmark_of_a_size_sets_that_of_one_device(monkeypatch):
    class Asked(Exception):
        pass

    def add(name, several=True):
        raise Asked(name, several)

    monkeypatch.setattr(flags, "platform", lambda: ("gpu", 8))
    monkeypatch.setattr(flags, "add", add)
    monkeypatch.setattr(sys, "argv", ["x", "--size", "s"])
    with pytest.raises(Asked) as caught:
        benchmark.main()
    assert caught.value.args == ("gpu", False)
