"""The plots: the house style and atomic files; what each one shows."""

import matplotlib
import numpy as np
import pytest

from gener_jax.plotting import evaluation, prediction, region, training
from gener_jax.plotting.figure import COLOURS, draw, new_figure, save
from gener_jax.statistics.calibration import reliability


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


def test_a_heat_map_marks_the_reference(tmp_path):
    llr = np.random.default_rng(0).normal(size=(130, 4))
    reference = "".join("ACGTN"[i % 5] for i in range(130))
    llr[4] = np.nan
    figure = region.heat_map(llr, reference, "chr1", 999, "nats")
    first, second = (axis for axis in figure.axes if axis.images)
    assert [len(axis.images[0].get_array()[0]) for axis in (first, second)] == [65, 65]
    at, rows = first.lines[0].get_data()
    assert [(i, "ACGT"[row]) for i, row in zip(at, rows, strict=True)] == [
        (i, x) for i, x in enumerate(reference[:65]) if x != "N"
    ]
    image = first.images[0]
    np.testing.assert_array_equal(image.get_array()[:, 4].mask, True)
    assert image.get_clim() == second.images[0].get_clim()
    assert [text.get_text() for text in first.get_xticklabels()][:2] == ["1,000", "1,010"]
    assert "".join(text.get_text() for text in second.texts) == reference[65:]
    save(figure, tmp_path / "a.png")
    assert region.heat_map(np.full((1, 4), np.nan), "N", "c", 0, "nats").axes


def test_a_logo_is_as_high_as_its_information(tmp_path):
    p = np.array([[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [np.nan] * 4], np.float32)
    figure = region.logo(p, "ACGN", "chr1", 9)
    (axis,) = figure.axes
    heights = {}
    for patch in axis.patches:
        box = patch.get_path().get_extents()
        i = round((box.x0 + box.x1) / 2)
        heights[i] = max(heights.get(i, 0), box.y1)
    assert heights[0] == pytest.approx(2, abs=0.05)
    assert heights.get(1, 0) == pytest.approx(0, abs=0.05)
    assert heights[2] == pytest.approx(1, abs=0.05)
    assert heights.get(3, 0) == pytest.approx(0, abs=0.05)
    weights = {text.get_text(): text.get_weight() for text in axis.texts}
    assert (weights["A"], weights["G"]) == ("bold", "normal")
    save(figure, tmp_path / "a.png")


LOG = [{"step": step, "loss": 8 - step / 50, "bits_per_base": 2 - step / 200} for step in range(1, 41)]
LOG += [{"step": step, "held_out": {"loss": 7.5, "bits_per_base": 1.9 - step / 100}} for step in (20, 40)]


def test_the_loss_and_its_moving_mean():
    [axes] = training.loss("run", LOG).axes
    assert axes.get_ylabel().startswith("bits per base")
    raw, smooth, held_out = axes.lines
    assert list(raw.get_xdata()) == list(range(1, 41))
    assert smooth.get_ydata()[0] == pytest.approx((LOG[0]["bits_per_base"] + LOG[1]["bits_per_base"]) / 2)
    assert list(held_out.get_xdata()) == [20, 40]
    [axes] = training.loss("run", [{"step": 1, "loss": None}]).axes
    assert axes.get_ylabel().startswith("nats per token")


def test_held_out_bits_beside_baselines():
    [axes] = training.held_out("run", LOG, {"markov 5": 1.75}).axes
    course, line = axes.lines
    assert list(course.get_ydata()) == pytest.approx([1.7, 1.5])
    assert list(line.get_ydata()) == [1.75, 1.75]
    assert [text.get_text() for text in axes.texts] == ["markov 5 1.750"]


@pytest.mark.parametrize("chance", [None, 2.0])
def test_groups_beside_the_whole(chance):
    compared, breakdown = {"run": 1.5, "markov 5": 1.75}, {"taxon": {"bct": 1.4, "vir": 1.6}}
    [axes] = evaluation.groups("t", "bits", compared, breakdown, chance).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "markov 5", "taxon: bct", "taxon: vir"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [1.5, 1.75, 1.4, 1.6]
    assert [line.get_ydata()[0] for line in dots] == [0, 1, 3, 4] == list(axes.get_yticks())
    assert len({line.get_color() for line in dots}) == 3
    assert ("chance" in [text.get_text() for text in axes.texts]) is (chance is not None)
    assert all(min(axes.get_xlim()) < x < max(axes.get_xlim()) for x in (1.4, 1.75, chance or 1.5))


def test_models_beside_what_they_are_compared_with():
    rows = [
        ("run", "models", 0.8, 0.7, 0.9),
        ("random weights", "baselines", 0.5, None, None),
        ("x", "models", 0.6, None, 1),
    ]
    figure = evaluation.compared("t", "auroc", rows)
    [axes], [legend] = figure.axes, figure.legends
    assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "random weights", "x"]
    assert [text.get_text() for text in legend.get_texts()] == ["models", "baselines"]
    interval, *dots = axes.lines
    assert [*interval.get_xdata(), *interval.get_ydata()] == [0.7, 0.9, 0, 0]
    assert [(*dot.get_xdata(), *dot.get_ydata()) for dot in dots] == [(0.8, 0), (0.5, 1), (0.6, 2)]
    assert dots[0].get_color() == dots[2].get_color() == interval.get_color() != dots[1].get_color()


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_roc_curves_have_their_area():
    positive = np.array([False, True, False, True])
    curves = {"run": (positive, np.array([0.1, 0.9, 0.6, 0.5])), "none": (positive | True, np.arange(4))}
    [axes] = prediction.roc("t", curves).axes
    assert texts(axes) == ["run 0.750"]
    _, curve = axes.lines
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, 1)
    [axes] = prediction.roc("t", {"none": curves["none"]}).axes
    assert len(axes.lines) == 1


