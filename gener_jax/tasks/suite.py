"""Several models measured by several tasks: each pair is a cell, kept in a folder, so that a stopped suite resumes.

    DIR/cells/MODEL.TASK.json          an evaluation, with the fingerprint of what it was made of
    DIR/predictions/MODEL/TASK.tsv     the predictions of its rows
    DIR/plots/MODEL/TASK/NAME.png      its plots

A cell is measured unless it is there with the same fingerprint: task, settings and seeds, the model's files and step,
the data that the task read, and the version of this package. It names the optional parts that were missing (exonerate,
UMAP, a bigWig file), and is measured again when one is there. Only complete cells are written, so what does not run or
fails is tried again.
"""

import dataclasses
import functools
import json
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_pipeline.errors import DataError, one_line
from data_pipeline.files import finite, write_text
from gener_jax import __version__
from gener_jax.config import Config, flatten
from gener_jax.inference.lm import LM
from gener_jax.plotting.figure import draw
from gener_jax.runtime.errors import CheckpointError, ConfigError, InputError
from gener_jax.runtime.progress import log
from gener_jax.storage.files import read_json
from gener_jax.storage.results import Evaluation, Gain, Model, Numbers, Results, Skipped, typed
from gener_jax.storage.resumable import of_file
from gener_jax.tasks import pairs
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Paired, Result, Task, files_found, is_there, measure

FORMAT = 1  # of a cell
RANDOM = "random_weights"  # the name of the baseline
SEED = "seed"  # the column of the breakdown with the metrics of each seed
NOT_RUN, FAILED = "not run", "failed"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model to measure, which is loaded when the first cell needs it.

    Attributes:
      model: how results name it; the names of all candidates differ.
      config: of which its tasks are made.
      made_of: plain values that determine what it computes.
      load: gives the `LM`, or an object with its methods; of random weights those of the seed.
      shape: what it has in common with models of other weights.
      random: whether its weights are random, so that it is a baseline of the others of its shape.
    """

    model: Model
    config: Config
    made_of: dict
    load: Callable[[int], LM]
    shape: str = ""
    random: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a task found for a candidate: an evaluation, or why there is none.

    Attributes:
      candidate, entry: of what.
      evaluation: None if there is none; then there is `skipped`, and the `error` that was the reason.
      paired, predictions: what models are compared by, and of what; None and empty if the task declares nothing.
      figures: the names of its plots.
    """

    candidate: Candidate
    entry: Entry
    evaluation: Evaluation | None = None
    skipped: Skipped | None = None
    error: Exception | None = None
    paired: Paired | None = None
    predictions: pairs.Table = dataclasses.field(default_factory=dict)
    figures: tuple[str, ...] = ()


def limited(config: Config, rows: int | None) -> Config:
    """A configuration whose tasks take at most so many rows, regions or genes; None: as it is."""
    if rows is None:
        return config
    sizes = {name: getattr(config.eval, name) for name in ("rows", "max_regions", "recovery_genes")}
    smaller = {name: rows if size is None else min(size, rows) for name, size in sizes.items()}
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **smaller))


def run(
    candidates: Sequence[Candidate], chosen: Sequence[tuple[Entry, int | None]], folder: Path | None = None, *,
    seeds: int = 1, again: bool = False, before: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
    change: Callable[[Task, Candidate], Task] = lambda task, candidate: task,
) -> list[Cell]:  # fmt: skip
    """The cells of all candidates and tasks; a candidate with random weights has those of tasks of models alone.

    Args:
      candidates: one after the other, so that one model is in memory at a time.
      chosen: tasks, with the rows to which each is limited.
      folder: keeps the cells; None: they are only returned.
      seeds: tasks of models are done with so many seeds, from `eval.seed` on, and so are random weights. The evaluation
        is that of the first; the metrics of each, their mean and deviation are its breakdown by `SEED`.
      again: measure also what the folder has.
      before: is called before a cell is measured.
      change: gives the task that is measured instead; an entry's name must tell how.

    Raises:
      KeyboardInterrupt: with a line of what is kept.
    """
    found, total = [], sum(not (candidate.random and entry.regions) for candidate in candidates for entry, _ in chosen)
    try:
        for candidate in candidates:
            loaded = functools.lru_cache(1)(candidate.load)
            for entry, rows in chosen:
                if not (candidate.random and entry.regions):
                    kept = None if folder is None else _Kept(folder, candidate, entry, rows, seeds)
                    cell = None if kept is None or again else kept.read()
                    found.append(cell or _measured(candidate, entry, rows, seeds, loaded, kept, before, change))
            loaded.cache_clear()
    except KeyboardInterrupt as interrupt:
        done = sum(cell.evaluation is not None for cell in found)
        what = f"{done} of {total} results are kept in {folder}; the same command resumes there"
        interrupt.args = ("nothing is kept" if folder is None or not done else what,)
        raise
    return found


