"""Hooks: what happens between steps."""

import dataclasses
from typing import Any, Protocol

import jax

from gener_jax.tasks.base import Result
from gener_jax.training.step import State


@dataclasses.dataclass
class Moment:
    """A run between two steps, as a hook sees it.

    Attributes:
      step: steps done.
      state: that after them; a hook may replace it.
      metrics: of the last step, as in the log.
      results: of the tasks, if this step was evaluated; else empty.
      stop: why the run ends here, if a hook set it; the run is evaluated and saved, and stays ended.
    """

    step: int
    state: State
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    stop: str | None = None

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all following steps."""
        with jax.transfer_guard("allow"):
            self.state = dataclasses.replace(self.state, rate_scale=self.state.rate_scale * factor)


class Hook(Protocol):
    """Something to do between steps, after the evaluation and before the checkpoint of the same step, if they are due.

    Every process calls it and must decide the same.

    Attributes:
      name: its key in a checkpoint.
      state: what it must know to go on after a restart, as plain JSON values; None if nothing.
    """

    name: str
    state: Any

    def due(self, step: int) -> bool:
        """Whether to call it after `step` completed steps."""

    def __call__(self, now: Moment) -> None:
        """Looks at the run; may change its state and rate, or stop it."""
