"""The command `evaluate` on models without a run."""

import json

import pytest

from data_pipeline.errors import DatasetError
from gener_jax import assets, convert, evaluate
from gener_jax.storage import pretrained, results
from tests import tiny
from tests.raised import raises


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tiny_is_evaluated_on_what_it_was_not_trained_on(elsewhere, capsys):
    """The validation split of the chromosome that ships, whose dataset is built."""
    evaluate.main(["--checkpoint", "tiny", "--config.eval.max_regions=2", "--output", "out"])
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    assert "step None" not in printed.err
    [found] = results.read(elsewhere / "out").evaluations
    assert (found.model.checkpoint, found.model.step, found.dataset.split) == ("tiny", None, "validation")
    assert found.dataset.path == pretrained.read_config(assets.TINY).data.path
    assert found["bits_per_base"] < found.baselines["markov_0"]["bits_per_base"]
    assert {path.name for path in (elsewhere / "out" / "plots").iterdir()} == {"by_group.png"}


def test_other_regions_are_evaluated_with_a_warning(elsewhere, capsys):
    dataset = tiny.genomes(elsewhere / "genomes")
    evaluate.main(["--checkpoint", "tiny", "--json", f"--config.data.path={dataset}", "--config.eval.max_regions=2"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["evaluations"][0]["dataset"]["path"] == str(dataset)
    assert "warning: tiny may have been trained on these regions: its training data are 12 records" in printed.err


def test_a_model_without_a_dataset_needs_one(elsewhere):
    convert.main(["--checkpoint", "tiny", "--output", "hf", "--format", "hf"])
    with raises(DatasetError, file="datasets/refseq"):
        evaluate.main(["--checkpoint", "hf"])
