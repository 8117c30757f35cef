"""The one schema of results: `results.json`, and the last line of `train` and `evaluate`.

    {"format": 1, "date": …, "environment": {command, commit, python, platform, devices, versions},
     "training": {"loss": …, …} or null,
     "evaluations": [{"task": "held_out",
                      "model": {"name", "parameters", "checkpoint", "step"},
                      "dataset": {"path", "digest", "split"} or null,
                      "metrics": {"bits_per_base": {"value", "unit", "higher_is_better", "low", "high"}, …},
                      "counts": {"regions": …, "bases": …},
                      "baselines": {"markov_5": {"bits_per_base": …}, …},
                      "breakdown": {"taxon": {"bct": {"bits_per_base": …, "bases": …}, …}, …},
                      "seconds": …,
                      "published": [{"model", "metric", "value", "standard_error", "source", "comparable"}, …],
                      "note": …}, …],
     "skipped": [{"task", "model", "status": "not run" or "failed", "reason"}, …],
     "gains": [{"task", "metric", "model", "over", "gain", "low", "high", "rows"}, …]}

An evaluation is one task done with one model, so a file can hold several models and tasks. Numbers that are not finite
are null.
"""

import dataclasses
import datetime
import json
import re
import types
import typing
from pathlib import Path

from data_pipeline.files import finite, write_text
from gener_jax.runtime.environment import environment
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.files import from_here, read_json

FORMAT = 1
FILE = "results.json"

