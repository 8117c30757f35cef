"""Fine-tuning: each method and problem learns a planted motif; what must not move does not; runs resume to the same bits."""

import json

import numpy as np
import pytest

import gener_jax
from gener_jax.finetuning.run import finetune
from gener_jax.storage import results, run_folder
from tests import labelled_rows
from tests.test_seams import flat


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return labelled_rows.folder(tmp_path_factory.mktemp("rows") / "single_label")


def raw(folder, step=None):
    """All arrays of a checkpoint by path, with the optimizer's."""
    with run_folder.open_manager(folder) as manager:
        step = manager.latest_step() if step is None else step
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(params=ocp.args.StandardRestore(), optimizer=ocp.args.StandardRestore())
        found = manager.restore(step, args=items)
    return flat({"params": found["params"], "optimizer": found["optimizer"]})


METHODS = {
    "full": {},
    "lora": {"finetune__rank": "4", "finetune__targets": "q,v,down", "optimizer__peak_learning_rate": "3e-2"},
    "frozen": {"optimizer__peak_learning_rate": "3e-2"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_motif_is_learned(base, rows, tmp_path, method):
    config = labelled_rows.config(base, rows, finetune__method=method, finetune__epochs="6", **METHODS[method])
    found = finetune(config, tmp_path / "run")
    assert found["finetune"].dataset.split == "test"
    assert found["finetune"]["mcc"] > 0.6
    assert results.read(tmp_path / "run") == found
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["train"]["num_steps"] == 72
    assert kept["checkpoint"]["best"] == "finetune.mcc"
    step = found["finetune"].model.step
    lm = gener_jax.load(tmp_path / "run", step=step)
    sequences = [dna for dna, _ in labelled_rows.rows(40, 2)]
    predicted = lm.predict(sequences)
    lines = [line.split("\t") for line in (tmp_path / "run" / "test_predictions.tsv").read_text().splitlines()]
    assert [line[2] for line in lines[1:]] == predicted.labels
    np.testing.assert_allclose([float(line[-1]) for line in lines[1:]], predicted.probabilities[:, 1], atol=2e-4)
    assert predicted.names == ("no", "yes")
