"""Runs of several processes: how they find each other, and what only the primary one does."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from data_pipeline.ranges import Whole
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that describe the processes of a run, for use without a batch system."""
    group = parser.add_argument_group("several processes", "detected on TPU pods, SLURM, GKE and Open MPI")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num_processes", type=Whole(1), metavar="N")
    group.add_argument("--process_id", type=Whole(), metavar="I", help="from 0")


def surrounding(environment: Mapping[str, str]) -> str | None:
    """The system that started several processes of this program, by the environment; None: none that is known.

    With each of them `jax.distributed.initialize` finds the coordinator and the process ids.
    """

    def number(name):
        value = environment.get(name, "")
        return int(value) if value.isdigit() else 0

    if environment.get("JAX_COORDINATOR_ADDRESS"):
        return "JAX_COORDINATOR_ADDRESS"
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or environment.get("MEGASCALE_NUM_SLICES"):
        return "TPU pod"  # Google Kubernetes Engine and TPU VMs set these
    # sbatch and salloc set SLURM_NTASKS in their own shell, but a step's variables exist only under srun.
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_NODELIST" in environment and number("SLURM_STEP_NUM_TASKS") > 1:
        return "SLURM"
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    return None


def start(args: argparse.Namespace) -> None:
    """Joins the other processes, if there are any; must come before any other use of jax.

    Raises:
      ConfigError: if the flags are incomplete, or the processes cannot connect.
    """
    import jax

    given = {name: getattr(args, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) < 3:
        if missing:
            raise ConfigError(f"give {' and '.join(missing)} too: several processes need all three flags")
        host, _, port = args.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--coordinator {args.coordinator}: write HOST:PORT")
        if not 0 <= args.process_id < args.num_processes:
            raise ConfigError(
                f"--process_id {args.process_id} is not from 0 to below --num_processes {args.num_processes}"
            )
        arguments = {
            "coordinator_address": args.coordinator,
            "num_processes": args.num_processes,
            "process_id": args.process_id,
        }
    elif surrounding(os.environ):
        arguments = {}
    else:
        return
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        around = "the flags" if arguments else surrounding(os.environ)
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"the processes cannot connect by {around}: {line}") from error


def is_primary() -> bool:
    """Whether this is the primary process, which writes logs, configuration and messages."""
    import jax

    return jax.process_index() == 0


def log_primary(text: str) -> None:
    """`log` on the primary process alone."""
    if is_primary():
        log(text)


def run_on_primary(work: Callable[[], None]) -> None:
    """Runs `work` on the primary process while the others, which share its folders, wait.

    Raises:
      what `work` raises, on the primary process; SystemExit on the others.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        work()
        return
    fault = None
    if is_primary():
        try:
            work()
        except Exception as error:
            fault = error
    failed = bool(multihost_utils.broadcast_one_to_all(np.int32(fault is not None)))
    if fault is not None:
        raise fault
    if failed:
        sys.exit(1)  # the primary process reports why


def all_agree(good: bool) -> bool:
    """Whether `good` holds on every process; each must call this."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return good if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.int32(good)).all())


def check_shared(folder: Path) -> None:
    """Checks that all processes see the folder that the primary one made.

    Raises:
      ConfigError: if one does not.
    """

    if not all_agree(folder.exists()):
        raise ConfigError(f"{folder}: not every process sees it; it must be on storage that all of them share")
