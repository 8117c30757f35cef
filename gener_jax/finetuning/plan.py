"""What a problem gives a fine-tuning run, and what follows for its configuration from the rows and the base."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax

from gener_jax.config import Config, Head, ModelSpec
from gener_jax.data.loader import DataSource
from gener_jax.labelled.splits import NAMES
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage import pretrained
from gener_jax.tasks.base import Result, Task
from gener_jax.training.objectives import Objective

# Fields of the model, chosen by the run.
_OWN = ("dtype", "attention", "attention_block", "attention_documents", "remat", "scan_unroll")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run, before anything is trained.

    Attributes:
      config: with what follows from the rows and the base; it is kept in the folder.
      head: of the model; None if it has none.
      source: batches of the training rows.
      objective: what is minimised.
      init: the whole tree, as `step.abstract_state` takes it.
      task: the metrics of the validation rows; its name is "finetune".
      results: `(params, mesh)` of the best checkpoint → the results of test rows, if there are any, and of validation
        rows; and the head with its temperature. May write tables and plots into the folder.
      generated: the same → the task that measures what the model generates, and its result; None: it generates nothing.
      test: the digest of the test rows, of which stored results must be; None: there are none.
    """

    config: Config
    head: Head | None
    source: DataSource
    objective: Objective
    init: Callable
    task: Task
    results: Callable[[dict, jax.sharding.Mesh], tuple[list[Result], Head | None]]
    generated: Callable[[dict, jax.sharding.Mesh], tuple[Task, Result]] | None = None
    test: str | None = None


def base_of(config: Config) -> ModelSpec:
    """The model that fine-tuning starts from: its shape, tokenizer and framing; how it is computed is the run's choice.

    With a layer by number, `full` and `lora` use only the layers up to it.

    Raises:
      CheckpointError: if there is none.
      ConfigError: if it has no such layer.
    """
    spec, f = pretrained.read_spec(pretrained.find(config.train.init_from)), config.finetune
    chosen = {name: getattr(config.model, name) for name in _OWN}
    if f.layer.isdecimal():
        if int(f.layer) > spec.model.num_hidden_layers:
            problem = f"{config.train.init_from} has {spec.model.num_hidden_layers} layers"
            raise ConfigError(problem, "finetune.layer", f.layer)
        if f.method != "frozen":
            chosen["num_hidden_layers"] = int(f.layer)
    convention = spec.prompt_convention
    if convention == "unknown":
        convention = config.prompt_convention
        log(f"{config.train.init_from} does not name its prompt convention; taken as {convention} (prompt_convention)")
    return ModelSpec(config.name, dataclasses.replace(spec.model, **chosen), spec.tokenizer, convention)


def resolved(config: Config, spec: ModelSpec, *, rows: int, context_length: int, metric: str) -> Config:
    """The configuration of a run on so many training rows: its steps, evaluations and checkpoints, and its model.

    Args:
      spec: of the model that is trained.
      context_length: tokens of a batch's rows.
      metric: of the task "finetune", which chooses the checkpoint.
    """
    f, batch = config.finetune, config.train.batch_size
    num_steps = math.ceil(f.epochs * rows / batch - 1e-9)
    every = math.ceil(num_steps / max(round(f.epochs * f.evals_per_epoch), 1))
    files = {name: tuple(str(Path(path).absolute()) for path in getattr(f, name)) for name in NAMES}
    return dataclasses.replace(
        config,
        **{name: getattr(spec, name) for name in ("model", "tokenizer", "prompt_convention")},
        data=dataclasses.replace(config.data, context_length=context_length),
        train=dataclasses.replace(config.train, num_steps=num_steps),
        eval=dataclasses.replace(config.eval, tasks=(), every_steps=every),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=every, best=f"finetune.{metric}"),
        finetune=dataclasses.replace(f, metric=metric, **files),
    )
