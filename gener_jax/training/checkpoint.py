"""The checkpoints of the run being trained, written asynchronously, and whether a run may resume.

`gener_jax.storage.run_folder` describes a run's folder and reads it for inference.
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

from gener_jax.config import Config, flatten
from gener_jax.runtime import distributed
from gener_jax.runtime.errors import CheckpointError, ConfigError, DamagedError
from gener_jax.runtime.progress import log
from gener_jax.storage import run_folder
from gener_jax.storage.run_folder import checksum
from gener_jax.tasks.base import Task
from gener_jax.training.step import State


def _sealed(loader: dict) -> dict:
    """The loader's state with its own checksum."""
    return {**loader, "crc": zlib.crc32(json.dumps(loader, sort_keys=True).encode())}


def _optimizer_item(state: State) -> dict:
    """The item `optimizer` of a checkpoint."""
    return {"moments": state.opt_state, "gradient_stats": state.gradient_stats, "rate_scale": state.rate_scale}


def _content(state: State) -> State:
    """What the checksum of a checkpoint covers: all but the step, which is the name of its folder."""
    return dataclasses.replace(state, step=None)


class Checkpoints:
    """The checkpoints of the run being trained."""

    def __init__(self, folder: Path, keep: int, best: Task | None = None):
        """`best`: the task whose metric chooses the best; None: none is kept as such."""
        self._folder, self._metrics = folder, dict(run_folder.NOT_MEASURED)
        if best is not None:
            higher_is_better = best.metrics[best.metric].higher_is_better
            self._metrics.update(metric=f"{best.name}.{best.metric}", higher_is_better=higher_is_better)
        distributed.run_on_primary(lambda: self._move_away(run_folder.unreadable_metrics(folder)))
        self._manager = run_folder.open_manager(folder, keep, self._metrics["metric"])

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, loader: dict, config: Config, value: float | None) -> None:
        """Starts writing; returns as soon as the arrays are copied.

        `value` is that of the metric that chooses the best; None if it was not measured.

        Raises:
          CheckpointError: if this one, or the previous one, cannot be written.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(_optimizer_item(state)),
            loader=ocp.args.JsonSave(_sealed({**loader, "checksum": checksum(_content(state))})),
            config=ocp.args.JsonSave(dataclasses.asdict(config)),
        )
        with run_folder.writing(self._folder):
            self._manager.save(step, args=items, metrics={**self._metrics, "value": value})

    def evaluated(self, step: int, value: float | None) -> None:
        """Records the evaluation of a saved step that had been stopped during it: the step may be the best.

        Raises:
          CheckpointError: if it cannot be written.
        """
        with run_folder.writing(self._folder):
            distributed.run_on_primary(
                lambda: run_folder.write_metrics(self._folder, step, {**self._metrics, "value": value})
            )
            self._manager.reload()

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """The state of a step, placed like `target` (shapes with shardings), and the loader's state.

        Raises:
          CheckpointError: if it has another shape than the target.
          DamagedError: if it cannot be read, or its bits are not those that were saved.
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
            raise DamagedError(self._folder / "checkpoints" / str(step), "`loader` differs from what was saved")
        del loader["crc"]
        state = State(number, restored["params"], rest["moments"], rest["gradient_stats"], rest["rate_scale"])
        expected, found = loader.pop("checksum"), checksum(_content(state))
        if found != expected:
            raise DamagedError(
                self._folder / "checkpoints" / str(step),
                f"differs from what was saved (checksum {found}, was {expected}); remove that folder and take another "
                "step",
            )
        return state, loader

    def _check_layout(self, step: int, target: State) -> None:
        """Raises CheckpointError if the optimizer's state is intact, but of another kind than the target's."""
        try:
            saved = jax.tree.leaves(self._manager.item_metadata(step)["optimizer"])
            saved = sorted((tuple(x.shape), str(jnp.dtype(x.dtype))) for x in saved)
        except Exception:  # damaged: the restore reports it
            return
        wanted = sorted((x.shape, str(x.dtype)) for x in jax.tree.leaves(_optimizer_item(target)))
        where = self._folder / "checkpoints" / str(step)
        if saved and len(saved) != len(wanted):
            raise CheckpointError(
                where,
                "has the optimizer state of an earlier version, of another optimizer or of other trained parameters: "
                "start a new run from its parameters with --config.train.init_from and another --workdir",
            )
        if saved != wanted and [shape for shape, _ in saved] == [shape for shape, _ in wanted]:
            problem = "has an optimizer state of other types than optimizer.state_dtype, which cannot change in a run"
            raise CheckpointError(where, problem, name="optimizer.state_dtype")

    def newest(self, target: State) -> tuple[int, State, dict] | None:
        """The newest checkpoint that can be restored: its step, state and loader's state; None if there is none.

        Newer ones that are damaged are reported and moved to `damaged/`: their steps are saved again.

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
                log(f"warning: {error}")
            if not distributed.all_agree(fault is None):  # the damage may be visible to one process only
                damaged.append(
                    (
                        step,
                        fault
                        or DamagedError(self._folder / "checkpoints" / str(step), "another process cannot read it"),
                    )
                )
                continue
            if damaged:
                distributed.run_on_primary(lambda: self._move_away([step for step, _ in damaged]))
                self._manager.reload()
            return step, state, loader
        if damaged:
            raise damaged[0][1]
        if any((self._folder / "damaged").glob("*")):  # never start again silently
            raise DamagedError(
                self._folder / "damaged", "holds all that remains of this run; take another --workdir, or remove it"
            )
        return None

    def _move_away(self, steps: list[int]) -> None:
        aside = self._folder / "damaged"
        for step in steps:
            aside.mkdir(exist_ok=True)
            name = next(n for n in itertools.count(1) if not (aside / f"{step}.{n}").exists())
            os.replace(self._folder / "checkpoints" / str(step), aside / f"{step}.{name}")
            log(f"moved checkpoint {step} to {aside / f'{step}.{name}'}: it is damaged")

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: if the last one cannot be written.
        """
        with run_folder.writing(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()


# Fields that determine the result of a run. The others (mesh, intervals of saving and evaluation, paths) may change.
# The size of the vocabulary is the tokenizer's.
_DECIDES = (
    "model.",
    "tokenizer.",
    "data.",
    "objective.",
    "optimizer.",
    "train.num_steps",
    "train.batch_size",
    "train.seed",
    "train.gradient_dtype",
    "train.init_from",
    "finetune.",
)
_FREE = (
    "data.path", "data.build_from", "data.validation_fraction", "data.num_workers", "data.prefetch",
    "tokenizer.model_file", "model.vocab_size", "model.attention", "model.attention_block", "model.attention_documents",
    "model.remat", "model.scan_unroll", "optimizer.max_consecutive_skips",
    "finetune.train", "finetune.validation", "finetune.test", "finetune.genome", "finetune.baselines",
)  # fmt: skip
# Those of them that no checkpoint can follow: they decide the shapes or types of the state, and what the tokens mean.
_FIXED = (
    "model.hidden_size", "model.intermediate_size", "model.num_hidden_layers", "model.num_attention_heads",
    "model.num_key_value_heads", "model.head_dim", "tokenizer.kind", "tokenizer.k",
    "optimizer.state_dtype",
    "finetune.problem", "finetune.method", "finetune.layer", "finetune.rank", "finetune.targets",
)  # fmt: skip


def changed_fields(old: Config, new: Config) -> dict[str, str]:
    """The changes that would make a resumed run another run, by field, as `field: old → new`.

    Without those that are allowed by name, unless no checkpoint can follow them.
    """
    before, allowed = dict(flatten(old)), {*_FREE, *new.train.allow_changes} - {*_FIXED}
    return {
        name: f"{name}: {before[name]} → {value}"
        for name, value in flatten(new)
        if name.startswith(_DECIDES) and name not in allowed and before[name] != value
    }


def check_folder(folder: Path, config: Config) -> None:
    """Checks that the run in a folder, if there is one, may resume with this config.

    Raises:
      ConfigError: listing the fields that differ.
    """
    if not (folder / "config.json").exists():
        return
    if changes := changed_fields(run_folder.read(folder), config):
        fixed = ", ".join(name for name in changes if name in _FIXED)
        remedy = f"since {fixed} cannot change in a run" if fixed else f"or allow it with {allowing(config, *changes)}"
        raise ConfigError(
            f"{folder}: the configuration has changed ({'; '.join(changes.values())}): take another --workdir, {remedy}"
        )


def allowing(config: Config, *fields: str) -> str:
    """The flag that allows changes of these fields, in addition to those that are allowed."""
    return f"--config.train.allow_changes={','.join(dict.fromkeys([*config.train.allow_changes, *fields]))}"
