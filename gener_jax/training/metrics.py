"""Metrics from the device to their readers: one fetch, a log of JSON lines and its writers, a pausable clock."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict

from data_pipeline.errors import one_line
from data_pipeline.files import finite, write_text
from gener_jax.config import Config, Train
from gener_jax.runtime import distributed
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


class Clock:
    """Seconds of training, without evaluation and saving."""

    def __init__(self):
        self._seconds, self._since = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextlib.contextmanager
    def paused(self):
        """Time spent inside does not count."""
        self._seconds, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class Profile:
    """Traces some steps with jax's profiler into `profile/` of the run's folder, for TensorBoard, XProf or Perfetto."""

    def __init__(self, config: Train, folder: Path):
        self._folder, self._first, self._trace = folder / "profile", config.profile_from, contextlib.ExitStack()
        self._last = None if self._first is None else self._first + config.profile_steps - 1

    def begin(self, step: int) -> None:
        """Call before a step."""
        if step == self._first:
            self._trace.enter_context(jax.profiler.trace(str(self._folder)))

    def end(self, step: int, metrics) -> None:
        """Call after a step; waits for the last one to trace."""
        if step == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes the trace if the run ends before the last step to trace."""
        self._trace.close()


class Log:
    """`log.jsonl` in the run's folder, one JSON object per line, truncated to the restored step when a run resumes; and
    the writers of `train.writers`, which get the same numbers. Only the primary process writes.
    """

    def __init__(self, folder: Path, step: int, config: Config, *, evaluated: bool = True):
        """Opens the log and drops what follows `step`: those steps are run again, to the same numbers. So is the
        evaluation of `step` itself, unless it is `evaluated`: a run killed after it may have logged one.

        Raises:
          ConfigError: if a writer's package is not installed, or it does not start.
        """
        self._file, self._others = None, []
        if not distributed.is_primary():
            return
        check_writers(config)
        path = folder / "log.jsonl"
        kept = [x for x in read_log(path) if x["step"] < step + ("loss" in x or evaluated)]
        write_text(path, "".join(json.dumps(values) + "\n" for values in kept))
        for name in config.train.writers:
            try:
                self._others.append(_WRITERS[name](folder, step, config))
            except Exception as error:  # wandb has its own exceptions
                raise ConfigError(f"does not start: {one_line(error)}", "train.writers", name) from error
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, **values) -> None:
        """Appends and flushes one line; numbers that are not finite become null, so that every line is JSON."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **finite(values)}) + "\n")
        self._file.flush()
        for write, _ in self._others:
            write(step, flatten_dict(values, sep="/"))

    def close(self) -> None:
        """Closes the file and the writers."""
        if self._file is not None:
            self._file.close()
        for _, close in self._others:
            close()


def check_writers(config: Config) -> None:
    """Checks that the packages of `train.writers` are installed.

    Raises:
      ConfigError: naming the extra to install.
    """
    for name in config.train.writers:
        try:
            importlib.import_module({"tensorboard": "tensorboardX", "wandb": "wandb"}[name])
        except ImportError:
            raise ConfigError(f"needs pip install -e '.[{name}]'", "train.writers", name) from None


def _tensorboard(folder, step, config):
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(step, values):
        for name, value in values.items():
            writer.add_scalar(name if "/" in name else f"train/{name}", value, step)

    return write, writer.close


def _wandb(folder, step, config):
    import wandb

    path = str(folder.absolute())
    run = wandb.init(
        project=config.train.wandb_project, name=folder.absolute().name, resume="allow", dir=path,
        id=hashlib.sha256(path.encode()).hexdigest()[:16], config=dataclasses.asdict(config),
    )  # fmt: skip
    return lambda step, values: run.log(values, step=step), run.finish


_WRITERS = {"tensorboard": _tensorboard, "wandb": _wandb}  # each returns two functions: write(step, values) and close()


def read_log(path: Path) -> Iterator[dict]:
    """Yields the objects of a log, each with its `step`; none if there is no file.

    A line that a kill cut off is left out; so is any other that is not of a log, after a warning with its number.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else (), 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # also of bytes that are not UTF-8
            values = None
        if isinstance(values, dict) and type(values.get("step")) is int:
            yield values
        elif line.endswith(b"\n"):
            log(f"warning: {path}, line {number}: not a JSON object with a step, so it is ignored")


def logged(path: Path, step: int) -> dict:
    """The training metrics of a step in a log; empty if the step was not logged."""
    return next((values for values in read_log(path) if values["step"] == step and "loss" in values), {})
