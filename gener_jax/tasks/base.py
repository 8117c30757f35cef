"""What a task is: something that a model is measured by, during training and from a checkpoint."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax

from gener_jax.config import ModelSpec
from gener_jax.statistics.metrics import Metric
from gener_jax.storage.results import Dataset

Progress = Callable[[int, int], None]  # called with the units of work done, and with those in all


@dataclasses.dataclass
class Result:
    """What a task found. A subclass may compute `baselines` and `breakdown` when they are asked for, after training.

    Attributes:
      metrics: numbers by name, which training logs; all are declared in `Task.metrics`.
      counts: what was evaluated, such as regions and bases.
      intervals: metric → the ends of its 95 % confidence interval, or None; None without any.
      baselines: name → metric → value, on the same data.
      breakdown: column → group → metrics and counts of that group.
      dataset: what it was evaluated on, if that is a dataset of regions.
      text: lines for a person, beyond the table of all this; not stored.
      seconds: what the model took (see `measure`).
    """

    metrics: dict[str, float]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    breakdown: dict[str, dict[str, dict[str, float]]] = dataclasses.field(default_factory=dict)
    dataset: Dataset | None = None
    text: str = ""
    seconds: float = 0.0
    intervals: dict[str, tuple[float, float] | None] | None = None


class Task(Protocol):
    """A measurement of a model.

    Attributes:
      name: its key in the log.
      metrics: what its numbers are, by name.
      metric: the main one, which can choose the best checkpoint, as `checkpoint.best` NAME.METRIC.
    """

    name: str
    metrics: dict[str, Metric]
    metric: str

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh) -> Callable[[Any, Progress], Result]:
        """`run(params, progress)`, for parameters of the model on the mesh, stacked or by layer.

        It is made once and called many times; every process calls it, and gets the same result.

        Raises:
          ConfigError: if the task cannot be done with this model.
        """


def measure(run: Callable[[Any, Progress], Result], params, progress: Progress) -> Result:
    """What `run` of `Task.prepare` finds, with the time it took."""
    began = time.perf_counter()
    result = run(params, progress)
    result.seconds = time.perf_counter() - began
    return result


def silent(done: int, total: int) -> None:
    """Progress that nobody sees."""
