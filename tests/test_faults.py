"""Faults that a run survives or reports: signals, damaged checkpoints, bad gradients, stuck steps, full disks."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from gener_jax import train
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import CheckpointError, ConfigError, DamagedError, Terminated, TrainingError
from gener_jax.storage import run_folder
from gener_jax.training import hooks, loop
from gener_jax.training.checkpoint import Checkpoints
from gener_jax.training.faults import STUCK, Termination
from gener_jax.training.step import abstract_state
from tests import tiny
from tests.raised import raises
from tests.test_parallel import free_port
from tests.test_train import log_of, same_state, state_of

pytestmark = pytest.mark.usefixtures("one_device")

ONE = {"mesh__fsdp": "1", "mesh__data": "1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """Twelve uninterrupted steps."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train.train(tiny.config(dataset), folder)
    return folder


def signalling(patch, step, signal_=signal.SIGTERM):
    """Sends a signal to this process before the given step runs."""
    make_step = loop.make_train_step

    def watched(*arguments):
        run = make_step(*arguments)

        def stepped(state, frozen, batch):
            if int(jax.device_get(state.step)) == step - 1:
                os.kill(os.getpid(), signal_)
            return run(state, frozen, batch)

        return stepped

    patch.setattr(loop, "make_train_step", watched)


def best_of(folder: Path) -> tuple[int, float]:
    """The best step among the checkpoints of a run, and its bits per base."""
    return run_folder.best(folder, "held_out.bits_per_base")


def test_a_run_stopped_by_signals_resumes_to_the_same_bits(straight, dataset, tmp_path, monkeypatch):
    folder, config = tmp_path / "run", tiny.config(dataset)
    with monkeypatch.context() as patch:
        signalling(patch, 5)
        with raises(Terminated, signal=signal.SIGTERM, step=5):
            train.train(config, folder)
    assert (folder / "checkpoints" / "5").is_dir()
    with monkeypatch.context() as patch:  # during the evaluation of step 8
        evaluation = hooks.Evaluation.__call__
        patch.setattr(
            hooks.Evaluation,
            "__call__",
            lambda self, now: (os.kill(os.getpid(), signal.SIGTERM), evaluation(self, now))[1],
        )
        with raises(Terminated, signal=signal.SIGTERM, step=6):
            train.train(config, folder)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert best_of(folder)[0] == 3
    shutil.rmtree(folder / "checkpoints" / "6" / "metrics")  # as if it had none
    with monkeypatch.context() as patch:  # step 6 is evaluated first
        signalling(patch, 7, signal.SIGINT)
        with raises(Terminated, signal=signal.SIGINT, step=7):
            train.train(config, folder)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    evaluations = [line for line in log_of(folder) if "held_out" in line]
    assert evaluations[-1]["step"] == 6
    assert best_of(folder) == (6, evaluations[-1]["held_out"]["bits_per_base"])
    train.train(config, folder)
    assert same_state(state_of(folder), state_of(straight))
    assert log_of(folder) == log_of(straight)


TWICE = """
import os, pathlib, signal, sys
from gener_jax.training.faults import Termination
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
with Termination(pathlib.Path(sys.argv[1])) as termination:
    os.kill(os.getpid(), signal.SIGINT)
    print(termination.here().name, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("alive", flush=True)
"""


def test_a_second_control_c_ends_the_process_at_once(tmp_path):
    for name in ("9", "66", "70.orbax-checkpoint-tmp"):  # the last is not complete
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    line = [sys.executable, "-c", TWICE, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tiny.ROOT, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "SIGINT\n"), done.stderr
    assert "resumes from step 66" in done.stderr


def test_an_ignored_control_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Termination(Path("absent")) as termination:
            os.kill(os.getpid(), signal.SIGINT)
            assert termination.here() is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def arrays_of(folder: Path, item: str) -> list[Path]:
    return [p for p in (folder / item).rglob("*") if p.is_file() and p.parent.name == "d"]


def damage(folder: Path, kind: str, rng: random.Random) -> None:
    """Damages the folder of a checkpoint."""
    item = rng.choice(["params", "optimizer"])
    if kind == "truncated":
        for path in arrays_of(folder, item):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "emptied":
        for path in arrays_of(folder, item):
            path.write_bytes(b"")
    elif kind == "removed":
        shutil.rmtree(folder / item)
    elif kind == "flipped":  # one bit per hundred bytes, far more than a file system would miss
        for path in arrays_of(folder, item):
            data = bytearray(path.read_bytes())
            for at in range(50, len(data), 100):
                data[at] ^= 4
            path.write_bytes(data)
    elif kind == "metadata":
        (folder / "_CHECKPOINT_METADATA").write_text("{")
        (folder / item / "_METADATA").write_text("{")
    elif kind == "metrics":
        for path in (folder / "metrics").rglob("*"):
            if path.is_file():
                path.write_text("{")
    elif kind == "loader":
        for path in (folder / "loader").rglob("*"):
            if path.is_file():
                path.write_text("")


