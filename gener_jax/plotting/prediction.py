"""Predictions beside labels: ROC, reliability, measured against predicted."""

import math
from collections.abc import Mapping

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
    """Probability against the fraction that happened, for each name a `statistics.calibration.Reliability`.

    A dot's area grows with the rows in its bin; the legend has the expected calibration error.
    """
    with new_figure(**_SQUARE) as figure:
        axes = figure.add_subplot()
        _diagonal(axes)
        for i, (name, found) in enumerate(curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(found.predicted, found.observed, color=colour, label=f"{name} {found.ece:.3f}")
            fraction = found.count / max(found.count.sum(), 1)
            axes.scatter(found.predicted, found.observed, 12 + 300 * fraction, colour, alpha=0.8, zorder=3)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("observed frequency")
        axes.set_title(title)
        axes.legend(title="expected calibration error", loc="upper left", alignment="left")
    return figure


def measured(title: str, outputs: Mapping[str, tuple[np.ndarray, np.ndarray]], score: str = ""):
    """Measured against predicted values, [N] and [N], a panel for each output, with Pearson's r.

    With `score`, predictions are of another unit, which it names, and the correlation is Spearman's.
    """
    from scipy import stats

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
            if not score:
                ends = [min(targets.min(), predictions.min()), max(targets.max(), predictions.max())]
                axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, zorder=1)
            correlation = stats.spearmanr if score else stats.pearsonr
            constant = len(targets) < 2 or np.ptp(targets) == 0 or np.ptp(predictions) == 0
            r = "–" if constant else f"{correlation(targets, predictions).statistic:.3f}"
            text = f"{'Spearman' if score else 'r'} = {r}, n = {len(targets):,}"
            axes.annotate(text, (0, 1), (4, -4), xycoords="axes fraction", textcoords="offset points", va="top",
                          fontsize=9, color=GREY)  # fmt: skip
            axes.set_xlabel(score or f"{name}, predicted")
            axes.set_ylabel(name if score else "measured")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.02, ha="left")
    return figure


def _diagonal(axes) -> None:
    """The unit square, with a line from corner to corner."""
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
