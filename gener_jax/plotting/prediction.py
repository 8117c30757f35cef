"""Predictions beside labels: ROC, reliability, measured against predicted; and which layer predicts best."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gener_jax.plotting.figure import COLOURS, GREY, new_figure

_SQUARE = {"width": 4.6, "height": 4.6}
_MANY = 2000  # points, above which they are drawn small and pale


def roc(title: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """A ROC curve for each name, with its area in the legend; bool [N] of positive rows, and scores [N].

    A name whose rows are all of one class has no curve.
    """
    from sklearn.metrics import roc_curve

    with new_figure(**_SQUARE) as figure:
        axes = figure.add_subplot()
        _diagonal(axes)
        for name, (positive, scores) in curves.items():
            if len(np.unique(positive)) == 2:
                false, true, _ = roc_curve(positive, scores)
                axes.plot(false, true, label=f"{name} {np.trapezoid(true, false):.3f}")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title(title)
        if len(axes.lines) > 1:
            axes.legend(title="AUROC", loc="lower right", alignment="left")
    return figure


def reliability(title: str, curves: Mapping[str, object]):
    """Probability against the share that happened, for each name a `statistics.calibration.Reliability`.

    A dot's area grows with the rows in its bin; the legend has the expected calibration error.
    """
    with new_figure(**_SQUARE) as figure:
        axes = figure.add_subplot()
        _diagonal(axes)
        for i, (name, found) in enumerate(curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(found.predicted, found.observed, color=colour, label=f"{name} {found.ece:.3f}")
            share = found.count / max(found.count.sum(), 1)
            axes.scatter(found.predicted, found.observed, 12 + 300 * share, colour, alpha=0.8, zorder=3)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("observed frequency")
        axes.set_title(title)
        axes.legend(title="expected calibration error", loc="upper left", alignment="left")
    return figure


def measured(title: str, outputs: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Measured against predicted values, [N] and [N], a panel for each output, with Pearson's r."""
    columns = min(3, len(outputs))
    rows = math.ceil(len(outputs) / columns)
    with new_figure(width=3.9 * columns, height=3.9 * rows) as figure:
        for i, (name, (targets, predictions)) in enumerate(outputs.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            pale = len(targets) > _MANY
            axes.plot(
                predictions, targets, ".", markersize=3 if pale else 5, alpha=0.15 if pale else 0.5, rasterized=True,
                markeredgewidth=0,
            )  # fmt: skip
            ends = [min(targets.min(), predictions.min()), max(targets.max(), predictions.max())]
            axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, zorder=1)
            constant = np.ptp(targets) == 0 or np.ptp(predictions) == 0
            r = "–" if constant else f"{np.corrcoef(targets, predictions)[0, 1]:.3f}"
            axes.annotate(f"r = {r}, n = {len(targets):,}", (0, 1), (4, -4), xycoords="axes fraction",
                          textcoords="offset points", va="top", fontsize=9, color=GREY)  # fmt: skip
            axes.set_xlabel(f"{name}, predicted")
            axes.set_ylabel("measured")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.02, ha="left")
    return figure


def layers(title: str, label: str, values: Sequence[float], chosen: int):
    """A metric of the validation rows by the layer whose hidden states are read; 0 is the embedding.

    The last value is that after the final norm.
    """
    name = "last" if chosen == len(values) - 1 else f"layer {chosen}"
    with new_figure() as figure:
        axes = figure.add_subplot()
        axes.plot(range(len(values)), values, "o-", markersize=4)
        axes.plot(chosen, values[chosen], "o", color=COLOURS[1], markersize=8, zorder=3)
        axes.annotate(
            f"{name}: {values[chosen]:.3f}", (chosen, values[chosen]), (0, 9), textcoords="offset points",
            ha="center", va="bottom", fontsize=9, color=COLOURS[1],
        )  # fmt: skip
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.1, y=0.2)
        axes.set_xlabel("layer; the last point follows the final norm")
        axes.set_ylabel(label)
        axes.set_title(title)
    return figure


def _diagonal(axes) -> None:
    """The unit square, with a line from corner to corner."""
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
