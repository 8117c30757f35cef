"""Temperature scaling recovers a planted temperature; reliability, its error and the Brier score by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from gener_jax.runtime.errors import InputError
from gener_jax.statistics.calibration import reliability, temperature
from tests.raised import raises


@pytest.mark.parametrize("planted", [0.3, 1.0, 4.0])
def test_a_planted_temperature_is_found(planted):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 3)) * 2
    classes = (softmax(logits, 1).cumsum(1) > rng.random((20000, 1))).argmax(1)
    assert temperature(logits * planted, classes) == pytest.approx(planted, rel=0.05)
    labels = rng.random(logits.shape) < expit(logits)
    assert temperature(logits * planted, labels) == pytest.approx(planted, rel=0.05)


def test_few_rows_that_are_all_right_do_not_make_certain():
    """Without a prior the likelihood of separable rows grows until the temperature is 0."""
    for rows in (2, 40):
        logits, classes = np.tile([[4.0, 0.0], [0.0, 4.0]], (rows // 2, 1)), np.tile([0, 1], rows // 2)
        share = (rows / 2 + 1) / (rows / 2 + 2)  # of the class, by the rule of succession
        expected = pytest.approx(4 / np.log(share / (1 - share)), rel=1e-3)
        assert temperature(logits, classes) == expected
        of_label = (logits[:, 1:] - 2) * 2, classes[:, None]
        assert temperature(*of_label) == expected


def test_temperature_at_its_ends():
    logits = np.array([[4.0, 0.0], [0.0, 4.0]])
    assert temperature(logits, [1, 0]) == pytest.approx(50, rel=0.01)
    assert temperature(logits * 1e-9, [0, 1]) == pytest.approx(0.02, rel=0.01)
    assert temperature(logits[:0], np.zeros(0, int)) == 1
    with raises(InputError, argument="logits"):
        temperature(logits * np.nan, [0, 1])


def test_reliability_of_two_classes_by_hand():
    p = np.array([0.02, 0.08, 0.31, 0.39, 1.0])
    found = reliability([0, 1, 0, 1, 1], np.stack([1 - p, p], 1))
    np.testing.assert_allclose(found.predicted, [0.05, 0.35, 1])
    np.testing.assert_allclose(found.observed, [0.5, 0.5, 1])
    assert found.count.tolist() == [2, 2, 1]
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.15) / 5)
    assert found.brier == pytest.approx(sk.brier_score_loss([0, 1, 0, 1, 1], p))


def test_reliability_of_several_classes_and_of_labels():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.76, 0.14], [0.3, 0.3, 0.4]])
    found = reliability([0, 2, 2], p)
    np.testing.assert_allclose(found.predicted, [0.4, 0.73])
    np.testing.assert_allclose(found.observed, [1, 0.5])
    assert found.brier == pytest.approx(sk.brier_score_loss([0, 2, 2], p, labels=[0, 1, 2], scale_by_half=False))
    found = reliability([[0, 1, 1]], [[0.1, 0.15, 0.95]])
    np.testing.assert_allclose(found.observed, [0.5, 1])
    assert found.brier == pytest.approx(np.mean([0.1**2, 0.85**2, 0.05**2]))


def test_good_probabilities_have_little_error_and_none_have_none():
    rng = np.random.default_rng(1)
    p = rng.random(50000)
    y = (rng.random(50000) < p).astype(int)
    assert reliability(y, np.stack([1 - p, p], 1)).ece < 0.01
    assert reliability(1 - y, np.stack([1 - p, p], 1)).ece > 0.4
    assert np.isnan(reliability(np.zeros(0, int), np.zeros((0, 2))).brier)
