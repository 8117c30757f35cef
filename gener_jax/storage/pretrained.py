"""The folder of a model, of either kind: a run of `gener_jax.train`, or a published model in Hugging Face's layout.

A folder with adapters alone, as PEFT writes it, is a published model too: its base with the adapters merged.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gener_jax import assets
from gener_jax.config import Config, Data, Model, ModelSpec
from gener_jax.model import decoder, lora
from gener_jax.model.sharding import tree_shardings
from gener_jax.model.trainable import merge, split
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import heads, run_folder
from gener_jax.storage.huggingface import adapters, hub, weights
from gener_jax.storage.huggingface import config as published_config

__all__ = [
    "abstract_params",
    "contents",
    "find",
    "has_adapters",
    "is_published",
    "read_adapters",
    "read_config",
    "read_first_layers",
    "read_model",
    "read_params",
    "read_spec",
]

SHIPPED = {"tiny": assets.TINY}  # name → folder
# What a model that ships is evaluated on by default: regions that it was not trained on, since the split of a region
# does not depend on what else a dataset is built from, and `experiments/tiny.py` has this validation fraction too.
_DATA = {assets.TINY: Data("datasets/NZ_CP001668.1", build_from=(str(assets.EXAMPLE_GENOME),))}


def find(name: str | Path, *, download: bool = False) -> Path:
    """The folder of a model: a path that exists, a name that ships, or a name in the cache (see `hub.find`)."""
    if str(name) in SHIPPED and not Path(name).exists():
        return SHIPPED[str(name)]
    return hub.find(name, download=download)


def is_published(folder: Path) -> bool:
    """Whether a folder has Hugging Face's layout, or PEFT's."""
    return adapters.is_folder(folder) or published_config.is_folder(folder)


def read_spec(folder: Path) -> ModelSpec:
    """The model in a folder, without its parameters.

    Raises:
      CheckpointError: if there is none, or it is not supported.
    """
    if adapters.is_folder(folder):
        return dataclasses.replace(read_spec(find(adapters.base_of(folder))), name=folder.absolute().name)
    return published_config.read(folder) if is_published(folder) else run_folder.read(folder, ModelSpec)


def read_config(folder: Path) -> Config:
    """The configuration of the run in a folder; of a model alone, its spec with the default settings of commands.

    Raises:
      CheckpointError: as `read_spec`.
    """
    if not is_published(folder) and run_folder.holds_run(folder):
        return run_folder.read(folder)
    spec = read_spec(folder)
    data, longest = _DATA.get(folder, Data()), spec.model.max_length
    data = dataclasses.replace(data, context_length=min(data.context_length, longest or data.context_length))
    return Config(**vars(spec), data=data)


def contents(folder: Path, step: int | str | None = None) -> tuple[int | None, list[Path]]:
    """The step of the checkpoint that `read_model` reads (None for a published model), and the files of the model.

    Raises:
      CheckpointError: if there is no such checkpoint.
    """
    if is_published(folder):
        _check_no_step(folder, step)
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
        base = adapters.base_of(folder) if adapters.is_folder(folder) else None
    else:
        step = run_folder.step_of(folder, _best_of_finetuned(folder) if step is None else step)
        params = folder / "checkpoints" / str(step) / "params"
        files = [folder / "config.json", *sorted(path for path in params.rglob("*") if path.is_file())]
        base = (run_folder.base_of(folder) or {}).get("path")
    return step, files + ([] if base is None else contents(find(base))[1])


def _check_no_step(folder: Path, step: int | str | None) -> None:
    if step is not None:
        raise CheckpointError(folder, "is a published model, which has no steps", name="step", value=step)


def abstract_params(model: Model, mesh: Mesh, dtype: str = "float32"):
    """Shapes of the parameters with their shardings on a mesh, matrices in `dtype`; the norms' scales are float32."""
    boxed = decoder.abstract(model)
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), tree_shardings(boxed, mesh)
    )
    return traverse_util.path_aware_map(
        lambda path, x: x if path[-1] == "scale" else jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), shapes
    )


def read_params(folder: Path, model: Model, mesh: Mesh, *, step: int | str | None = None, dtype: str = "float32"):
    """The stacked parameters of the decoder and the step of their checkpoint; otherwise as `read_model`."""
    params, _, step = read_model(folder, model, mesh, step=step, dtype=dtype)
    return params, step


