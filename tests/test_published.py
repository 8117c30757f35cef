"""Figures that others report: the table that ships, and what a task takes of it."""

import csv
import dataclasses
from pathlib import Path

import pytest

from gener_jax import assets
from gener_jax.config import Config
from gener_jax.tasks import catalogue, gene_completion, needle, published
from gener_jax.tasks.base import Options
from gener_jax.tasks.labelled_sets import SETS
from gener_jax.tasks.variant_effect import VariantEffect
from tests.data import DATA

COMPLETION = "gene_completion"


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
    assert assets.PUBLISHED[0].read_bytes() == collected.read_bytes()
    with collected.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(published.rows()[: len(rows)]) == rows


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


def test_the_two_panels_make_the_mean_that_is_published():
    of = {(row["task"], row["model"]): float(row["value"]) for row in published.rows() if row["suite"] == COMPLETION}
    for model in ("Evo2-1B", "Evo2-7B", "Evo2-20B", "Evo2-40B"):
        mean = (4 * of["prokaryote", model] + 8 * of["eukaryote", model]) / 12
        assert of["all", model] == pytest.approx(mean, abs=0.06)


def test_every_row_stands_beside_a_task_or_has_a_reason_why_not(monkeypatch):
    """As if all data were there, each task is asked for its figures."""
    shown, of = set(), published.of

    def recorded(suite, task, metric, **more):
        shown.add((suite, task))
        return of(suite, task, metric, **more)

    monkeypatch.setattr(published, "of", recorded)
    monkeypatch.setattr(Options, "file", lambda options, name, source: Path(name))
    config = dataclasses.replace(Config(), eval=dataclasses.replace(Config().eval, data="data"))
    for labelled in SETS.values():
        labelled.figures(comparable=True)
    for entry in catalogue.ENTRIES:
        task = None if entry.regions or entry.name in SETS else entry.make(config)
        if isinstance(task, VariantEffect):
            task._published(task.context)
        elif isinstance(task, needle.Needle):
            for length in task.lengths:
                needle._published(length)
        elif isinstance(task, gene_completion.GeneCompletion):
            gene_completion.figures(comparable=True)
        elif hasattr(task, "reported"):
            task.reported()
    rows = {(row["suite"], row["task"]) for row in published.rows()}
    assert rows - shown == set(published.NOT_TASKS)
    assert all(published.NOT_TASKS.values())
