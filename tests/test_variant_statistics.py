"""Statistics of variants: only rows with truth and score count, means over strata, what a resample draws, baselines."""

import dataclasses

import numpy as np
import pytest

from gener_jax.statistics import matched
from gener_jax.tasks.variant_statistics import Statistics
from tests.toy_variants import GENOME, SET, write

RNG = np.random.default_rng(0)
SCORES, HARMFUL = RNG.normal(size=200), RNG.random(200) < 0.5
TRUTH = np.where(np.arange(200) < 190, HARMFUL, np.nan)


def made(folder, **changes):
    """The statistics of two variants at each of a hundred positions, in two exons."""
    rows = [
        (i // 2, GENOME[i // 2], "ACGT"["ACGT".index(GENOME[i // 2]) - 1 - i % 2], bool(HARMFUL[i]), f"exon {i // 120}")
        for i in range(200)
    ]
    spec = dataclasses.replace(SET, macro={"exon": ("exon", "equal")}, **changes)
    return Statistics(spec, spec.read(write(folder, rows)), seed=3, resamples=(100, 100))


def test_rows_with_truth_and_score_count(tmp_path):
    found, scores = made(tmp_path), np.where(np.arange(200) % 7 > 0, SCORES, np.nan)
    known = np.isfinite(TRUTH) & np.isfinite(scores)
    positive = TRUTH[known] == 1
    assert found.value("auroc", TRUTH, "", scores) == matched.value("auroc", positive, scores[known])
    exons = [matched.value("auroc", TRUTH[of] == 1, scores[of]) for of in (known & half for half in halves())]
    assert found.value("auroc", TRUTH, "exon", scores) == pytest.approx(np.mean(exons))
    ends = matched.bootstrap("auroc", positive, scores[known], found.units[known], resamples=100, seed=3)
    assert found.interval("auroc", TRUTH, "", scores) == ends
    assert np.isnan(found.value("auroc", TRUTH, "", np.full(200, np.nan)))


def halves():
    return np.arange(200) < 120, np.arange(200) >= 120


def test_a_resample_draws_positions_or_match_groups(tmp_path):
    assert len({*zip(made(tmp_path).units, np.arange(200) // 2, strict=True)}) == 100
    assert made(tmp_path, match="exon").units.tolist() == [0] * 120 + [1] * 80


def test_a_baseline_is_on_rows_with_a_score_and_says_how_many_it_has(tmp_path):
    found, scores = made(tmp_path), np.where(np.arange(200) % 2, SCORES, np.nan)
    of = "auroc", TRUTH, ""
    row = found.baseline("auroc", of, scores, SCORES)
    assert row["auroc"] == found.value(*of, scores)
    assert row["auroc_gain"] == row["auroc_gain_low"] == 0
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    half = np.where(np.arange(200) < 100, -SCORES, np.nan)
    assert found.baseline("x", of, scores, half, headline=False) == {
        "x": found.value(*of, half + 0 * scores),
        "rows": 50,
    }
    assert found.baseline("x", of, scores, half * np.nan) == {}