Numbers = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Model:
    """What was evaluated: a model's name, its number of parameters, its folder and the step of a run."""

    name: str
    parameters: int
    checkpoint: str
    step: int | None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What it was evaluated on: a folder, the digest of its content, and its split."""

    path: str
    digest: str
    split: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """A metric's value, with its unit ("bits per base"; empty for a plain number), its direction (None: it has none)
    and the ends of its 95 % confidence interval (None: not computed).
    """

    value: float | None
    unit: str
    higher_is_better: bool | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """What others report: a model's value of a metric, its standard error (None: not known) and where it stands.

    `comparable` tells whether rows, split and metric are those of the evaluation beside it.
    """

    model: str
    metric: str
    value: float
    standard_error: float | None
    source: str
    comparable: bool


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one task found for one model.

    Attributes:
      task: its name.
      model, dataset: of what, on what; a task without a dataset of regions has None.
      metrics: name → value, the task's main metric first. `evaluation["bits_per_base"]` is the value alone.
      counts: what was evaluated, such as regions and bases.
      baselines: name → metric → value, on the same data.
      breakdown: column → group → metrics and counts of that group.
      seconds: what the model took, compilation included; baselines excluded.
      published: what others report.
      note: which of these figures compare with the model's, and which do not.
    """

    task: str
    model: Model
    dataset: Dataset | None
    metrics: dict[str, Measured]
    counts: dict[str, int]
    baselines: dict[str, Numbers]
    breakdown: dict[str, dict[str, Numbers]]
    seconds: float
    published: tuple[Published, ...] = ()
    note: str = ""

    def __getitem__(self, metric: str) -> float | None:
        return self.metrics[metric].value

    @classmethod
    def of(cls, task, result, model: Model) -> "Evaluation":
        """The evaluation of a `base.Task` and its `base.Result`."""
        values = finite(result.metrics)
        names = [task.metric, *(name for name in values if name != task.metric)]

        def measured(name, metric):
            low, high = finite((result.intervals or {}).get(name) or (None, None))
            return Measured(values[name], metric.unit, metric.higher_is_better, low, high)

        return cls(
            task=task.name,
            model=model,
            dataset=result.dataset,
            metrics={name: measured(name, task.metrics[name]) for name in names},
            counts=result.counts,
            baselines=finite(result.baselines),
            breakdown=finite(result.breakdown),
            seconds=round(result.seconds, 2),
            published=tuple(result.published),
            note=result.note,
        )

    @property
    def groups(self) -> dict[str, dict[str, Numbers]]:
        """The breakdown without columns of one group that is the whole again."""
        (main, measured), *_ = self.metrics.items()
        return {
            column: rows
            for column, rows in self.breakdown.items()
            if len(rows) > 1 or any(row.get(main) != measured.value for row in rows.values())
        }

    def table(self) -> str:
        """As text: the main metric of the model, of the baselines and of each group, and then the other metrics."""
        (main, measured), *others = self.metrics.items()
        compared = {f"{self.model.name} (this model)": measured.value}
        compared |= {_words(name): row.get(main) for name, row in self.baselines.items()}
        intervals = [(measured.low, measured.high)]
        intervals += [(row.get(f"{main}_low"), row.get(f"{main}_high")) for row in self.baselines.values()]
        known = [value for value in compared.values() if value is not None]
        higher = measured.higher_is_better
        best = (max if higher else min)(known) if len(known) > 1 and higher is not None else None
        decimals = 4 if all(abs(value) < 10 for value in known) else 1

        def between(low, high):
            return "" if low is None or high is None else f"[{_shown(low, decimals)}, {_shown(high, decimals)}]"

        rows = []
        for (name, x), ends, row in zip(compared.items(), intervals, [{}, *self.baselines.values()], strict=True):
            gain, notes = row.get(f"{main}_gain"), [between(*ends), "← best" if x == best is not None else ""]
            if gain is not None:
                ends = between(row.get(f"{main}_gain_low"), row.get(f"{main}_gain_high"))
                notes.append(f"gain of this model {signed(gain, decimals)} {ends}".rstrip())
            rows.append((name, x, "  ".join(filter(None, notes))))
        sections = [("", rows)]
        for column, groups in self.groups.items():
            if not any(main in row for row in groups.values()):  # of classes, which have other metrics
                continue
            sized = [name for name in self.counts if any(name in row for row in groups.values())][-1:]
            counts = [{name: row[name] for name in sized if name in row} for row in groups.values()]
            rows = [
                (name, row.get(main), f"({counted(number)})" if number else "")
                for (name, row), number in zip(groups.items(), counts, strict=True)
            ]
            sections.append((f"By {_words(column)}", rows))
        width = max(len(name) for _, rows in sections for name, _, _ in rows)
        direction = "" if higher is None else f"{'higher' if higher else 'lower'} is better"
        kind = ", ".join(filter(None, [_unit(main, measured), direction]))
        lines = [f"{_words(self.task)}: {_words(main)}" + (f" ({kind})" if kind else "")]
        where = [f"{self.dataset.split} split of {from_here(self.dataset.path)}"] if self.dataset else []
        if where or self.counts:
            lines.append("  " + ": ".join([*where, *[counted(self.counts)] * bool(self.counts)]))
        for heading, rows in sections:
            lines += [heading] if heading else []
            lines += [f"  {name:{width}}  {_shown(value, decimals):>7}  {note}".rstrip() for name, value, note in rows]
        known = [(name, found) for name, found in others if found.value is not None]
        also = [
            f"{_words(name)} {_shown(found.value, 4 if abs(found.value) < 10 else 1)} {_unit(name, found)}".rstrip()
            for name, found in known
        ]
        return "\n".join(lines + ([f"Also {', '.join(also)}"] if also else []))


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A task without a number for a model.

    Attributes:
      task, model: their names.
      status: "not run", where its data are missing or the model cannot do it; or "failed".
      reason: in one line.
    """

    task: str
    model: str
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better one model is than another by the main metric of a task, on rows that both predict.

    Attributes:
      task, metric: of what.
      model, over: the names of the two.
      gain: above 0 where `model` is better, also if lower is better.
      low, high: the 95 % interval of the paired bootstrap; None: not computed.
      rows: that both predict.
    """

    task: str
    metric: str
    model: str
    over: str
    gain: float | None
    low: float | None
    high: float | None
    rows: int


