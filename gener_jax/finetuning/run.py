"""A fine-tuning run: labelled rows, what trains, the training, and the results of its best checkpoint on test rows.

    splits → leaks → resolved configuration and head → training, evaluated on validation rows → the best checkpoint
    → test rows: metrics with intervals, beside baselines → head.json, test_predictions.tsv, results.json

Validation rows choose the checkpoint, the layer, the temperature and what baselines have to choose. Test rows choose
nothing.
"""

import dataclasses
import functools
import math
import time
from pathlib import Path

import jax
import numpy as np

from data_pipeline import cli
from data_pipeline.errors import DataError, MismatchError, counted
from data_pipeline.files import finite, write_text
from gener_jax.config import Config, Head, ModelSpec
from gener_jax.finetuning import causal_run, evaluation, method, objectives
from gener_jax.finetuning.features import Cache, sweep
from gener_jax.finetuning.hooks import EarlyStopping, Plateau
from gener_jax.finetuning.source import Features, Rows
from gener_jax.inference.framing import LONGER, Framing
from gener_jax.inference.prediction import columns, of_outputs
from gener_jax.labelled import splits as labelled
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import Splits
from gener_jax.model import memory
from gener_jax.model.sharding import mesh_of
from gener_jax.model.trainable import merge
from gener_jax.runtime.errors import ConfigError, user_errors
from gener_jax.runtime.progress import log
from gener_jax.statistics.metrics import METRICS, evaluate
from gener_jax.storage import heads, pretrained, run_folder
from gener_jax.storage.results import FILE, Dataset, Evaluation, Model, Results
from gener_jax.tasks.base import Result, silent
from gener_jax.tasks.plots import draw_all
from gener_jax.training import checkpoint
from gener_jax.training.hooks import Moment
from gener_jax.training.loop import Run
from gener_jax.training.metrics import read_log
from gener_jax.training.run import train
from gener_jax.training.step import abstract_state

PREDICTIONS = "test_predictions.tsv"
_OWN = ("dtype", "attention", "attention_block", "remat", "scan_unroll")  # fields of the model, chosen by the run


def finetune(config: Config, workdir: Path) -> Results:
    """Fine-tunes in the folder `workdir`, resuming the run there if there is one; returns what `results.json` holds.

    Raises:
      ConfigError, DataError, CheckpointError: one line each; also if another process is training there.
      Terminated: after SIGTERM or Ctrl-C, once the state is saved.
    """
    check(config)
    splits = labelled.read(config.finetune, config.train.seed)
    for note in splits.notes:
        log(note)
    base = base_of(config)
    if config.finetune.problem == "causal":
        config = causal_run.resolve(config, splits, base)
        checkpoint.check_folder(workdir, config)
        return train(config, workdir, **causal_run.parts(config, splits))
    config, head, framing = resolve(config, splits, base)
    checkpoint.check_folder(workdir, config)
    parts = frozen if config.finetune.method == "frozen" else whole
    return train(config, workdir, **parts(config, workdir, splits, head, framing))


def check(config: Config) -> None:
    """Checks what the configuration alone shows.

    Raises:
      ConfigError: with the field.
    """
    f = config.finetune
    for field, value in (
        ("finetune.problem", f.problem),
        ("finetune.train", f.train),
        ("train.init_from", config.train.init_from),
    ):
        if not value:
            raise ConfigError("must be given", field, value or "none")
    if f.problem in METRICS and f.metric not in (None, *METRICS[f.problem]):
        raise ConfigError(
            f"must be one of {', '.join(METRICS[f.problem])}, for {f.problem}", "finetune.metric", f.metric
        )
    if f.class_weights and f.problem != "single_label":
        raise ConfigError("is for finetune.problem single_label", "finetune.class_weights", f.class_weights)
    if config.mesh.context not in (1, -1):
        raise ConfigError("must be 1, since the rows of a head are pooled whole", "mesh.context", config.mesh.context)
    if jax.process_count() > 1:
        raise ConfigError(f"fine-tuning runs in one process, not in {jax.process_count()}; use one host")


