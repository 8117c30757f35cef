"""A loaded model is fine-tuned on given rows, and its predictions of test rows are those of the run."""

import json

import numpy as np
import pytest

import gener_jax
from gener_jax.config import Finetune
from gener_jax.finetuning import labels
from gener_jax.finetuning.adapting import FineTuning
from gener_jax.labelled import splits as labelled
from tests import labelled_rows

pytestmark = pytest.mark.usefixtures("one_device")

FIELDS = {"finetune": {"epochs": 1.0}, "train": {"batch_size": 16}}


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_predictions_of_test_rows(method, tmp_path, capsys):
    lm = gener_jax.load(labelled_rows.base(tmp_path / "base"))
    train = str(labelled_rows.folder(tmp_path / "motif"))
    splits = labelled.read(Finetune(problem="single_label", train=(train,)))
    found = FineTuning(method, FIELDS)(lm, splits, tmp_path / "run")
    assert found.shape == (40, 2)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert capsys.readouterr().out == ""
    run = tmp_path / "run" / "run"
    assert not (tmp_path / "run" / "base").exists()
    [test, _] = json.loads((run / "results.json").read_text())["evaluations"]
    accuracy = (found.argmax(1) == splits.test.targets).mean()
    assert test["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    if method == "full":
        predicted = gener_jax.load(run).predict(splits.test.sequences)
        np.testing.assert_allclose(predicted.probabilities, found, atol=1e-4)
    np.testing.assert_array_equal(labels.read_predictions(run / labels.PREDICTIONS, ("no", "yes")), found)
    np.testing.assert_array_equal(FineTuning(method, FIELDS)(lm, splits, tmp_path / "run"), found)