def _measured(candidate: Candidate, entry: Entry, rows, seeds, loaded, kept: "_Kept | None", before, change) -> Cell:
    """Measures a cell, and keeps it if it has an evaluation."""
    name, began = f"{candidate.model.name}, {entry.name}", time.perf_counter()
    last = began

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 10:
            last = time.perf_counter()
            log(f"{name}: {done:,} of {total:,}")

    try:
        with files_found() as files:
            before(candidate, entry)
            by_seed = {}
            for config in _seeded(limited(candidate.config, rows), 1 if entry.regions else seeds):
                each = change(entry.make(config), candidate)
                found = _result(each, loaded(config.eval.seed if candidate.random else 0), progress)
                if not by_seed:
                    task, result = each, found
                by_seed[str(config.eval.seed)] = found.metrics
            if len(by_seed) > 1:
                result.breakdown = {**result.breakdown, SEED: _with_spread(by_seed)}
            evaluation = dataclasses.replace(Evaluation.of(task, result, candidate.model), task=entry.name)
        table = pairs.table_of(result.predictions)
        if result.paired is not None:
            pairs.check(result.paired, table)
        if result.dataset is not None:
            files.append(Path(result.dataset.path) / "dataset.json")
        figures = {} if candidate.random else result.figures
        cell = Cell(candidate, entry, evaluation, paired=result.paired, predictions=table, figures=tuple(figures))
        if kept is not None:
            kept.write(cell, figures, dict.fromkeys(files))
    except Exception as error:
        absent = entry.regions and isinstance(error, DataError) and not Path(candidate.config.data.path).exists()
        status = NOT_RUN if isinstance(error, NotRun) or absent else FAILED
        known = isinstance(error, DataError | ConfigError | CheckpointError | InputError | OSError | MemoryError)
        if status == FAILED and not known:  # a defect of the task, which its author can find
            log("".join(traceback.format_exception(error)).rstrip())
        whole = " ".join(str(error).split()) if known else ""  # it says where missing data come from
        reason = whole or one_line(f"{type(error).__name__}: {error}")
        log(f"{name}: {status}: {reason}")
        _forget_frames(error)
        return Cell(candidate, entry, skipped=Skipped(entry.name, candidate.model.name, status, reason), error=error)
    value, metric = evaluation[task.metric], task.metric.replace("_", " ")
    log(f"{name}: {metric} {'none' if value is None else f'{value:.4f}'} ({time.perf_counter() - began:.0f} s)")
    return cell


def _seeded(config: Config, seeds: int) -> Iterator[Config]:
    for seed in range(config.eval.seed, config.eval.seed + seeds):
        yield dataclasses.replace(config, eval=dataclasses.replace(config.eval, seed=seed))


def _result(task: Task, lm, progress) -> Result:
    compute = (lambda _, progress: task(lm, progress)) if isinstance(task, ModelTask) else None
    return measure(compute or task.prepare(lm.spec, lm.mesh), getattr(lm, "params", None), progress)


