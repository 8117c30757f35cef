"""The problems with a label, several labels or values per sequence: from the rows of the splits to a plan and results.

Validation rows choose the checkpoint, the layer, the temperature and what baselines have to choose. Test rows choose
nothing.
"""

import csv
import dataclasses
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from data_pipeline.errors import DataError, MismatchError, counted
from data_pipeline.files import write_text
from gener_jax.config import Config, Head, ModelSpec
from gener_jax.finetuning import evaluation, method, objectives, plots
from gener_jax.finetuning.features import Cache, sweep
from gener_jax.finetuning.plan import Plan, resolved
from gener_jax.finetuning.source import Features, Rows
from gener_jax.inference.framing import LONGER, Framing
from gener_jax.inference.prediction import columns, of_outputs
from gener_jax.labelled import splits as labelled
from gener_jax.labelled.audit import Leaks, leaks
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import Splits
from gener_jax.model.sharding import mesh_of
from gener_jax.runtime.errors import ConfigError, user_errors
from gener_jax.runtime.progress import log
from gener_jax.statistics.calibration import temperature
from gener_jax.statistics.metrics import METRICS
from gener_jax.storage.results import Dataset
from gener_jax.tasks.base import Result, silent
from gener_jax.tasks.labelled_rows import beside, measure
from gener_jax.training.checkpoint import check_folder

PREDICTIONS = "test_predictions.tsv"


def plan(config: Config, base: ModelSpec, workdir: Path) -> Plan:
    """The plan of a run on the rows of `config.finetune`.

    Raises:
      ConfigError, DataError: one line each.
    """
    f = config.finetune
    if f.problem in METRICS and f.metric not in (None, *METRICS[f.problem]):
        problem = f"must be one of {', '.join(METRICS[f.problem])}, for {f.problem}"
        raise ConfigError(problem, "finetune.metric", f.metric)
    if f.class_weights and f.problem != "single_label":
        raise ConfigError("is for finetune.problem single_label", "finetune.class_weights", f.class_weights)
    splits = labelled.read(f, config.train.seed)
    for note in splits.notes:
        log(note)
    config, head, framing = resolve(config, splits, base)
    objective, layers = objectives.of_config(config, head), {}
    if f.method == "frozen":
        check_folder(workdir, config)  # before features are written there
        mesh = mesh_of(config)
        cache = Cache(config, workdir, framing, mesh)
        if f.layer == "sweep":
            head, layers = sweep(config, workdir, splits, head, cache, mesh)
        of_train = cache.of(splits.train, head)
        init = method.init(config, head, method.standardize(of_train))
        source = Features(config, splits.problem, of_train, splits.train, splits.validation)
        for each in _each(splits):
            cache.of(each, head)
        cache.close()  # the run loads the model again, as it is kept in its folder
    else:
        init = method.init(config, head)
        source = Rows(config, splits.problem, head, framing, splits.train, splits.validation)

    def outputs(examples: Examples, mesh: jax.sharding.Mesh) -> evaluation.Outputs:
        if f.method == "frozen":
            return evaluation.of_features(cache.of(examples, head)[: 1 + head.average_strands], mesh)
        return evaluation.of_rows(config, head, framing, examples, mesh)

    task = evaluation.Finetune(
        config.finetune.metric, head, splits.validation, _dataset(config, splits.validation), outputs
    )
    report = Report(config, workdir, splits, head, outputs, layers)
    test = None if splits.test is None else splits.test.digest
    return Plan(config, head, source, objective, init, task, report, test=test)


def _dataset(config: Config, examples: Examples) -> Dataset:
    """The rows of a split as results name them."""
    files = getattr(config.finetune, examples.name) or config.finetune.train
    return Dataset(", ".join(files), examples.digest, examples.name)


def resolve(config: Config, splits: Splits, base: ModelSpec) -> tuple[Config, Head, Framing]:
    """The configuration with what follows from the rows and the base; the head; and how sequences are framed.

    Raises:
      ConfigError: if rows exceed the context.
      DataError: if a row has no token, or an output of a regression does not vary.
    """
    f, problem = config.finetune, splits.problem
    for name, scale in zip(problem.names, problem.scale, strict=False):
        if not scale > 0:
            raise MismatchError("is the same in all training rows", field=name, remedy="leave it out of finetune.label")
    head = Head(
        problem=problem.kind,
        names=problem.names,
        pooling=f.pooling,
        layer=int(f.layer) if f.layer.isdecimal() else None,
        bias=f.head_bias,
        mean=problem.mean,
        scale=problem.scale,
        average_strands=f.average_strands,
        standardized=f.method == "frozen",
        untrimmed=f.untrimmed,
        pool_at_end=f.pool_at_end,
    )
    with user_errors("finetune"):
        framing = Framing(base, head)
    lengths = {each.name: _lengths(framing, each) for each in _each(splits)}
    model, head = _extended(f.long, base, head, lengths)
    spec = dataclasses.replace(base, model=model)
    framing = Framing(spec, head)
    longest = int(lengths["train"].max())
    longest = longest if framing.longest is None else min(longest, framing.longest)
    context_length = 1 if f.method == "frozen" else longest  # a step on features reads no tokens
    metric = f.metric or next(iter(METRICS[problem.kind]))
    return resolved(config, spec, rows=len(splits.train), context_length=context_length, metric=metric), head, framing


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


