"""What a task is: something that a model is measured by, during training and from a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax

from gener_jax.config import ModelSpec

Progress = Callable[[int, int], None]  # called with the units of work done, and with those in all


@dataclasses.dataclass
class Result:
    """What a task found. A subclass may compute `text` and `json` when they are asked for, at the end of a run.

    Attributes:
      metrics: numbers by name, which training logs.
      text: lines for a person.
      json: everything, as plain values.
    """

    metrics: dict[str, float]
    text: str = ""
    json: dict = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A measurement of a model.

    Attributes:
      name: its key in the log.
      metric: the metric that can choose the best checkpoint, as `checkpoint.best` NAME.METRIC.
      higher_is_better: its direction.
    """

    name: str
    metric: str
    higher_is_better: bool

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh) -> Callable[[Any, Progress], Result]:
        """`run(params, progress)`, for parameters of the model on the mesh, stacked or by layer.

        It is made once and called many times; every process calls it, and gets the same result.

        Raises:
          ConfigError: if the task cannot be done with this model.
        """


def silent(done: int, total: int) -> None:
    """Progress that nobody sees."""
