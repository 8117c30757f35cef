"""What a task is: something that a model is measured by, during training and from a checkpoint."""

import abc
import contextlib
import contextvars
import dataclasses
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from gener_jax.config import Config, ModelSpec
from gener_jax.inference.lm import LM
from gener_jax.runtime.errors import ConfigError
from gener_jax.statistics.metrics import Metric
from gener_jax.storage.results import Dataset, Published

Progress = Callable[[int, int], None]  # called with the units of work done, and with those in all


@dataclasses.dataclass(frozen=True)
class Paired:
    """Which columns of `Result.predictions` give the main metric of a task, so that two models can be compared on the
    same rows: the gain of one over the other, with the interval of the paired bootstrap.

    Zero-shot scores: Paired("multi_label", "auroc", scores=("score",), targets=("pathogenic",), rows="variant").
    Measured values: Paired("regression", "spearman", scores=("score",), targets=("effect",)). Probabilities of classes:
    Paired("single_label", "mcc", scores=("p_a", "p_b"), targets=("class",)). A value of each row: Paired("mean",
    "accuracy", scores=("recovered",)).

    Attributes:
      problem: a key of `statistics.metrics.METRICS`, or "mean".
      metric: a name in `METRICS[problem]`; of "mean", what the values are.
      scores: columns with what the model predicts: one per class, label or output; of "mean", one.
      targets: columns with the truth: one with the number of the class, or one per label or output; of "mean", none.
      groups: the column whose equal values are resampled together; None: each row alone.
      rows: the column that names a row, so that rows which only one model can score are left out; None: both must have
        all rows, in one order.
      higher_is_better: of "mean".
      strata: the column over whose values the metric is averaged, of one score and one target; None: it is of all rows.
      weighting: of these means, as of `statistics.matched.prepare`.
    """

    problem: str
    metric: str
    scores: tuple[str, ...]
    targets: tuple[str, ...] = ()
    groups: str | None = None
    rows: str | None = None
    higher_is_better: bool = True
    strata: str | None = None
    weighting: str = "size"


@dataclasses.dataclass
class Result:
    """What a task found. A subclass may compute `baselines` and `breakdown` when they are asked for, after training.

    Attributes:
      metrics: numbers by name, which training logs; all are declared in `Task.metrics`.
      counts: what was evaluated, such as regions and bases.
      intervals: metric → the ends of its 95 % confidence interval, or None; None without any.
      baselines: name → metric → value, on the same data.
      breakdown: column → group → metrics and counts of that group.
      dataset: what it was evaluated on, if that is a dataset of regions.
      text: lines for a person, beyond the table of all this; not stored.
      seconds: what the model took (see `measure`).
      published: what others report for this task, best known first.
      note: one or two sentences: which of the published figures compare with these and which do not, and why.
      predictions: column → values, one per row that was scored, so that a reader can compute other metrics; written as
        a table, never logged.
      paired: which of those columns make the main metric; None: two models are not compared row by row.
      figures: file name without suffix → a function that draws it with `plotting` and returns the figure.
    """

    metrics: dict[str, float]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    breakdown: dict[str, dict[str, dict[str, float]]] = dataclasses.field(default_factory=dict)
    dataset: Dataset | None = None
    text: str = ""
    seconds: float = 0.0
    intervals: dict[str, tuple[float, float] | None] | None = None
    published: tuple[Published, ...] = ()
    note: str = ""
    predictions: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    paired: Paired | None = None
    figures: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A measurement of a model.

    Attributes:
      name: its key in the log.
      metrics: what its numbers are, by name.
      metric: the main one, which can choose the best checkpoint, as `checkpoint.best` NAME.METRIC.
    """

    name: str
    metrics: dict[str, Metric]
    metric: str

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh) -> Callable[[Any, Progress], Result]:
        """`run(params, progress)`, for parameters of the model on the mesh, stacked or by layer.

        It is made once and called many times; every process calls it, and gets the same result.

        Raises:
          ConfigError: if the task cannot be done with this model.
        """


class NotRun(ConfigError):
    """A task that cannot be done here: its data are missing, or the model's context is too short. No failure."""


