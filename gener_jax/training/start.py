"""The state that a run starts from: a checkpoint's, the parameters of another model, or a new one."""

import dataclasses
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from gener_jax.config import Config
from gener_jax.model.trainable import everything, merge, split
from gener_jax.runtime import distributed
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage import pretrained, run_folder
from gener_jax.training.checkpoint import Checkpoints, checksum
from gener_jax.training.step import abstract_state, init_state


def start(config: Config, mesh: Mesh, checkpoints: Checkpoints, folder: Path, trains=everything, init=None):
    """The newest checkpoint that can be restored, or a new state with the parameters of `train.init_from`.

    Parameters that are not trained are those of `train.init_from`, also when a run resumes; the folder names them.
    `trains` and `init` are those of `step.abstract_state`.

    Returns the number of steps done; the state; the frozen parameters, matrices in the compute dtype; and the loader's
    state in the checkpoint, None without one.

    Raises:
      ConfigError: if parameters are not trained and there is no `train.init_from`, or it has another tokenizer.
      CheckpointError: if something cannot be read, or has other shapes, or if the frozen parameters have changed.
    """
    whole = pretrained.abstract_params(config.model, mesh, config.model.dtype)
    _, kept = split(whole, trains)
    if kept and config.train.init_from is None:
        raise ConfigError("must name a model, since not all parameters are trained", "train.init_from", "none")
    newest, frozen = checkpoints.newest(abstract_state(config, mesh, trains, init)), {}
    step, state, loader_state = newest or (0, init_state(config, mesh, trains, init), None)
    if config.train.init_from is not None and (kept or newest is None):
        if newest is None:  # frees those that the other model has before they are read
            added, _ = split(state.params, lambda path: path not in flatten_dict(whole, sep="/"))
            state = dataclasses.replace(state, params=added)
        own, _ = split(whole, trains)
        dtype = "float32" if own else config.model.dtype  # what is trained is float32
        params, frozen = split(_initial_params(config, mesh, dtype), trains)
        frozen = jax.tree.map(lambda x, like: x.astype(like.dtype), frozen, kept)
        if newest is None:
            state = dataclasses.replace(state, params=merge(state.params, params))
    if kept:
        base, number = pretrained.find(config.train.init_from).absolute(), checksum(frozen)
        distributed.run_on_primary(lambda: run_folder.name_base(folder, base, kept, number))
    return step, state, frozen, loader_state


def _initial_params(config: Config, mesh: Mesh, dtype: str):
    """The parameters of `train.init_from`; logs where its model differs from this run's.

    Fine-tuning takes as many of its first layers as this run has.

    Raises:
      ConfigError: if it has another tokenizer.
      CheckpointError: if it cannot be read, or has other shapes.
    """
    folder = pretrained.find(config.train.init_from)
    theirs = pretrained.read_spec(folder)
    tokenizer = theirs.tokenizer.make()
    if tokenizer.digest != config.tokenizer.make().digest:
        raise ConfigError(f"train.init_from {folder}: has another vocabulary ({tokenizer.name})")
    before, after = dataclasses.asdict(theirs.model), dataclasses.asdict(config.model)
    differences = [f"model.{name} {before[name]} → {value}" for name, value in after.items() if before[name] != value]
    log(f"starting from the parameters of {folder}" + (f", with {', '.join(differences)}" if differences else ""))
    layers = config.model.num_hidden_layers
    if config.finetune.problem is None or layers >= theirs.model.num_hidden_layers:
        return pretrained.read_params(folder, config.model, mesh, dtype=dtype)[0]
    return pretrained.read_first_layers(folder, config.model, mesh, dtype=dtype)
