"""The checkpoints of the run that is being trained, written asynchronously, and whether a run may go on.

What a run's folder holds, and reading it for inference, is `gener_jax.run_folder`'s part.
"""

import dataclasses
import itertools
import json
import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gener_jax import distributed, run_folder
from gener_jax.config import Config, ConfigError, flatten
from gener_jax.errors import CheckpointError, DamagedError
from gener_jax.progress import say
from gener_jax.training.metrics import fetch
from gener_jax.training.step import Guard, State


def _sealed(loader: dict) -> dict:
    """With a check of itself."""
    return {**loader, "crc": zlib.crc32(json.dumps(loader, sort_keys=True).encode())}


def _optimizer_item(state: State) -> dict:
    """What a checkpoint's item `optimizer` holds."""
    guard = {field.name: getattr(state.guard, field.name) for field in dataclasses.fields(Guard)}
    return {"moments": state.opt_state, "guard": guard}


@jax.jit
def _checksum(tree):
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        # A sum that wraps is the same in any order, so on any mesh.
        total = total * jnp.uint32(0x01000193) + jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total


def checksum(state: State) -> int:
    """A number that any changed bit of a state changes, the same on any mesh; made on the devices."""
    return int(fetch(_checksum((state.params, state.opt_state, state.guard))))


class Checkpoints:
    """The checkpoints of the run that is being trained."""

    def __init__(self, folder: Path, keep: int):
        self._folder = folder
        distributed.first(lambda: self._move_away(run_folder.unreadable_metrics(folder)))
        self._manager = run_folder.open_manager(folder, keep)

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
            optimizer=ocp.args.StandardSave(_optimizer_item(state)),
            loader=ocp.args.JsonSave(_sealed({**loader, "checksum": checksum(state)})),
            config=ocp.args.JsonSave(dataclasses.asdict(config)),
        )
        with run_folder.writing(self._folder):
            self._manager.save(step, args=items, metrics={"bits_per_base": bits_per_base})

    def bits_per_base(self, step: int) -> float | None:
        """Of the held-out regions at a step that is saved; None where they were not looked at."""
        metrics = self._manager.metrics(step)  # None where the file is gone
        return None if metrics is None else metrics["bits_per_base"]

    def looked_at(self, step: int, bits_per_base: float) -> None:
        """Adds what a look at a saved step found, behind a stop before its end: it may be the best.

        Raises:
          CheckpointError: if it cannot be written.
        """
        with run_folder.writing(self._folder):
            distributed.first(lambda: run_folder.write_metrics(self._folder, step, {"bits_per_base": bits_per_base}))
            self._manager.reload()

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """The state of a step, placed as `target` (shapes with shardings) says, and the loader's state.

        Raises:
          CheckpointError: if it has another shape than the target.
          DamagedError: if it cannot be read, or holds other bits than were saved.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params),
            optimizer=ocp.args.StandardRestore(_optimizer_item(target)),
            loader=ocp.args.JsonRestore(),
        )
        self._check_layout(step, target)
        restored = run_folder.restore_items(self._manager, self._folder, step, items, target.params)
        number = jax.device_put(np.int32(step), target.step.sharding)
        rest, loader = restored["optimizer"], dict(restored["loader"])
        if _sealed({name: value for name, value in loader.items() if name != "crc"}) != loader:
            raise DamagedError(self._folder / "checkpoints" / str(step), "its `loader` is not what was saved")
        del loader["crc"]
        state = State(number, restored["params"], rest["moments"], Guard(**rest["guard"]))
        expected, found = loader.pop("checksum"), checksum(state)
        if found != expected:
            raise DamagedError(
                self._folder / "checkpoints" / str(step),
                f"holds other numbers than were saved (checksum {found}, "
                f"was {expected}); remove that folder and take another step",
            )
        return state, loader

    def _check_layout(self, step: int, target: State) -> None:
        """Raises CheckpointError where the optimizer's state is whole, but of another kind than the target's."""
        try:
            saved = jax.tree.leaves(self._manager.item_metadata(step)["optimizer"])
            saved = sorted((tuple(x.shape), str(jnp.dtype(x.dtype))) for x in saved)
        except Exception:  # damaged: the restore says so
            return
        wanted = sorted((x.shape, str(x.dtype)) for x in jax.tree.leaves(_optimizer_item(target)))
        if saved and saved != wanted and [s for s, _ in saved] != [s for s, _ in wanted]:
            if len(saved) == len(wanted):
                return  # another shape of the model, which `restore_items` names
            raise CheckpointError(
                self._folder / "checkpoints" / str(step),
                "its optimizer state is of an earlier version, or another "
                "optimizer: start a new run from its parameters with --config.train.init_from and another --workdir",
            )
        if saved and saved != wanted:
            raise CheckpointError(
                self._folder / "checkpoints" / str(step),
                "its optimizer state has other types than optimizer.state_dtype says: that cannot change within a run",
            )

    def newest(self, target: State) -> tuple[int, State, dict] | None:
        """The newest checkpoint that can be restored: its step, state and loader's state; None where there is none.

        Damaged ones that are newer are named, and moved out of the way, to `damaged/`: their steps are saved again.

        Raises:
          CheckpointError: if it has another shape than the target, or all are damaged.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            fault = None
            try:
                state, loader = self.restore(step, target)
            except DamagedError as error:
                fault = error
                say(f"warning: {error}")
            if not distributed.all_agree(fault is None):  # of several processes one alone may see it
                damaged.append(
                    (
                        step,
                        fault
                        or DamagedError(self._folder / "checkpoints" / str(step), "another process cannot read it"),
                    )
                )
                continue
            if damaged:
                distributed.first(lambda: self._move_away([step for step, _ in damaged]))
                self._manager.reload()
            return step, state, loader
        if damaged:
            raise damaged[0][1]
        if any((self._folder / "damaged").glob("*")):  # never anew in silence
            raise DamagedError(
                self._folder / "damaged", "holds all that is left of this run; take another --workdir, or remove it"
            )
        return None

    def _move_away(self, steps: list[int]) -> None:
        aside = self._folder / "damaged"
        for step in steps:
            aside.mkdir(exist_ok=True)
            name = next(n for n in itertools.count(1) if not (aside / f"{step}.{n}").exists())
            os.replace(self._folder / "checkpoints" / str(step), aside / f"{step}.{name}")
            say(f"moved checkpoint {step} to {aside / f'{step}.{name}'}: it is damaged")

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
    "objective.",
    "optimizer.",
    "train.num_steps",
    "train.batch_size",
    "train.seed",
    "train.init_from",
)
_FREE = (
    "data.path", "data.build_from", "data.validation_share", "data.num_workers", "data.prefetch",
    "tokenizer.model_file", "tokenizer.convention", "model.attention", "model.attention_block", "model.remat",
    "model.scan_unroll", "optimizer.max_skipped_in_row",
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
