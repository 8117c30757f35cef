"""The house style of all plots, and how a figure becomes a file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_pipeline.errors import one_line
from data_pipeline.files import atomic
from gener_jax.runtime.progress import log

# Okabe and Ito's colours, which colour-blind readers can tell apart, in the order in which lines take them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
FORMATS = (".png", ".svg", ".pdf")  # how the name of a figure may end
GREY = "#767676"  # what a plot is compared with, and notes

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a plot looks the same everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}


@contextlib.contextmanager
def new_figure(width: float = 7.0, height: float = 4.0) -> Iterator:
    """Yields an empty figure, in inches, to draw on within the block, where the house style holds.

    It belongs to no window, and pyplot does not know it.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        yield Figure(figsize=(width, height), layout="constrained")


def label_lines(axes, values: Mapping[str, float]) -> None:
    """Draws horizontal lines for what the plot is compared with, each with its name and value at the right end."""
    for name, value in values.items():
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1, zorder=1)
        axes.annotate(
            f"{name} {value:.3f}", (1, value), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=GREY,
        )  # fmt: skip


def save(figure, path: Path) -> None:
    """Writes a figure atomically, in the format that its name ends in (.png, .svg, .pdf); makes the folder."""
    import matplotlib

    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE), atomic(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])


def draw(path: Path, plot: Callable, *arguments) -> None:
    """Saves the figure `plot(*arguments)`; any failure is a warning, since no plot is worth the work before it."""
    try:
        save(plot(*arguments), path)
    except Exception as error:  # of drawing, of a library that is not installed, of a full disk
        log(f"warning: {path}: not drawn: {one_line(error)}")
