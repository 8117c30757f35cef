"""All cells of some tasks and arms in a folder: which there are, which are done, and what each left."""

import functools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text
from gener_jax.benchmarks import finetune_cells
from gener_jax.benchmarks.finetune_cells import PRETRAINED, Arm, Cell
from gener_jax.benchmarks.finetune_rows import rows_of, seen
from gener_jax.benchmarks.finetune_tasks import WHOLE_MODEL, Task
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log

BASELINES = ("constant", "kmer", "cnn")  # in the order of `fitting.fit`, which fits the last to many rows only


class Matrix:
    """The cells, with the rows of each task and outer fold, and `done`: what was found, by key.

    Args:
      data: the test data.
      base: the pre-trained model.
      output: folder of the matrix.
      tasks: what is learned.
      arms: how, by name; the cells of the first are run first.
      rows: training rows at most; validation rows are half as many at most.
      epochs: passes over the training rows.
      seeds: runs of each arm at the chosen rate.
      dataset: what the base was trained on; default: what it names.

    Raises:
      ConfigError: if the folder has cells of another base, or of other rows or epochs.
    """

    def __init__(
        self, data: Path, base: str, output: Path, tasks: Sequence[Task], arms: Mapping[str, Arm], rows: int,
        epochs: int, seeds: int, dataset: str | None = None,
    ):  # fmt: skip
        self.base, self.output, self.arms, self.dataset = base, output, arms, dataset
        self.num_rows, self.epochs, self.seeds = rows, epochs, seeds
        self.tasks = {task.name: task for task in tasks}
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

    def pairs(self) -> Iterator[tuple[Task, str, str]]:
        """The task, arm and weights of all cells."""
        for name, arm in self.arms.items():
            for task in self.tasks.values():
                if (arm.whole_model and task.name not in WHOLE_MODEL) or self.rows[task.name, 0].refused:
                    continue
                for weights in arm.weights:
                    yield task, name, weights

    def cells(self) -> Iterator[Cell]:
        """Those that are known so far, done or not: the further seeds and folds of an arm follow its chosen rate."""
        for task, arm, weights in self.pairs():
            first = self.first(task, arm, weights)
            yield from first
            if all(cell.key in self.done for cell in first):
                yield from self.chosen(task, arm, first)

    def chosen(self, task: Task, arm: str, first: list[Cell]) -> list[Cell]:
        """The cells of all seeds and folds at the rate that was best on validation rows."""
        worth = {cell: self.done.get(cell.key, {"worth": 0})["worth"] for cell in first}
        known = [cell for cell in first if worth[cell] is not None]
        if not known:  # none could be run
            return []
        best = max(known, key=worth.get)
        seeds = min(self.seeds, self.arms[arm].seeds or self.seeds)
        folds = 1 if self.arms[arm].whole_model else task.folds
        return [best._replace(seed=seed, fold=fold) for fold in range(folds) for seed in range(seeds)]

    def first(self, task: Task, arm: str, weights: str) -> list[Cell]:
        """The cells that choose the rate: one of each, with seed 0 on fold 0."""
        return [Cell(task.name, 0, arm, weights, 0, rate) for rate in self.arms[arm].rates]

    def finished(self, task: Task, arm: str, weights: str) -> list[Cell]:
        """The cells of all seeds and folds at the chosen rate; none if one is not done or could not be run."""
        if arm not in self.arms or weights not in self.arms[arm].weights or self.rows[task.name, 0].refused:
            return []
        first = self.first(task, arm, weights)
        cells = self.chosen(task, arm, first) if all(cell.key in self.done for cell in first) else []
        return cells if all("metrics" in self.done.get(cell.key, ()) for cell in cells) else []

    def fill(self) -> None:
        """Runs what is not done."""
        self.measure_overlap()
        for name, fold in self.rows:
            if not self.rows[name, fold].refused:
                self.fit_baselines(name, fold)
        while cell := next((cell for cell in self.cells() if cell.key not in self.done), None):
            self.finish(cell.key, {**cell._asdict(), **self.fine_tune(cell)})
        shutil.rmtree(finetune_cells.features_folder(self.output), ignore_errors=True)

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
            finetune_cells.keep(self.output, key, predicted["test"])
            if key not in self.done:
                self.finish(key, {
                    "task": task, "fold": fold, "baseline": name, "choices": each.choices,
                    **finetune_cells.main_metric(kind, values["validation"]), "metrics": values["test"],
                    "seconds": seconds,
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

    def fine_tune(self, cell: Cell) -> dict:
        """Runs a cell; a sweep of layers is that of the same rate with seed 0 on fold 0."""
        rows = self.rows[cell.task, cell.fold]
        init_from = str(self.base if cell.weights == PRETRAINED else self.random)
        layer = self.done.get(cell._replace(seed=0, fold=0).key, {}).get("layer")
        config = finetune_cells.config_of(cell, self.arms[cell.arm], rows, init_from, self.epochs, layer)
        return finetune_cells.fine_tune(cell, config, rows, self.output)
