"""Bootstrap intervals: coverage in simulation, groups, too few rows, determinism; gains of two models by pairs."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from gener_jax.runtime.errors import InputError
from gener_jax.statistics.intervals import bootstrap, ends, interval, mean_interval, of_mean, paired
from gener_jax.statistics.metrics import METRICS, evaluate
from tests.raised import raises


def classes(rows, seed, share=0.5, apart=1.0):
    """Targets and probabilities of two classes whose scores are normal and `apart`."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(rows) < share).astype(int)
    scores = rng.normal(size=rows) + apart * targets
    p = 1 / (1 + np.exp(-apart * (scores - apart / 2)))
    return targets, np.stack([1 - p, p], 1)


def coverage(problem, metric, draw, repeats=600, resamples=1000, grouped=False):
    """The percentage of intervals that hold the metric of a large sample, and how many intervals there were."""
    large = draw(40_000 if grouped else 400_000, -1)
    truth = evaluate(problem, *large[:2])[metric]
    found = [bootstrap(problem, metric, *draw(None, i), resamples=resamples) for i in range(repeats)]
    found = [x for x in found if x is not None]
    return 100 * np.mean([low <= truth <= high for low, high in found]), len(found)


def test_intervals_of_auroc_cover_the_truth():
    share, count = coverage(
        "single_label", "auroc", lambda n, seed: classes(n or 200, seed + 1), repeats=300, resamples=300
    )
    assert count == 300
    assert 91 <= share <= 98.5  # three standard errors of 300 repeats around 95


@pytest.mark.soak
@pytest.mark.parametrize("rows", [200, 1000])
@pytest.mark.parametrize("metric", ["auroc", "mcc", "auprc", "auprc_trapezoid"])
@pytest.mark.parametrize(("share", "apart"), [(0.5, 1.0), (0.5, 2.5), (0.25, 1.5)])
def test_intervals_of_classes_cover_the_truth(rows, metric, share, apart):
    found, _ = coverage("single_label", metric, lambda n, seed: classes(n or rows, seed + 1, share, apart))
    assert 92 <= found <= 98


@pytest.mark.soak
@pytest.mark.parametrize("rows", [200, 1000])
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_intervals_of_correlations_cover_the_truth(rows, metric):
    def draw(n, seed):
        rng = np.random.default_rng(seed + 1)
        y = rng.normal(size=(n or rows, 1))
        return y, 0.6 * y + 0.8 * rng.standard_t(5, size=y.shape)

    assert 92 <= coverage("regression", metric, draw)[0] <= 98


@pytest.mark.soak
@pytest.mark.parametrize(("groups", "size"), [(40, 5), (100, 10)])
@pytest.mark.parametrize("metric", ["auroc", "auprc"])
def test_intervals_by_match_group_cover_the_truth(groups, size, metric):
    """One positive and its matched controls in a group, whose scores share an offset."""

    def draw(n, seed):
        rng = np.random.default_rng(seed + 1)
        count = n or groups
        positive = np.tile(np.arange(size) == 0, count)
        group = np.repeat(np.arange(count), size)
        scores = rng.normal(size=count)[group] + rng.normal(size=count * size) + 1.5 * positive
        p = 1 / (1 + np.exp(-scores))
        return positive.astype(int), np.stack([1 - p, p], 1), group

    repeats = 3000 if metric == "auprc" else 600  # it covers 93 %, and is fast
    assert 92 <= coverage("single_label", metric, draw, repeats, grouped=True)[0] <= 98


def test_rows_of_a_group_are_drawn_together():
    targets, p = classes(100, 0)
    alone = bootstrap("single_label", "auroc", targets, p)
    copies = np.repeat(np.arange(100), 9)
    by_group = bootstrap("single_label", "auroc", targets[copies], p[copies], [f"g{i}" for i in copies])
    as_rows = bootstrap("single_label", "auroc", targets[copies], p[copies])
    assert by_group == pytest.approx(alone, abs=0.01)
    assert as_rows[1] - as_rows[0] < 0.5 * (alone[1] - alone[0])


