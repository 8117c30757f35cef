"""What ends or slows fine-tuning when validation stops improving; the state is in each checkpoint."""

import math
from collections.abc import Callable

from gener_jax.training.hooks import Moment


class _Patience:
    """Counts the evaluations since the best one.

    Attributes:
      state: the `best` value of the metric so far (None before the first) and the evaluations `waited` since.
    """

    name: str

    def __init__(self, task, patience: int, due: Callable[[int], bool]):
        """`task`: whose main metric is watched. `due`: at which steps it is evaluated."""
        self._task, self._patience, self.due = task, patience, due
        self._sign = 1 if task.metrics[task.metric].higher_is_better else -1
        self.state = {"best": None, "waited": 0}

    def __call__(self, now: Moment) -> None:
        """Compares the metric with the best so far; what is not a number is no gain."""
        value, best = now.results[self._task.name].metrics[self._task.metric], self.state["best"]
        gained = math.isfinite(value) and (best is None or self._sign * (value - best) > 0)
        self.state = {"best": value, "waited": 0} if gained else {"best": best, "waited": self.state["waited"] + 1}
        if self.state["waited"] >= self._patience:
            self._act(now)

    def _act(self, now: Moment) -> None:
        raise NotImplementedError


class EarlyStopping(_Patience):
    """Ends the run after `patience` evaluations in a row without a gain."""

    name = "early_stopping"

    def _act(self, now: Moment) -> None:
        metric, best = f"{self._task.name}.{self._task.metric}", self.state["best"]
        best = "no value" if best is None else f"{best:.4f}"
        now.stop = f"{metric} has not exceeded {best} in {self.state['waited']} evaluations"
        if self._sign < 0:
            now.stop = now.stop.replace("exceeded", "fallen below")


class Plateau(_Patience):
    """Multiplies the learning rate by `factor` after `patience` evaluations in a row without a gain, and waits again.

    `ReduceLROnPlateau` of PyTorch acts when there are more than its patience: its patience 1 is 2 here.
    """

    name = "plateau"

    def __init__(self, task, patience: int, due: Callable[[int], bool], factor: float):
        super().__init__(task, patience, due)
        self._factor = factor

    def _act(self, now: Moment) -> None:
        now.scale_rate(self._factor)
        self.state = {**self.state, "waited": 0}
