"""What predictions of labelled rows are worth: the interval, rows without copies, gains over baselines."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from gener_jax.labelled.audit import Leaks
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.tasks.labelled_rows import beside, measure, metrics_of

NAMES = ("no", "yes")


@pytest.fixture
def rows():
    targets = np.random.default_rng(0).integers(2, size=120).astype(np.int32)
    return Examples("test", ["ACGT"] * 120, targets, [""] * 120)


def test_copies_are_left_out_of_one_line(rows):
    numbers = np.eye(2)[rows.targets]
    numbers[60:] = numbers[60:, ::-1]  # wrong
    exact = np.arange(120) < 60
    copies = Leaks(exact, exact, exact & False, np.where(np.arange(120) == 60, 0.5, 0).astype(np.float32))
    found = measure(Problem("single_label", NAMES), rows, numbers, "f1", copies)
    assert found.counts == {"exact_copies": 60, "near_copies": 1, "rows": 120}
    assert found.metrics["f1"] == pytest.approx(f1_score(rows.targets, numbers.argmax(1), average="weighted"))
    low, high = found.intervals["f1"]
    assert low < found.metrics["f1"] < high
    clean = found.breakdown["rows"]["without copies of training rows"]
    assert (clean["rows"], clean["accuracy"]) == (59, 0)
    assert found.breakdown["class"]["yes"]["rows"] == rows.targets.sum()
    assert found.metrics.keys() == metrics_of("single_label").keys()


def test_gains(rows):
    right, wrong = np.eye(2)[rows.targets], np.eye(2)[1 - rows.targets]
    found = beside("single_label", rows, right, "accuracy", {"wrong": wrong, "same": right})
    assert found["wrong"]["accuracy_gain"] == 1
    assert found["same"]["accuracy_gain"] == 0
    assert found["wrong"]["accuracy"] == 0
