"""A cell of the fine-tuning matrix, one run of an arm: its configuration, how it is run, and what is kept of it."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from gener_jax.benchmarks.finetune_rows import Rows
from gener_jax.config import Config, Data, resolve
from gener_jax.runtime.errors import ConfigError

LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
PRETRAINED, RANDOM = WEIGHTS = ("pre-trained", "random")
BATCH = 32  # rows
TOKEN_BATCH, TOKEN_EPOCHS, TOKEN_CONTEXT = 8, 2, 1025  # windows, passes over them at most, tokens of one


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


def config_of(cell: Cell, arm: Arm, rows: Rows, init_from: str, epochs: int, layer: str | None) -> Config:
    """The configuration of a cell.

    Args:
      cell: the run.
      arm: its arm.
      rows: those of its task and outer fold.
      init_from: the model with its weights.
      epochs: passes over the training rows.
      layer: whose output the head reads; None: as the arm says.
    """
    token = rows.fields["problem"] == "token"
    batch, epochs = (TOKEN_BATCH, min(epochs, TOKEN_EPOCHS)) if token else (arm.batch, epochs)
    steps = -(-epochs * rows.facts["rows"].get("train", 200) // batch)
    return resolve({
        "name": cell.arm,
        "model": {"dtype": "float32", "remat": "none"},
        "data": {"context_length": TOKEN_CONTEXT if token else Data.context_length},
        "optimizer": {
            "peak_learning_rate": cell.rate, "warmup_steps": max(steps // 20, 1), **_OPTIMIZER, **arm.optimizer,
        },
        "train": {
            "init_from": init_from, "batch_size": batch, "seed": cell.seed, "log_every_steps": max(steps // 10, 1),
        },
        "finetune": {
            "pooling": "mean", "epochs": float(epochs), "baselines": token, **arm.finetune,
            **({"layer": "last"} if token else {}), **rows.fields, **({} if layer is None else {"layer": layer}),
        },
    })  # fmt: skip


def fine_tune(cell: Cell, config: Config, rows: Rows, output: Path) -> dict:
    """Runs a cell; its folder is removed at the end, but what it predicts for test rows is kept.

    Returns:
      `seconds`, and `validation` and `worth` of `main_metric`; of one that cannot be run its `error`, else `metrics` of
      the test rows, the `layer` that the head reads, and of labels per base the `baselines`.
    """
    from gener_jax.finetuning.labels import PREDICTIONS, read_predictions
    from gener_jax.finetuning.run import finetune
    from gener_jax.finetuning.token import BASES
    from gener_jax.storage import heads

    workdir, began = output / "runs" / cell.key, time.perf_counter()
    if config.finetune.method == "frozen":  # features are computed once for all seeds and rates
        features = features_folder(output) / f"{cell.task}.{cell.fold}.{cell.weights}"
        features.mkdir(parents=True, exist_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "features").exists():
            (workdir / "features").symlink_to(features.absolute())
    problem = rows.fields["problem"]
    try:
        results = finetune(config, workdir)
    except (ConfigError, DataError) as error:
        return {"error": str(error), "validation": None, "worth": None, "seconds": time.perf_counter() - began}
    found = {x.dataset.split: {name: m.value for name, m in x.metrics.items()} for x in results.evaluations}
    path = workdir / PREDICTIONS
    if problem == "token":
        shutil.copy(workdir / BASES, rows.bases)
        with np.load(workdir / BASES) as bases:
            keep(output, cell.key, np.eye(len(heads.read(workdir).names))[bases["predicted"]])
    elif path.exists():
        keep(output, cell.key, read_predictions(path, rows.splits.problem.names))
    head = heads.read(workdir)
    shutil.rmtree(workdir)
    layer = {} if head is None else {"layer": "last" if head.layer is None else str(head.layer)}
    row = {**main_metric(problem, found["validation"]), "metrics": found["test"], **layer}
    if problem == "token":  # its baselines are fitted to a sample of its bases, in the run
        row["baselines"] = {name: values for x in results.evaluations[:1] for name, values in x.baselines.items()}
    return {**row, "seconds": time.perf_counter() - began}


def main_metric(problem: str, of_validation: dict[str, float]) -> dict[str, float | None]:
    """The main metric on validation rows, and its `worth`, which is larger for better ones; None if it is undefined."""
    from gener_jax.statistics.metrics import METRICS

    name, metric = next(iter(METRICS[problem].items()))
    value = of_validation[name]
    value = None if value is None or np.isnan(value) else value
    worth = value if metric.higher_is_better or value is None else -value
    return {"validation": value, "worth": worth}


def features_folder(output: Path) -> Path:
    """Where the features of frozen models are, while cells are run."""
    return output / "features"


def predictions_file(output: Path, key: str) -> Path:
    """Where the predictions of a cell or baseline are, float32 [N, C] of the test rows; of a base the class alone."""
    return output / "predictions" / f"{key}.npy"


def keep(output: Path, key: str, predicted: np.ndarray) -> None:
    """Writes predictions of test rows, [N, C]."""
    path = predictions_file(output, key)
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.asarray(predicted, np.float32))