@dataclasses.dataclass(frozen=True)
class Results:
    """All evaluations of one command, and what the log says of training where the model is a run's.

    `results["held_out"]` is the first evaluation of that task. `skipped` are tasks without a number, `gains` compare
    models that were evaluated side by side.
    """

    evaluations: tuple[Evaluation, ...]
    training: Numbers | None = None
    skipped: tuple[Skipped, ...] = ()
    gains: tuple[Gain, ...] = ()
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    environment: dict = dataclasses.field(default_factory=environment)

    def __getitem__(self, task: str) -> Evaluation:
        for evaluation in self.evaluations:
            if evaluation.task == task:
                return evaluation
        raise KeyError(task)

    def json(self) -> dict:
        """As plain values."""
        return finite({"format": FORMAT, **dataclasses.asdict(self)})

    def table(self) -> str:
        """As text: the table of each evaluation, gains between models, and what was skipped."""
        lines = [evaluation.table() for evaluation in self.evaluations]
        for each in self.gains:
            ends = "" if each.low is None or each.high is None else f" [{signed(each.low)}, {signed(each.high)}]"
            found = f"{each.model} over {each.over}: {_shown(each.gain, 4)}{ends} ({each.rows:,} rows)"
            lines.append(f"{_words(each.task)}: {_words(each.metric)}, gain of {found}")
        lines += [f"{_words(x.task)}, {x.model}: {x.status}: {x.reason}" for x in self.skipped]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Writes `results.json` into a folder, atomically; makes the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(self.json(), indent=2, allow_nan=False) + "\n")


def read(folder: Path) -> Results:
    """The results in a folder.

    Raises:
      CheckpointError: if there are none, they are of another format, or a field is missing, unknown or of another type;
        `name` is the field.
    """
    path = folder / FILE
    fields = read_json(path, max_bytes=1 << 26)
    if (found := fields.pop("format", None)) != FORMAT:
        raise CheckpointError(path, f"has format {found}, not {FORMAT}; evaluate again", name="format", value=found)
    return typed(fields, Results, path)


def typed(value, kind, path: Path, name: str = ""):
    """A value of a JSON file as an object of this type, a dataclass of plain fields; `name` is where it stands.

    Raises:
      CheckpointError: if a field is missing, unknown or of another type; `name` is the field.
    """
    origin, items = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # always with None
        return None if value is None else typed(value, items[0], path, name)
    if origin is dict and isinstance(value, dict):
        return {key: typed(x, items[1], path, f"{name}.{key}") for key, x in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(typed(x, items[0], path, f"{name}[{i}]") for i, x in enumerate(value))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        at = f"{name}." if name else ""
        optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
        if wrong := (set(hints) ^ set(value)) - (optional - set(value)):
            field = min(wrong)
            problem = f"{at}{field}: {'is missing' if field in hints else 'is unknown'}; evaluate again"
            raise CheckpointError(path, problem, name=at + field)
        return kind(**{field: typed(x, hints[field], path, at + field) for field, x in value.items()})
    plain = (int, float) if kind is float else kind
    if origin is None and isinstance(value, plain) and (kind is bool or not isinstance(value, bool)):
        return value
    raise CheckpointError(path, f"{name}: is not as this version writes it; evaluate again", name=name, value=value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _unit(name: str, found: Measured) -> str:
    """The unit, unless the name says it."""
    return "" if found.unit in _words(name) else found.unit


def _shown(value: float | None, decimals: int) -> str:
    return "none" if value is None else f"{value:z,.{decimals}f}"


def signed(value: float, decimals: int = 4) -> str:
    """A number with its sign; what rounds to 0 has none."""
    text = f"{value:+z,.{decimals}f}"
    return text if text.strip("+0.,") else text[1:]


def counted(counts: dict[str, float | None]) -> str:
    """Counts with their names, in the singular for 1; a name with a colon, such as a reason, is shown as it is."""

    def words(name, number):
        plural = number != 1 or ":" in name or name.endswith(("species", "ss"))
        return _words(name) if plural else re.sub("ies$", "y", _words(name)).removesuffix("s")

    return ", ".join(f"{number:,} {words(name, number)}" for name, number in counts.items())
