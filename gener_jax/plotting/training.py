"""The course of a run: the training loss, and held-out bits per base beside the baselines.

A log is the lines of `log.jsonl`: {"step", "loss", "bits_per_base", …} of a training step, {"step", "held_out": {…}} of
an evaluation.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from gener_jax.plotting.figure import COLOURS, label_lines, new_figure


def loss(name: str, log: Iterable[dict]):
    """The training loss with its moving mean, and held-out values as dots; in nats per token if no line has bits."""
    log = list(log)
    in_bits = any("bits_per_base" in line for line in log)
    metric, label = ("bits_per_base", "bits per base") if in_bits else ("loss", "nats per token")
    with new_figure() as figure:
        axes = figure.add_subplot()
        steps, values = _series(log, metric)
        if len(steps) >= 20:
            axes.plot(steps, values, color=COLOURS[0], alpha=0.25, linewidth=1)
        axes.plot(*_smoothed(steps, values), color=COLOURS[0], label="training")
        held_out = _series([{"step": x["step"], **x["held_out"]} for x in log if "held_out" in x], metric)
        axes.plot(*held_out, "o-", color=COLOURS[1], markersize=4, linewidth=1, label="held out")
        _steps(axes)
        axes.set_ylabel(f"{label} (lower is better)")
        axes.set_title(f"{name}: loss in training and on held-out regions")
        axes.legend(loc="upper right")
    return figure


def held_out(name: str, log: Iterable[dict], baselines: Mapping[str, float]):
    """Held-out bits per base over steps, with a line for each baseline."""
    steps, values = _series([{"step": x["step"], **x["held_out"]} for x in log if "held_out" in x], "bits_per_base")
    with new_figure() as figure:
        axes = figure.add_subplot()
        axes.plot(steps, values, "o-", markersize=4)
        label_lines(axes, baselines)
        _steps(axes)
        axes.set_ylabel("bits per base (lower is better)")
        axes.set_title(f"{name}: held-out bits per base")
    return figure


def _steps(axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _series(lines: Iterable[dict], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines that have this metric; null is NaN, a gap."""
    found = [(line["step"], np.nan if line[metric] is None else line[metric]) for line in lines if metric in line]
    return np.array([step for step, _ in found]), np.array([value for _, value in found], float)


def _smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of a twentieth of the points, centred; a NaN leaves a gap."""
    width = len(values) // 20
    if width < 2:
        return steps, values
    means = np.convolve(values, np.ones(width) / width, "valid")
    return steps[width // 2 : width // 2 + len(means)], means
