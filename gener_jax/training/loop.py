"""The training loop: steps, and what is due between them, until the end, a hook's stop, a signal or a fault."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Config
from gener_jax.data.loader import DataSource, device_batches
from gener_jax.model import sharding
from gener_jax.runtime.distributed import log_primary
from gener_jax.runtime.errors import Terminated, TrainingError
from gener_jax.storage.results import Results
from gener_jax.tasks.base import Task
from gener_jax.training.checkpoint import Checkpoints
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.hooks import Evaluation, Hook, Moment, Reading, Saving
from gener_jax.training.metrics import Log, Profile
from gener_jax.training.objectives import Objective
from gener_jax.training.step import make_train_step


@dataclasses.dataclass
class Run:
    """Everything the loop needs, made by `train.prepare` before the first step."""

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
    log: Log | None  # None: there are stored results
    stored: Results | None = None  # of a run that had ended before

    @property
    def tokens_per_step(self) -> int:
        """Input tokens of a step, over all devices."""
        return self.config.train.batch_size * getattr(self.stream, "chunks", 1) * self.config.data.context_length


def loop(run: Run, termination: Termination, watchdog: Watchdog) -> Moment:
    """Runs the steps, and what is due between them; returns where the run ended, evaluated and saved.

    Raises:
      TrainingError: if too many steps in a row were skipped.
      Terminated: after SIGTERM or Ctrl-C, once the state is saved.
    """
    config, now = run.config, run.now
    step_of = functools.cache(
        lambda objective: make_train_step(config, run.mesh, objective, run.stream.axes, run.trains, run.init)
    )
    read = Reading(run, watchdog, lambda: step_of.cache_info().currsize)
    profile, saving = Profile(config.train, run.workdir), Saving(run, watchdog)
    evaluation = Evaluation(run, saving, termination, watchdog)
    hooks = [evaluation, *run.hooks, saving]

    try:
        # What a signal left undone.
        if not run.caught_up:
            for hook in (evaluation, *run.hooks):
                if hook.due(now.step):
                    hook(now)
            saving(now)

        number = 0 if now.stop else config.train.num_steps - now.step
        batches = device_batches(run.stream, config.train.batch_size, run.position, number, run.mesh)
        with sharding.on(run.mesh), jax.transfer_guard("disallow"):
            for step, batch in enumerate(batches, now.step + 1):
                # The step. The metrics of the one before are read while it is computed.
                profile.begin(step)
                now.state, metrics = step_of(run.objective(step - 1))(now.state, run.frozen, batch)
                now.step, now.results = step, {}
                read()
                read.pending = step, metrics
                profile.end(step, metrics)

                # What is due after it.
                due, stopping = [hook for hook in hooks if hook.due(step)], termination.here()
                if due or stopping:
                    read()
                    now.metrics = read.last
                if stopping:
                    raise Terminated(stopping)
                with read.clock.paused():
                    for hook in due:
                        hook(now)
                    if now.stop:
                        for hook in [hook for hook in (evaluation, saving) if hook not in due]:
                            hook(now)
                        break
                if due:
                    watchdog.beat(f"step {step + 1}")

        # The end.
        if now.stop:
            log_primary(f"{run.workdir} ends at step {now.step}: {now.stop}")
        if not now.results:  # the run had ended before
            now.results = evaluation.results(now)
        run.checkpoints.close()
    except Terminated as stopped:
        if saving.saved != now.step:
            saving(now, caught_up=bool(now.stop) or not any(hook.due(now.step) for hook in hooks))
        run.checkpoints.close()
        raise Terminated(stopped.signal, now.step) from None
    except (TrainingError, KeyboardInterrupt):
        run.checkpoints.close()  # one may be half-written
        raise
    finally:
        profile.close()
        read.progress.close()
        run.log.close()
    return now
