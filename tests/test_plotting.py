"""The plots: the house style and atomic files; what each one shows."""

import matplotlib
import pytest

from gener_jax.plotting import evaluation, training
from gener_jax.plotting.figure import COLOURS, draw, new_figure, save


def line(values):
    with new_figure() as figure:
        figure.add_subplot().plot(values)
    return figure


def test_the_style_holds_within_a_figure_only():
    before = dict(matplotlib.rcParams)
    figure = line([1, 2])
    assert figure.axes[0].lines[0].get_color() == COLOURS[0]
    assert not figure.axes[0].spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_a_figure_is_saved_whole_in_a_folder_that_is_made(tmp_path, name, start):
    path = tmp_path / "plots" / name
    save(line([1, 2]), path)
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_a_plot_that_fails_is_a_warning(tmp_path, capsys):
    draw(tmp_path / "a.png", line, ["not", None, {}])
    draw(tmp_path / "b.nosuchformat", line, [1, 2])
    warnings = capsys.readouterr().err.splitlines()
    assert [x.startswith("warning: ") for x in warnings] == [True, True]
    assert list(tmp_path.iterdir()) == []


LOG = [{"step": step, "loss": 8 - step / 50, "bits_per_base": 2 - step / 200} for step in range(1, 41)]
LOG += [{"step": step, "held_out": {"loss": 7.5, "bits_per_base": 1.9 - step / 100}} for step in (20, 40)]


def test_the_loss_and_its_moving_mean():
    figure = training.loss("run", LOG)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats per token)", "bits per base"]
    raw, smooth, held_out = figure.axes[0].lines
    assert list(raw.get_xdata()) == list(range(1, 41))
    assert smooth.get_ydata()[0] == pytest.approx((LOG[0]["loss"] + LOG[1]["loss"]) / 2)
    assert list(held_out.get_xdata()) == [20, 40]
    assert len(training.loss("run", [{"step": 1, "loss": None}]).axes) == 1


def test_held_out_bits_beside_baselines():
    [axes] = training.held_out("run", LOG, {"markov 5": 1.75}).axes
    course, line = axes.lines
    assert list(course.get_ydata()) == pytest.approx([1.7, 1.5])
    assert list(line.get_ydata()) == [1.75, 1.75]
    assert [text.get_text() for text in axes.texts] == ["markov 5 1.750"]


def test_groups_beside_the_whole():
    [axes] = evaluation.groups("t", "bits", {"run": 1.5, "markov 5": 1.75}, {"taxon": {"bct": 1.4, "vir": 1.6}}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "markov 5", "taxon: bct", "taxon: vir"]
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [1.5, 1.75, 1.4, 1.6]
