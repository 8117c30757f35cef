"""A metric of an evaluation beside its baselines, and by group."""

from collections.abc import Mapping, Sequence

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
