"""Metrics of steps, read from the devices one step late, so that these never wait for the host."""

from gener_jax.runtime import distributed
from gener_jax.runtime.distributed import log_primary
from gener_jax.runtime.errors import TrainingError
from gener_jax.runtime.progress import Progress
from gener_jax.runtime.transfer import fetch
from gener_jax.training.faults import Watchdog
from gener_jax.training.metrics import Clock
from gener_jax.training.run import Run


class MetricsReader:
    """Reads, logs and shows the metrics of steps.

    Attributes:
      clock: of the steps, which the speed rests on.
      pending: the number and metrics of a step that was dispatched and not read yet; or None.
      last: the metrics read last.
    """

    def __init__(self, run: Run, watchdog: Watchdog):
        """For the steps of a run from its start."""
        self._run, self._watchdog = run, watchdog
        self._num_steps, self._every = run.config.train.num_steps, run.config.train.log_every_steps
        quiet = not distributed.is_primary()
        self._progress = Progress(self._num_steps, run.now.step, self._every, quiet=quiet)
        self._compiled = None  # seconds and step after the first step: speed excludes compilation
        self.clock, self.pending, self.last = Clock(), None, run.now.metrics

    def read(self) -> None:
        """Reads the pending step, if there is one.

        Raises:
          TrainingError: if too many steps in a row were skipped.
        """
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        self.last = values = {name: x.item() for name, x in fetch(metrics).items()}
        self._watchdog.beat(f"step {step + 1}")
        if self._compiled is None:
            self._compiled = self.clock.seconds, step
        else:
            seconds, stats = self.clock.seconds - self._compiled[0], self._run.stream.stats
            values["tokens_per_s"] = (step - self._compiled[1]) * self._run.tokens_per_step / seconds
            bases_per_token = stats["kept"] / stats["tokens"] if stats["tokens"] else 0.0
            values["bases_per_s"] = values["tokens_per_s"] * bases_per_token
        if values["consecutive_skips"]:
            log_primary(
                f"warning: step {step} was skipped: loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g};"
                f" {values['skipped']} so far, {values['consecutive_skips']} in a row"
            )
        if step % self._every == 0 or step == self._num_steps:
            self._run.log.write(step, **values)
        self._check(step, values["consecutive_skips"])
        speed = values.get("tokens_per_s")
        left = (self._num_steps - step) * self._run.tokens_per_step / speed if speed else float("nan")
        names = {"loss": "loss", "bits_per_base": "bits/base"}
        text = "  ".join(f"{shown} {values[name]:.4f}" for name, shown in names.items() if name in values)
        self._progress.update(step, f"{text}  {speed:,.0f} tokens/s" if speed else text, left)

    def _check(self, step: int, skips: int) -> None:
        optimizer = self._run.config.optimizer
        if skips >= optimizer.max_consecutive_skips:
            saved = self._run.checkpoints.latest_step
            remedy = "start again" if saved is None else f"resume from the checkpoint of step {saved}"
            raise TrainingError(
                f"{self._run.workdir}: the last {skips} steps up to {step} were skipped "
                "(optimizer.max_consecutive_skips): their gradients were not finite, or exceeded "
                f"optimizer.grad_norm_spike_factor {optimizer.grad_norm_spike_factor:g} times the usual norm. "
                f"Check the data of these steps; then {remedy} with a lower optimizer.peak_learning_rate (named in "
                "train.allow_changes) or more max_consecutive_skips"
            )

    def close(self) -> None:
        """Ends the line of progress."""
        self._progress.close()
