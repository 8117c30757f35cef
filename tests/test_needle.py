"""The needle: its examples hold what they must, oracles score what they must, and the results say where."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import gener_jax
from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.plotting.figure import save
from gener_jax.runtime.errors import InputError
from gener_jax.tasks import needle
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.needle import DEPTHS, FORMS, SIZE, Needle, known_bases, plant, prompt_bases
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

HAYSTACK = known_bases(EXAMPLE_GENOME)


def near(prompt: np.ndarray, key: np.ndarray, most: int) -> list[int]:
    """Where the bases differ from the key in at most so many places, but for the key at the end."""
    windows = np.lib.stride_tricks.sliding_window_view(prompt, SIZE)[:-1]
    return np.flatnonzero((windows != key).sum(1) <= most).tolist()


@pytest.mark.parametrize("form", FORMS)
def test_an_example_holds_what_it_must(form):
    for number, (length, depth, aligned) in enumerate(itertools.product((256, 512), DEPTHS, (True, False))):
        prompt, value, distractors, starts = plant(HAYSTACK, number, length, depth, form, aligned)
        assert len(prompt) == prompt_bases(length)
        assert len(prompt) % 6 == 0
        assert (len(prompt) + SIZE) // 6 == length - 2
        key = prompt[-SIZE:]
        assert near(prompt, key, 0) == [starts[0]]
        np.testing.assert_array_equal(prompt[starts[0] + SIZE :][:SIZE], value)
        assert len(starts) == 1 + len(distractors) == (1 if form == "niah" else 9)
        assert all((start % 6 == 0) == aligned for start in starts)
        assert starts[0] == pytest.approx(depth * (len(prompt) - SIZE), abs=12)
        taken = sorted((start, start + 2 * SIZE) for start in (*starts, len(prompt) - SIZE))
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(taken))
        for start, distractor in zip(starts[1:], distractors, strict=True):
            assert (prompt[start : start + SIZE] != key).sum() == FORMS[form]
            np.testing.assert_array_equal(prompt[start + SIZE :][:SIZE], distractor)
            assert near(prompt, prompt[start : start + SIZE], 0) == [start]
        assert sorted(near(prompt, key, FORMS[form])) == sorted(starts)
        assert len({x.tobytes() for x in (value, *distractors)}) == len(starts)


def test_all_forms_share_stretch_key_and_value():
    examples = [plant(HAYSTACK, 3, 512, 0.5, form, aligned) for form in FORMS for aligned in (True, False)]
    assert len({x.prompt[-SIZE:].tobytes() for x in examples}) == len({x.value.tobytes() for x in examples}) == 1
    plain, other = examples[0].prompt, plant(HAYSTACK, 4, 512, 0.5, "niah", True).prompt
    assert all((x.prompt == plain).mean() > 0.8 for x in examples)
    assert (other == plain).mean() < 0.5
    text = bases.decode(plain[: examples[0].starts[0]])
    assert text in bases.decode(HAYSTACK)  # a real stretch
    again = plant(HAYSTACK, 3, 512, 0.5, "niah", True)
    np.testing.assert_array_equal(again.prompt, plain)
    assert (plant(HAYSTACK, 3, 512, 0.5, "niah", True, seed=1).prompt != plain).any()


class Oracle:
    """Finds the windows nearest to the key at the end, in `rank`, and gives what follows."""

    max_bases = None

    def __init__(self, rank):
        self.rank, self.prompts, self.sizes = rank, [], []

    def generate(self, prompts, num_bases, *, temperature):
        assert (num_bases, temperature) == (SIZE, 0)
        self.prompts += prompts
        self.sizes.append(len(prompts))
        return [self.answer(bases.encode(prompt)) for prompt in prompts]

    def answer(self, prompt):
        windows = np.lib.stride_tricks.sliding_window_view(prompt[:-SIZE], SIZE)[:-SIZE]
        at = int(np.argsort((windows != prompt[-SIZE:]).sum(1), kind="stable")[self.rank])
        return bases.decode(prompt[at + SIZE :][:SIZE])


class Guess(Oracle):
    """Random bases."""

    def answer(self, prompt):
        return bases.decode(np.random.default_rng(prompt[:9]).integers(4, size=SIZE).astype(np.uint8))


def found_by(model, **options):
    return Needle(Options(rows=options.pop("rows", 5)), lengths=(256, 512), **options)(model)


def test_what_finds_the_key_scores_1_in_every_cell():
    result = found_by(Oracle(0))
    assert result.metrics == {"exact_match": 1, "equal_bases": 1, "distractor": 0}
    assert result.counts == {"hits": 80, "examples": 80}
    assert {name: len(groups) for name, groups in result.breakdown.items()} == {
        "length": 2, "depth": 5, "form": 4, "alignment": 2, "cell": 16,
    }  # fmt: skip
    for groups in result.breakdown.values():
        assert all(row["exact_match"] == 1 for row in groups.values())
        assert sum(row["examples"] for row in groups.values()) == 80
    assert result.intervals == {"exact_match": None}


def test_what_copies_the_nearest_distractor_scores_0():
    result = found_by(Oracle(1), forms=("neardup_d4", "neardup_d2", "neardup_d1"))
    assert result.metrics["exact_match"] == 0
    assert result.metrics["distractor"] == 1
    assert all(row["exact_match"] == 0 for groups in result.breakdown.values() for row in groups.values())


def test_guesses_are_at_chance():
    result = found_by(Guess(0), rows=30)
    assert result.metrics["exact_match"] == result.metrics["distractor"] == 0
    assert result.metrics["equal_bases"] == pytest.approx(0.25, abs=0.02)  # three standard errors of 60 groups
    assert result.baselines["chance"]["equal_bases"] == 0.25
    low, high = result.intervals["exact_match"]
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 60)))


def test_every_example_is_generated_from_once_in_batches_of_few_tokens(monkeypatch):
    monkeypatch.setattr(needle, "_BATCH", 1100)
    model, done = Oracle(0), []
    result = Needle(Options(rows=5), lengths=(256, 512))(model, lambda *progress: done.append(progress))
    assert model.sizes == [4] * 10 + [2] * 20
    assert len(set(model.prompts)) == result.counts["examples"] == 80
    assert done[-1] == (80, 80)
    assert len(set(result.predictions[result.paired.rows])) == 80
    assert len(set(result.predictions[result.paired.groups])) == 10
    cells = {tuple(x) for x in zip(*(result.predictions[n].tolist() for n in ("length", "depth", "form")), strict=True)}
    assert len(cells) == 2 * 5 * 4


def test_an_answer_that_is_cut_short_is_no_hit():
    class Short(Oracle):
        def answer(self, prompt):
            return super().answer(prompt)[:-1]

    result = found_by(Short(0))
    assert (result.metrics["exact_match"], result.metrics["equal_bases"]) == (0, pytest.approx(23 / 24))
    found = found_by(Oracle(0)).predictions
    assert list(found["answer"]) == list(found["value"])


def test_lengths_that_exceed_the_context_are_not_run():
    model = Oracle(0)
    model.max_bases = (512 - 2) * 6
    result = Needle(Options(rows=1), name="needle_short", lengths=(256, 512, 1024), forms=("niah",))(model)
    assert max(map(len, model.prompts)) == prompt_bases(512)
    assert [row["examples"] for row in result.breakdown["length"].values()] == [2, 2, 0]
    assert "1,024 tokens" in result.note
    model.max_bases -= 1
    result = Needle(Options(rows=1), lengths=(256, 512), forms=("niah",))(model)
    assert [row["examples"] for row in result.breakdown["length"].values()] == [2, 0]
    with raises(NotRun):
        Needle(Options(rows=1))(model)
    with raises(InputError, argument="lengths", value=128):
        Needle(Options(), lengths=(128, 256))
    Needle(Options(), lengths=(128,), forms=("niah",))
    with raises(InputError, argument="forms"):
        Needle(Options(), forms=("niah", "neardup_d3"))


def test_published_figures_are_those_of_the_lengths_that_were_run():
    model = Oracle(0)
    model.generate = lambda prompts, size, temperature: ["A" * size] * len(prompts)
    model.max_bases = 6 * 40_000
    result = Needle(Options(rows=1), lengths=(8192, 16384, 32768, 65536), forms=("niah",))(model)
    names = {x.model for x in result.published}
    assert {"Evo2-7B, 98kbp", "Carbon-3B, 196kbp"} < names
    assert {name.split(", ")[1] for name in names} == {"98kbp", "196kbp"}
    assert not any(x.comparable for x in result.published)
    assert found_by(Oracle(0)).published == ()


def test_a_haystack_of_ones_own(tmp_path):
    path = tmp_path / "own.fa"
    path.write_text(">a\n" + "ACGTNNTTGACA" * 100 + "\n>b\n" + bases.decode(HAYSTACK[:3000]) + "\n")
    codes = known_bases(path)
    assert (len(codes), codes.max()) == (4000, 3)
    assert found_by(Oracle(0), haystack=path, rows=1, forms=("niah",), depths=(0.5,)).counts["hits"] == 4
    path.write_text(">a\n" + "ACGT" * 100)
    with raises(NotRun):
        found_by(Oracle(0), haystack=path)


def test_the_figure_has_a_panel_per_form_and_alignment(tmp_path):
    result = Needle(Options(rows=5), lengths=(256, 512, 4096), forms=("niah",))(SimpleNamespace(
        max_bases=4000, generate=Oracle(0).generate))  # fmt: skip
    figure = result.figures["needle"]()
    panels = [axes for axes in figure.axes if axes.images and axes.get_title("left")]
    assert [axes.get_title("left") for axes in panels] == ["niah, aligned", "niah, not aligned"]
    values = panels[0].images[0].get_array()
    assert values.shape == (5, 3)
    assert values[:, :2].min() == 1
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[:, 2].all()
    save(figure, tmp_path / "a.png")


def test_the_shipped_model_is_measured():
    lm = gener_jax.load("tiny")
    result = Needle(Options(rows=1), lengths=(256,), forms=("niah", "neardup_d1"))(lm)
    assert result.counts["examples"] == 4
    assert result.metrics["exact_match"] == 0
    assert all(len(answer) == SIZE for answer in result.predictions["answer"])


def test_the_entries():
    assert [entry.name for entry in needle.ENTRIES] == ["needle", "needle_short"]
    config = SimpleNamespace(eval=SimpleNamespace(data=None, rows=2, seed=0))
    made = [entry.make(config) for entry in needle.ENTRIES]
    assert [task.name for task in made] == ["needle", "needle_short"]
    assert [max(task.lengths) for task in made] == [131072, 2048]
