"""Checkpoints by orbax: parameters, optimizer state, loader state and config of a step, written asynchronously.

A run's folder holds `config.json`, `environment.json`, `log.jsonl` and `checkpoints/<step>/`. Parameters and optimizer
state are separate items, so that inference reads the parameters alone.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from gener_jax.config import Config, ConfigError, dumps, flatten, resolve
from gener_jax.training.step import State

_TOKENIZER = "tokenizer.model"


class CheckpointError(ValueError):
    """A checkpoint that is absent, of another shape, or of another run: one line for the user."""


def _score(metrics: dict) -> float:
    """Held-out bits per base, by which the best is chosen; a checkpoint without any, or with NaN, is never best."""
    bits = metrics["bits_per_base"]
    return math.inf if bits is None or math.isnan(bits) else bits


def _manager(folder: Path, keep: int | None = None) -> ocp.CheckpointManager:
    """orbax's manager of a run's checkpoints, which keeps the newest `keep` and the best; None: for reading."""
    policies = [
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(get_metric_fn=_score, reverse=True, n=1),
    ]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies) if keep else None,
        best_fn=_score,  # without it orbax stores no metrics and calls the newest the best
        best_mode="min",
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,  # what a kill left half-written
    )
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "loader": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder.absolute() / "checkpoints", options=options, item_handlers=handlers)


class Checkpoints:
    """The checkpoints of the run that is being trained."""

    def __init__(self, folder: Path, keep: int):
        self._folder, self._manager = folder, _manager(folder, keep)

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, loader: dict, config: Config, bits_per_base: float | None) -> None:
        """Starts writing; returns as soon as the arrays are copied.

        `bits_per_base` of the held-out regions chooses the best; None where they were not looked at.

        Raises:
          CheckpointError: if this one, or the one before, cannot be written.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(state.opt_state),
            loader=ocp.args.JsonSave(loader),
            config=ocp.args.JsonSave(dataclasses.asdict(config)),
        )
        with self._writing():
            self._manager.save(step, args=items, metrics={"bits_per_base": bits_per_base})

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """The state of a step, placed as `target` (shapes with shardings) says, and the loader's state.

        Raises:
          CheckpointError: if it has another shape than the target, or cannot be read.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params),
            optimizer=ocp.args.StandardRestore(target.opt_state),
            loader=ocp.args.JsonRestore(),
        )
        restored = _restore(self._manager, self._folder, step, items, target.params)
        number = jax.device_put(np.int32(step), target.step.sharding)
        return State(number, restored["params"], restored["optimizer"]), restored["loader"]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: if the last one cannot be.
        """
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds, OSError the least of them
            raise CheckpointError(
                f"{self._folder / 'checkpoints'}: a checkpoint cannot be written ({_first_line(error)}); make room, "
                "and the same command goes on from the one before"
            ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]


def _restore(manager: ocp.CheckpointManager, folder: Path, step: int, items, params):
    """What `items` asks of a step, once the shapes of its parameters are known to be those of `params`."""
    where = f"{folder / 'checkpoints' / str(step)}"
    try:
        saved = manager.item_metadata(step)["params"]
        found = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(saved)}
        wanted = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(params)}
        for name in sorted(wanted.keys() | found.keys()):
            if found and wanted.get(name) != found.get(name):
                raise CheckpointError(
                    f"{where}: has another shape: {name} is {found.get(name, 'absent')}, the model's "
                    f"{wanted.get(name, 'absent')}; is model.* what it was trained with?"
                )
        return manager.restore(step, args=items)
    except CheckpointError:
        raise
    except Exception as error:  # of a damaged file: orbax and tensorstore raise many kinds
        raise CheckpointError(
            f"{where}: cannot be read ({_first_line(error)}); where it is damaged, remove that folder and take "
            "another step"
        ) from error