def base_of(config: Config) -> ModelSpec:
    """The model that fine-tuning starts from: its shape, tokenizer and framing; how it is computed is the run's choice.

    Raises:
      CheckpointError: if there is none.
    """
    spec = pretrained.read_spec(pretrained.find(config.train.init_from))
    chosen = {name: getattr(config.model, name) for name in _OWN}
    convention = spec.prompt_convention
    if convention == "unknown":
        convention = config.prompt_convention
        log(f"{config.train.init_from} does not name its prompt convention; taken as {convention} (prompt_convention)")
    model = dataclasses.replace(spec.model, **chosen)
    return ModelSpec(config.name, model, spec.tokenizer, convention)


def resolve(config: Config, splits: Splits, base: ModelSpec) -> tuple[Config, Head, Framing]:
    """The configuration with what follows from the rows and the base; the head; and how sequences are framed.

    Raises:
      ConfigError: if the layer does not exist, or rows exceed the context.
      DataError: if a row has no token, or an output of a regression does not vary.
    """
    f, problem, model = config.finetune, splits.problem, base.model
    layer = None if f.layer in ("last", "sweep") else int(f.layer)
    if layer is not None and layer > model.num_hidden_layers:
        raise ConfigError(f"{config.train.init_from} has {model.num_hidden_layers} layers", "finetune.layer", f.layer)
    if layer is not None and f.method != "frozen":
        model = dataclasses.replace(model, num_hidden_layers=layer)
    for name, scale in zip(problem.names, problem.scale, strict=False):
        if not scale > 0:
            raise MismatchError("is the same in all training rows", field=name, remedy="leave it out of finetune.label")
    head = Head(
        problem=problem.kind,
        names=problem.names,
        pooling=f.pooling,
        layer=layer,
        bias=f.head_bias,
        mean=problem.mean,
        scale=problem.scale,
        average_strands=f.average_strands,
        standardized=f.method == "frozen",
        untrimmed=f.untrimmed,
        pool_at_end=f.pool_at_end,
    )
    with user_errors("finetune"):
        framing = Framing(dataclasses.replace(base, model=model), head)
    lengths = {each.name: _lengths(framing, each) for each in _each(splits)}
    model, head = _extended(f.long, model, head, lengths)
    spec = dataclasses.replace(base, model=model)
    framing = Framing(spec, head)

    rows, batch, longest = len(splits.train), config.train.batch_size, int(lengths["train"].max())
    longest = longest if framing.longest is None else min(longest, framing.longest)
    num_steps = math.ceil(f.epochs * rows / batch - 1e-9)
    every = min(max(round(rows / batch / f.evals_per_epoch), 1), num_steps)
    metric = f.metric or next(iter(METRICS[problem.kind]))
    files = {name: tuple(str(Path(path).absolute()) for path in getattr(f, name)) for name in labelled.NAMES}
    resolved = dataclasses.replace(
        config,
        **{name: getattr(spec, name) for name in ("model", "tokenizer", "prompt_convention")},
        data=dataclasses.replace(config.data, context_length=1 if f.method == "frozen" else longest),
        train=dataclasses.replace(config.train, num_steps=num_steps),
        eval=dataclasses.replace(config.eval, tasks=(), every_steps=every),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=every, best=f"finetune.{metric}"),
        finetune=dataclasses.replace(f, metric=metric, **files),
    )
    return resolved, head, framing


def _each(splits: Splits) -> list[Examples]:
    return [each for each in (splits.train, splits.validation, splits.test) if each is not None]


