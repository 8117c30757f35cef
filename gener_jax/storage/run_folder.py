"""Reads and writes a run's folder, with orbax: `config.json`, `environment.json`, `log.jsonl` and
`checkpoints/<step>/`.

Parameters and optimizer state of a step are separate items, so that inference reads the parameters alone.
`gener_jax.train` writes such a folder; `gener_jax.convert` makes one from a published model, with parameters alone.
"""

import contextlib
import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from orbax.checkpoint import checkpoint_managers

from data_pipeline.files import atomic, write_text
from gener_jax.config import Config, ModelSpec, resolve
from gener_jax.runtime.environment import environment
from gener_jax.runtime.errors import CheckpointError, ConfigError, DamagedError
from gener_jax.runtime.transfer import fetch
from gener_jax.storage.files import read_json

FORMAT = 2  # of config.json; 1 had no number
_TOKENIZER, BASE, _STARTS = "tokenizer.model", "base.json", "environment.json"
_METRICS = "metrics/metrics"  # orbax's, of a checkpoint
ADDED = ("head", "adapters")  # subtrees of the parameters of a fine-tuned model
NOT_MEASURED = {"metric": None, "value": None, "higher_is_better": False}  # what they hold


def _rank(metrics: dict, best: str | None) -> float:
    """The better a checkpoint, the lower; one without the metric `best`, or with NaN, is never the best."""
    if metrics["metric"] != best or metrics["value"] is None or math.isnan(metrics["value"]):
        return math.inf
    return -metrics["value"] if metrics["higher_is_better"] else metrics["value"]


def open_manager(folder: Path, keep: int | None = None, best: str | None = None) -> ocp.CheckpointManager:
    """orbax's manager of a run's checkpoints, which keeps the newest `keep` and the best; None: for reading.

    `best` names the metric that chooses the best.
    """
    rank = functools.partial(_rank, best=best)
    policies = [
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(get_metric_fn=rank, reverse=True, n=1),
    ]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies) if keep else None,
        best_fn=rank,  # without it orbax stores no metrics and calls the newest the best
        best_mode="min",
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,  # left half-written by a kill
    )
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "loader": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder.absolute() / "checkpoints", options=options, item_handlers=handlers)


def write_metrics(folder: Path, step: int, metrics: dict) -> None:
    """Replaces the metrics of a checkpoint."""
    path = folder / "checkpoints" / str(step) / _METRICS
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(metrics))


def read_metrics(folder: Path, step: int) -> dict:
    """The metrics of a checkpoint, as `NOT_MEASURED`; raises CheckpointError if they cannot be read."""
    return {**NOT_MEASURED, **read_json(folder / "checkpoints" / str(step) / _METRICS)}


def unreadable_metrics(folder: Path) -> list[int]:
    """Steps whose metrics cannot be read; orbax reads the metrics of all steps first, and fails at such a step."""
    steps = []
    for path in (folder / "checkpoints").glob(f"*/{_METRICS}"):
        if path.parts[-3].isdigit():
            try:
                metrics = json.loads(path.read_text())
                _rank(metrics, metrics["metric"])
            except (OSError, ValueError, KeyError, TypeError):
                steps.append(int(path.parts[-3]))
    return sorted(steps)


