"""Which plots a run draws of its results, into `plots/` beside `results.json`."""

from collections.abc import Sequence
from pathlib import Path

from gener_jax.plotting import evaluation, training
from gener_jax.plotting.figure import draw
from gener_jax.storage.results import Evaluation, Results


def draw_all(results: Results, log: Sequence[dict], folder: Path) -> None:
    """Draws the course of a run (loss.png, held_out.png) and held-out bits per base by group (by_group.png).

    A failure is a warning.

    Args:
      results: of one model.
      log: the lines of its `log.jsonl`, whose course is drawn.
      folder: that of `results.json`.
    """
    name = results.evaluations[0].model.name if results.evaluations else "model"
    if any("loss" in line for line in log):
        draw(folder / "plots" / "loss.png", training.loss, name, log)
    for found in [each for each in results.evaluations if each.task == "held_out"]:
        if any("held_out" in line for line in log):
            draw(folder / "plots" / "held_out.png", training.held_out, name, log, _baselines(found))
        draw(folder / "plots" / "by_group.png", groups, found)


def _baselines(found: Evaluation) -> dict[str, float]:
    return {name.replace("_", " "): row["bits_per_base"] for name, row in found.baselines.items()}


def groups(found: Evaluation):
    """Held-out bits per base beside baselines, and by group."""
    by = {
        column.replace("_", " "): {name: row["bits_per_base"] for name, row in rows.items() if row["bases"]}
        for column, rows in found.groups.items()
    }
    return evaluation.groups(
        f"{found.model.name}: {found.dataset.split} split", "bits per base (lower is better)",
        {found.model.name: found["bits_per_base"], **_baselines(found)}, by, 2.0,
    )  # fmt: skip
