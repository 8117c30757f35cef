"""What happens between steps: reading the metrics, and hooks: evaluation and saving in every run, and the user's own.

`run` is a `loop.Run` throughout.
"""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import jax

from gener_jax.model.trainable import merge
from gener_jax.runtime import distributed
from gener_jax.runtime.distributed import log_primary
from gener_jax.runtime.errors import Terminated, TrainingError
from gener_jax.runtime.progress import Progress
from gener_jax.runtime.transfer import fetch
from gener_jax.tasks.base import Result, measure
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.metrics import Clock
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
    """Something to do between steps: after the evaluation and before the checkpoint of the same step, if they are due.

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


class Saving:
    """The hook that writes checkpoints.

    Attributes:
      saved: the step of the newest; None: there is none.
    """

    def __init__(self, run, watchdog: Watchdog):
        self._run, self._watchdog, self._start = run, watchdog, run.now.step
        self.saved = run.now.step or None

    def due(self, step: int) -> bool:
        """As configured, and at the end."""
        return step % self._run.config.checkpoint.every_steps == 0 or step == self._run.config.train.num_steps

    def __call__(self, now: Moment, *, caught_up: bool = True) -> None:
        """Saves the state, with that of all hooks; of a saved step, only the metric that may make it the best.

        `caught_up`: the hooks that are due at this step have been called.
        """
        run = self._run
        value = now.results[run.best.name].metrics[run.best.metric] if run.best and now.results else None
        if self.saved == now.step:
            run.checkpoints.evaluated(now.step, value)
            return
        loader = {
            "position": run.position + (now.step - self._start) * run.config.train.batch_size,
            "seed": run.config.train.seed,
            "digest": run.stream.digest,
            "dataset": run.stream.dataset,
            "hooks": {hook.name: hook.state for hook in run.hooks},
            "caught_up": caught_up,
            "stop": now.stop,
            "metrics": now.metrics if now.stop or not caught_up else None,  # which the log may not have
        }
        self._watchdog.beat(f"saving step {now.step}")
        run.checkpoints.save(now.step, now.state, loader, run.config, value)
        self.saved = now.step


class Evaluation:
    """The hook that runs the tasks and logs their metrics."""

    def __init__(self, run, saving: Saving, termination: Termination, watchdog: Watchdog):
        self._run, self._saving, self._termination, self._watchdog = run, saving, termination, watchdog
        self._tasks = {task.name: task.prepare(run.config.spec, run.mesh) for task in run.tasks}

    def due(self, step: int) -> bool:
        """With every checkpoint too, since one of them is the best."""
        return step % self._run.config.eval.every_steps == 0 or self._saving.due(step)

    def __call__(self, now: Moment) -> None:
        """Sets the results.

        Raises:
          Terminated: as soon as the run must stop.
        """
        now.results = self.results(now)
        if now.results:
            self._run.log.write(now.step, **{name: result.metrics for name, result in now.results.items()})
            found = [(task, now.results[task.name].metrics[task.metric]) for task in self._run.tasks]
            text = ", ".join(f"{task.name} {task.metric} {value:.4f}" for task, value in found)
            log_primary(f"step {now.step}: {text}")

    def results(self, now: Moment) -> dict[str, Result]:
        """The result of each task."""
        params = merge(now.state.params, self._run.frozen)
        return {name: measure(run, params, self._moved) for name, run in self._tasks.items()}

    def _moved(self, done: int, total: int) -> None:
        self._watchdog.beat("a batch of evaluation")
        if stopping := self._termination.here():
            raise Terminated(stopping)


class Reading:
    """The metrics of steps: each is read from the devices when the next step is dispatched, logged and shown.

    `tokens_per_s` and `bases_per_s`, over all devices, are the mean of the last `train.log_every_steps` steps. Steps
    during which a program was compiled are left out (the first, and that of a new objective), and so are evaluations
    and checkpoints; there is no speed as long as every step is left out.

    Attributes:
      clock: of the steps, which the speed rests on.
      pending: the number and metrics of a step that was dispatched and not read yet; or None.
      last: the metrics read last.
    """

    def __init__(self, run, watchdog: Watchdog, num_programs: Callable[[], int]):
        """`num_programs`: how many programs were compiled so far."""
        self._run, self._watchdog, self._num_programs = run, watchdog, num_programs
        self._num_steps, self._every = run.config.train.num_steps, run.config.train.log_every_steps
        self.progress = Progress(self._num_steps, run.now.step, self._every, quiet=not distributed.is_primary())
        self._before, self._times = (0.0, 0), deque(maxlen=self._every)  # clock and programs; seconds per step
        self.clock, self.pending, self.last = Clock(), None, run.now.metrics

    def __call__(self) -> None:
        """Reads the pending step, if there is one.

        Raises:
          TrainingError: if too many steps in a row were skipped.
        """
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        self.last = values = {name: x.item() for name, x in fetch(metrics).items()}
        self._watchdog.beat(f"step {step + 1}")
        now, before = (self.clock.seconds, self._num_programs()), self._before
        self._before = now
        if now[1] == before[1]:
            self._times.append(now[0] - before[0])
        if self._times:
            stats = self._run.stream.stats
            values["tokens_per_s"] = len(self._times) * self._run.tokens_per_step / sum(self._times)
            bases_per_token = stats["kept"] / stats["tokens"] if stats["tokens"] else 0.0
            values["bases_per_s"] = values["tokens_per_s"] * bases_per_token
        if values["consecutive_skips"]:
            log_primary(
                f"warning: step {step} was skipped: loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g};"
                f" {values['skipped']} so far, {values['consecutive_skips']} in a row"
            )
        if step % self._every == 0 or step == self._num_steps:
            self._run.log.write(step, **values)
        optimizer = self._run.config.optimizer
        if values["consecutive_skips"] >= optimizer.max_consecutive_skips:
            saved = self._run.checkpoints.latest_step
            remedy = "start again" if saved is None else f"resume from the checkpoint of step {saved}"
            raise TrainingError(
                f"{self._run.workdir}: the last {values['consecutive_skips']} steps up to {step} were skipped "
                "(optimizer.max_consecutive_skips): their gradients were not finite, or exceeded "
                f"optimizer.grad_norm_spike_factor {optimizer.grad_norm_spike_factor:g} times the usual norm. Check "
                f"the data of these steps; then {remedy} with a lower optimizer.peak_learning_rate (named in "
                "train.allow_changes) or more max_consecutive_skips"
            )
        speed = values.get("tokens_per_s")
        left = (self._num_steps - step) * self._run.tokens_per_step / speed if speed else float("nan")
        names = {"loss": "loss", "bits_per_base": "bits/base"}
        measures = [f"{shown} {values[name]:.4f}" for name, shown in names.items() if name in values]
        self.progress.update(step, measures, speed, left)