def test_the_same_seed_gives_the_same_interval_around_the_metric():
    targets, p = classes(200, 1)
    for metric in METRICS["single_label"]:
        low, high = bootstrap("single_label", metric, targets, p, seed=3)
        assert (low, high) == bootstrap("single_label", metric, targets, p, seed=3)
        assert low < evaluate("single_label", targets, p)[metric] < high
    assert bootstrap("single_label", "auroc", targets, p) != bootstrap("single_label", "auroc", targets, p, seed=4)


def test_the_interval_of_auprc_leaves_out_each_group_in_turn():
    targets, p = classes(200, 1)
    groups = np.arange(200) // 4
    value = average_precision_score(targets, p[:, 1])
    left_out = [average_precision_score(targets[groups != i], p[groups != i, 1]) for i in range(50)]
    slope = 1 / (value * (1 - value))
    reach = stats.t.ppf(0.975, 49) * np.std(left_out) * np.sqrt(49) * slope
    logit = np.log(value / (1 - value))
    expected = 1 / (1 + np.exp(reach - logit)), 1 / (1 + np.exp(-reach - logit))
    assert bootstrap("single_label", "auprc", targets, p, groups) == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_a_perfect_auprc_has_no_width():
    targets = np.arange(100) % 2
    p = np.stack([1 - targets, targets], 1) * 0.9
    assert bootstrap("single_label", "auprc", targets, p) == (1, 1)


def test_the_interval_of_a_mean_is_near_that_of_students_t():
    errors = np.random.default_rng(0).exponential(size=(500, 1))
    low, high = bootstrap("regression", "mae", errors, np.zeros_like(errors), resamples=4000)
    expected = stats.t.interval(0.95, 499, errors.mean(), stats.sem(errors[:, 0]))
    assert (low, high) == pytest.approx(expected, abs=0.02)
    assert low > expected[0]  # the errors are skewed, and the interval with them


def test_none_under_thirty():
    targets, p = classes(400, 2)
    rare = np.concatenate([np.flatnonzero(targets == 0), np.flatnonzero(targets == 1)[:29]])
    assert bootstrap("single_label", "mcc", targets[rare], p[rare]) is None
    one_more = np.append(rare, np.flatnonzero(targets == 1)[29])
    assert bootstrap("single_label", "mcc", targets[one_more], p[one_more]) is not None
    assert bootstrap("single_label", "mcc", targets, p, np.arange(400) % 29) is None
    assert bootstrap("single_label", "mcc", targets, p, np.arange(400) % 30) is not None
    assert bootstrap("single_label", "auroc", np.zeros(400, int), p) is None
    y = np.random.default_rng(0).normal(size=(400, 2))
    assert bootstrap("regression", "pearson", y[:29], y[:29] + y[1:30]) is None
    assert bootstrap("regression", "pearson", y, np.ones_like(y)) is None
    assert bootstrap("regression", "mse", y, y * np.nan) is None
    label = np.stack([targets, np.arange(400) < 29], 1)
    assert bootstrap("multi_label", "f1_max", label, p) is None
    assert bootstrap("multi_label", "f1_max", label[:, :1], p[:, 1:]) is not None


def test_gains_are_of_the_same_rows():
    targets, p = classes(300, 4)
    noisy = np.clip(p + np.random.default_rng(0).normal(size=p.shape) * 0.02, 0, 1)
    same = paired("single_label", "auroc", targets, p, p)
    assert (same.gain, same.low, same.high) == (0, 0, 0)
    gain = paired("single_label", "auroc", targets, p, noisy)
    low, high = bootstrap("single_label", "auroc", targets, p)
    assert gain.high - gain.low < 0.3 * (high - low)
    worse = paired("single_label", "auroc", targets, p[:, ::-1], p)
    assert worse.high < 0
    y = np.random.default_rng(1).normal(size=(200, 1))
    error = paired("regression", "mse", y, y * 0.9, y * 0.5)
    assert error.gain == pytest.approx(0.24 * (y**2).mean())
    assert 0 < error.low < error.gain < error.high