def test_reliability_before_and_after():
    p = np.array([0.05, 0.05, 0.95, 0.95])
    found = reliability([0, 1, 1, 1], np.stack([1 - p, p], 1))
    [axes] = prediction.reliability("t", {"as trained": found, "scaled": found}).axes
    assert texts(axes) == ["as trained 0.250", "scaled 0.250"]
    assert list(axes.lines[1].get_ydata()) == [0.5, 1]
    assert [len(x.get_offsets()) for x in axes.collections] == [2, 2]


def test_measured_against_predicted_by_output(tmp_path):
    y = np.arange(5.0)
    figure = prediction.measured("t", {"dev": (y, y * 2), "hk": (y, np.ones(5))})
    assert [axes.get_xlabel() for axes in figure.axes] == ["dev, predicted", "hk, predicted"]
    assert list(figure.axes[0].lines[0].get_xdata()) == list(y * 2)
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["r = 1.000, n = 5", "r = –, n = 5"]
    save(figure, tmp_path / "a.png")
    [axes] = prediction.measured("t", {"minus the effect": (y, y**3)}, "score").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("score", "minus the effect")
    assert len(axes.lines) == 1
    assert axes.texts[0].get_text() == "Spearman = 1.000, n = 5"


def test_scores_by_length_have_a_line_through_the_means_of_the_negative():
    lengths, positive = np.array([-1, -1, 2, 2, 3]), np.array([False, False, False, True, True])
    scores = {"window": np.arange(5.0), "equal_window": np.zeros(5)}
    panels = evaluation.scores_by_length("t", lengths, positive, scores).axes
    assert [axes.get_title("left") for axes in panels] == ["window", "equal window"]
    dots, others, means, _ = panels[0].lines
    np.testing.assert_array_equal(dots.get_data(), [[2, 3], [3, 4]])
    np.testing.assert_array_equal(others.get_data(), [[-1, -1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(means.get_data(), [[-1, 2], [0.5, 2]])


def test_layers_of_lines_and_the_chosen_one():
    lines = {"mean": {"0": 0.1, "12": 0.4, "last": 0.2}, "last": {"12": 0.3}}
    [axes] = evaluation.by_layer("a", "mcc", lines, {"4-mers": 0.25}, ("mean", "12")).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "12", "last"]
    mean, last, baseline, chosen = (line.get_xydata().tolist() for line in axes.lines)
    assert mean == [[0, 0.1], [1, 0.4], [2, 0.2]]
    assert last == [[1, 0.3]]
    assert baseline[0][1] == 0.25
    assert chosen == [[1, 0.4]]
    assert [text.get_text() for text in axes.texts] == ["4-mers 0.250", "layer 12: 0.400"]


def test_cells_with_their_values(tmp_path):
    values = np.array([[0.25, np.nan], [1, 0]])
    figure = evaluation.heat_maps("t", dict.fromkeys("abc", values), ("depth", ["10%", "50%"]), ("n", ["1", "2"]))
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.get_title("left")]
    assert [axes.get_title("left") for axes in shown] == ["a", "b", "c"]
    assert [text.get_text() for text in shown[0].texts] == ["0.25", "1.00", "0.00"]
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["10%", "50%"]
    save(figure, tmp_path / "a.png")


def test_curves_with_bands(tmp_path):
    lines = {"a": ([1, 2], [0, 1], [2, 3]), "b": ([1, 1], [np.nan] * 2, [np.nan] * 2)}
    figure = evaluation.curves("t", "bits", ("bases", (96, 1536)), lines)
    [axes] = figure.axes
    assert texts(axes) == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["96", "1,536"]
    assert [list(line.get_ydata()) for line in axes.lines[1:]] == [[1, 2], [1, 1]]
    save(figure, tmp_path / "a.png")
