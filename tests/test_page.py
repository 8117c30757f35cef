"""Results for a reader: the same tables as Markdown and as one HTML page that needs no network."""

import dataclasses
import html.parser
import re

import pytest

from gener_jax.config import Config
from gener_jax.storage.results import Evaluation, Gain, Model, Published, Results, Skipped
from gener_jax.tasks import page
from gener_jax.tasks.base import Entry, Metric, Result
from gener_jax.tasks.suite import Candidate, Cell

HOSTILE = "<script>alert('x')</script>|*b*"


class Task:
    name, metric = "vep", "auroc"
    metrics = {"auroc": Metric("", higher_is_better=True), "nll": Metric("nats", higher_is_better=False)}  # noqa: RUF012


def evaluation(name, auroc, baselines, note="Nothing compares."):
    result = Result(
        {"auroc": auroc, "nll": 12.25}, {"variants": 1200, "positive": 300}, baselines,
        {"consequence": {"missense": {"auroc": 0.6, "variants": 1000}, HOSTILE: {"auroc": auroc, "variants": 200}}},
        intervals={"auroc": (auroc - 0.05, auroc + 0.05)}, note=note,
        published=(
            Published("Evo2-7B", "auroc", 0.875, 0.01, "their table 3", True),
            Published("CADD", "auroc", 0.804, None, "https://example.org/x", False),
        ),
    )  # fmt: skip
    return Evaluation.of(Task, result, Model(name, 10, f"runs/{name}", 5))


@pytest.fixture
def results():
    random, some = {"auroc": 0.5, "auroc_low": 0.45, "auroc_high": 0.55}, {"auroc": 0.6, "rows": 1100}
    return Results(
        (
            evaluation("one", 0.8, {"random_weights": {**random, "auroc_gain": 0.3}, "cpg": some}),
            evaluation("two", 0.7, {"random_weights": {**random, "auroc_gain": 0.2}, "cpg": {"auroc": 0.61}}),
        ),
        None,
        (Skipped("needle", "one", "not run", f"needs {HOSTILE}"), Skipped("probe", "two", "failed", "a defect")),
        (Gain("vep", "auroc", "two", "one", -0.1, -0.15, -0.05, 1200),),
        environment={"versions": {"gener_jax": "1"}, "devices": ["cpu"]},
    )