_found: contextvars.ContextVar[list[Path | str] | None] = contextvars.ContextVar("_found", default=None)


@contextlib.contextmanager
def files_found() -> Iterator[list[Path | str]]:
    """Within it, files that `Options.file` finds are added to its list: what a result was made of; and as text, as of
    `is_there`, what it was made without: files that `Options.file` does not find, and parts that are not `installed`.
    """
    found = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


_PARTS = {
    "file": lambda name: Path(name).exists(),
    "program": lambda name: shutil.which(name) is not None,
    "package": lambda name: importlib.util.find_spec(name) is not None,
}


def is_there(part: str) -> bool:
    """Whether an optional part is there: "file", "program" or "package", and its path or name."""
    kind, _, name = part.partition(" ")
    return _PARTS[kind](name)


def installed(part: str) -> bool:
    """As `is_there`; a part that is not there is recorded by `files_found`."""
    there = is_there(part)
    if not there:
        _record(part)
    return there


def _record(what: Path | str) -> None:
    if (found := _found.get()) is not None:
        found.append(what)


@dataclasses.dataclass(frozen=True)
class Options:
    """What tasks on files of the field need to know; see `config.Eval`.

    Attributes:
      data: the folder of the field's data; None if none is given.
      rows: at most so many rows of each set, chosen in a fixed random order; None: all.
      seed: of whatever is random: the choice of rows, plants, resamples.
    """

    data: Path | None = None
    rows: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: Config) -> "Options":
        """Those of a configuration."""
        data = config.eval.data
        return cls(None if data is None else Path(data), config.eval.rows, config.eval.seed)

    def file(self, name: str, source: str) -> Path:
        """A file of the data, named by its path below the folder.

        Raises:
          NotRun: if it is missing; `source` says where it comes from, as a command or an address.
        """
        if self.data is None:
            raise NotRun(f"needs {name}; give the folder of the data as eval.data (from {source})")
        path = self.data / name
        if not path.exists():
            _record(f"file {path.absolute()}")
            raise NotRun(f"needs {path}, which does not exist; from {source}")
        _record(path)
        return path


class ModelTask(abc.ABC):
    """A task that is a function of a model: of an `LM`, or of any object with the methods of one that it names.

    A subclass has `name`, `metrics` and `metric` as `Task` says, and is called with the model.
    """

    name: str
    metrics: dict[str, Metric]
    metric: str

    @abc.abstractmethod
    def __call__(self, model, progress: Progress = lambda done, total: None) -> Result:
        """What the task finds.

        Raises:
          NotRun: if it cannot be done with this model.
        """

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh) -> Callable[[Any, Progress], Result]:
        """See `Task`; in one process only."""
        if jax.process_count() > 1:
            raise ConfigError(f"runs in one process, not in {jax.process_count()}", "eval.tasks", self.name)
        return lambda params, progress: self(LM(spec, params, mesh), progress)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task that `eval.tasks` and `evaluate --tasks` know.

    Attributes:
      name: of the task.
      make: the task, of a configuration (see `Options.of`).
      quick: the rows that `--tasks quick` takes of it; None if it is no part of that.
      group: a name that stands for several tasks.
      regions: whether it is measured on regions of the run's dataset, not on data of the field; `evaluate` then builds
        the dataset where it does not exist, and does not run the task with random weights.
    """

    name: str
    make: Callable[[Config], Task]
    quick: int | None = None
    group: str = ""
    regions: bool = False


def measure(run: Callable[[Any, Progress], Result], params, progress: Progress) -> Result:
    """What `run` of `Task.prepare` finds, with the time it took."""
    began = time.perf_counter()
    result = run(params, progress)
    result.seconds = time.perf_counter() - began
    return result


def silent(done: int, total: int) -> None:
    """Progress that nobody sees."""
