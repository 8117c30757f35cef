"""Lock files: one process at a time, whoever holds it is named, and a killed process holds nothing."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from data_pipeline import lock
from data_pipeline.errors import FileError
from gener_jax import train
from gener_jax.storage.resumable import ResumableFile
from tests import tiny
from tests.raised import raises

HOLD = """
import pathlib, sys, time
from data_pipeline import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds tmp_path/run/lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run" / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_is_refused_until_the_holder_is_dead(other, tmp_path):
    path = tmp_path / "run" / "lock"
    with raises(FileError, file=path) as caught, lock.held(path):
        pass
    assert f"process {other.pid} on host {socket.gethostname()}" in caught.value.problem
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert path.exists()  # nobody has removed it
    with lock.held(path):
        assert path.read_text() == f"process {os.getpid()} on host {socket.gethostname()}\n"
    assert not path.exists()


def test_what_was_made_for_the_lock_is_removed(tmp_path):
    with lock.held(tmp_path / "a" / "b" / "lock"), raises(FileError, file="lock"), lock.held(tmp_path / "a/b/lock"):
        pass
    assert list(tmp_path.iterdir()) == []
    with contextlib.suppress(KeyboardInterrupt), lock.held(tmp_path / "a" / "lock"):
        (tmp_path / "a" / "kept").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_second_trainer_touches_nothing(other, tmp_path):
    (tmp_path / "run" / "log.jsonl").write_text("{}\n")
    with raises(FileError, file=tmp_path / "run" / "lock"):
        train.train(tiny.config(tmp_path / "set"), tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_text() == "{}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_two_writers_of_a_resumable_file(tmp_path):
    path = tmp_path / "out.tsv"
    with ResumableFile(path, {"a": 1}, "row") as first:
        first.append(b"1\n", 1)
        with raises(FileError, file="out.tsv.partial.lock"):
            ResumableFile(path, {"a": 1}, "row")
    with ResumableFile(path, {"a": 1}, "row") as second:
        assert second.done == 1
        second.append(b"2\n", 2)
        second.finish({})
    assert path.read_bytes() == b"1\n2\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tsv", "out.tsv.json"]