def test_each_seed_is_compared_with_its_own_or_the_only_one():
    targets, p = classes(300, 5)
    seeds = np.stack([p, classes(300, 6)[1], p**2])
    gain = paired("single_label", "auroc", targets, seeds, p[:, ::-1])
    each = [paired("single_label", "auroc", targets, x, p[:, ::-1]).gain for x in seeds]
    assert gain.seeds == pytest.approx(each)
    assert gain.gain == pytest.approx(np.mean(each))
    assert paired("single_label", "auroc", targets, seeds, seeds).seeds == (0, 0, 0)
    with raises(InputError, argument="second"):
        paired("single_label", "auroc", targets, seeds, seeds[:2])
    few = paired("single_label", "auroc", targets[:40], p[:40], p[:40])
    assert (few.low, few.high) == (None, None)


def test_any_statistic_has_an_interval():
    values = np.random.default_rng(0).normal(size=100)
    low, high = interval(lambda weights: weights @ values / weights.sum(1), (100,))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 99, values.mean(), stats.sem(values)), abs=0.03)
    with raises(InputError, argument="groups"):
        interval(lambda weights: weights.sum(1), (100,), np.zeros(99))


def test_means_with_the_gain_of_another_model():
    rng = np.random.default_rng(0)
    values, better = rng.random(60), rng.random(60) + 0.2
    found = of_mean("accuracy", values, than=better)
    assert found["accuracy"] == pytest.approx(values.mean())
    assert found["accuracy_gain"] == pytest.approx((better - values).mean())
    low, high = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert found["accuracy_low"] == pytest.approx(low, abs=0.02)
    assert found["accuracy_high"] == pytest.approx(high, abs=0.02)
    assert found["accuracy_gain_low"] > 0
    assert ends(found, "accuracy") == (found["accuracy_low"], found["accuracy_high"])
    assert ends(found, "other") is None
    assert set(of_mean("x", values, groups=np.arange(60) // 3)) == {"x"}  # 20 groups
    strata = np.arange(60) < 40
    assert set(of_mean("x", values, strata=strata)) == {"x"}  # 20 in one of them
    assert set(of_mean("x", values, strata=np.arange(60) < 30)) == {"x", "x_low", "x_high"}
    assert set(of_mean("x", values, np.arange(60) % 50, np.arange(60) < 30)) == {"x"} | {"x_low", "x_high"}
    assert set(of_mean("x", values, np.arange(60) // 2, np.arange(60) < 30)) == {"x"}  # 15 groups in each
    expected = (values[:40].mean() + values[40:].mean()) / 2
    assert of_mean("x", values, strata=strata)["x"] == pytest.approx(expected)


def test_the_interval_of_a_mean():
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.3
    low, high = mean_interval(hits)
    exact = stats.binomtest(int(hits.sum()), 400).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.01)
    for all_alike in (np.zeros(40, bool), np.ones(40, bool)):
        exact = stats.binomtest(int(all_alike.sum()), 40).proportion_ci(0.95, "exact")
        assert mean_interval(all_alike) == pytest.approx((exact.low, exact.high))
        assert mean_interval(np.tile(all_alike, 5), np.tile(np.arange(40), 5)) == mean_interval(all_alike)
        assert mean_interval(all_alike[:29]) is None is mean_interval(all_alike, np.arange(40) // 2)
    values = rng.normal(1, 2, 200)
    low, high = mean_interval(values)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 199, values.mean(), stats.sem(values)), abs=0.05)
    wide = mean_interval(np.repeat(values, 4), np.repeat(np.arange(200), 4))
    assert wide == pytest.approx((low, high), abs=0.05)
    assert mean_interval(values[:0]) is None
