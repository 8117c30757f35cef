"""Figures that others report: the table that ships, and what a task takes of it."""

import csv

import pytest

from gener_jax import assets
from gener_jax.tasks import published
from tests.data import DATA


def test_every_row_is_complete_and_has_its_source():
    rows = published.rows()
    assert len(rows) > 400
    for row in rows:
        assert None not in row
        assert all(row[name] for name in ("suite", "task", "metric", "model", "source")), row
        value, error = float(row["value"]), float(row["standard_error"] or 0)
        assert 0 <= value <= (100 if row["metric"].endswith("percent") else 1), row
        assert 0 <= error < value, row
    keys = [tuple(row[name] for name in ("suite", "task", "metric", "model")) for row in rows]
    assert len(set(keys)) == len(keys)


def test_what_ships_is_the_table_that_was_collected():
    collected = DATA.parent / "published" / "results.tsv"
    if not collected.exists():
        pytest.skip("needs published/results.tsv beside the test data")
    with collected.open(newline="") as file:
        assert tuple(csv.DictReader(file, delimiter="\t")) == published.rows()


def test_a_task_gets_its_figures_with_the_best_first():
    found = published.of("nt_revised", "H3K27ac", "mcc", as_metric="mcc", comparable=False)
    assert [each.value for each in found] == sorted((each.value for each in found), reverse=True)
    [ours] = [each for each in found if each.model == "GENERator-1.2B"]
    assert (ours.metric, ours.value, ours.standard_error, ours.comparable) == ("mcc", 0.546, 0.015, False)
    assert "GENERator repository" in ours.source
    assert all(each.standard_error is None for each in found if each.model == "Enformer")


def test_percent_become_fractions():
    found = published.of("carbon_suite", "brca2_auroc", "percent", as_metric="auroc", comparable=True)
    assert {each.model: each.value for each in found}["Carbon-8B"] == 0.8572
    assert all(each.comparable and each.metric == "auroc" for each in found)


def test_what_is_not_in_the_table_is_an_error():
    with pytest.raises(KeyError, match="nt_revised, H3K27ac, auroc"):
        published.of("nt_revised", "H3K27ac", "auroc", as_metric="auroc", comparable=True)


def test_the_table_is_a_file_of_the_package():
    assert assets.PUBLISHED.is_file()