def _lengths(framing: Framing, examples: Examples) -> np.ndarray:
    """Tokens of the whole row of each sequence, with framing, int64 [N]; raises DataError if one has no token."""
    if framing.spec.tokenizer.kind == "kmer":
        found = [framing.tokens(len(sequence)) for sequence in examples.sequences]
    else:
        added = framing.tokens(0)
        found = [added + len(framing.ids(evaluation.strands(sequence, False)[0])) for sequence in examples.sequences]
    found = np.array(found, np.int64)
    if (short := np.flatnonzero(found <= framing.tokens(0))).size:
        row = int(short[0])
        problem = f"{examples.where(row)}: has {len(examples.sequences[row])} bases, fewer than a token"
        raise DataError(problem, remedy=f"remove it ({counted(len(short), 'row')} of {examples.name})")
    return found


def _extended(long: str, model, head: Head, lengths: dict[str, np.ndarray]):
    """The model and the head for rows of these lengths: extended as `finetune.long` says, from 1.05 times the context.

    Raises:
      ConfigError: if rows exceed the context and `long` is "refuse".
    """
    limit, longest = model.max_length, max(int(each.max()) for each in lengths.values())
    if limit is None or longest <= limit:
        return model, dataclasses.replace(head, long="refuse" if long == "refuse" else "truncate")
    over = {name: int((each > limit).sum()) for name, each in lengths.items()}
    counts = ", ".join(f"{number:,} of {len(lengths[name]):,} {name}" for name, number in over.items() if number)
    what = f"{counts} rows exceed the {limit:,} tokens of the context; the longest has {longest:,}"
    if long == "refuse":
        raise ConfigError(f"{what}; give truncate, yarn, window or chunks", "finetune.long", long)
    if long == "truncate" or longest <= LONGER * limit:
        log(f"{what}: they are truncated")
        return model, dataclasses.replace(head, long="truncate")
    if long == "yarn":
        factor = math.ceil(64 * longest / model.max_position_embeddings) / 64
        log(f"{what}: YaRN extends it by {factor:g}")
        return dataclasses.replace(model, yarn_factor=factor), dataclasses.replace(head, long=long)
    if long == "window":
        log(f"{what}: each token attends to {limit:,}")
        return dataclasses.replace(model, sliding_window=limit), dataclasses.replace(head, long=long)
    return model, head


def whole(config: Config, workdir: Path, splits: Splits, head: Head, framing: Framing) -> dict:
    """The parts of a run that reads sequences: `full` and `lora`."""
    init = method.init(config, head)
    source = Rows(config, splits.problem, head, framing, splits.train, splits.validation)

    def outputs(examples):
        return lambda mesh: evaluation.of_rows(config, head, framing, examples, mesh)

    return _parts(config, workdir, splits, head, source, init, outputs)


def frozen(config: Config, workdir: Path, splits: Splits, head: Head, framing: Framing) -> dict:
    """The parts of a run that trains a head alone, on features."""
    mesh = mesh_of(config)
    cache, layers = Cache(config, workdir, framing, mesh), {}
    if config.finetune.layer == "sweep":
        head, layers = sweep(config, workdir, splits, head, cache, mesh)
    of_train = cache.of(splits.train, head)
    init = method.init(config, head, method.standardize(of_train))
    source = Features(config, splits.problem, of_train, splits.train, splits.validation)

    def outputs(examples):
        return lambda mesh: evaluation.of_features(cache.of(examples, head)[: 1 + head.average_strands], mesh)

    return _parts(config, workdir, splits, head, source, init, outputs, layers)


def _parts(config: Config, workdir: Path, splits: Splits, head: Head, source, init, outputs, layers=None) -> dict:
    """The arguments of `training.run.train`."""
    f = config.finetune
    objective = objectives.of_config(config, head)
    task = evaluation.Finetune(
        f.metric, head, splits.validation, _paths(config, splits.validation), outputs(splits.validation)
    )
    due = lambda step: step % config.eval.every_steps == 0  # noqa: E731
    hooks = [EarlyStopping(task, f.patience, due)] * (f.patience is not None)
    hooks += [Plateau(task, f.plateau_patience, due, f.plateau_factor)] * (f.plateau_patience is not None)
    if heads.read(workdir) is None:  # so that the folder can be used before the run ends
        workdir.mkdir(parents=True, exist_ok=True)
        heads.write(workdir, head)
    return {
        "source": source,
        "objective": lambda step: objective,
        "trains": method.trains(f.method),
        "init": init,
        "tasks": [task],
        "hooks": hooks,
        "report": functools.partial(report, splits, head, task, outputs, layers or {}),
    }


