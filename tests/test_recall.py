"""Recall by distance: what is planted, what remembers and what does not, exactly, and by form and distance."""

from types import SimpleNamespace

import numpy as np
import pytest

import gener_jax
from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.plotting.figure import save
from gener_jax.tasks import recall
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.needle import known_bases
from gener_jax.tasks.recall import FORMS, SEGMENT, Recall, planted
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

STRETCH = known_bases(EXAMPLE_GENOME)[5000:6000]


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_planted_and_nothing_else_changes(form):
    made, start = planted(STRETCH, 480, form, [0]), len(STRETCH) - SEGMENT - 480
    start -= 3 * (form == "out_of_phase")
    segment, copy = STRETCH[-SEGMENT:], made[start : start + SEGMENT]
    outside = np.ones(len(STRETCH), bool)
    outside[start : start + SEGMENT] = False
    np.testing.assert_array_equal(made[outside], STRETCH[outside])
    if form == "reverse_complement":
        assert bases.decode(copy) == bases.decode(segment)[::-1].translate(str.maketrans("ACGT", "TGCA"))
    else:
        changed = {"mutated_1": 1, "mutated_5": 5, "mutated_10": 10}.get(form, 0)
        assert (copy != segment).sum() == changed
    assert (copy == STRETCH[start : start + SEGMENT]).mean() < 0.7


class Memory:
    """Gives a base −log 4, and more by `gain` bits to the segment if a copy begins up to `reach` bases before."""

    def __init__(self, reach, gain=1.0, max_bases=None):
        self.reach, self.gain, self.max_bases, self.texts = reach, gain, max_bases, []

    def log_likelihood(self, sequences, *, score, per_base):
        assert (score, per_base) == ("token", True)
        found, sequences = [], list(sequences)
        self.texts += sequences
        for text in sequences:
            segment, before = text[-SEGMENT:], text[:-SEGMENT]
            at = before.rfind(segment)
            known = at >= 0 and len(before) - at <= self.reach
            terms = np.full(len(text), -np.log(4), np.float32)
            terms[-SEGMENT:] += self.gain * np.log(2) * known
            found.append(SimpleNamespace(value=float(terms.sum()), per_base=terms))
        return found


def test_what_remembers_exact_copies_gains_in_these_alone_and_as_far_as_it_reaches():
    result = Recall(Options(rows=30))(Memory(reach=800, max_bases=3060))
    rows = result.breakdown["distance"]
    assert list(rows) == [f"{96 * 2**i:,} bases" for i in range(11)]
    for name, row in rows.items():
        distance = int(name.split()[0].replace(",", ""))
        if distance > 1536:
            assert row == {"stretches": 0}
            continue
        for form in FORMS:
            expected = form in ("exact", "out_of_phase") and distance <= 800
            assert row[form] == pytest.approx(float(expected), abs=1e-5)
        assert row["stretches"] == 30
    assert result.metrics["exact"] == pytest.approx(4 / 5, abs=1e-5)
    assert result.metrics["reverse_complement"] == 0 == result.baselines["without memory"]["exact"]
    assert result.counts == {"distances": 5, "stretches": 30}
    assert "2.000 bits per base" in result.note
    for form in FORMS:
        assert result.predictions[form].mean() == pytest.approx(result.metrics[form])
    assert len(set(result.predictions[result.paired.rows])) == len(result.predictions["exact"]) == 150


def test_models_of_other_contexts_get_the_same_segments_and_copies():
    short, long = Memory(0, max_bases=700), Memory(0, max_bases=3060)
    for model in (short, long):
        Recall(Options(rows=2))(model)
    assert (len(short.texts), len(long.texts)) == (2 * (1 + 6 * 3), 2 * (1 + 6 * 5))
    assert {text[-400:] for text in short.texts} <= {text[-400:] for text in long.texts}


def test_noise_has_no_gain_and_an_interval():
    class Noise(Memory):
        def log_likelihood(self, sequences, **options):
            found = super().log_likelihood(sequences, **options)
            for x in found:
                x.per_base = self.rng.normal(-np.log(4), 0.5, len(x.per_base))
            return found

    noise = Noise(reach=0)
    noise.rng = np.random.default_rng(0)
    result = Recall(Options(), n=60, distances=(96, 192))(noise)
    for form, (low, high) in result.intervals.items():
        assert low < result.metrics[form] < high
        assert abs(result.metrics[form]) < 0.05
    assert {"exact_low", "exact_high"} < result.breakdown["distance"]["96 bases"].keys()


def test_what_does_not_fit_is_not_run(tmp_path):
    with raises(NotRun):
        Recall(Options(rows=1))(Memory(reach=0, max_bases=190))
    short = tmp_path / "short.fa"
    short.write_text(">a\n" + bases.decode(STRETCH) + "\n")
    with raises(NotRun):
        Recall(Options(rows=1), haystack=short)(Memory(reach=0))
    result = Recall(Options(rows=1), haystack=short)(Memory(reach=0, max_bases=900))
    assert result.counts["distances"] == 4
    assert result.intervals["exact"] is None


def test_the_figure_has_a_curve_per_form(tmp_path):
    result = Recall(Options(rows=30))(Memory(reach=800, max_bases=3060))
    figure = result.figures["recall"]()
    [axes] = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [form.replace("_", " ") for form in FORMS]
    exact = axes.lines[1]
    assert list(exact.get_xdata()) == [96, 192, 384, 768, 1536]
    assert list(exact.get_ydata()) == pytest.approx([1, 1, 1, 1, 0], abs=1e-5)
    save(figure, tmp_path / "a.png")


def test_the_shipped_model_is_measured():
    [entry] = recall.ENTRIES
    task = entry.make(SimpleNamespace(eval=SimpleNamespace(data=None, rows=1, seed=0)))
    assert (task.name, task.n) == ("recall", 1)
    result = Recall(Options(rows=1), distances=(96, 384))(gener_jax.load("tiny"))
    assert np.isfinite(result.predictions["exact"]).all()
    assert abs(result.metrics["exact"]) < 2