def _extended(long: str, base: ModelSpec, head: Head, lengths: dict[str, np.ndarray]):
    """The model and the head for rows of these lengths: extended as `finetune.long` says, from 1.05 times the context.

    Raises:
      ConfigError: if rows exceed the context and `long` is "refuse".
    """
    model = base.model
    limit, longest = model.max_length, max(int(each.max()) for each in lengths.values())
    if limit is None or longest <= limit:
        return model, dataclasses.replace(head, long="truncate" if long == "truncate" else "refuse")
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
    chunks = Framing(base, head).chunks(longest)
    log(f"{what}: rows have {chunks} chunks")
    return model, dataclasses.replace(head, long=long, chunks=chunks)


@dataclasses.dataclass(frozen=True)
class Report:
    """What the best checkpoint is worth: `Plan.results`."""

    config: Config
    workdir: Path
    splits: Splits
    head: Head
    outputs: object  # (examples, mesh) → `evaluation.Outputs`
    layers: dict[str, dict[str, float]]  # of a sweep

    def __call__(self, params, mesh: jax.sharding.Mesh) -> tuple[list[Result], Head]:
        """See `Plan.results`."""
        splits, head, main = self.splits, self.head, self.config.finetune.metric
        validation = self.outputs(splits.validation, mesh)(params, silent)
        if head.problem != "regression":
            head = dataclasses.replace(head, temperature=temperature(validation, splits.validation.targets))
        found, rows, outputs = [], splits.validation, validation
        if splits.test is not None:
            rows, began = splits.test, time.perf_counter()
            outputs = self.outputs(rows, mesh)(params, silent)
            seconds, copies = time.perf_counter() - began, self._audit(rows)
            write_predictions(self.workdir / PREDICTIONS, head, rows, outputs)
            found.append(self._result(rows, head, outputs, copies))
            found[0].seconds = seconds
        copies = self._audit(rows) if splits.test is None else None
        found.append(self._result(splits.validation, head, validation, copies))
        found[-1].breakdown |= {"layer": self.layers} if self.layers else {}
        others = {}
        if self.config.finetune.baselines:
            log("fitting the baselines")
            numbers = evaluation.numbers(head, outputs)
            others = _baselines(splits, rows, main, self.config.train.seed)
            found[0].baselines = beside(head.problem, rows, numbers, main, others)
        plots.draw_rows(self.workdir / "plots", self.config.name, head, rows, outputs, others)
        if self.layers:
            plots.draw_sweep(self.workdir / "plots", self.config.name, self.layers, main, head)
        return found, head

    def _audit(self, rows: Examples) -> Leaks:
        """What the rows that tell what the model is worth have in common with training."""
        found = leaks(self.splits.train, rows)
        log(f"{rows.name}: {found}")
        return found

    def _result(self, rows: Examples, head: Head, outputs: np.ndarray, copies: Leaks | None = None) -> Result:
        numbers, main = evaluation.numbers(head, outputs), self.config.finetune.metric
        found = measure(self.splits.problem, rows, numbers, main, copies)
        found.dataset = _dataset(self.config, rows)
        return found


def _baselines(splits: Splits, rows: Examples, metric: str, seed: int) -> dict[str, np.ndarray]:
    """What each baseline predicts for some rows, by its name."""
    from gener_jax.baselines import fitting  # scikit-learn, which takes seconds to import

    predicted = {}
    for each in fitting.fit(splits.train, splits.validation, splits.problem, metric=metric, seed=seed):
        predicted[each.name] = each.predict(rows.sequences)
        choices = ", ".join(f"{name} {value}" for name, value in each.choices.items())
        log(f"{each.name}" + (f": chosen on validation: {choices}" if choices else ""))
    return predicted


def write_predictions(path: Path, head: Head, examples: Examples, outputs: np.ndarray) -> None:
    """Writes a table with a line for each row: where it is from, its target, and what is predicted."""
    found, text = of_outputs(head, outputs), io.StringIO()
    if head.problem == "single_label":
        targets, names = [[head.names[i]] for i in examples.targets], ["target"]
    else:
        targets, names = examples.targets.tolist(), [f"target({name})" for name in head.names]
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(["row", *names, *columns(head)])
    for row, (target, values) in enumerate(zip(targets, found.rows(), strict=True)):
        cells = [examples.where(row), *target, *values]
        table.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells])
    write_text(path, text.getvalue())


def read_predictions(path: Path, names: Sequence[str]) -> np.ndarray:
    """What such a table holds for each row: probabilities, or values, float64 [rows, names]."""
    lines = path.read_text().splitlines()[1:]
    return np.array([line.split("\t")[-len(names) :] for line in lines], np.float64).reshape(len(lines), len(names))
