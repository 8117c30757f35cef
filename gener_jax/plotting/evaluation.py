"""A metric of an evaluation beside its baselines, by group and by layer; scores by group and by length."""

from collections.abc import Mapping, Sequence

import numpy as np

from gener_jax.plotting.figure import COLOURS, GREY, label_lines, new_figure


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


def by_layer(
    title: str,
    label: str,
    lines: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, float] | None = None,
    chosen: tuple[str, str] | None = None,
):
    """A metric by the layer that is read: name of a line, "" if it is the only one, → layer → value.

    Args:
      title: of the plot.
      label: of the metric.
      lines: their layers are numbers as text, 0 the embedding; the one that is none follows the final norm.
      baselines: name → value, drawn as horizontal lines.
      chosen: the line and the layer of a point that is marked.
    """
    order = sorted(
        dict.fromkeys(layer for values in lines.values() for layer in values),
        key=lambda layer: (not layer.isdecimal(), int(layer) if layer.isdecimal() else 0),
    )
    with new_figure() as figure:
        axes = figure.add_subplot()
        for name, values in lines.items():
            known = [(order.index(layer), value) for layer, value in values.items()]
            axes.plot(*zip(*sorted(known), strict=True), "o-", markersize=4, label=name)
        label_lines(axes, baselines or {})
        if chosen is not None:
            point = order.index(chosen[1]), lines[chosen[0]][chosen[1]]
            axes.plot(*point, "o", color=COLOURS[1], markersize=8, zorder=3)
            axes.annotate(
                f"{'layer ' * chosen[1].isdecimal()}{chosen[1]}: {point[1]:.3f}", point, (0, 9),
                textcoords="offset points", ha="center", va="bottom", fontsize=9, color=COLOURS[1],
            )  # fmt: skip
        axes.set_xticks(range(len(order)), order)
        axes.margins(x=0.1, y=0.2)
        axes.set_xlabel("layer; 0 is the embedding, the last point follows the final norm")
        axes.set_ylabel(label)
        axes.set_title(title)
        if "" not in lines:
            axes.legend()
    return figure


def compared(title: str, label: str, rows: Sequence[tuple[str, str, float, float | None, float | None]]):
    """Models, baselines and published figures of one metric: a dot each, with its interval where there is one.

    Args:
      title: of the plot.
      label: of the metric.
      rows: (name, kind, value, low, high), from the top; each kind has a colour.
    """
    kinds = list(dict.fromkeys(kind for _, kind, *_ in rows))
    with new_figure(height=1.2 + 0.24 * len(rows)) as figure:
        axes = figure.add_subplot()
        for at, (_, kind, value, low, high) in enumerate(rows):
            number = kinds.index(kind)
            colour, first = COLOURS[number % len(COLOURS)], kind not in axes.get_legend_handles_labels()[1]
            if low is not None and high is not None:
                axes.plot([low, high], [at, at], color=colour, linewidth=1.2)
            axes.plot(value, at, "o", color=colour, label=kind if first else None)
            axes.annotate(f"{value:.3f}", (value, at), (0, 5), textcoords="offset points", ha="center", fontsize=7)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.set_ylim(len(rows), -1)
        axes.margins(x=0.1)
        axes.grid(True, axis="x")
        axes.set_xlabel(label)
        axes.set_title(title)
        if len(kinds) > 1:
            figure.legend(loc="outside lower left", ncols=len(kinds))
    return figure


def scores_by_group(title: str, label: str, groups: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Scores of each group as a row of dots, the positive ones in another colour, with the median as a line.

    Args:
      groups: name → scores [N] and bool [N] of positive rows.
    """
    jitter, size = np.random.default_rng(0), 3 if sum(len(scores) for scores, _ in groups.values()) > 1000 else 5
    with new_figure(height=1.4 + 0.42 * len(groups)) as figure:
        axes = figure.add_subplot()
        for row, (scores, positive) in enumerate(groups.values()):
            for chosen, colour in ((~positive, COLOURS[0]), (positive, COLOURS[1])):
                place = row + jitter.uniform(-0.3, 0.3, int(chosen.sum()))
                axes.plot(scores[chosen], place, ".", color=colour, markersize=size, alpha=0.5, markeredgewidth=0,
                          rasterized=True)  # fmt: skip
            axes.plot([np.median(scores)] * 2, [row - 0.38, row + 0.38], color="black", linewidth=1.5)
        for name, colour in (("negative", COLOURS[0]), ("positive", COLOURS[1])):
            axes.plot([], [], "o", color=colour, label=name)
        axes.legend(loc="lower right", fontsize=8)
        names = [f"{name} ({len(scores):,})" for name, (scores, _) in groups.items()]
        axes.set_yticks(range(len(groups)), names)
        axes.invert_yaxis()
        axes.grid(False)
        axes.set_xlabel(label)
        axes.set_title(title)
    return figure


def scores_by_length(title: str, lengths: np.ndarray, positive: np.ndarray, scores: Mapping[str, np.ndarray]):
    """Scores of insertions and deletions by the bases that they add, a panel for each kind of score.

    Lines are the means of the rows that are not positive, at each length: a score without bias by length has them flat.

    Args:
      lengths: bases, int [N]; negative of deletions.
      positive: bool [N].
      scores: name → float [N].
    """
    with new_figure(width=3.4 * len(scores) + 0.6, height=3.8) as figure:
        at = np.unique(lengths[~positive])
        for i, (name, values) in enumerate(scores.items()):
            axes = figure.add_subplot(1, len(scores), i + 1)
            for rows, colour, label in ((positive, COLOURS[1], "positive"), (~positive, COLOURS[0], "negative")):
                dots = {"color": colour, "markersize": 6, "alpha": 0.6, "markeredgewidth": 0, "rasterized": True}
                axes.plot(lengths[rows], values[rows], ".", label=label, **dots)
            means = [values[~positive & (lengths == n)].mean() for n in at]
            axes.plot(at, means, "o-", color="black", markersize=3, linewidth=1, label="mean of the negative")
            axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("bases inserted (deleted: below 0)")
        figure.axes[0].set_ylabel("score (higher: more harmful)")
        figure.axes[0].legend(loc="best")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.02, ha="left")
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
