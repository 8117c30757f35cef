"""Tests how several processes detect and connect to each other."""

import argparse

import pytest

from gener_jax.runtime import distributed
from gener_jax.runtime.errors import ConfigError
from tests import tiny

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, "JAX_COORDINATOR_ADDRESS"),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"}, "TPU pod"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # one host
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "t-0"}, "TPU pod"),
        (SLURM, "SLURM"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # sbatch's own shell: no step
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_detects_the_batch_system(environment, expected):
    assert distributed.surrounding(environment) == expected


def arguments(*argv):
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--coordinator=h:1"], "--num_processes and --process_id"),
        (["--coordinator=h", "--num_processes=2", "--process_id=1"], "--coordinator h: .*HOST:PORT"),
        (["--num_processes=2", "--process_id=1"], "--coordinator"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "--process_id 2 .* --num_processes 2"),
    ],
)
def test_bad_flags(argv, words):
    with pytest.raises(ConfigError, match=words):
        distributed.start(arguments(*argv))


def test_single_process_starts_nothing(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed.start(arguments())
    assert distributed.is_primary()
    done = []
    distributed.run_on_primary(lambda: done.append(1))
    assert done == [1]


FAULT = """
import jax
jax.config.update("jax_platforms", "cpu")
from gener_jax.cli import command
from gener_jax.runtime import distributed
from gener_jax.runtime.errors import ConfigError
import argparse, sys

def main():
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    distributed.start(parser.parse_args())
    def work():
        raise ConfigError("the data are not there")
    distributed.run_on_primary(work)

command.run(main)
"""


@pytest.mark.slow
def test_error_of_the_primary_process_ends_all_and_is_reported_once(tmp_path):
    from tests.test_parallel import free_port

    port = free_port()
    both = [
        tiny.command(
            f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}",
            module="tests.data", cwd=tmp_path, before=f"sys.argv = ['x', *sys.argv[1:]]\n{FAULT}",
        )
        for i in (0, 1)
    ]  # fmt: skip
    (status, _, err), (other, _, other_err) = (tiny.finished(p) for p in both)
    assert status == 2, err
    assert err.count("error: the data are not there") == 1
    assert other != 0
    assert "the data are not there" not in other_err
