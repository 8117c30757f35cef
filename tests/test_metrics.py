"""Each metric equals scikit-learn's, SciPy's or a brute force; weights count as repeated rows; degenerate rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from gener_jax.runtime.errors import InputError
from gener_jax.statistics.metrics import METRICS, auprc_trapezoid, auroc, breakdown, evaluate, mean, means_by
from tests.raised import raises


def classes(rows=300, num=2, seed=0, digits=None):
    """Targets int [N] and probabilities [N, C] that know something of them; few digits make ties."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(num, rows, p=np.arange(1, num + 1) / np.arange(1, num + 1).sum())
    logits = rng.normal(size=(rows, num)) + np.eye(num)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return targets, probabilities if digits is None else probabilities.round(digits)


def labels(rows=200, num=5, digits=None):
    rng = np.random.default_rng(1)
    targets = (rng.random((rows, num)) < [0.5, 0.3, 0.2, 0.1, 0.05][:num]).astype(np.float32)
    targets[:3] = 0
    scores = 1 / (1 + np.exp(-rng.normal(size=(rows, num)) - targets))
    return targets, scores if digits is None else scores.round(digits)


def values(rows=200, outputs=2):
    rng = np.random.default_rng(2)
    targets = rng.normal(size=(rows, outputs)) * [1, 5][:outputs] + [0, 20][:outputs]
    return targets, targets + rng.normal(size=targets.shape) * 2


def trapezoid(positive, scores):
    precision, recall, _ = sk.precision_recall_curve(positive, scores)
    return sk.auc(recall, precision)


@pytest.mark.parametrize("digits", [None, 1], ids=["distinct", "ties"])
def test_two_classes_equal_scikit_learn(digits):
    targets, p = classes(digits=digits)
    called = p.argmax(1)
    assert evaluate("single_label", targets, p) == pytest.approx(
        {
            "mcc": sk.matthews_corrcoef(targets, called),
            "accuracy": sk.accuracy_score(targets, called),
            "f1": sk.f1_score(targets, called, average="weighted"),
            "f1_macro": sk.f1_score(targets, called, average="macro"),
            "auroc": sk.roc_auc_score(targets, p[:, 1]),
            "auprc": sk.average_precision_score(targets, p[:, 1]),
            "auprc_trapezoid": trapezoid(targets, p[:, 1]),
        },
        abs=1e-12,
    )


def test_several_classes_equal_scikit_learn():
    targets, p = classes(num=4)
    called = p.argmax(1)
    one_hot, share = np.eye(4)[targets], np.bincount(targets) / len(targets)
    found = evaluate("token", targets, p)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(targets, called))
    assert found["f1"] == pytest.approx(sk.f1_score(targets, called, average="weighted"))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(targets, called, average="macro"))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, p, multi_class="ovr", average="weighted"))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(one_hot, p, average="weighted"))
    assert found["auprc_trapezoid"] == pytest.approx(sum(share * [trapezoid(one_hot[:, i], p[:, i]) for i in range(4)]))