def rows_of(markdown, title):
    section = markdown.split(f"## {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in section.splitlines() if line.startswith("|")]


def test_models_stand_side_by_side_above_what_they_are_compared_with(results):
    text = page.markdown(results, list(page.sections(results)))
    header, _, *rows = rows_of(text, "vep")
    assert header == ["", "auroc ↑", "nll (nats) ↓", "gain of one over it", "gain of two over it", "source"]
    assert rows == [
        ["**one**", "0.8000 [0.7500, 0.8500]", "12.2", "", "-0.1000 [-0.1500, -0.0500]", ""],
        ["**two**", "0.7000 [0.6500, 0.7500]", "12.2", "+0.1000 [0.0500, 0.1500]", "", ""],
        ["random weights", "0.5000 [0.4500, 0.5500]", "", "+0.3000", "+0.2000", ""],
        ["cpg, 1,100 rows (one)", "0.6000", "", "", "", ""],
        ["cpg (two)", "0.6100", "", "", "", ""],
        ["Evo2-7B (published)", "0.8750 ± 0.0100", "", "", "", "comparable; their table 3"],
        ["CADD (published)", "0.8040", "", "", "", "not comparable; https://example.org/x"],
    ]  # fmt: skip
    assert "auroc, higher is better; 1,200 variants, 300 positive" in text
    assert "Nothing compares." in text
    _, _, needle, probe = rows_of(text, "Without a result")
    assert needle[:3] == ["needle", "one", "not run here"]
    assert probe == ["probe", "two", "failed", "a defect"]


def test_a_gain_that_rounds_to_0_has_no_sign_on_either_side(results):
    gain = Gain("vep", "auroc", "two", "one", -4e-5, -4e-5, 0.0, 1200)
    rows = rows_of(page.markdown(results, list(page.sections(dataclasses.replace(results, gains=(gain,))))), "vep")
    assert (rows[2][4], rows[3][3]) == ("0.0000 [0.0000, 0.0000]",) * 2


def test_a_published_model_of_which_some_figures_compare(results):
    both = (*results.evaluations[0].published, Published("Evo2-7B", "nll", 3.5, None, "their table 4", False))
    one = dataclasses.replace(results.evaluations[0], published=both)
    rows = rows_of(page.markdown(results, list(page.sections(dataclasses.replace(results, evaluations=(one,))))), "vep")
    assert [row[-1] for row in rows[-2:]] == [
        "comparable in auroc alone; their table 3; their table 4",
        "not comparable; https://example.org/x",
    ]


def test_what_one_model_cannot_do_is_a_row_beside_the_other(results):
    skipped = (Skipped("vep", "two", "not run", "needs more context"), Skipped("vep", "three", "failed", "a defect"))
    results = dataclasses.replace(results, evaluations=results.evaluations[:1], skipped=skipped, gains=())
    rows = rows_of(page.markdown(results, list(page.sections(results))), "vep")
    assert [row[:2] for row in rows[3:5]] == [
        ["two", "not run here: needs more context"],
        ["three", "failed: a defect"],
    ]
    assert page.overview(results).rows[0][2:5] == ("0.8000 [0.7500, 0.8500]", "not run", "failed")
    assert not page.absent(results).rows


def test_the_overview_has_a_row_per_task(results):
    table = page.overview(results)
    assert table.columns == ("task", "metric", "one", "two", "random weights", "best baseline", "published, comparable")
    assert table.rows[0][-3:] == ("0.5000 [0.4500, 0.5500]", "0.6000 (cpg, 1,100 rows)", "0.8750 (Evo2-7B)")
    assert table.rows[1] == ("probe", "", "", "failed", "", "", "")
    assert len(table.rows) == 2
    lines = page.text(table).splitlines()
    assert len({line.index("0.7000") if "0.7000" in line else line.index("two") for line in lines[:2]}) == 1


class Reader(html.parser.HTMLParser):
    """The text and the tags of a page, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def written(results, folder):
    candidate = Candidate(results.evaluations[0].model, Config(), {}, None)
    cell = Cell(candidate, Entry("vep", None), results.evaluations[0], figures=("roc", "absent"))
    picture = folder / "plots/one/vep/roc.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    page.write(results, [cell], folder)
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_is_one_file_and_escapes_what_it_shows(results, tmp_path):
    hostile = evaluation(HOSTILE, 0.9, {HOSTILE: {"auroc": 0.1}}, note=HOSTILE)
    results = dataclasses.replace(results, evaluations=(*results.evaluations, hostile))
    text = written(results, tmp_path)
    reader = Reader(text)
    assert not reader.open
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    shown = "".join(reader.text)
    assert shown.count(HOSTILE) > 5
    assert "https://example.org/x" in shown
    for name, value in reader.attributes:
        assert name not in ("onload", "onerror", "onclick")
        assert name != "src" or value.startswith("data:image/png;base64,")
        assert name != "href" or value.startswith("#")
    assert "url(" not in text
    sources = [value for name, value in reader.attributes if name == "src"]
    assert len(sources) == 2  # the comparison, and the plot that was drawn
    assert sources[1].endswith("cGljdHVyZQ==")
    targets = {value for name, value in reader.attributes if name == "id"}
    assert {value[1:] for name, value in reader.attributes if name == "href"} == targets == {"vep", "absent"}
    assert "light dark" in text


def test_markdown_shows_text_as_it_is(results, tmp_path):
    written(results, tmp_path)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    widths = {line.count(" | ") for line in text.split("## Without a result")[1].splitlines() if line[:1] == "|"}
    assert widths == {3}
    assert re.search(r"\\\|\\\*b\\\*", text)