def read_model(
    folder: Path,
    model: Model,
    mesh: Mesh,
    *,
    step: int | str | None = None,
    dtype: str = "float32",
    by_layer: bool = False,
    keep: Callable[[str, jax.Array], Any] | None = None,
):
    """The parameters, placed on a mesh; those of the head of a fine-tuned model, else None; and the step of their
    checkpoint (None for a published model).

    Parameters that a run did not train are those of its base (`base.json`); adapters are merged into them.

    Args:
      step: a checkpoint's step, "best", or None for the newest, of a fine-tuned run the best; only of a run.
      dtype: of the matrices; those of the head are float32.
      by_layer: an array per layer, as inference takes them, instead of stacked layers (see `model.decoder`).
      keep: of each decoder parameter's path by layer ("layers_0/q") and values, what stays, such as fewer bits; it
        implies `by_layer`. Of safetensors a parameter is kept before the next is read; otherwise all are read first.

    Raises:
      CheckpointError: if they cannot be read, or are not those of the model.
    """
    target, everywhere = abstract_params(model, mesh, dtype), NamedSharding(mesh, PartitionSpec())
    if is_published(folder):
        _check_no_step(folder, step)
        head = heads.read_params(folder)
        head = None if head is None else jax.device_put(head, everywhere)
        if adapters.is_folder(folder):
            params = kept(_merged(folder, model, mesh, dtype), keep)
        else:
            params = weights.read(folder, target, keep)
        return params if by_layer or keep else decoder.stack(params, donate=True), head, None
    base = run_folder.base_of(folder) or {"frozen": ()}
    trained, frozen = split(target, lambda path: path not in base["frozen"])
    step = _best_of_finetuned(folder) if step is None else step
    params, step = run_folder.restore_params(folder, trained, step, everywhere)
    head, added = params.pop("head", None), params.pop("adapters", None)
    if frozen:
        whole = read_first_layers(find(base["path"]), model, mesh, dtype=dtype)
        _, frozen = split(whole, lambda path: path not in base["frozen"])
        run_folder.check_base(folder, base, frozen, dtype)
        params = merge(frozen, params)
        del whole, frozen
    if added is not None:
        params = lora.merge(params, added)
    if by_layer or keep:
        params = kept(decoder.unstack(params, donate=True), keep)
    return params, head, step


def kept(params, keep: Callable[[str, jax.Array], Any] | None):
    """What `keep` keeps of parameters by layer, each freed before the next is made; None: all as it is."""
    if keep is None:
        return params
    found = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        found[path] = jax.block_until_ready(keep(path, leaf))
        if found[path] is not leaf:
            leaf.delete()
    return traverse_util.unflatten_dict(found, sep="/")


def _merged(folder: Path, model: Model, mesh: Mesh, dtype: str):
    """The parameters by layer of a folder with adapters alone: those of its base, with the adapters merged."""
    params = read_params(find(adapters.base_of(folder)), model, mesh, dtype=dtype)[0]
    if base := run_folder.base_of(folder):  # of our own export
        run_folder.check_base(folder, base, params, dtype)
    added = jax.device_put(adapters.read(folder, model), NamedSharding(mesh, PartitionSpec()))
    return lora.merge(decoder.unstack(params, donate=True), added)


def has_adapters(folder: Path) -> bool:
    """Whether reading a folder merges adapters into the parameters of a base: a LoRA run's, or PEFT's."""
    return adapters.is_folder(folder) if is_published(folder) else run_folder.holds_adapters(folder)


def read_adapters(folder: Path, mesh: Mesh, step: int):
    """The stacked adapters of a run at a step, replicated on a mesh.

    Raises:
      CheckpointError: if they cannot be read.
    """
    return run_folder.restore_params(folder, {}, step, NamedSharding(mesh, PartitionSpec()))[0]["adapters"]


def _best_of_finetuned(folder: Path) -> int | None:
    """The best checkpoint of a fine-tuned run, of which its results are; None of another folder, or if none has one."""
    if not run_folder.holds_run(folder) or (config := run_folder.read(folder)).finetune.problem is None:
        return None
    found = run_folder.best(folder, config.checkpoint.best)
    return None if found is None else found[0]


def read_first_layers(folder: Path, model: Model, mesh: Mesh, *, dtype: str = "float32"):
    """The stacked parameters of `model`, which has as many of the first layers of the folder's model.

    Raises:
      CheckpointError: as `read_params`.
    """
    layers = read_spec(folder).model.num_hidden_layers
    if layers <= model.num_hidden_layers:
        return read_params(folder, model, mesh, dtype=dtype)[0]
    params, _ = read_params(folder, dataclasses.replace(model, num_hidden_layers=layers), mesh, dtype=dtype)
    cut = jax.jit(lambda layers: jax.tree.map(lambda x: x[: model.num_hidden_layers], layers))
    return {**params, "layers": cut(params["layers"])}