def _with_spread(by_seed: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """With the mean and the standard deviation (of a sample) of each metric that all seeds have."""
    rows = list(by_seed.values())
    common = [name for name in rows[0] if all(name in row for row in rows)]
    means = {name: statistics.fmean(row[name] for row in rows) for name in common}
    deviations = {name: statistics.stdev(row[name] for row in rows) for name in common}
    return {**by_seed, "mean": means, "standard deviation": deviations}


def _forget_frames(error: BaseException | None) -> None:
    """Removes the tracebacks of an error that is kept, since they hold the model while the next one is loaded."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _Kept:
    """A cell's files in the folder of a suite."""

    def __init__(self, folder: Path, candidate: Candidate, entry: Entry, rows: int | None, seeds: int):
        self.folder, self.candidate, self.entry = folder, candidate, entry
        model = candidate.model.name
        self.path = folder / "cells" / f"{model}.{entry.name}.json"
        self.predictions = folder / "predictions" / model / f"{entry.name}.tsv"
        config = limited(candidate.config, rows)
        settings = {f"eval.{name}": value for name, value in flatten(config.eval) if name not in _OF_TRAINING}
        if entry.regions:
            settings |= {"data.path": config.data.path, "data.context_length": config.data.context_length}
        self.fingerprint = json.loads(json.dumps({
            "format": FORMAT, "version": __version__, "task": entry.name, **settings,
            "seeds": 1 if entry.regions else seeds, "model": candidate.made_of,
        }))  # fmt: skip

    def read(self) -> Cell | None:
        """The cell; None if it is to be measured."""
        if not self.path.exists():
            return None
        try:
            fields = read_json(self.path, 64 << 20)
            before, now = fields["fingerprint"], self.fingerprint
            changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            changed += [file["path"] for file in fields["files"] if _as_now(file) != file]
            if changed:
                log(f"{self.candidate.model.name}, {self.entry.name}: measured again: another {', '.join(changed)}")
                return None
            if arrived := [part for part in fields.get("missing", ()) if is_there(part)]:
                log(f"{self.candidate.model.name}, {self.entry.name}: measured again with {', '.join(arrived)}")
                return None
            evaluation = typed(fields["evaluation"], Evaluation, self.path, "evaluation")
            paired = typed(fields["paired"], Paired | None, self.path, "paired")
            table = pairs.read(self.predictions) if fields["predictions"] else {}
        except (CheckpointError, KeyError, TypeError, OSError, ValueError) as error:
            log(f"warning: {self.path}: measured again: cannot be read: {one_line(error)}")
            return None
        evaluation = dataclasses.replace(evaluation, model=self.candidate.model)
        figures = tuple(fields["figures"])
        return Cell(self.candidate, self.entry, evaluation, paired=paired, predictions=table, figures=figures)

    def write(self, cell: Cell, figures, files) -> None:
        """Writes predictions and plots, and then the cell itself, which makes it complete."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if cell.predictions:
            pairs.write(self.predictions, cell.predictions)
        for name, make in figures.items():
            draw(plot_of(self.folder, cell, name), make)
        fields = {
            "fingerprint": self.fingerprint,
            "files": [of_file(path) for path in files if isinstance(path, Path)],
            "missing": [part for part in files if isinstance(part, str)],
            "evaluation": dataclasses.asdict(cell.evaluation),
            "paired": None if cell.paired is None else dataclasses.asdict(cell.paired),
            "predictions": bool(cell.predictions),
            "figures": cell.figures,
        }
        write_text(self.path, json.dumps(finite(fields), indent=2, allow_nan=False) + "\n")


_OF_TRAINING = ("tasks", "every_steps")  # fields of `eval` that no task reads


def _as_now(file: dict) -> dict | None:
    """The facts of a file as it is now; None if it cannot be read."""
    try:
        return of_file(Path(file["path"]))
    except DataError:
        return None


def plot_of(folder: Path, cell: Cell, name: str) -> Path:
    """Where a plot of a cell is."""
    return folder / "plots" / cell.candidate.model.name / cell.entry.name / f"{name}.png"


def results_of(cells: Sequence[Cell], training: Numbers | None = None) -> Results:
    """The results of a suite: random weights stand among the baselines of the models of their shape, and models that
    are measured side by side are compared. Where random weights alone have no result, they are skipped under the name
    `random_name` of these models.
    """
    models = [cell for cell in cells if not cell.candidate.random]
    skipped = [cell.skipped for cell in models if cell.skipped is not None]
    for cell in cells:
        if cell.candidate.random and cell.skipped is not None:
            of_it = [x for x in models if (x.entry.name, x.candidate.shape) == (cell.entry.name, cell.candidate.shape)]
            if names := [x.candidate.model.name for x in of_it if x.evaluation is not None]:
                skipped.append(dataclasses.replace(cell.skipped, model=random_name(names)))
    return Results(
        tuple(_with_random(cell, cells) for cell in models if cell.evaluation is not None),
        training,
        tuple(skipped),
        tuple(_gains(models)),
    )


def random_name(names: Sequence[str]) -> str:
    """The name of random weights in the shape of models; no model's, as `file_name` has no blank."""
    return f"{RANDOM} ({', '.join(names)})"


def is_random(name: str) -> bool:
    """Whether a name is one of `random_name`."""
    return name.startswith(f"{RANDOM} ")


def _with_random(cell: Cell, cells: Sequence[Cell]) -> Evaluation:
    for other in cells:
        of_it = other.candidate.random and other.candidate.shape == cell.candidate.shape
        if of_it and other.entry.name == cell.entry.name and other.evaluation is not None:
            row = {}
            for name, found in other.evaluation.metrics.items():
                row[name] = found.value
                row |= {f"{name}_{end}": x for end, x in (("low", found.low), ("high", found.high)) if x is not None}
            if compared := _gain(cell, other):
                row |= {f"{compared.metric}_gain": compared.gain}
                ends = {"low": compared.low, "high": compared.high}
                row |= {f"{compared.metric}_gain_{end}": x for end, x in ends.items() if x is not None}
            baselines, breakdown = {RANDOM: row, **cell.evaluation.baselines}, dict(cell.evaluation.breakdown)
            if SEED in breakdown:
                of_random = {f"{RANDOM}, {seed}": x for seed, x in other.evaluation.breakdown[SEED].items()}
                breakdown[SEED] = breakdown[SEED] | of_random
            return dataclasses.replace(cell.evaluation, baselines=baselines, breakdown=breakdown)
    return cell.evaluation


def _gains(cells: Sequence[Cell]) -> Iterator[Gain]:
    for i, cell in enumerate(cells):
        for other in cells[i + 1 :]:
            if other.entry.name == cell.entry.name and (found := _gain(other, cell)):
                yield found


def _gain(cell: Cell, over: Cell) -> Gain | None:
    if cell.paired is None or cell.paired != over.paired:
        return None
    found = pairs.gain(cell.paired, cell.predictions, over.predictions)
    if found is None:
        return None
    (gain, rows), metric = found, next(iter(cell.evaluation.metrics))
    names = cell.candidate.model.name, over.candidate.model.name
    return Gain(cell.entry.name, metric, *names, *finite((gain.gain, gain.low, gain.high)), rows)


def file_name(name: str) -> str:
    """A model's name as a name of a file or folder, which is not hidden and not a parent's."""
    return re.sub(r"^\.|[^\w.+-]", "_", name) or "model"
