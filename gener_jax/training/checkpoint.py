"""The checkpoints of the run that is being trained, written asynchronously, and whether a run may go on.

What a run's folder holds, and reading it for inference, is `gener_jax.run_folder`'s part.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from gener_jax import run_folder
from gener_jax.config import Config, ConfigError, flatten
from gener_jax.training.step import State


class Checkpoints:
    """The checkpoints of the run that is being trained."""

    def __init__(self, folder: Path, keep: int):
        self._folder, self._manager = folder, run_folder.open_manager(folder, keep)

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
        with run_folder.writing(self._folder):
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
        restored = run_folder.restore_items(self._manager, self._folder, step, items, target.params)
        number = jax.device_put(np.int32(step), target.step.sharding)
        return State(number, restored["params"], restored["optimizer"]), restored["loader"]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: if the last one cannot be.
        """
        with run_folder.writing(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()


# What decides the result of a run. The rest (mesh, how often to save and look, where the files lie) may change freely.
_DECIDES = (
    "model.",
    "tokenizer.",
    "data.",
    "optimizer.",
    "train.num_steps",
    "train.batch_size",
    "train.seed",
    "train.init_from",
)
_FREE = (
    "data.path", "data.build_from", "data.validation_share", "data.num_workers", "data.prefetch",
    "tokenizer.model_file", "tokenizer.convention",
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
    if changes := changed_fields(run_folder.read_config(folder), config):
        names = ",".join(c.split(":")[0] for c in changes)
        raise ConfigError(
            f"{folder}: resumed with another configuration ({'; '.join(changes)}): take another --workdir, "
            f"or allow it with --config.train.allow_changes={names}"
        )
