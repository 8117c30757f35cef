"""Insertions and deletions: what length costs, and that the scores which correct it do; oracles; the real tables."""

import dataclasses
import functools

import numpy as np
import pytest

from gener_jax.inference.variants.variant import Scored
from gener_jax.tasks import indels, pairs
from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.indels import Indels
from gener_jax.tasks.variant_tables import OUTSIDE
from tests import toy_variants
from tests.data import data_path
from tests.toy_variants import GENOME

SET = dataclasses.replace(toy_variants.SET, folds="block", block=500)


class Fake:
    """A model with a score for each protocol, of a variant and whether it is harmful."""

    max_bases, k = None, 6

    def __init__(self, labels, **scores):
        self.labels, self.scores = labels, scores

    def score_variants(self, variants, genome, *, protocol, **options):
        return (Scored(protocol, float(self.scores[protocol](v, self.labels[v.start]))) for v in variants)


def cost(variant, harmful=None):
    """Of a model that knows nothing but length."""
    return 1.4 * (len(variant.alt) - len(variant.ref))


def rows_of(folder, longer_if_harmful=False):
    """Writes 240 indels in four blocks; half are harmful, which insert more or not. Returns options, start → label."""
    rng, rows = np.random.default_rng(2), []
    for i in range(240):
        at, size, harmful = 50 + 30 * i + 600 * (i // 60), int(rng.integers(1, 7)), bool(rng.random() < 0.5)
        inserts = harmful if longer_if_harmful and rng.random() < 0.6 else rng.random() < 0.5
        ref, alt = GENOME[at : at + size + 1], GENOME[at]
        if inserts:
            ref, alt = GENOME[at], GENOME[at] + "".join(rng.choice(list("ACGT"), size))
        rows.append((at, ref, alt, harmful, ""))
    return toy_variants.write(folder, rows), {at: harmful for at, _, _, harmful, _ in rows}


def test_slopes_are_those_of_neutral_variants():
    rng = np.random.default_rng(0)
    length, folds = rng.integers(-9, 10, 300), np.arange(300) % 4
    neutral, effect = rng.random(300) < 0.4, rng.normal(size=300)
    scores = np.where(length > 0, 1.4, 0.9) * length + np.where(neutral, 0, 5 + effect)
    np.testing.assert_allclose(indels.slopes(length, scores, neutral), [1.4, -0.9])
    found = indels.regressed(length, scores, neutral, folds)
    np.testing.assert_allclose(found, np.where(neutral, 0, 5 + effect), atol=1e-9)
    np.testing.assert_array_equal(indels.regressed(np.full(300, -3), scores, neutral, folds), scores)


def test_a_row_does_not_correct_itself():
    rng = np.random.default_rng(0)
    length, folds, scores = rng.integers(-9, 10, 90), np.arange(90) % 3, rng.normal(size=90)
    neutral = np.ones(90, bool)
    changed = np.where(folds == 0, scores + length, scores)
    one, other = (indels.regressed(length, x, neutral, folds) for x in (scores, changed))
    np.testing.assert_allclose((other - one)[folds == 0], length[folds == 0])
    assert np.abs(other - one)[folds == 1].max() > 0.01
    for few in (np.arange(90) < 40, (folds == 0) | (np.arange(90) < 20)):  # under 30 outside each fold, or of one
        np.testing.assert_array_equal(np.isnan(indels.regressed(length, scores, few, folds)), True)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_an_oracle_is_right_in_every_form_and_an_adversary_wrong(sign, expected, tmp_path):
    options, labels = rows_of(tmp_path)

    def right(variant, harmful):
        return sign * harmful * 30.0

    model = Fake(labels, window=lambda v, harmful: right(v, harmful) + cost(v), equal_window=right)
    reports = []
    result = Indels(options, SET)(model, lambda done, total: reports.append(done / total))
    auroc = {name: value for name, value in result.metrics.items() if name.startswith("auroc")}
    assert auroc == dict.fromkeys(("auroc", "auroc_window", "auroc_regressed"), expected)
    assert reports == sorted(reports)
    assert reports[-1] == 1
    assert result.counts["insertions"] + result.counts["deletions"] == result.counts["rows"] == 240
    costs = result.breakdown["score_of_a_base"]
    assert costs["inserted"]["window"] == pytest.approx(1.4)
    assert costs["deleted"]["window"] == pytest.approx(-1.4)
    assert costs["inserted"]["equal_window"] == pytest.approx(0, abs=1e-9)
    assert sum(row["rows"] for row in result.breakdown["bases"].values()) == 240
    for figure in result.figures.values():
        assert len(figure().axes) == 3


def test_a_model_that_knows_only_length_is_unmasked(tmp_path):
    options, labels = rows_of(tmp_path, longer_if_harmful=True)
    noise = dict(zip(labels, np.random.default_rng(5).normal(size=len(labels)), strict=True))
    model = Fake(labels, window=lambda v, _: cost(v) + noise[v.start], equal_window=lambda v, _: noise[v.start])
    result = Indels(options, SET)(model)
    assert result.metrics["auroc_window"] > 0.7
    assert result.baselines["inserted"]["auroc"] > 0.7
    assert result.baselines["inserted"]["auroc_gain_high"] < 0
    for name in ("auroc", "auroc_regressed"):
        low, high = result.intervals[name]
        assert low < 0.5 < high
    assert {*result.breakdown["frame"]} == {"kept", "shifted"}


def test_two_models_are_compared_by_the_mean_over_strata_on_variants_measured_twice(tmp_path):
    options, labels = rows_of(tmp_path)
    header, *lines = (tmp_path / "small.tsv").read_text().splitlines()
    lines = [f"{line}\t{'ab'[i % 3 > 0]}" for i, line in enumerate(lines + lines[:80])]
    (tmp_path / "small.tsv").write_text("\n".join([f"{header}\tassay", *lines]) + "\n")
    spec, results = dataclasses.replace(SET, macro={"assay": ("assay", "equal")}), []
    noise = dict(zip(labels, np.random.default_rng(5).normal(size=len(labels)), strict=True))
    for weight in (1.0, 0.2):
        score = functools.partial(lambda v, harmful, weight: weight * harmful + noise[v.start], weight=weight)
        results.append(Indels(options, spec)(Fake(labels, window=score, equal_window=score)))
    one, other = (pairs.table_of(result.predictions) for result in results)
    pairs.check(results[0].paired, one)
    found, rows = pairs.gain(results[0].paired, one, other)
    assert rows == 320
    assert found.gain == pytest.approx(results[0].metrics["auroc"] - results[1].metrics["auroc"])
    assert 0 < found.low < found.gain < found.high


def test_rows_without_a_score_are_counted_with_their_reason(tmp_path):
    options, labels = rows_of(tmp_path)
    model = Fake(labels, window=cost, equal_window=lambda v, harmful: np.nan if v.start < 3000 else harmful)
    result = Indels(options, SET)(model)
    gone = sum(start < 3000 for start in labels)
    assert result.counts["rows"] == 240 - gone == len(result.predictions["class"])
    assert result.breakdown["without_score"] == {"no score": {"rows": gone}}
    with pytest.raises(NotRun, match="no row with a score"):
        Indels(options, SET)(Fake(labels, window=cost, equal_window=lambda v, harmful: np.nan))


@pytest.mark.parametrize(
    ("spec", "positives", "negatives", "in_frame", "outside"),
    [(sets.BRCA2_INDELS, 3830, 232, (31, 25), 0), (sets.BARD1_DELETIONS, 680, 1417, (680, 1417), 8)],
)
def test_the_real_tables_have_the_rows_that_the_notes_tell(spec, positives, negatives, in_frame, outside):
    folder = data_path(*spec.file.split("/")).parents[1]
    task = Indels(Options(folder), spec)
    rows = next(iter(task._scored.values())).rows
    truth, length = spec.target(rows.table, spec.classes[0]), indels.lengths(rows.variants)
    assert (int((truth == 1).sum()), int((truth == 0).sum())) == (positives, negatives)
    assert tuple(int(((truth == label) & (length % 3 == 0)).sum()) for label in (1, 0)) == in_frame
    assert len(rows.problems) - rows.problems.count("") == rows.problems.count(OUTSIDE) == outside
