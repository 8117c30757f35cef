"""The training loop: steps, with evaluations and checkpoints between them, until the end, SIGTERM or a fault."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Config
from gener_jax.data.loader import DataSource, device_batches
from gener_jax.model.trainable import merge
from gener_jax.runtime import distributed
from gener_jax.runtime.distributed import log_primary
from gener_jax.runtime.errors import Terminated, TrainingError
from gener_jax.runtime.progress import Progress
from gener_jax.runtime.transfer import fetch
from gener_jax.tasks.base import Result, Task
from gener_jax.training import checkpoint
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.metrics import Clock, Log, Profile, logged
from gener_jax.training.objectives import Objective
from gener_jax.training.step import State, make_train_step


@dataclasses.dataclass
class Run:
    """Everything the loop needs, made by `train.prepare` before the first step."""

    config: Config
    workdir: Path
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    stream: DataSource
    objective: Callable[[int], Objective]  # of the step that follows this many completed ones
    tasks: list[Task]
    checkpoints: checkpoint.Checkpoints
    start: int  # steps done
    position: int  # examples read in them
    evaluated: bool  # whether the last of them was evaluated, if that was due
    state: State
    frozen: dict  # the parameters that are not trained
    trains: Callable[[str], bool]  # as in `step.abstract_state`
    init: Callable | None
    log: Log

    @property
    def tokens_per_step(self) -> int:
        """Input tokens of a step, over all devices."""
        return self.config.train.batch_size * self.config.data.context_length


class Evaluator:
    """The tasks of a run."""

    def __init__(self, run: Run, termination: Termination, watchdog: Watchdog):
        self._tasks = {task.name: task.prepare(run.config.spec, run.mesh) for task in run.tasks}
        self._termination, self._watchdog = termination, watchdog

    def __call__(self, params) -> dict[str, Result]:
        """The result of each task.

        Raises:
          Terminated: as soon as the run must stop.
        """
        return {name: run(params, self._moved) for name, run in self._tasks.items()}

    def _moved(self, done: int, total: int) -> None:
        self._watchdog.beat("a batch of evaluation")
        if self._termination.here():
            raise Terminated


def loop(run: Run, termination: Termination, watchdog: Watchdog) -> tuple[Any, dict, dict[str, Result]]:
    """Runs the steps, evaluations and checkpoints; returns the final parameters, and the metrics and results of the
    last step.
    """
    config, mesh, start = run.config, run.mesh, run.start
    num_steps, every = config.train.num_steps, config.train.log_every_steps
    stats, tokens_per_step = run.stream.stats, run.tokens_per_step
    step_of = functools.cache(
        lambda objective: make_train_step(config, mesh, objective, run.stream.axes, run.trains, run.init)
    )
    evaluator = Evaluator(run, termination, watchdog)
    batches = device_batches(run.stream, config.train.batch_size, run.position, num_steps - start, mesh)
    progress = Progress(num_steps, start, every, quiet=not distributed.is_primary())
    profile = Profile(config.train, run.workdir)
    clock, last, pending = Clock(), logged(run.workdir / "log.jsonl", start), None
    compiled_at = None  # seconds and step after the first step: speed excludes compilation
    state, saved, results = run.state, start, None
    run.state = None  # its buffers are donated to the first step

    def read(step, metrics):
        """Reads the metrics of a step after the next one was dispatched."""
        nonlocal compiled_at, last
        values = {name: x.item() for name, x in fetch(metrics).items()}
        watchdog.beat(f"step {step + 1}")
        if compiled_at is None:
            compiled_at = clock.seconds, step
        else:
            values["tokens_per_s"] = (step - compiled_at[1]) * tokens_per_step / (clock.seconds - compiled_at[0])
            bases_per_token = stats["kept"] / stats["tokens"] if stats["tokens"] else 0.0
            values["bases_per_s"] = values["tokens_per_s"] * bases_per_token
        if values["consecutive_skips"]:
            log_primary(
                f"warning: step {step} was skipped: loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g};"
                f" {values['skipped']} so far, {values['consecutive_skips']} in a row"
            )
        last = values
        if step % every == 0 or step == num_steps:
            run.log.write(step, **values)
        if values["consecutive_skips"] >= config.optimizer.max_consecutive_skips:
            with jax.transfer_guard("allow"):
                run.checkpoints.close()
            raise TrainingError(
                f"{run.workdir}: the last {values['consecutive_skips']} steps up to {step} were skipped "
                "(optimizer.max_consecutive_skips): their gradients were not finite, or exceeded "
                f"optimizer.grad_norm_spike_factor {config.optimizer.grad_norm_spike_factor:g} times the usual norm. "
                f"The last checkpoint is of step {saved}. "
                "Check the data of these steps; then resume from that checkpoint with a lower "
                "optimizer.peak_learning_rate (named in train.allow_changes) or more max_consecutive_skips"
            )
        speed = values.get("tokens_per_s")
        left = (num_steps - step) * tokens_per_step / speed if speed else float("nan")
        names = {"loss": "loss", "bits_per_base": "bits/base"}
        text = "  ".join(f"{shown} {values[name]:.4f}" for name, shown in names.items() if name in values)
        progress.update(step, f"{text}  {speed:,.0f} tokens/s" if speed else text, left)

    def save(step, value):
        nonlocal saved
        loader = {
            "position": run.position + (step - start) * config.train.batch_size,
            "seed": config.train.seed,
            "digest": run.stream.digest,
            "dataset": run.stream.dataset,
        }
        watchdog.beat(f"saving step {step}")
        run.checkpoints.save(step, state, loader, config, value)
        saved = step

    def stop(step):
        with jax.transfer_guard("allow"):
            if saved != step:
                save(step, None)
            run.checkpoints.close()
            run.log.close()
        raise Terminated(f"by SIGTERM after step {step}, which is saved; the same command resumes there")

    def evaluate(step):
        nonlocal results
        results = evaluator(merge(state.params, run.frozen))
        run.log.write(step, **{name: result.metrics for name, result in results.items()})
        found = [f"{task.name} {task.metric} {results[task.name].metrics[task.metric]:.4f}" for task in run.tasks]
        log_primary(f"step {step}: {', '.join(found)}")
        best, metric = config.checkpoint.best.split(".")
        return results[best].metrics[metric]

    def due(step):  # every checkpoint is evaluated, since one of them is the best
        saving = step % config.checkpoint.every_steps == 0 or step == num_steps
        return saving, saving or step % config.eval.every_steps == 0

    try:
        if start and due(start)[1] and not run.evaluated:
            try:
                run.checkpoints.evaluated(start, evaluate(start))  # SIGTERM came before or during its evaluation
            except Terminated:
                stop(start)
        with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
            for step, batch in enumerate(batches, start + 1):
                profile.begin(step)
                state, metrics = step_of(run.objective(step - 1))(state, run.frozen, batch)
                if pending is not None:
                    read(*pending)
                pending = (step, metrics)
                profile.end(step, metrics)
                saving, looking = due(step)
                stopping = termination.here()
                if looking or stopping:
                    read(*pending)
                    pending = None
                if stopping:
                    stop(step)
                if looking:
                    with clock.paused():
                        try:
                            value = evaluate(step)
                        except Terminated:
                            stop(step)
                        if saving:
                            save(step, value)
                        watchdog.beat(f"step {step + 1}")
    except KeyboardInterrupt:
        run.checkpoints.close()  # one may be half-written
        raise KeyboardInterrupt(f"after step {saved}; the same command resumes there") from None
    finally:
        profile.close()
        progress.close()
    if results is None:  # the run had ended before
        results = evaluator(merge(state.params, run.frozen))
    run.checkpoints.close()
    run.log.close()
    params, state = state.params, None  # frees the optimizer's state for the samples' copy of the parameters
    return merge(params, run.frozen), {"step": num_steps, **last}, results
