"""The schema of results: written, read back, refused, and shown as a table."""

import dataclasses
import json

import pytest

from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import results
from gener_jax.storage.results import Dataset, Evaluation, Model, Results
from gener_jax.tasks.base import Metric, Result
from tests.raised import raises


class Task:
    name, metric = "toy", "hits"
    metrics = {"time": Metric("days", higher_is_better=False), "hits": Metric("", higher_is_better=True)}  # noqa: RUF012


@pytest.fixture
def found():
    result = Result(
        {"time": float("nan"), "hits": 3},
        {"genes": 4},
        {"guess": {"hits": 2.5}, "oracle": {"hits": 4.0}, "mute": {}},
        {
            "taxon": {"bct": {"hits": 3.0, "genes": 1200}, "vir": {"hits": float("inf"), "genes": 1}},
            "kind": {"cds": {"hits": 3}},
        },
        Dataset("datasets/x", "abc", "test"),
    )
    models = [Model("one", 12, "runs/one", 7), Model("two", 13, "two", None)]
    evaluations = tuple(Evaluation.of(Task, result, model) for model in models)
    return Results(evaluations, {"loss": 0.5, "tokens_per_s": None}, environment={"command": ["x"]})


def test_they_are_read_as_they_were_written(found, tmp_path):
    found.write(tmp_path / "made" / "here")
    assert results.read(tmp_path / "made" / "here") == found
    assert list(found.evaluations[0].metrics) == ["hits", "time"]  # the main metric first
    assert found["toy"]["hits"] == 3
    assert found["toy"]["time"] is None
    assert found["toy"].breakdown["taxon"]["vir"]["hits"] is None
    with pytest.raises(KeyError):
        found["absent"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x.update(format=0), "format"),
        (lambda x: x.pop("date"), "date"),
        (lambda x: x.update(more=1), "more"),
        (lambda x: x["evaluations"][1].pop("seconds"), "evaluations[1].seconds"),
        (lambda x: x["evaluations"][0]["model"].update(step="7"), "evaluations[0].model.step"),
        (lambda x: x["evaluations"][0]["counts"].update(genes=True), "evaluations[0].counts.genes"),
        (lambda x: x["evaluations"][0].update(baselines=[]), "evaluations[0].baselines"),
        (lambda x: x["evaluations"][0]["metrics"]["hits"].update(value="x"), "evaluations[0].metrics.hits.value"),
    ],
)
def test_another_schema_is_refused_by_its_field(found, tmp_path, change, name):
    fields = json.loads(json.dumps(found.json()))
    change(fields)
    (tmp_path / "results.json").write_text(json.dumps(fields))
    with raises(CheckpointError, path=tmp_path / "results.json", name=name):
        results.read(tmp_path)


def test_an_absent_or_damaged_file_is_one_line(tmp_path):
    with raises(CheckpointError, path=tmp_path / "results.json"):
        results.read(tmp_path)
    (tmp_path / "results.json").write_text("[")
    with raises(CheckpointError, path=tmp_path / "results.json"):
        results.read(tmp_path)


def test_the_dataset_is_named_from_the_working_directory(found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path, shown in ((tmp_path / "sets" / "x", "sets/x"), (tmp_path.parent / "x", tmp_path.parent / "x")):
        dataset = dataclasses.replace(found["toy"].dataset, path=str(path))
        assert f" of {shown}: " in dataclasses.replace(found["toy"], dataset=dataset).table()


def test_without_a_direction_none_is_the_best(found):
    measured = {"hits": dataclasses.replace(found["toy"].metrics["hits"], higher_is_better=None)}
    first, *rest = dataclasses.replace(found["toy"], metrics=measured).table().splitlines()
    assert first == "toy: hits"
    assert not [line for line in rest if "best" in line]


def test_numbers_and_counts_as_text():
    numbers = {0.5: "+0.5000", -1234.5: "-1,234.5000", -0.0: "0.0000", 4e-5: "0.0000", -4e-5: "0.0000"}
    assert {value: results.signed(value) for value in numbers} == numbers
    counts = {"genes": 1, "families": 1, "species": 1, "left out: fewer than 100 known bases": 1, "context_bases": 6}
    assert results.counted(counts) == (
        "1 gene, 1 family, 1 species, 1 left out: fewer than 100 known bases, 6 context bases"
    )


def test_sizes_of_groups_are_of_the_last_count_that_they_have(found):
    counts = {"pairs": 7, "genes": 4, "window": 1200, "left out: not drawn": 1}
    lines = dataclasses.replace(found["toy"], counts=counts).table().splitlines()
    assert lines[-1].endswith("(1 gene)")
    groups = {"taxon": {"bct": {"hits": 3.0, "pairs": 5}, "vir": {"hits": 1.0, "pairs": 2}}}
    lines = dataclasses.replace(found["toy"], counts=counts, breakdown=groups).table().splitlines()
    assert [line.split("(")[-1] for line in lines[-2:]] == ["5 pairs)", "2 pairs)"]


def test_a_gain_that_rounds_to_0_has_no_sign(found):
    row = {"hits": 3.0, "hits_gain": -4e-5, "hits_gain_low": -4e-5, "hits_gain_high": 4e-5}
    evaluation = dataclasses.replace(found["toy"], baselines={"guess": row})
    gain = results.Gain("toy", "hits", "two", "one", -4e-5, -4e-5, 4e-5, 12)
    text = dataclasses.replace(found, evaluations=(evaluation,), gains=(gain,)).table()
    assert "gain of this model 0.0000 [0.0000, 0.0000]" in text
    assert "gain of two over one: 0.0000 [0.0000, 0.0000] (12 rows)" in text


def test_the_table(found):
    assert found["toy"].table().splitlines() == [
        "toy: hits (higher is better)",
        "  test split of datasets/x: 4 genes",
        "  one (this model)   3.0000",
        "  guess              2.5000",
        "  oracle             4.0000  ← best",
        "  mute                 none",
        "By taxon",
        "  bct                3.0000  (1,200 genes)",
        "  vir                  none  (1 gene)",
    ]