def _paths(config: Config, examples: Examples) -> str:
    """The files of a split, as results name them."""
    return ", ".join(getattr(config.finetune, examples.name) or config.finetune.train)


def report(
    splits: Splits, head: Head, task, outputs, layers: dict, run: Run, params, now: Moment, began: float
) -> Results:
    """Evaluates the best checkpoint, and writes results, predictions, plots and the calibrated head.

    See `training.run.finish` for the last four arguments.
    """
    config, workdir = run.config, run.workdir
    best = run_folder.best(workdir, config.checkpoint.best)
    step = now.step if best is None else best[0]
    if step != now.step:
        target = abstract_state(config, run.mesh, run.trains, run.init).params
        params = merge(run_folder.restore_params(workdir, target, step)[0], run.frozen)
    model = Model(config.name, sum(x.size for x in jax.tree.leaves(params)), str(workdir), step)

    found = []
    of_validation = outputs(splits.validation)(run.mesh)(params, silent)
    test = splits.test
    if test is not None:
        started = time.perf_counter()
        of_test = outputs(test)(run.mesh)(params, silent)
        values = evaluate(head.problem, test.targets, evaluation.numbers(head, of_test))
        result = Result(values, {"rows": len(test)}, dataset=Dataset(_paths(config, test), test.digest, "test"))
        result.seconds = time.perf_counter() - started
        found.append(result)
        write_predictions(workdir / PREDICTIONS, head, test, of_test)
    values = evaluate(head.problem, splits.validation.targets, evaluation.numbers(head, of_validation))
    dataset = Dataset(_paths(config, splits.validation), splits.validation.digest, "validation")
    by_layer = {"layer": layers} if layers else {}
    found.append(Result(values, {"rows": len(splits.validation)}, breakdown=by_layer, dataset=dataset))
    heads.write(workdir, head)

    logged = ("loss", "skipped", "tokens_per_s", "bases_per_s")
    facts = {name: now.metrics.get(name) for name in logged}
    facts |= {"peak_memory_gib": memory.peak(), "seconds": round(time.perf_counter() - began, 1)}
    results = Results(tuple(Evaluation.of(task, result, model) for result in found), finite(facts))
    results.write(workdir)
    draw_all(results, list(read_log(workdir / "log.jsonl")), workdir)
    cli.escape_unencodable()
    lines = (
        []
        if test is not None
        else ["there are no test rows (finetune.test): these are of the rows that chose the model"]
    )
    if best is not None:
        lines.append(f"best: step {best[0]} of {now.step}, {config.checkpoint.best} {best[1]:.4f} on validation")
    print("\n".join(["", results.table(), *lines]))
    print(f"Results in {workdir / FILE}, plots in {workdir / 'plots'}")
    return results


def write_predictions(path: Path, head: Head, examples: Examples, outputs: np.ndarray) -> None:
    """Writes a table with a line for each row: where it is from, its target, and what is predicted."""
    found = of_outputs(head, outputs)
    if head.problem == "single_label":
        targets, names = [[head.names[i]] for i in examples.targets], ["target"]
    else:
        targets, names = examples.targets.tolist(), [f"target({name})" for name in head.names]
    lines = ["\t".join(["row", *names, *columns(head)])]
    for row, (target, values) in enumerate(zip(targets, found.rows(), strict=True)):
        cells = [examples.where(row), *target, *values]
        lines.append("\t".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells))
    write_text(path, "\n".join(lines) + "\n")