def restore_params(folder: Path, target, step: int | str | None = None):
    """The parameters alone, placed as `target` says, and their step; `step` None is the newest, "best" the best.

    Raises:
      CheckpointError: if there is none, it cannot be read, or its shapes differ from the target's.
    """
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder}: holds no checkpoints; train one with python -m gener_jax.train")
    with _manager(folder) as manager:
        steps = manager.all_steps()
        if not steps:
            raise CheckpointError(f"{folder}: holds no complete checkpoint yet")
        if step == "best":
            step = manager.best_step()
            if step is None or _score(manager.metrics(step)) == math.inf:
                raise CheckpointError(f"{folder}: no checkpoint has held-out bits per base, so none is the best")
        step = max(steps) if step is None else step
        if step not in steps:
            raise CheckpointError(f"{folder}: has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
        items = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        return _restore(manager, folder, step, items, target)["params"], step


def read_loader_state(folder: Path, step: int) -> dict:
    """What a step's checkpoint says of the data: step, seed, and the digests of loader and dataset."""
    with _manager(folder) as manager:
        return manager.restore(step, args=ocp.args.Composite(loader=ocp.args.JsonRestore()))["loader"]


def read_config(folder: Path) -> Config:
    """The resolved configuration that a run's folder holds."""
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: holds no config.json; give the folder of a run of gener_jax.train")
    try:
        config = resolve(json.loads(path.read_text()))
        if (folder / _TOKENIZER).exists():  # the run's own copy
            tokenizer = dataclasses.replace(config.tokenizer, model_file=str(folder / _TOKENIZER))
            config = dataclasses.replace(config, tokenizer=tokenizer)
        return config
    except (json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from None


# What decides the result of a run. The rest (mesh, how often to save and look, where the files lie) may change freely.
_DECIDES = ("model.", "tokenizer.", "data.", "optimizer.", "train.num_steps", "train.batch_size", "train.seed")
_FREE = (
    "data.path", "data.build_from", "data.validation_share", "data.num_workers", "data.prefetch",
    "tokenizer.model_file",
)  # fmt: skip


def changed_fields(old: Config, new: Config) -> list[str]:
    """The differences that would make a resumed run another run, as `field: old → new`, less those allowed by name."""
    before = dict(flatten(old))
    return [
        f"{name}: {before[name]} → {value}"
        for name, value in flatten(new)
        if name.startswith(_DECIDES) and name not in _FREE + new.train.allow_changes and before[name] != value
    ]


def check_folder(folder: Path, config: Config) -> None:
    """Checks that the run that is in a folder, if any, may go on with this config.

    Raises:
      ConfigError: listing the fields that differ.
    """
    if not (folder / "config.json").exists():
        return
    if changes := changed_fields(read_config(folder), config):
        names = ",".join(c.split(":")[0] for c in changes)
        raise ConfigError(
            f"{folder}: resumed with another configuration ({'; '.join(changes)}): take another --workdir, "
            f"or allow it with --config.train.allow_changes={names}"
        )


def describe_folder(folder: Path, config: Config) -> None:
    """Writes config.json, adds this start to environment.json, and keeps a copy of a BPE tokenizer's model.

    environment.json is a list, an object a start of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.tokenizer.kind == "bpe" and not (folder / _TOKENIZER).exists():
        beside = folder / f"{_TOKENIZER}.partial"
        shutil.copyfile(config.tokenizer.model_file, beside)
        os.replace(beside, folder / _TOKENIZER)
    _write(folder / "config.json", dumps(config))
    path = folder / "environment.json"
    try:
        starts = json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); remove it, it is only a record") from None
    starts = starts if isinstance(starts, list) else [starts]  # one object, as it was once written
    _write(path, json.dumps([*starts, _environment()], indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    beside = path.with_suffix(".partial")
    beside.write_text(text)
    os.replace(beside, path)


def _environment() -> dict:
    versions = {}
    for package in (
        "gener_jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "array_record",
        "numpy",
    ):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "versions": versions,
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from; None outside of one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
