"""The plots: the house style and atomic files; what each one shows."""

import matplotlib
import pytest

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
