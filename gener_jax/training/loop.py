"""The training loop: steps, and what is due between them, until the end, a hook's stop, SIGTERM or a fault."""

import functools
from collections.abc import Sequence

import jax

from gener_jax.config import Config
from gener_jax.data.loader import device_batches
from gener_jax.model.trainable import merge
from gener_jax.runtime.distributed import log_primary
from gener_jax.runtime.errors import Terminated, TrainingError
from gener_jax.tasks.base import Result
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.hooks import Moment
from gener_jax.training.metrics import Profile
from gener_jax.training.metrics_reader import MetricsReader
from gener_jax.training.run import Run
from gener_jax.training.step import make_train_step


def loop(run: Run, termination: Termination, watchdog: Watchdog) -> Moment:
    """Runs the steps, and what is due between them; returns where the run ended, evaluated and saved.

    Raises:
      TrainingError: if too many steps in a row were skipped.
      Terminated: after a SIGTERM, once the state is saved.
    """
    config, now, num_steps = run.config, run.now, run.config.train.num_steps
    step_of = functools.cache(
        lambda objective: make_train_step(config, run.mesh, objective, run.stream.axes, run.trains, run.init)
    )
    evaluation, saving = Evaluation(run, termination, watchdog), Saving(run, watchdog)
    hooks = [evaluation, *run.hooks, saving]
    reader, profile = MetricsReader(run, watchdog), Profile(config.train, run.workdir)

    try:
        # What SIGTERM left undone.
        if not run.caught_up:
            for hook in due_at(now.step, hooks[:-1]):
                hook(now)
            saving.record(now)
        left = 0 if now.stop else num_steps - now.step
        batches = device_batches(run.stream, config.train.batch_size, run.position, left, run.mesh)

        with jax.set_mesh(run.mesh), jax.transfer_guard("disallow"):
            for step, batch in enumerate(batches, now.step + 1):
                # The step; the metrics of the one before are read while it is computed.
                profile.begin(step)
                now.state, metrics = step_of(run.objective(step - 1))(now.state, run.frozen, batch)
                now.step, now.results = step, {}
                reader.read()
                reader.pending = step, metrics
                profile.end(step, metrics)

                # What is due after it.
                due, stopping = due_at(step, hooks), termination.here()
                if due or stopping:
                    reader.read()
                    now.metrics = reader.last
                if stopping:
                    raise Terminated
                with reader.clock.paused():
                    for hook in due:
                        hook(now)
                    if now.stop:
                        for hook in (evaluation, saving):
                            if hook not in due:
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
    except Terminated:
        if saving.saved != now.step:
            saving(now, caught_up=bool(now.stop) or not due_at(now.step, hooks))
        run.checkpoints.close()
        raise Terminated(f"by SIGTERM after step {now.step}, which is saved; the same command resumes there") from None
    except TrainingError:
        run.checkpoints.close()
        raise
    except KeyboardInterrupt:
        run.checkpoints.close()  # one may be half-written
        resumes = f"after step {saving.saved}; the same command resumes there"
        raise KeyboardInterrupt(resumes if saving.saved else "before the first checkpoint") from None
    finally:
        profile.close()
        reader.close()
        run.log.close()
    return now


def due_at(step: int, hooks: Sequence) -> list:
    """The hooks that are due after this many steps, in order."""
    return [hook for hook in hooks if hook.due(step)]


class Evaluation:
    """The hook that runs the tasks and logs their metrics."""

    def __init__(self, run: Run, termination: Termination, watchdog: Watchdog):
        self._run, self._termination, self._watchdog = run, termination, watchdog
        self._tasks = {task.name: task.prepare(run.config.spec, run.mesh) for task in run.tasks}

    def due(self, step: int) -> bool:
        """With every checkpoint too, since one of them is the best."""
        return step % self._run.config.eval.every_steps == 0 or is_saved(self._run.config, step)

    def __call__(self, now: Moment) -> None:
        """Sets the results."""
        now.results = self.results(now)
        if now.results:
            self._run.log.write(now.step, **{name: result.metrics for name, result in now.results.items()})
            found = [(task, now.results[task.name].metrics[task.metric]) for task in self._run.tasks]
            text = ", ".join(f"{task.name} {task.metric} {value:.4f}" for task, value in found)
            log_primary(f"step {now.step}: {text}")

    def results(self, now: Moment) -> dict[str, Result]:
        """The result of each task.

        Raises:
          Terminated: as soon as the run must stop.
        """
        params = merge(now.state.params, self._run.frozen)
        return {name: run(params, self._moved) for name, run in self._tasks.items()}

    def _moved(self, done: int, total: int) -> None:
        self._watchdog.beat("a batch of evaluation")
        if self._termination.here():
            raise Terminated


class Saving:
    """The hook that writes checkpoints.

    Attributes:
      saved: the step of the newest; None: there is none.
    """

    def __init__(self, run: Run, watchdog: Watchdog):
        self._run, self._watchdog, self._start = run, watchdog, run.now.step
        self.saved = run.now.step or None

    def due(self, step: int) -> bool:
        """As configured, and at the end."""
        return is_saved(self._run.config, step)

    def __call__(self, now: Moment, *, caught_up: bool = True) -> None:
        """Saves the state, with that of all hooks; `caught_up`: those that are due at this step have been called."""
        run = self._run
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
        run.checkpoints.save(now.step, now.state, loader, run.config, self._value(now))
        self.saved = now.step

    def record(self, now: Moment) -> None:
        """Records the results of a step that was saved before it was evaluated: it may be the best."""
        if now.results:
            self._run.checkpoints.evaluated(now.step, self._value(now))

    def _value(self, now: Moment) -> float | None:
        best = self._run.best
        return now.results[best.name].metrics[best.metric] if best and now.results else None


def is_saved(config: Config, step: int) -> bool:
    """Whether a checkpoint is due."""
    return step % config.checkpoint.every_steps == 0 or step == config.train.num_steps