DAMAGES = ("truncated", "emptied", "removed", "flipped", "metadata", "metrics", "loader")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from tensorstore's threads
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_skipped(straight, dataset, tmp_path, capsys, kind):
    """`test_a_changed_loader_state_is_damage` covers a run that resumes from the previous one."""
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    damage(folder / "checkpoints" / "12", kind, random.Random(0))
    checkpoints = Checkpoints(folder, 2)
    step, state, loader = checkpoints.newest(abstract_state(tiny.config(dataset), make_mesh(1, -1, 1)))
    checkpoints.close()
    err = capsys.readouterr().err
    assert (step, int(state.step), loader["position"]) == (9, 9, 72)
    assert f"moved checkpoint 12 to {folder / 'damaged' / '12.1'}: it is damaged" in err
    assert (folder / "damaged" / "12.1").is_dir()
    assert all(len(line) < 700 for line in err.splitlines())
    assert same_state(state_of(folder), state_of(straight, 9))


def test_a_run_with_only_damaged_checkpoints_does_not_restart(straight, dataset, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    for step in ("9", "12"):
        damage(folder / "checkpoints" / step, "emptied", random.Random(0))
    with raises(DamagedError, path=folder / "checkpoints" / "12"):
        train.train(tiny.config(dataset), folder)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["12", "9"]
    for step in ("9", "12"):
        damage(folder / "checkpoints" / step, "metrics", random.Random(0))
    for _ in range(2):
        with raises(DamagedError, path=folder / "damaged"):
            train.train(tiny.config(dataset), folder)


def test_another_optimizer_dtype_is_not_damage(straight, dataset, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    config = tiny.config(dataset, optimizer__state_dtype="bfloat16", train__allow_changes="optimizer.state_dtype")
    with pytest.raises(ConfigError, match=r"since optimizer.state_dtype cannot change"):
        train.train(config, folder)
    (folder / "config.json").unlink()
    with raises(CheckpointError, name="optimizer.state_dtype"):
        train.train(config, folder)
    assert not (folder / "damaged").exists()


def test_a_changed_loader_state_is_damage(straight, dataset, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    [file] = [
        p for p in (folder / "checkpoints" / "12" / "loader").rglob("*") if p.is_file() and "position" in p.read_text()
    ]
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    train.train(tiny.config(dataset), folder)
    err = capsys.readouterr().err
    assert "`loader` differs from what was saved" in err
    assert f"resuming {folder} at step 9" in err
    assert same_state(state_of(folder), state_of(straight))
    assert log_of(folder) == log_of(straight)


def test_a_diverging_run_is_stopped(dataset, tmp_path, capsys):
    config = tiny.config(
        dataset, optimizer__peak_learning_rate="1e30", optimizer__max_consecutive_skips="3",
        checkpoint__every_steps="50",
        eval__every_steps="50", train__writers="",
    )  # fmt: skip
    with raises(TrainingError) as caught:
        train.train(config, tmp_path / "run")
    assert re.search(r"last 3 steps.*then start again with", str(caught.value))
    err = capsys.readouterr().err
    assert re.search(r"^warning: step \d+ was skipped: loss .*, gradient norm .*; 3 so far, 3 in a row", err, re.M)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["consecutive_skips"] == 3
    assert lines[-1]["grad_norm"] is None  # JSON has no NaN


STUCK_STEP = """
import time
from gener_jax.training import step
step.make_train_step = lambda *a: (lambda *b: time.sleep(1000))
"""


@pytest.mark.slow
def test_a_stuck_step_ends_the_process_and_shows_where(dataset, tmp_path):
    experiment = tiny.experiment(tmp_path / "tiny.py", dataset, train__watchdog_minutes="0.3", **ONE)
    status, out, err = tiny.finished(
        tiny.command(f"--config={experiment}", module="gener_jax.train", cwd=tmp_path, before=STUCK_STEP)
    )
    assert (status, out) == (STUCK, "")
    assert "has taken more than 0.3 minutes" in err
    assert re.search(r'File ".*gener_jax/training/loop.py", line \d+ in loop', err)


@pytest.mark.slow
def test_other_writers_and_the_profile(dataset, tmp_path, monkeypatch):
    logged = []
    fake = types.SimpleNamespace(
        init=lambda **options: types.SimpleNamespace(
            log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append(options["project"])
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = tiny.config(
        dataset, train__writers="tensorboard,wandb", train__wandb_project="dna", train__num_steps="4",
        train__profile_from="2", train__profile_steps="2", eval__recovery_genes="8", eval__every_steps="2",
        tokenizer__k="2", eval__tasks="held_out,recovery", checkpoint__best="recovery.accuracy",
    )  # fmt: skip
    results = train.train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out" in line] == [2, 3, 4]
    evaluation = next(line["recovery"] for line in lines if "recovery" in line)
    assert 0 < evaluation["accuracy"] < 0.7
    assert results["recovery"].counts["genes"] == 8
    assert logged[-1] == "dna"
    assert logged[0][0] == 1
    assert logged[0][1]["loss"] == lines[0]["loss"]
    assert (2, evaluation["accuracy"]) in [(step, values.get("recovery/accuracy")) for step, values in logged[:-1]]
    assert events(tmp_path / "run" / "tensorboard")[1, "train/loss"] == pytest.approx(lines[0]["loss"])
    assert (2, "recovery/accuracy") in events(tmp_path / "run" / "tensorboard")
    traces = [p for p in (tmp_path / "run" / "profile").rglob("*") if p.is_file()]
    assert any(p.name.endswith(".xplane.pb") for p in traces)


def events(folder):
    """(step, tag) → value, read from TensorBoard's files: length, checksum, a protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += size + 16
    return found


@pytest.mark.parametrize("writer", ["tensorboard", "wandb"])
def test_a_writer_that_is_not_installed_is_one_line(dataset, tmp_path, monkeypatch, writer):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(writer, writer), None)
    with raises(ConfigError, field="train.writers", value=writer):
        train.train(tiny.config(dataset, train__writers=writer), tmp_path / "run")
    experiment = tiny.experiment(tmp_path / "tiny.py", tmp_path / "none", train__writers=writer)
    with raises(ConfigError, field="train.writers", value=writer):  # before the dataset is looked for
        train.main([f"--config={experiment}", f"--workdir={tmp_path / 'other'}"])


def start(experiment, folder, *more):
    arguments = [f"--config={experiment}", f"--workdir={folder}", *more]
    return tiny.command(*arguments, module="gener_jax.train", cwd=folder.parent)


def interrupt(process, signal_, step, seconds):
    """Sends a signal `seconds` after the process reports a step; returns its status, its output and its last step."""
    output, last = [], 0
    for line in process.stderr:
        output.append(line)
        if match := re.match(r"step (\d+)/", line):
            last = int(match[1])
            if last >= step:
                break
    time.sleep(seconds)
    process.send_signal(signal_)
    rest = process.stderr.read()  # `communicate` would miss the text that is already buffered
    process.wait(timeout=120)
    steps = [int(n) for n in re.findall(r"^step (\d+)/", rest, re.M)]
    return process.returncode, "".join(output) + rest, max([last, *steps])


@pytest.mark.slow
def test_chaos(dataset, tmp_path):
    """Alternates kill -9 and SIGTERM at random times, and damages the newest checkpoint after a third of them.

    The result is bit-equal to that of an undisturbed run. A restart repeats at most two checkpoint intervals, and one
    more per damaged checkpoint. The last start reads its data in two processes. GENER_JAX_CHAOS=50 makes a soak.
    """
    number, every = int(os.environ.get("GENER_JAX_CHAOS", "2")), 3
    total = max(60, 12 * number)
    experiment = tiny.experiment(
        tmp_path / "tiny.py", dataset, train__num_steps=str(total), checkpoint__every_steps=str(every),
        eval__every_steps="7", eval__max_regions="2", **ONE,
    )  # fmt: skip
    status, _, err = tiny.finished(start(experiment, tmp_path / "undisturbed"))
    assert status == 0, err
    rng, folder = random.Random(number), tmp_path / "run"
    at, damaged, kinds = sorted(rng.sample(range(2, total - 5), number)), 0, {}
    reached = 0
    for i, step in enumerate([*at, None]):
        process = start(experiment, folder, *(["--config.data.num_workers=2"] if step is None else []))
        if step is None:
            status, _, err = tiny.finished(process)
        else:
            which = (signal.SIGKILL, signal.SIGTERM)[i % 2]
            status, err, done = interrupt(process, which, step, rng.uniform(0, 0.2))
            kinds[which.name] = kinds.get(which.name, 0) + 1
        resumed = int((re.findall(r"^resuming .* at step (\d+)$", err, re.M) or ["0"])[0])
        # One interval, another if the last save was incomplete, and one more per damaged checkpoint.
        assert reached - resumed <= 2 * every + damaged * every, (reached, resumed, damaged)
        if damaged and resumed:
            assert "moved checkpoint" in err
        if step is None:
            break
        assert status == (-signal.SIGKILL if which == signal.SIGKILL else 143), err[-2000:]
        if which == signal.SIGTERM:
            assert re.search(rf"^stopped by SIGTERM after step {done}, which is saved", err, re.M), err[-2000:]
        reached, damaged = done, 0
        checkpoints = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
        if i % 3 == 0 and len(checkpoints) > 1:
            kind = rng.choice(DAMAGES)
            damage(folder / "checkpoints" / str(checkpoints[-1]), kind, rng)
            kinds[kind] = kinds.get(kind, 0) + 1
            damaged = 1
    assert status == 0, err
    print(kinds)
    assert same_state(state_of(folder, devices=1), state_of(tmp_path / "undisturbed", devices=1))
    assert log_of(folder) == log_of(tmp_path / "undisturbed")
    assert all(p.name.isdigit() for p in (folder / "checkpoints").iterdir())


SIGTERM_IN_EVALUATION = """
import os, signal, time
from gener_jax.training import hooks
moved = hooks.Evaluation._moved
def slowly(self, done, total):
    if '--process_id=1' in sys.argv and not hasattr(self, 'called'):
        os.kill(os.getpid(), signal.SIGTERM)
    self.called = time.sleep(0.5)
    moved(self, done, total)
hooks.Evaluation._moved = slowly
"""


@pytest.mark.slow
def test_two_processes_stop_and_one_resumes(dataset, tmp_path):
    """Two processes of 4 devices get SIGTERM during an evaluation; one of 8 and then one of 1 device resume.

    The losses equal those of an uninterrupted run in this process.
    """
    experiment = tiny.experiment(
        tmp_path / "tiny.py", dataset, mesh__data="1", mesh__fsdp="2", mesh__context="2", mesh__tensor="2",
        train__num_steps="40",
    )  # fmt: skip
    devices, port = "import jax; jax.config.update('jax_num_cpu_devices', {})", free_port()

    def one(number, *more, name="run", before=""):
        arguments = [f"--config={experiment}", f"--workdir={tmp_path / name}", *more]
        before = devices.format(number) + before
        return tiny.command(*arguments, module="gener_jax.train", cwd=tmp_path, before=before)

    joined = "--coordinator", f"127.0.0.1:{port}", "--num_processes=2"
    both = [one(4, *joined, f"--process_id={i}", before=SIGTERM_IN_EVALUATION) for i in (0, 1)]
    for process in both:
        status, _, err = tiny.finished(process)
        assert status == 143, err[-3000:]
        assert "stopped by SIGTERM after step 3, which is saved" in err  # during the first evaluation
    saved = 3
    assert not any("held_out" in line for line in log_of(tmp_path / "run"))
    status, err, _ = interrupt(one(8), signal.SIGTERM, saved + 3, 0)
    assert status == 143, err[-3000:]
    assert f"at step {saved}" in err
    again = int(re.search(r"stopped by SIGTERM after step (\d+)", err)[1])
    alone = ["--config.mesh.fsdp=1", "--config.mesh.context=1", "--config.mesh.tensor=1"]
    status, _, err = tiny.finished(one(1, *alone))
    assert status == 0, err
    assert f"at step {again}" in err
    train.train(tiny.config(dataset, train__num_steps="40"), tmp_path / "alone")
    losses, expected = (
        [line["loss"] for line in log_of(tmp_path / name) if "loss" in line] for name in ("run", "alone")
    )
    assert len(losses) == 40
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/mounts").exists(), reason="mounting takes root")
@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(dataset, tmp_path, straight, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=3m tmpfs {disk} 2>/dev/null"):
        pytest.skip("mounting takes root")
    try:
        shutil.copytree(straight, disk / "run")
        room = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"x" * (room - 30_000))
        config = tiny.config(dataset, train__num_steps="18", train__allow_changes="train.num_steps")
        with raises(CheckpointError, path=disk / "run" / "checkpoints"):
            train.train(config, disk / "run")
        (disk / "filler").unlink()
        capsys.readouterr()
        assert train.train(config, disk / "run")["held_out"].model.step == 18
        assert f"resuming {disk / 'run'} at step 12" in capsys.readouterr().err
    finally:
        os.system(f"umount -l {disk}")
