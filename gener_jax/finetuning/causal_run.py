"""A causal fine-tuning run: what follows from the sequences, its parts, and the results of its best checkpoint."""

import dataclasses
import functools
import math
import time
from pathlib import Path

import jax

from data_pipeline import cli
from data_pipeline.files import finite
from gener_jax.config import Config, ModelSpec
from gener_jax.finetuning import method
from gener_jax.finetuning.causal import HeldOutSequences, Rows
from gener_jax.finetuning.generated import Generated
from gener_jax.finetuning.hooks import EarlyStopping, Plateau
from gener_jax.inference.lm import LM
from gener_jax.labelled import splits as labelled
from gener_jax.labelled.splits import Splits
from gener_jax.model import lora, memory
from gener_jax.model.trainable import merge
from gener_jax.runtime.errors import ConfigError
from gener_jax.storage import provenance, run_folder
from gener_jax.storage.results import FILE, Evaluation, Model, Results
from gener_jax.tasks.base import measure, silent
from gener_jax.tasks.plots import draw_all
from gener_jax.training.hooks import Moment
from gener_jax.training.loop import Run
from gener_jax.training.metrics import read_log
from gener_jax.training.step import abstract_state


def resolve(config: Config, splits: Splits, base: ModelSpec) -> Config:
    """The configuration with what follows from the sequences and the base: its model, the context, steps, evaluations.

    Raises:
      ConfigError: if a sequence exceeds the context of the base, and `finetune.long` is not truncate; or an option has
        no meaning here.
      DataError: as `Rows`.
    """
    f, batch = config.finetune, config.train.batch_size
    if f.long not in ("refuse", "truncate"):
        raise ConfigError("must be refuse or truncate for finetune.problem causal", "finetune.long", f.long)
    if f.metric not in (None, *HeldOutSequences.metrics):
        raise ConfigError(f"must be one of {', '.join(HeldOutSequences.metrics)}", "finetune.metric", f.metric)
    metric = f.metric or next(iter(HeldOutSequences.metrics))
    files = {name: tuple(str(Path(path).absolute()) for path in getattr(f, name)) for name in labelled.NAMES}
    num_steps = math.ceil(f.epochs * len(splits.train) / batch - 1e-9)
    every = min(max(round(len(splits.train) / batch / f.evals_per_epoch), 1), num_steps)
    limit = base.model.max_length or 1 + max(map(len, splits.train.sequences)) + len(f.prefix)
    resolved = dataclasses.replace(
        config,
        **{name: getattr(base, name) for name in ("model", "tokenizer", "prompt_convention")},
        data=dataclasses.replace(config.data, context_length=limit),
        train=dataclasses.replace(config.train, num_steps=num_steps),
        eval=dataclasses.replace(config.eval, tasks=(), every_steps=every),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=every, best=f"finetune.{metric}"),
        finetune=dataclasses.replace(f, metric=metric, **files),
    )
    longest = max(len(row.ids) - 1 for row in Rows(splits.train, resolved).rows)
    return dataclasses.replace(resolved, data=dataclasses.replace(config.data, context_length=longest))


def parts(config: Config, splits: Splits) -> dict:
    """The arguments of `training.run.train`."""
    f, source = config.finetune, Rows(splits.train, config)
    task = held_out(config, splits.validation)
    due = lambda step: step % config.eval.every_steps == 0  # noqa: E731
    hooks = [EarlyStopping(task, f.patience, due)] * (f.patience is not None)
    hooks += [Plateau(task, f.plateau_patience, due, f.plateau_factor)] * (f.plateau_patience is not None)
    return {
        "source": source,
        "trains": method.trains(f.method),
        "init": method.init(config, None),
        "tasks": [task],
        "hooks": hooks,
        "report": functools.partial(report, splits),
    }


def held_out(config: Config, examples) -> HeldOutSequences:
    """The task for a split, whose sequences may be longer than those of training."""
    limit = config.model.max_length or 1 + max(map(len, examples.sequences)) + len(config.finetune.prefix)
    data = dataclasses.replace(config.data, context_length=limit)
    return HeldOutSequences(Rows(examples, dataclasses.replace(config, data=data)), config.finetune.metric)


def report(splits: Splits, run: Run, params, now: Moment, began: float) -> Results:
    """Evaluates the best checkpoint on held-out sequences, generates others, and writes results and plots.

    See `training.run.finish` for the last four arguments.
    """
    config, workdir = run.config, run.workdir
    best = run_folder.best(workdir, config.checkpoint.best)
    step = now.step if best is None else best[0]
    if step != now.step:
        target = abstract_state(config, run.mesh, run.trains, run.init).params
        params = merge(run_folder.restore_params(workdir, target, step)[0], run.frozen)
    if adapters := params.get("adapters"):
        params = lora.merge({name: x for name, x in params.items() if name != "adapters"}, adapters)
    lm = LM(config.spec, params, run.mesh, step, provenance.read(workdir))
    del params
    model = Model(config.name, sum(x.size for x in jax.tree.leaves(lm.params)), str(workdir), step)

    found = []
    for examples in filter(None, (splits.test, splits.validation)):
        task = held_out(config, examples)
        found.append((task, measure(task.prepare(config.spec, run.mesh), lm.params, silent)))
    generated = Generated(config, splits.train, splits.test or splits.validation)
    found.append((generated, generated(lm)))

    logged = ("loss", "bits_per_base", "skipped", "tokens_per_s", "bases_per_s")
    facts = {name: now.metrics.get(name) for name in logged}
    facts |= {"peak_memory_gib": memory.peak(), "seconds": round(time.perf_counter() - began, 1)}
    results = Results(tuple(Evaluation.of(task, result, model) for task, result in found), finite(facts))
    results.write(workdir)
    draw_all(results, list(read_log(workdir / "log.jsonl")), workdir)
    cli.escape_unencodable()
    lines = [] if best is None else [f"best: step {best[0]} of {now.step}, {config.checkpoint.best} {best[1]:.4f}"]
    print("\n".join(["", results.table(), *lines, *(result.text for _, result in found if result.text)]))
    print(f"Results in {workdir / FILE}, plots in {workdir / 'plots'}")
    return results