def brute_f1_max(targets, scores):
    best = 0.0
    for threshold in np.unique(scores):
        precisions, recalls = [], []
        for truth, row in zip(targets == 1, scores >= threshold, strict=True):
            if row.any():
                precisions.append((truth & row).sum() / row.sum())
            recalls.append((truth & row).sum() / truth.sum() if truth.any() else 0.0)
        precision, recall = np.mean(precisions), np.mean(recalls)
        best = max(best, 2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return best


@pytest.mark.parametrize("digits", [None, 1], ids=["distinct", "ties"])
def test_labels_equal_scikit_learn_and_the_loop_over_thresholds(digits):
    targets, p = labels(digits=digits)
    assert evaluate("multi_label", targets, p) == pytest.approx(
        {
            "f1_max": brute_f1_max(targets, p),
            "auprc": sk.average_precision_score(targets, p, average="micro"),
            "auprc_trapezoid": trapezoid(targets.ravel(), p.ravel()),
            "auroc": sk.roc_auc_score(targets, p, average="macro"),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("digits", [12, 0], ids=["distinct", "ties"])
def test_values_equal_scipy_and_scikit_learn(digits):
    targets, p = (x.round(digits) for x in values())
    both = list(zip(targets.T, p.T, strict=True))
    assert evaluate("regression", targets, p) == pytest.approx(
        {
            "pearson": np.mean([stats.pearsonr(*x).statistic for x in both]),
            "pearson_pooled": stats.pearsonr(targets.ravel(), p.ravel()).statistic,
            "spearman": np.mean([stats.spearmanr(*x).statistic for x in both]),
            "r2": sk.r2_score(targets, p),
            "mse": sk.mean_squared_error(targets, p),
            "mae": sk.mean_absolute_error(targets, p),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("problem", "rows"),
    [
        ("single_label", classes(120, digits=1)),
        ("token", classes(120, num=4, digits=1)),
        ("multi_label", labels(120, digits=1)),
        ("regression", tuple(x.round() for x in values(120))),
    ],
)
def test_a_weight_counts_as_repeated_rows(problem, rows):
    targets, p = rows
    counts = np.random.default_rng(3).integers(0, 4, (3, len(targets)))
    for name, metric in METRICS[problem].items():
        found = metric.prepare(targets, np.asarray(p, np.float64))(counts.astype(float))
        repeated = [evaluate(problem, targets.repeat(row, 0), p.repeat(row, 0))[name] for row in counts]
        np.testing.assert_allclose(found, repeated, atol=1e-10, err_msg=name)
        assert len(set(found)) == 3


def test_what_does_not_exist_is_nan_and_constant_predictions_are_chance():
    targets, p = classes()
    one = evaluate("single_label", np.zeros(300, int), p)
    assert np.isnan([one["auroc"], one["auprc"], one["auprc_trapezoid"]]).all()
    assert one["mcc"] == 0
    assert one["accuracy"] == pytest.approx((p.argmax(1) == 0).mean())
    constant = evaluate("single_label", targets, np.full((300, 2), 0.5))
    assert (constant["mcc"], constant["auroc"]) == (0, 0.5)
    assert constant["auprc"] == pytest.approx(targets.mean())
    absent = evaluate("single_label", np.minimum(classes(num=3)[0], 1), classes(num=3)[1])
    assert np.isfinite(list(absent.values())).all()
    y, x = values()
    flat = evaluate("regression", y, np.full_like(x, 0.1))
    assert np.isnan([flat["pearson"], flat["spearman"]]).all()
    assert flat["r2"] == pytest.approx(sk.r2_score(y, np.full_like(x, 0.1)))
    assert np.isnan(evaluate("regression", np.ones_like(y), x)["r2"])
    diverged = evaluate("single_label", targets, np.full((300, 2), np.nan))
    assert np.isnan(list(diverged.values())).all()
    assert np.isnan(list(evaluate("single_label", targets[:0], p[:0]).values())).all()


def test_each_class_label_and_output():
    targets, p = classes(num=3)
    found = breakdown("single_label", targets, p, ["a", "b", "c"])
    expected = sk.precision_recall_fscore_support(targets, p.argmax(1))
    got = [[found[name][key] for name in "abc"] for key in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(got, expected)
    assert found["b"]["auroc"] == pytest.approx(sk.roc_auc_score(targets == 1, p[:, 1]))
    targets, p = labels()
    found = breakdown("multi_label", targets, p, list("abcde"))
    assert found["d"]["auprc"] == pytest.approx(sk.average_precision_score(targets[:, 3], p[:, 3]))
    assert found["d"]["rows"] == targets[:, 3].sum()
    targets, p = values()
    found = breakdown("regression", targets, p, ["dev", "hk"])
    assert found["hk"]["pearson"] == pytest.approx(stats.pearsonr(targets[:, 1], p[:, 1]).statistic)
    assert found["dev"]["mse"] == pytest.approx(sk.mean_squared_error(targets[:, 0], p[:, 0]))


def test_bare_scores_of_two_classes():
    positive, scores = classes()[0] == 1, classes()[1][:, 1] * 40 - 90
    once = np.ones((1, 300))
    assert auroc(positive, scores)(once) == pytest.approx(sk.roc_auc_score(positive, scores))
    assert auprc_trapezoid(positive, scores)(once) == pytest.approx(trapezoid(positive, scores))


def test_the_main_metric_comes_first_and_each_has_a_direction():
    assert {problem: next(iter(found)) for problem, found in METRICS.items()} == {
        "single_label": "mcc", "multi_label": "f1_max", "regression": "pearson", "token": "mcc",
    }  # fmt: skip
    assert [name for found in METRICS.values() for name, x in found.items() if not x.higher_is_better] == ["mse", "mae"]


def test_shapes_that_do_not_fit_are_refused():
    targets, p = classes()
    for problem, bad in (("single_label", p[:5]), ("regression", p), ("multi_label", p[:, 0])):
        with raises(InputError, argument="predictions", value=bad.shape):
            evaluate(problem, targets, bad)
    with raises(InputError, argument="problem", value="ranking"):
        evaluate("ranking", targets, p)


def test_the_mean_of_values_and_over_strata():
    rng = np.random.default_rng(0)
    numbers, strata = rng.random(50), rng.choice(["a", "b", "c"], 50)
    weights = rng.integers(0, 4, (3, 50)).astype(float)
    repeated = [[np.repeat(x, row.astype(int)) for x in (numbers, strata)] for row in weights]
    np.testing.assert_allclose(mean(numbers)(weights), [x.mean() for x, _ in repeated])
    expected = [np.mean([x[of == name].mean() for name in "abc"]) for x, of in repeated]
    np.testing.assert_allclose(mean(numbers, strata)(weights), expected)
    weights[:, strata == "b"] = 0  # a stratum without rows does not count
    expected = [np.average([np.average(numbers[strata == x], weights=w[strata == x]) for x in "ac"]) for w in weights]
    np.testing.assert_allclose(mean(numbers, strata)(weights), expected)
    assert np.isnan(mean(numbers)(np.zeros((1, 50))))
    labels, predicted = rng.integers(0, 3, (2, 50))
    expected = [sk.balanced_accuracy_score(labels, predicted, sample_weight=w) for w in weights]
    np.testing.assert_allclose(mean(labels == predicted, labels)(weights), expected)


def test_means_by_group():
    found = means_by(["b", "a", "b"], {"x": np.array([1.0, 2, 4]), "y": [0, 1, 1]}, "rows")
    assert found == {"b": {"x": 2.5, "y": 0.5, "rows": 2}, "a": {"x": 2, "y": 1, "rows": 1}}
    assert list(found) == ["b", "a"]
