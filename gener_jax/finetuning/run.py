"""A fine-tuning run: its plan, the training, and the results of its best checkpoint on test rows."""

import functools
import time
from pathlib import Path

import jax

from data_pipeline import cli
from data_pipeline.files import finite
from gener_jax.config import Config
from gener_jax.finetuning import causal_run, labels, method, token
from gener_jax.finetuning.hooks import EarlyStopping, Plateau
from gener_jax.finetuning.plan import Plan, base_of
from gener_jax.labelled.splits import TEST
from gener_jax.model import memory
from gener_jax.model.trainable import merge
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage import heads, run_folder
from gener_jax.storage.results import FILE, Evaluation, Model, Results, read
from gener_jax.tasks.plots import draw_all
from gener_jax.training import checkpoint
from gener_jax.training.hooks import Moment
from gener_jax.training.loop import Run
from gener_jax.training.metrics import read_log
from gener_jax.training.run import train
from gener_jax.training.step import abstract_state

_PLANS = {  # by problem
    "single_label": labels.plan,
    "multi_label": labels.plan,
    "regression": labels.plan,
    "token": token.plan,
    "causal": causal_run.plan,
}


def finetune(config: Config, workdir: Path) -> Results:
    """Fine-tunes in the folder `workdir`, resuming the run there if there is one; returns what `results.json` holds.

    Raises:
      ConfigError, DataError, CheckpointError: one line each; also if another process is training there.
      Terminated: after SIGTERM or Ctrl-C, once the state is saved.
    """
    check(config)
    plan = _PLANS[config.finetune.problem](config, base_of(config), workdir)
    checkpoint.check_folder(workdir, plan.config)
    if plan.head is not None and heads.read(workdir) is None:  # so that the folder can be used before the run ends
        workdir.mkdir(parents=True, exist_ok=True)
        heads.write(workdir, plan.head)
    _forget_other_rows(plan, workdir)
    return train(
        plan.config,
        workdir,
        source=plan.source,
        objective=lambda step: plan.objective,
        trains=method.trains(config.finetune.method),
        init=plan.init,
        tasks=[plan.task],
        hooks=hooks_of(plan),
        report=functools.partial(report, plan),
    )


def _forget_other_rows(plan: Plan, workdir: Path) -> None:
    """Removes stored results of other test rows than those that the files have now: they are made again."""
    if not (workdir / FILE).exists():
        return
    try:
        tested = {x.dataset.digest for x in read(workdir).evaluations if x.dataset and x.dataset.split == TEST}
    except CheckpointError:  # of another version, or damaged: training reports it
        return
    if tested != ({plan.test} if plan.test else set()):
        log(f"the test rows have changed since {workdir / FILE}: they are measured again")
        (workdir / FILE).unlink()


def check(config: Config) -> None:
    """Checks what the configuration alone shows.

    Raises:
      ConfigError: with the field.
    """
    f = config.finetune
    needed = {"finetune.problem": f.problem, "finetune.train": f.train, "train.init_from": config.train.init_from}
    for field, value in needed.items():
        if not value:
            raise ConfigError("must be given", field, value or "none")
    if f.problem not in _PLANS:
        raise ConfigError(f"must be one of {', '.join(_PLANS)}", "finetune.problem", f.problem)
    if config.mesh.context != 1:
        raise ConfigError("must be 1 in fine-tuning; use mesh.fsdp", "mesh.context", config.mesh.context)
    if jax.process_count() > 1:
        raise ConfigError(f"fine-tuning runs in one process, not in {jax.process_count()}; use one host")


def hooks_of(plan: Plan) -> list:
    """Early stopping and plateau, where they are configured."""
    f, every, found = plan.config.finetune, plan.config.eval.every_steps, []
    due = lambda step: step % every == 0  # noqa: E731
    if f.patience is not None:
        found.append(EarlyStopping(plan.task, f.patience, due))
    if f.plateau_patience is not None:
        found.append(Plateau(plan.task, f.plateau_patience, due, f.plateau_factor))
    return found


def report(plan: Plan, run: Run, params, now: Moment, began: float) -> Results:
    """Evaluates the best checkpoint, and writes results, plots and the calibrated head; prints the results.

    See `training.run.finish` for the last four arguments.
    """
    config, workdir = run.config, run.workdir
    best = run_folder.best(workdir, config.checkpoint.best)
    step = now.step if best is None else best[0]
    if step != now.step:
        target = abstract_state(config, run.mesh, run.trains, run.init).params
        params = merge(run_folder.restore_params(workdir, target, step)[0], run.frozen)
    model = Model(config.name, sum(x.size for x in jax.tree.leaves(params)), str(workdir), step)
    found, head = plan.results(params, run.mesh)
    measured = [(plan.task, result) for result in found]
    if plan.generated is not None:
        measured.append(plan.generated(params, run.mesh))
    if head is not None:
        heads.write(workdir, head)

    logged = ("loss", "skipped", "tokens_per_s", "bases_per_s")
    facts = {name: now.metrics.get(name) for name in logged}
    facts |= {"peak_memory_gib": memory.peak(), "seconds": round(time.perf_counter() - began, 1)}
    results = Results(tuple(Evaluation.of(task, result, model) for task, result in measured), finite(facts))
    results.write(workdir)
    draw_all(results, list(read_log(workdir / "log.jsonl")), workdir)
    cli.escape_unencodable()
    lines = []
    if len(found) == 1:
        lines.append("there are no test rows (finetune.test): these rows chose the checkpoint")
    if best is not None:
        lines.append(f"best: step {best[0]} of {now.step}, {config.checkpoint.best} {best[1]:.4f} on validation")
    print("\n".join(["", results.table(), *lines, *(result.text for _, result in measured if result.text)]))
    print(f"Results in {workdir / FILE}, plots in {workdir / 'plots'}")
    return results