@contextlib.contextmanager
def writing(folder: Path):
    """Turns any failure to write a checkpoint into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise many kinds, OSError the least of them
        raise CheckpointError(
            folder / "checkpoints",
            f"a checkpoint cannot be written ({_first_line(error)}); free some space, "
            "and the same command resumes from the previous one",
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]


def restore_items(manager: ocp.CheckpointManager, folder: Path, step: int, items, params):
    """Restores `items` of a step, after checking that its parameters have the shapes of `params`."""
    where = folder / "checkpoints" / str(step)
    try:
        saved = manager.item_metadata(step)["params"]
        found = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(saved)}
        wanted = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(params)}
        for name in sorted(wanted.keys() | found.keys()):
            if found and wanted.get(name) != found.get(name):
                raise CheckpointError(
                    where,
                    f"does not fit the configured model: {name} has shape {found.get(name, 'absent')} in the "
                    f"checkpoint, {wanted.get(name, 'absent')} in the model; use the model.* it was trained with",
                    name=name,
                    value=found.get(name),
                )
        present = set(manager.item_metadata(step).keys())
        if missing := sorted(set(items.keys()) - present):
            if not {"optimizer", "loader"} & present:  # made by `write_params`
                raise CheckpointError(
                    where,
                    f"holds parameters alone and no {missing[0]}, so no run can resume from it: "
                    "start one from it with --config.train.init_from and another --workdir",
                )
            raise FileNotFoundError(f"it has no {missing[0]}")
        return manager.restore(step, args=items)
    except CheckpointError:
        raise
    except Exception as error:  # of a damaged file: orbax and tensorstore raise many kinds
        raise DamagedError(
            where,
            f"cannot be read ({_first_line(error)}); if it is damaged, remove that folder and use another checkpoint",
        ) from error


def best(folder: Path, metric: str | None) -> tuple[int, float] | None:
    """The step of the best checkpoint by a metric, of several the newest, and its value; None if none has it."""
    found = []
    for path in (folder / "checkpoints").glob(f"*/{_METRICS}"):
        if (name := path.parts[-3]).isdigit():
            metrics = read_metrics(folder, int(name))
            found.append((_rank(metrics, metric), -int(name), metrics["value"]))
    rank, step, value = min(found, default=(math.inf, 0, None))
    return None if rank == math.inf else (-step, value)


@contextlib.contextmanager
def _complete(folder: Path):
    """The manager of the checkpoints of a run, of which there is at least one that is complete."""
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(folder, "holds no checkpoints; train one with gener-jax train")
    if damaged := unreadable_metrics(folder):
        raise DamagedError(folder / "checkpoints" / str(damaged[-1]), "has unreadable metrics; remove that folder")
    with open_manager(folder) as manager:
        if not manager.all_steps():
            raise CheckpointError(folder, "holds no complete checkpoint yet")
        yield manager


def _chosen(manager: ocp.CheckpointManager, folder: Path, step: int | str | None) -> int:
    steps = manager.all_steps()
    if step == "best":
        metric = read(folder).checkpoint.best
        if (found := best(folder, metric)) is None:
            raise CheckpointError(folder, f"no checkpoint has {metric} (checkpoint.best), so there is no best one")
        step, _ = found
    step = max(steps) if step is None else step
    if step not in steps:
        problem = f"has no checkpoint of step {step}; it has {', '.join(map(str, steps))}"
        raise CheckpointError(folder, problem, name="step", value=step)
    return step


def step_of(folder: Path, step: int | str | None = None) -> int:
    """The step of the checkpoint that `restore_params` would restore; raises what it would."""
    with _complete(folder) as manager:
        return _chosen(manager, folder, step)


def restore_params(folder: Path, target, step: int | str | None = None, also=None):
    """The parameters alone, placed like `target`, and their step; `step` None is the newest, "best" the best.

    `also`: a sharding with which the subtrees "head" and "adapters" are restored too, where the checkpoint has them.

    Raises:
      CheckpointError: if there is none, it cannot be read, or its shapes differ from the target's.
    """
    with _complete(folder) as manager:
        step = _chosen(manager, folder, step)
        if also is not None:
            target = {**target, **_added(manager, step, also)}
        items = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        return restore_items(manager, folder, step, items, target)["params"], step


def _added(manager: ocp.CheckpointManager, step: int, sharding) -> dict:
    """The shapes of what fine-tuning adds to the parameters of a checkpoint; none if it is damaged."""
    try:
        saved = manager.item_metadata(step)["params"]
        added = {name: saved[name] for name in ADDED if name in saved}
    except Exception:  # `restore_items` reports it
        return {}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), added)


def holds_adapters(folder: Path) -> bool:
    """Whether the checkpoints of a run hold adapters of a base."""
    if not (folder / BASE).exists() or not (folder / "checkpoints").is_dir():
        return False
    with open_manager(folder) as manager:
        step = manager.latest_step()
        return step is not None and "adapters" in (manager.item_metadata(step)["params"] or {})


def write_params(folder: Path, spec: ModelSpec, params) -> None:
    """Writes a folder that holds a model alone, as step 0; for published models."""
    describe(folder, spec)
    items = ocp.args.Composite(params=ocp.args.StandardSave(params), config=ocp.args.JsonSave(dataclasses.asdict(spec)))
    with writing(folder), open_manager(folder, keep=2) as manager:
        manager.save(0, args=items, metrics=NOT_MEASURED)
        manager.wait_until_finished()


def read_loader_state(folder: Path, step: int) -> dict | None:
    """The loader's state in a checkpoint: position in examples, seed, digests of loader and dataset; None if it holds
    none.
    """
    with open_manager(folder) as manager:
        if "loader" not in manager.item_metadata(step).keys():  # noqa: SIM118 (orbax's object is no mapping)
            return None
        return manager.restore(step, args=ocp.args.Composite(loader=ocp.args.JsonRestore()))["loader"]


@jax.jit
def _checksum(tree):
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        # A sum modulo 2^32 is the same in any order, so on any mesh.
        total = total * jnp.uint32(0x01000193) + jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total


def checksum(tree) -> int:
    """A checksum over all bits of a tree of arrays, the same on any mesh; computed on the devices."""
    return int(fetch(_checksum(tree)))


def name_base(folder: Path, model: Path, frozen, checksum: int) -> None:
    """Writes `base.json` into a run's folder: the model whose parameters the run does not train, the paths of these,
    which its checkpoints do not hold, the type of their matrices, and a checksum over their bits.

    Raises:
      CheckpointError: if the run started with others.
    """
    leaves = flatten_dict(frozen, sep="/")
    dtype = next((str(jnp.dtype(x.dtype)) for path, x in leaves.items() if not path.endswith("/scale")), "float32")
    base = {"path": str(model), "frozen": sorted(leaves), "dtype": dtype, "checksum": checksum}
    if (before := base_of(folder) or base)["checksum"] != checksum:
        problem = f"those of {model} have checksum {checksum}; restore that model, or take another --workdir"
        raise CheckpointError(folder / BASE, problem, name="checksum", value=before["checksum"])
    write_text(folder / BASE, json.dumps(base, indent=2) + "\n")


def check_base(folder: Path, base: dict, frozen, dtype: str) -> None:
    """Raises CheckpointError if the frozen parameters of `base_of` are not those with which the run was trained.

    `dtype` is that of their matrices; in another one than the run's, nothing is known.
    """
    if dtype == base.get("dtype") and (found := checksum(frozen)) != base["checksum"]:
        problem = f"{base['path']} is not the model that was fine-tuned: its parameters have checksum {found}"
        raise CheckpointError(folder / BASE, problem, name="checksum", value=base["checksum"])


def base_of(folder: Path) -> dict | None:
    """What `name_base` wrote: `path` of the model, `frozen` paths, `dtype`, `checksum`; None if all is trained."""
    return read_json(folder / BASE) if (folder / BASE).exists() else None


def _values(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(folder, "holds no config.json; give the folder of a run of gener_jax.train")
    values = read_json(path)
    if (found := values.pop("format", 1)) != FORMAT:
        problem = f"has format {found} of another version, not {FORMAT}; train or convert it again"
        raise CheckpointError(path, problem, name="format", value=found)
    return values


def holds_run(folder: Path) -> bool:
    """Whether a folder holds the configuration of a run; False if it holds a model alone."""
    return "train" in _values(folder)


def read(folder: Path, cls: type = Config):
    """The resolved configuration of the run in a folder, or its model's alone if `cls` is `ModelSpec`.

    Raises:
      CheckpointError: if it is missing, damaged, of another version, or of a model alone where a run is needed.
    """
    values = _values(folder)
    names = [field.name for field in dataclasses.fields(cls)]
    if missing := [name for name in names if name not in values]:
        problem = f"has no {missing[0]}; give the folder of a run, not that of a model alone"
        raise CheckpointError(folder / "config.json", problem, name=missing[0])
    if (folder / _TOKENIZER).exists() and isinstance(values["tokenizer"], dict):  # the run's own copy
        values["tokenizer"]["model_file"] = str(folder / _TOKENIZER)
    try:
        return resolve({name: values[name] for name in names}, cls)
    except ConfigError as error:
        raise CheckpointError(folder / "config.json", str(error), name=error.field, value=error.value) from None


def describe(folder: Path, config: ModelSpec) -> None:
    """Writes config.json, adds this start to environment.json, and copies the model of a BPE tokenizer.

    environment.json is a list with one object per start of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.tokenizer.kind == "bpe" and not (folder / _TOKENIZER).exists():
        with atomic(folder / _TOKENIZER) as partial:
            shutil.copyfile(config.tokenizer.model_file, partial)
    write_text(folder / "config.json", json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2) + "\n")
    write_text(folder / _STARTS, json.dumps([*starts(folder), environment()], indent=2) + "\n")


def starts(folder: Path) -> list[dict]:
    """The starts of the run in a folder, each as `environment`; raises CheckpointError if they cannot be read."""
    path = folder / _STARTS
    try:
        found = json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise CheckpointError(path, f"is not valid JSON ({error}); remove it, nothing else depends on it") from None
    return found if isinstance(found, list) else [found]  # early versions wrote one object
