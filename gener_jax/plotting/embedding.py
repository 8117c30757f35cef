"""Embeddings: a map of them in two dimensions."""

from collections.abc import Mapping, Sequence

import numpy as np

from gener_jax.plotting.figure import COLOURS, new_figure

_MARKERS = "osD^vP"  # of further labels than there are colours


def in_plane(title: str, points: np.ndarray, labels: Mapping[str, Sequence[str]]):
    """Points of one map once per kind of label, side by side, coloured by it.

    Args:
      title: how the map was made.
      points: float [N, 2].
      labels: name → the label of each point, "" for a point without one, which is left out.
    """
    with new_figure(4.6 * len(labels), 4.9) as figure:
        for axes, (name, values) in zip(figure.subplots(1, len(labels), squeeze=False)[0], labels.items(), strict=True):
            values = np.asarray(values)
            for number, label in enumerate(sorted(set(values) - {""})):
                of = points[values == label]
                axes.plot(
                    *of.T, _MARKERS[number // len(COLOURS) % len(_MARKERS)], color=COLOURS[number % len(COLOURS)],
                    markersize=2.5, alpha=0.6, label=f"{label} ({len(of):,})",
                )  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{title}, by {name}")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=7, markerscale=2)
    return figure
