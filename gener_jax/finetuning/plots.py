"""Which plots belong to predictions of labelled rows: ROC and reliability, or measured against predicted; the sweep."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gener_jax.config import Head
from gener_jax.finetuning.evaluation import numbers
from gener_jax.labelled.examples import Examples
from gener_jax.plotting import evaluation, prediction
from gener_jax.plotting.figure import draw
from gener_jax.statistics.calibration import reliability


def draw_rows(
    folder: Path, name: str, head: Head, rows: Examples, outputs: np.ndarray, others: Mapping[str, np.ndarray]
) -> None:
    """Draws predictions of rows into `folder`; a failure is a warning.

    Args:
      name: of the model.
      outputs: of its head.
      others: what baselines predict, as `numbers` gives it; of two classes they are drawn too.
    """
    title, found, targets = f"{name}: {rows.name} rows", numbers(head, outputs), rows.targets
    if head.problem == "regression":
        pairs = {each: (targets[:, i], found[:, i]) for i, each in enumerate(head.names)}
        draw(folder / "measured.png", prediction.measured, title, pairs)
        return
    if head.problem == "single_label" and len(head.names) == 2:
        curves = {each: (targets == 1, x[:, 1]) for each, x in {name: found, **others}.items()}
    else:
        positive = targets[:, None] == np.arange(len(head.names)) if targets.ndim == 1 else targets == 1
        curves = {each: (positive[:, i], found[:, i]) for i, each in enumerate(head.names)}
    draw(folder / "roc.png", prediction.roc, title, curves)
    before = numbers(dataclasses.replace(head, temperature=1.0), outputs)
    calibrated = {
        "as trained": reliability(targets, before),
        f"temperature {head.temperature:.2f}": reliability(targets, found),
    }
    draw(folder / "reliability.png", prediction.reliability, title, calibrated)


def draw_sweep(
    folder: Path, name: str, layers: Mapping[str, Mapping[str, float | None]], metric: str, head: Head
) -> None:
    """Draws the metric of each layer of a sweep; "layer last" follows the final norm."""
    values = {layer: math.nan if each[metric] is None else each[metric] for layer, each in layers.items()}
    line = {layer.removeprefix("layer "): value for layer, value in values.items()}
    chosen = "", "last" if head.layer is None else str(head.layer)
    title, label = f"{name}: validation rows", metric.replace("_", " ")
    draw(folder / "layers.png", evaluation.by_layer, title, label, {"": line}, None, chosen)
