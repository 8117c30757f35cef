"""A metric of an evaluation beside its baselines, and by group."""

from collections.abc import Mapping, Sequence

import numpy as np

from gener_jax.plotting.figure import COLOURS, GREY, new_figure


def groups(
    title: str,
    label: str,
    compared: Mapping[str, float],
    breakdown: Mapping[str, Mapping[str, float]],
    chance: float | None = None,
):
    """Dots in sections, one below the other: the model and what it is compared with, then the model by group.

    Args:
      title: of the plot.
      label: of the metric.
      compared: name → value, the model first; a line goes down from the model's.
      breakdown: column → group → value, a section and a colour for each column.
      chance: the value of a model that knows nothing, drawn as a line.
    """
    sections = [("", dict(compared)), *breakdown.items()]
    with new_figure(height=1.2 + 0.24 * (sum(len(values) + 1 for _, values in sections))) as figure:
        axes, names, at = figure.add_subplot(), [], 0.0
        axes.axvline(next(iter(compared.values())), color=COLOURS[0], linewidth=1, linestyle="--", zorder=1)
        if chance is not None:
            axes.axvline(chance, color=GREY, linewidth=1, linestyle=":", zorder=1)
            axes.annotate(
                "chance", (chance, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                va="top", fontsize=8, color=GREY,
            )  # fmt: skip
        for number, (column, values) in enumerate(sections):
            if number:
                axes.axhline(at, color="#cccccc", linewidth=0.8, zorder=0)
                at += 1
            for row, (name, value) in enumerate(values.items()):
                colour = GREY if number == 0 and row else COLOURS[number % len(COLOURS)]
                axes.plot(value, at, "o", color=colour, zorder=3)
                axes.annotate(
                    f"{value:.3f}", (value, at), (6, 0), textcoords="offset points", va="center", fontsize=8,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
                names.append((at, f"{column}: {name}" if column else name))
                at += 1
        axes.set_yticks(*zip(*names, strict=True))
        axes.set_ylim(at, -1)
        axes.margins(x=0.15)
        axes.grid(False)
        axes.set_xlabel(label)
        axes.set_title(title)
    return figure


def heat_maps(
    title: str, panels: Mapping[str, np.ndarray], rows: tuple[str, Sequence[str]], columns: tuple[str, Sequence[str]]
):
    """Fractions of two properties as cells with their values, two panels side by side.

    Args:
      title: of the plot.
      panels: name → float [rows, columns] from 0 to 1; NaN is left grey.
      rows, columns: the name of each property, and its values.
    """
    import matplotlib

    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#c8c8c8")
    down = -(-len(panels) // 2)
    with new_figure(width=3.0 + 1.0 * len(columns[1]), height=0.8 + down * (0.9 + 0.3 * len(rows[1]))) as figure:
        grid = figure.subplots(down, 2, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
            image = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="none")
            for (i, j), value in np.ndenumerate(values):
                if np.isfinite(value):
                    colour = "black" if value > 0.5 else "white"
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
            axes.set_title(name, fontsize=9)
            axes.set_yticks(range(len(rows[1])), rows[1])
            axes.set_xticks(range(len(columns[1])), columns[1], fontsize=8)
            axes.grid(False)
        figure.supxlabel(columns[0], fontsize=10)
        figure.supylabel(rows[0], fontsize=10)
        figure.colorbar(image, ax=grid, pad=0.01, aspect=30)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def curves(title: str, label: str, at: tuple[str, Sequence[float]], lines: Mapping[str, tuple[Sequence[float], ...]]):
    """Lines over a property in logarithmic steps, each with a band.

    Args:
      title: of the plot.
      label: of the values.
      at: the name of the property, and its values.
      lines: name → values, their lower and their upper ends, NaN where there are none.
    """
    with new_figure() as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=GREY, linewidth=1, zorder=1)
        for name, (values, low, high) in lines.items():
            (line,) = axes.plot(at[1], values, "o-", markersize=3, label=name)
            axes.fill_between(at[1], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(at[1], [f"{x:,}" for x in at[1]], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel(at[0])
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.legend()
    return figure
