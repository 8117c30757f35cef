"""What a run is made of, before its first step."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Config
from gener_jax.data.loader import DataSource
from gener_jax.tasks.base import Task
from gener_jax.training.checkpoint import Checkpoints
from gener_jax.training.hooks import Hook, Moment
from gener_jax.training.metrics import Log
from gener_jax.training.objectives import Objective


@dataclasses.dataclass
class Run:
    """Everything the loop needs, made by `train.prepare`."""

    config: Config
    workdir: Path
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    stream: DataSource
    objective: Callable[[int], Objective]  # of the step that follows this many completed ones
    tasks: Sequence[Task]
    best: Task | None  # the one whose metric chooses the best checkpoint
    hooks: Sequence[Hook]
    checkpoints: Checkpoints
    now: Moment  # where it is
    position: int  # examples read until its start
    caught_up: bool  # whether the hooks that were due at the last step have been called
    frozen: dict  # the parameters that are not trained
    trains: Callable[[str], bool]  # as in `step.abstract_state`
    init: Callable | None
    log: Log

    @property
    def tokens_per_step(self) -> int:
        """Input tokens of a step, over all devices."""
        return self.config.train.batch_size * self.config.data.context_length
