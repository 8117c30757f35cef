"""Fine-tunes a pre-trained model, and the same shape with random weights, on all tasks; compares both with baselines.

    gener-jax benchmark finetune --data ../shared/data --base runs/base_s \\
        --output matrix

A cell is one fine-tuning run: a task, outer fold, arm, weights, seed and rate.
The same command resumes; a cell that is done is not run again. The rate is
chosen on validation rows with one seed. Frozen cells and baselines come first.
At the end OUTPUT/matrix.md has the tables, and cells.jsonl a line per cell.
"""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline import cli
from data_pipeline.errors import DataError
from data_pipeline.files import write_text
from data_pipeline.ranges import Whole
from gener_jax.benchmarks.finetune_tasks import TASKS, WHOLE_MODEL, Task
from gener_jax.cli.calling import run
from gener_jax.config import Config, Data, Finetune, resolve
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.runtime.progress import log

LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
PRETRAINED, RANDOM = WEIGHTS = ("pre-trained", "random")
BATCH = 32  # rows
TOKEN_BATCH, TOKEN_EPOCHS, TOKEN_CONTEXT = 8, 2, 1025  # windows, passes over them at most, tokens of one
GFLOPS = 30  # of two cores: what estimates assume until cells of an arm are done
START = 8.0  # seconds of a cell besides its tokens
BASELINES = ("constant", "kmer", "cnn")  # in the order of `fitting.fit`, which fits the last to many rows only


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a model is fine-tuned: rates of which one is chosen, weights, and what differs from the published base."""

    rates: tuple[float, ...]
    weights: tuple[str, ...] = WEIGHTS
    finetune: dict = dataclasses.field(default_factory=dict)
    optimizer: dict = dataclasses.field(default_factory=dict)
    batch: int = BATCH
    whole_model: bool = True  # only on the tasks WHOLE_MODEL, and on outer fold 0
    seeds: int | None = None  # at most so many


_OPTIMIZER = {"beta2": 0.999, "weight_decay": 0.01, "final_learning_rate_ratio": 0.1}
ARMS = {
    "frozen": Arm((1e-3, 3e-3, 1e-2), finetune={"method": "frozen", "layer": "sweep"}, whole_model=False),
    "full": Arm((1e-4, 3e-4, 1e-3), finetune={"method": "full"}),
    "lora": Arm((1e-3, 3e-3, 1e-2), (PRETRAINED,), {"method": "lora", "targets": LORA_TARGETS}),
    "published": Arm(  # reference 3, with its selection by the named metric
        (1e-5,), (PRETRAINED,),
        {"method": "full", "pooling": "last", "head_bias": False, "evals_per_epoch": 10, "patience": 5,
         "plateau_patience": 2},
        {"beta2": 0.995, "weight_decay": 0.1, "final_learning_rate_ratio": 1.0}, 16, seeds=1,
    ),
}  # fmt: skip


class Cell(NamedTuple):
    """One run; `key` names its files."""

    task: str
    fold: int
    arm: str
    weights: str
    seed: int
    rate: float

    @property
    def key(self) -> str:
        """The name of the cell in files."""
        return f"{self.task}.{self.fold}.{self.arm}.{self.weights}.{self.seed}.{self.rate:g}"


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of an outer fold of a task, in files, and facts about them.

    Attributes:
      fields: of `config.Finetune`: problem, files, columns.
      facts: `rows` of each split, `tokens` of all of them, `notes`, `copies` (see `audit.Leaks.counts`).
      refused: why the task cannot be done; None if it can.
    """

    folder: Path
    fields: dict
    facts: dict
    refused: str | None = None

    @functools.cached_property
    def splits(self):
        """Those of `labelled.splits.read`."""
        from gener_jax.labelled import splits

        return splits.read(resolve(self.fields, Finetune))

    @property
    def bases(self) -> Path:
        """Of a problem token, where the class and window of each labelled test base are kept (`token.BASES`)."""
        return self.folder / "test_bases.npz"

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Of the test rows, bool [N]: `copy` of any training row; and `overlap` with pre-training, float32 [N]."""
        with np.load(self.folder / "test_rows.npz") as found:
            return dict(found)


def rows_of(task: Task, data: Path, folder: Path, fold: int, most: int) -> Rows:
    """Writes the rows of an outer fold, at most `most` for training and half as many for validation; or reads them."""
    facts = folder / "facts.json"
    if not facts.exists():
        try:
            found = _write_rows(task, data, folder, fold, most)
        except (DataError, ConfigError) as error:
            found = {"fields": {}, "facts": {}, "refused": str(error)}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(facts, json.dumps(found, indent=1))
    return Rows(folder, **json.loads(facts.read_text()))


def _write_rows(task: Task, data: Path, folder: Path, fold: int, most: int) -> dict:
    from gener_jax.labelled import audit, splits

    if task.problem == "token":
        files = task.files(data, folder, fold).files
        return {"fields": {"problem": "token"} | files, "facts": {"rows": {}, "tokens": 0, "notes": []}}
    found = task.outer_fold(data, folder, fold)
    leaks = audit.leaks(found.train, found.test)
    rng, rows = np.random.default_rng(0), {}
    for name, limit in (("train", most), ("validation", most // 2), ("test", None)):
        each = getattr(found, name)
        rows[name] = each.take(np.sort(rng.permutation(len(each))[:limit]), name)
    fields = splits.write(dataclasses.replace(found, **rows), folder)
    np.savez(folder / "test_rows.npz", copy=~leaks.clean)
    counts = {name: len(each) for name, each in rows.items()}
    tokens = sum(len(x) // 6 + 2 for each in rows.values() for x in each.sequences)
    copies = leaks.counts
    facts = {"rows": counts, "all_train": len(found.train), "tokens": tokens, "notes": found.notes, "copies": copies}
    return {"fields": fields, "facts": facts}


class Matrix:
    """All cells of some tasks and arms, in a folder."""

    def __init__(
        self, data: Path, base_: str, output: Path, tasks, arms, rows: int, epochs: int, seeds: int,
        dataset: str | None = None,
    ):  # fmt: skip
        self.base, self.output, self.arms, self.dataset = base_, output, arms, dataset
        self.num_rows, self.epochs, self.seeds = rows, epochs, seeds
        self.tasks = {task.name: task for task in TASKS if task.name in tasks}
        self._keep_settings()
        self.rows = {}
        for task in self.tasks.values():
            for fold in range(task.folds):
                folder = output / "tasks" / f"{task.name}.{fold}"
                self.rows[task.name, fold] = rows_of(task, data, folder, fold, rows)
        self.done: dict[str, dict] = {}
        path = output / "cells.jsonl"
        if path.exists():
            text = path.read_text()
            write_text(path, text[: text.rfind("\n") + 1])  # the last line may have been cut short
            self.done = {row["key"]: row for row in map(json.loads, path.read_text().splitlines())}

    def _keep_settings(self) -> None:
        settings = {"base": self.base, "rows": self.num_rows, "epochs": self.epochs}
        path = self.output / "settings.json"
        if path.exists() and (before := json.loads(path.read_text())) != settings:
            raise ConfigError(f"has cells of {before}, not {settings}; give another", "output", str(self.output))
        self.output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=1))

    def cells(self) -> Iterator[Cell]:
        """Those that are known so far, done or not: the further seeds and folds of an arm follow its chosen rate."""
        for name, arm in ((name, ARMS[name]) for name in self.arms):
            for task in self.tasks.values():
                if (arm.whole_model and task.name not in WHOLE_MODEL) or self.rows[task.name, 0].refused:
                    continue
                for weights in arm.weights:
                    first = self.first(task, name, weights)
                    yield from first
                    if all(cell.key in self.done for cell in first):
                        yield from self.chosen(task, name, weights, first)

    def chosen(self, task: Task, arm: str, weights: str, first: list[Cell]) -> list[Cell]:
        """The cells of all seeds and folds at the rate that was best on validation rows."""
        worth = {cell: self.done.get(cell.key, {"worth": 0})["worth"] for cell in first}
        known = [cell for cell in first if worth[cell] is not None]
        if not known:  # none could be run
            return []
        best = max(known, key=worth.get)
        seeds = min(self.seeds, ARMS[arm].seeds or self.seeds)
        folds = 1 if ARMS[arm].whole_model else task.folds
        return [best._replace(seed=seed, fold=fold) for fold in range(folds) for seed in range(seeds)]

    def first(self, task: Task, arm: str, weights: str) -> list[Cell]:
        """The cells that choose the rate: one of each, with seed 0 on fold 0."""
        return [Cell(task.name, 0, arm, weights, 0, rate) for rate in ARMS[arm].rates]

    def finished(self, task: Task, arm: str, weights: str) -> list[Cell]:
        """The cells of all seeds and folds at the chosen rate; none if one is not done or could not be run."""
        if arm not in self.arms or weights not in ARMS[arm].weights or self.rows[task.name, 0].refused:
            return []
        first = self.first(task, arm, weights)
        cells = self.chosen(task, arm, weights, first) if all(cell.key in self.done for cell in first) else []
        return cells if all("metrics" in self.done.get(cell.key, ()) for cell in cells) else []

    def fill(self) -> None:
        """Runs what is not done."""
        self.measure_overlap()
        for name, fold in self.rows:
            if not self.rows[name, fold].refused:
                self.fit_baselines(name, fold)
        while cell := next((cell for cell in self.cells() if cell.key not in self.done), None):
            self.finish(cell.key, {**cell._asdict(), **self.fine_tune(cell)})
        shutil.rmtree(self.output / "features", ignore_errors=True)

    def finish(self, key: str, row: dict) -> None:
        """Records a cell or a baseline that is done."""
        self.done[key] = {"key": key, **row}
        with open(self.output / "cells.jsonl", "a") as stream:
            stream.write(json.dumps(self.done[key]) + "\n")
        outcome = row.get("error") or f"validation {row['validation']}"
        log(f"{len(self.done)} done; {key}: {outcome}; {row['seconds']:.0f} s")

    def measure_overlap(self) -> None:
        """Adds to each test row the fraction of its 32-mers that occur in the base's training data."""
        missing = [rows for rows in self.rows.values() if rows.fields.get("sequence") and "overlap" not in rows.masks]
        tests = [rows.splits.test.sequences for rows in missing]
        found = seen(self.base, self.dataset, tests) if missing else ()
        for rows, overlap in zip(missing, found, strict=True):
            np.savez(rows.folder / "test_rows.npz", **rows.masks, overlap=overlap)

    def fit_baselines(self, task: str, fold: int) -> None:
        """Fits each to the rows of the task, and records it like a cell."""
        rows = self.rows[task, fold]
        if rows.fields["problem"] == "token":
            return
        if f"{task}.{fold}.constant" in self.done:
            return
        from gener_jax.baselines import fitting
        from gener_jax.statistics.metrics import evaluate

        splits, began = rows.splits, time.perf_counter()
        kind, tests = splits.problem.kind, {name: getattr(splits, name) for name in ("validation", "test")}
        found = fitting.fit(splits.train, splits.validation, splits.problem)
        seconds = (time.perf_counter() - began) / len(found)
        for name, each in reversed(list(zip(BASELINES, found, strict=False))):  # the constant is recorded last
            key = f"{task}.{fold}.{name}"
            predicted = {split: each.predict(rows.sequences) for split, rows in tests.items()}
            values = {split: evaluate(kind, rows.targets, predicted[split]) for split, rows in tests.items()}
            self.keep(key, predicted["test"])
            if key not in self.done:
                self.finish(key, {
                    "task": task, "fold": fold, "baseline": name, "choices": each.choices,
                    **self.values(kind, values["validation"]), "metrics": values["test"], "seconds": seconds,
                })  # fmt: skip

    @functools.cached_property
    def random(self) -> Path:
        """A folder of the same model with random weights."""
        import jax
        from flax import linen as nn

        from gener_jax.model import decoder
        from gener_jax.storage import pretrained, run_folder

        folder = self.output / "random"
        if not (folder / "checkpoints").exists():
            spec = pretrained.read_spec(pretrained.find(self.base))
            params = nn.unbox(decoder.init(decoder.Decoder(spec.model), jax.random.key(0)))
            run_folder.write_params(folder, spec, params)
        return folder

    def config(self, cell: Cell) -> Config:
        """The configuration of a cell; a sweep of layers is that of the same rate with seed 0 on fold 0."""
        arm, rows = ARMS[cell.arm], self.rows[cell.task, cell.fold]
        token = rows.fields["problem"] == "token"
        batch, epochs = (TOKEN_BATCH, min(self.epochs, TOKEN_EPOCHS)) if token else (arm.batch, self.epochs)
        layer = self.done.get(cell._replace(seed=0, fold=0).key, {}).get("layer")
        steps = -(-epochs * rows.facts["rows"].get("train", 200) // batch)
        return resolve({
            "name": cell.arm,
            "model": {"dtype": "float32", "remat": "none"},
            "data": {"context_length": TOKEN_CONTEXT if token else Data.context_length},
            "optimizer": {
                "peak_learning_rate": cell.rate, "warmup_steps": max(steps // 20, 1), **_OPTIMIZER, **arm.optimizer,
            },
            "train": {
                "init_from": str(self.base if cell.weights == PRETRAINED else self.random), "batch_size": batch,
                "seed": cell.seed, "log_every_steps": max(steps // 10, 1),
            },
            "finetune": {
                "pooling": "mean", "epochs": float(epochs), "baselines": token, **arm.finetune,
                **({"layer": "last"} if token else {}), **rows.fields, **({} if layer is None else {"layer": layer}),
            },
        })  # fmt: skip

    def fine_tune(self, cell: Cell) -> dict:
        """Runs a cell; its folder is removed at the end, but what it predicts for test rows is kept."""
        from gener_jax.finetuning.labels import PREDICTIONS, read_predictions
        from gener_jax.finetuning.run import finetune
        from gener_jax.finetuning.token import BASES
        from gener_jax.storage import heads

        workdir, began = self.output / "runs" / cell.key, time.perf_counter()
        if ARMS[cell.arm].finetune["method"] == "frozen":  # features are computed once for all seeds and rates
            features = self.output / "features" / f"{cell.task}.{cell.fold}.{cell.weights}"
            features.mkdir(parents=True, exist_ok=True)
            workdir.mkdir(parents=True, exist_ok=True)
            if not (workdir / "features").exists():
                (workdir / "features").symlink_to(features.absolute())
        problem = self.rows[cell.task, cell.fold].fields["problem"]
        try:
            results = finetune(self.config(cell), workdir)
        except (ConfigError, DataError) as error:
            return {"error": str(error), "validation": None, "worth": None, "seconds": time.perf_counter() - began}
        found = {x.dataset.split: {name: m.value for name, m in x.metrics.items()} for x in results.evaluations}
        path = workdir / PREDICTIONS
        if problem == "token":
            shutil.copy(workdir / BASES, self.rows[cell.task, cell.fold].bases)
            with np.load(workdir / BASES) as bases:
                self.keep(cell.key, np.eye(len(heads.read(workdir).names))[bases["predicted"]])
        elif path.exists():
            names = self.rows[cell.task, cell.fold].splits.problem.names
            self.keep(cell.key, read_predictions(path, names))
        head = heads.read(workdir)
        shutil.rmtree(workdir)
        layer = {} if head is None else {"layer": "last" if head.layer is None else str(head.layer)}
        row = {**self.values(problem, found["validation"]), "metrics": found["test"], **layer}
        if problem == "token":  # its baselines are fitted to a sample of its bases, in the run
            row["baselines"] = {name: values for x in results.evaluations[:1] for name, values in x.baselines.items()}
        return {**row, "seconds": time.perf_counter() - began}

    @staticmethod
    def values(problem: str, of_validation: dict[str, float]) -> dict[str, float]:
        """The main metric on validation rows, and what is larger for better ones."""
        from gener_jax.statistics.metrics import METRICS

        name, metric = next(iter(METRICS[problem].items()))
        value = of_validation[name]
        value = None if value is None or np.isnan(value) else value
        worth = value if metric.higher_is_better or value is None else -value
        return {"validation": value, "worth": worth}

    def keep(self, key: str, predicted: np.ndarray) -> None:
        """Writes predictions of test rows, [N, C]."""
        folder = self.output / "predictions"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{key}.npy", np.asarray(predicted, np.float32))

    def estimate(self, cell: Cell) -> float:
        """Seconds of a cell, from the operations on its tokens; corrected by cells of the arm that are done."""
        arm, facts = ARMS[cell.arm], self.rows[cell.task, cell.fold].facts
        total = sum(facts["rows"].values()) or 1
        tokens = {name: facts["tokens"] * count / total for name, count in facts["rows"].items()}
        if arm.finetune["method"] == "frozen":
            passes = sum(tokens.values()) if cell.rate == arm.rates[0] and cell.seed == 0 else 0
        else:
            passes = self.epochs * (3 * tokens.get("train", 0) + tokens.get("validation", 0)) + tokens.get("test", 0)
        return START + 2 * self.parameters * passes / (GFLOPS * 1e9)

    @functools.cached_property
    def parameters(self) -> int:
        """Of the base, those in products with every token."""
        from gener_jax.model import flops
        from gener_jax.storage import pretrained

        return flops.matrix_parameters(pretrained.read_spec(pretrained.find(self.base)).model)

    def plan(self) -> list[str]:
        """A line for each arm, task and weights that has cells left: their number and time."""
        taken, expected = {}, {}
        for cell in self.cells():
            if cell.key in self.done:
                taken[cell.arm] = taken.get(cell.arm, 0) + self.done[cell.key]["seconds"]
                expected[cell.arm] = expected.get(cell.arm, 0) + self.estimate(cell)
        left: dict[tuple, list[float]] = {}
        for name, arm in ((name, ARMS[name]) for name in self.arms):
            factor = taken[name] / expected[name] if name in taken else 1
            for task in self.tasks.values():
                for weights in arm.weights if task.name in WHOLE_MODEL or not arm.whole_model else ():
                    if not self.rows[task.name, 0].refused:
                        first = self.first(task, name, weights)
                        known = all(cell.key in self.done for cell in first)
                        further = self.chosen(task, name, weights, first if known else first[-1:])
                        cells = [x for x in dict.fromkeys([*first, *further]) if x.key not in self.done]
                        left[name, task.name, weights] = [factor * self.estimate(x) for x in cells]
        lines = [f"{' '.join(place)}: {len(x)} cells, {sum(x) / 60:.1f} min" for place, x in left.items() if x]
        return [*lines, f"all: {sum(map(len, left.values()))} cells, {sum(map(sum, left.values())) / 60:.0f} min"]


def seen(base_: str, dataset: str | None, tests: list[list[str]]) -> list[np.ndarray]:
    """The fraction of the 32-mers of each sequence, float32 [N] per list, that occur in the training data of a model.

    These are `dataset`, or what the run names. NaN if it names none, being a published model, or its dataset is gone.

    Raises:
      DatasetError: `dataset` cannot be read.
    """
    from data_pipeline.dataset.reader import RegionSource
    from data_pipeline.sequence import bases, shared_kmers
    from data_pipeline.splitting import leakage
    from gener_jax.storage import pretrained

    sequences = [sequence for rows in tests for sequence in rows]
    edges = np.cumsum([len(rows) for rows in tests])[:-1]
    try:
        source = RegionSource(dataset or pretrained.read_config(pretrained.find(base_)).data.path, "train")
    except (DataError, ConfigError, CheckpointError) as error:
        if dataset:
            raise
        log(f"the test rows are not compared with the training data: {error}; give that as --dataset")
        return np.split(np.full(len(sequences), np.nan, np.float32), edges)
    hashes, sizes = leakage.hash_regions(map(bases.encode, sequences), 1)
    unique, members = np.unique(hashes, return_inverse=True)
    lengths = source.index["length"].tolist()
    regions = ((source.read(i, 0, n), np.zeros(1, np.int64), np.array([n])) for i, n in enumerate(lengths))
    occurs = leakage.occurring(shared_kmers.Index(unique), regions, 1)
    return np.split(leakage.train_overlaps(occurs, members, sizes), edges)


def main(arguments=None) -> None:
    """The command."""
    from gener_jax.benchmarks import finetune_report

    parse = cli.Parser(__doc__)
    option = parse.add_argument
    option("--data", type=Path, required=True, metavar="DIR", help="the test data, with downstream/ and genomes/")
    option("--base", required=True, metavar="RUN", help="the pre-trained model: a run, a folder, or tiny")
    option("--dataset", metavar="DIR", help="what the model was trained on, to count test rows in it [the run's]")
    option("--output", type=Path, required=True, metavar="DIR", help="folder of the matrix")
    names = [task.name for task in TASKS]
    option("--tasks", nargs="*", default=names, choices=names, metavar="TASK", help="only these [all]")
    option("--arms", nargs="*", default=list(ARMS), choices=ARMS, metavar="ARM", help=" | ".join(ARMS) + " [all]")
    option("--rows", type=Whole(20), default=2000, metavar="N", help="training rows at most")
    option("--epochs", type=Whole(1), default=6, metavar="N", help="passes over them")
    option("--seeds", type=Whole(1), default=3, metavar="N", help="runs of each arm at the chosen rate")
    option("--plan", action="store_true", help="list what is left, with an estimate of its time, and end")
    option("--report", action="store_true", help="write the tables of what is done, and end")
    a = parse.parse_args(arguments)
    matrix = Matrix(a.data, a.base, a.output, a.tasks, a.arms, a.rows, a.epochs, a.seeds, a.dataset)
    if a.plan:
        print(*matrix.plan(), sep="\n")
        return
    if not a.report:
        matrix.fill()
    text = finetune_report.report(matrix)
    write_text(a.output / "matrix.md", text)
    print(text)


if __name__ == "__main__":
    run(main)
