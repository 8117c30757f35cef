"""Scores with matched controls: metrics as scikit-learn and SciPy have them, means over strata, coverage by group."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from gener_jax.runtime.errors import InputError
from gener_jax.statistics import matched
from tests.raised import raises


def draw(groups, seed, strata=3, apart=1.5):
    """One positive and nine controls in each group, whose scores share an offset; the strata are of unequal size."""
    rng = np.random.default_rng(seed)
    positive, group = np.tile(np.arange(10) == 0, groups), np.repeat(np.arange(groups), 10)
    stratum = np.sqrt(rng.integers(strata**2, size=groups)).astype(int)[group]
    scores = rng.normal(size=groups)[group] + rng.normal(size=groups * 10) + apart * positive
    return positive, scores, group, stratum


def trapezoid(positive, scores):
    precision, recall, _ = precision_recall_curve(positive, scores)
    return auc(recall, precision)


OTHERS = {"auroc": roc_auc_score, "auprc": average_precision_score, "auprc_trapezoid": trapezoid}


@pytest.mark.parametrize("metric", OTHERS)
def test_a_mean_over_strata_is_that_of_scikit_learn_in_each(metric):
    positive, scores, _, stratum = draw(60, 0)
    scores = scores.round(1)  # ties
    each = [OTHERS[metric](positive[stratum == i], scores[stratum == i]) for i in range(3)]
    sizes = np.bincount(stratum)
    assert len(set(sizes)) == 3
    assert matched.value(metric, positive, scores) == pytest.approx(OTHERS[metric](positive, scores))
    assert matched.value(metric, positive, scores, stratum, "size") == pytest.approx(np.average(each, weights=sizes))
    assert matched.value(metric, positive, scores, stratum, "equal") == pytest.approx(np.mean(each))


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(1)
    values, stratum = rng.normal(size=90).round(1), rng.integers(2, size=90)
    scores = (values + rng.normal(size=90)).round(1)
    each = [stats.spearmanr(values[stratum == i], scores[stratum == i]).statistic for i in range(2)]
    assert matched.value("spearman", values, scores) == pytest.approx(stats.spearmanr(values, scores).statistic)
    assert matched.value("spearman", values, scores, stratum, "equal") == pytest.approx(np.mean(each))


def test_a_stratum_of_one_class_is_left_out():
    positive, scores, _, stratum = draw(60, 0)
    more = np.append(stratum, [9] * 5)
    found = matched.value("auroc", np.append(positive, [False] * 5), np.append(scores, range(5)), more, "equal")
    assert found == pytest.approx(matched.value("auroc", positive, scores, stratum, "equal"))
    assert np.isnan(matched.value("auroc", positive[:0], scores[:0], stratum[:0]))
    with raises(InputError, argument="weighting"):
        matched.value("auroc", positive, scores, stratum, "rows")


def test_groups_are_drawn_whole():
    positive, scores, group, stratum = draw(400, 1)
    low, high = matched.bootstrap("auprc", positive, scores, group, stratum, resamples=100)
    assert low < matched.value("auprc", positive, scores, stratum) < high
    assert (low, high) == matched.bootstrap("auprc", positive, scores, group, stratum, resamples=100)
    positive, scores, group, stratum = draw(100, 1)
    copies = np.repeat(np.arange(1000), 9)  # of each row, which say nothing new
    same = matched.bootstrap("auroc", positive[copies], scores[copies], group[copies], resamples=300)
    assert same == pytest.approx(matched.bootstrap("auroc", positive, scores, group, resamples=300))


def test_no_interval_under_thirty():
    positive, scores, group, stratum = draw(100, 2)
    assert matched.bootstrap("auroc", positive, scores, group, stratum) is None  # the smallest has about 11 positives
    assert matched.bootstrap("auroc", positive[:290], scores[:290], group[:290]) is None
    assert matched.bootstrap("auroc", positive[:300], scores[:300], group[:300], resamples=50) is not None
    assert matched.bootstrap("auroc", positive, scores, group % 29) is None
    assert matched.bootstrap("spearman", scores[:29], scores[1:30]) is None


def test_gains_are_of_the_same_rows():
    positive, scores, group, _ = draw(100, 3)
    same = matched.paired("auprc", positive, scores, scores, group, resamples=50)
    assert (same.gain, same.low, same.high) == (0, 0, 0)
    noise = scores + np.random.default_rng(0).normal(size=1000)
    gain = matched.paired("auroc", positive, scores, noise, group, resamples=200)
    expected = roc_auc_score(positive, scores) - roc_auc_score(positive, noise)
    assert gain.gain == pytest.approx(expected)
    assert 0 < gain.low < gain.gain < gain.high


def test_a_match_group_has_one_positive_and_controls():
    positive, _, group, _ = draw(5, 0)
    assert matched.check(positive, group) == 5
    assert matched.check(positive[::-1], [f"g{i}" for i in group]) == 5
    for wrong in (positive | (np.arange(50) == 13), positive & (np.arange(50) != 10)):
        with raises(InputError, argument="groups", value="1"):
            matched.check(wrong, group)
    with raises(InputError, argument="groups", value="9"):
        matched.check(np.append(positive, True), np.append(group, 9))


def coverage(metric, groups, repeats, resamples, strata=None, weighting="size"):
    """The percentage of intervals that hold the mean of the metric over many draws of the same size."""

    def parts(seed):
        positive, scores, group, stratum = draw(groups, seed, strata or 1)
        return positive, scores, group, stratum if strata else None

    others = [parts(10**6 + i) for i in range(repeats)]
    truth = np.mean([matched.value(metric, x[0], x[1], x[3], weighting) for x in others])
    found = [matched.bootstrap(metric, *parts(i), weighting, resamples=resamples) for i in range(repeats)]
    assert None not in found
    return 100 * np.mean([low <= truth <= high for low, high in found])


def test_intervals_by_match_group_cover():
    assert 89 <= coverage("auroc", 100, repeats=200, resamples=200) <= 99.5  # four standard errors around 95


@pytest.mark.soak
@pytest.mark.parametrize("groups", [200, 1000])
@pytest.mark.parametrize(("strata", "weighting"), [(None, "size"), (2, "size"), (2, "equal")])
@pytest.mark.parametrize("metric", ["auroc", "auprc"])
def test_intervals_by_match_group_cover_at_full_size(groups, strata, weighting, metric):
    assert 92 <= coverage(metric, groups, 600, 600, strata, weighting) <= 98
