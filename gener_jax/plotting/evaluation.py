"""A metric of an evaluation beside its baselines, and by group."""

from collections.abc import Mapping

from gener_jax.plotting.figure import COLOURS, GREY, new_figure


def groups(title: str, label: str, compared: Mapping[str, float], breakdown: Mapping[str, Mapping[str, float]]):
    """Dots on horizontal lines: the model and what it is compared with, and the model by group.

    Args:
      title: of the plot.
      label: of the metric.
      compared: name → value, the model first; a line goes down from the model's.
      breakdown: column → group → value.
    """
    rows = [(name, value, COLOURS[1] if i else COLOURS[0]) for i, (name, value) in enumerate(compared.items())]
    for column, values in breakdown.items():
        rows += [(f"{column}: {name}", value, COLOURS[0]) for name, value in values.items()]
    with new_figure(height=1.2 + 0.24 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.axvline(rows[0][1], color=GREY, linewidth=1, linestyle="--", zorder=1)
        axes.scatter([value for _, value, _ in rows], range(len(rows)), color=[colour for *_, colour in rows], zorder=3)
        for i, (_, value, _) in enumerate(rows):
            axes.annotate(f"{value:.3f}", (value, i), (6, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(label)
        axes.set_title(title)
    return figure
