"""Fine-tuning: planted motifs are learned; what must not move does not; runs resume to the same bits."""

import dataclasses
import itertools
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

import gener_jax
from gener_jax.finetuning.run import finetune
from gener_jax.finetuning.source import Features, Rows
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import heads, results, run_folder
from tests import labelled_rows
from tests.raised import raises
from tests.test_seams import flat, same


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return labelled_rows.folder(tmp_path_factory.mktemp("rows") / "single_label")


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


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_other_problems_are_learned(base, tmp_path, problem):
    rows = labelled_rows.folder(tmp_path / "rows", problem)
    options = {"finetune__problem": problem, "finetune__epochs": "5"}
    found = finetune(labelled_rows.config(base, rows, **options), tmp_path / "run")["finetune"]
    main = {"multi_label": "f1_max", "regression": "pearson"}[problem]
    assert next(iter(found.metrics)) == main
    assert found[main] > 0.7
    predicted = gener_jax.load(tmp_path / "run").predict([labelled_rows.MOTIF * 6])
    if problem == "regression":  # in the labels' unit
        assert heads.read(tmp_path / "run").mean[0] == pytest.approx(125, abs=10)
        assert 60 < predicted.values[0, 0] < 190
        assert predicted.names == ("label_0", "label_1")
    else:
        assert predicted.names == ("even", "here")


def test_other_losses_of_regression(base, tmp_path):
    rows = labelled_rows.folder(tmp_path / "rows", "regression")
    options = {"finetune__problem": "regression", "finetune__loss": "pearson_huber"}
    found = finetune(labelled_rows.config(base, rows, **options), tmp_path / "run")
    assert found.training["loss"] < 0.8
    with raises(ConfigError, field="train.accumulate", value=2):
        finetune(labelled_rows.config(base, rows, **options, train__accumulate="2"), tmp_path / "other")


# What does not move.


def params_of(folder, step=None):
    """The parameters of a checkpoint as it holds them."""
    with run_folder.open_manager(folder) as manager:
        step = manager.latest_step() if step is None else step
        return flat(manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore()))["params"])


def test_full_trains_all_but_the_unused_head(base, rows, tmp_path):
    finetune(labelled_rows.config(base, rows, optimizer__weight_decay="1.0"), tmp_path / "run")
    before, after = params_of(base), params_of(tmp_path / "run")
    unmoved = {name for name, x in before.items() if np.array_equal(x, after[name])}
    assert unmoved == {"lm_head"}
    assert after.keys() - before.keys() == {"head/kernel", "head/bias"}
    assert run_folder.base_of(tmp_path / "run") is None


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_the_base_of_adapters_and_heads_does_not_move(base, rows, tmp_path, method):
    config = labelled_rows.config(base, rows, finetune__method=method, model__dtype="bfloat16")
    finetune(config, tmp_path / "run")
    kept = {name.partition("/")[0] for name in params_of(tmp_path / "run")}
    assert kept == {"head", "adapters"} - ({"adapters"} if method == "frozen" else set())
    assert run_folder.base_of(tmp_path / "run")["path"] == str(base)
    other = labelled_rows.base(tmp_path / "other", train__seed="1")
    changed = dataclasses.replace(config.train, init_from=str(other), allow_changes=("train.init_from",))
    with raises(CheckpointError, path=tmp_path / "run" / "base.json", name="checksum"):
        finetune(dataclasses.replace(config, train=changed), tmp_path / "run")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_lower_layer_needs_no_layer_above_it(base, rows, tmp_path, method):
    found = finetune(labelled_rows.config(base, rows, finetune__method=method, finetune__layer="1"), tmp_path / "run")
    assert heads.read(tmp_path / "run").layer == 1
    lm = gener_jax.load(tmp_path / "run", step=found["finetune"].model.step)
    assert lm.spec.model.num_hidden_layers == 1
    lines = (tmp_path / "run" / "test_predictions.tsv").read_text().splitlines()[1:]
    predicted = lm.predict([dna for dna, _ in labelled_rows.rows(40, 2)]).probabilities
    np.testing.assert_allclose([float(line.split("\t")[-1]) for line in lines], predicted[:, 1], atol=2e-4)


def test_a_sweep_chooses_the_layer_on_validation(base, rows, tmp_path):
    config = labelled_rows.config(base, rows, finetune__method="frozen", finetune__layer="sweep")
    found = finetune(config, tmp_path / "run")
    of_layers = {name: row["mcc"] for name, row in found.evaluations[1].breakdown["layer"].items()}
    assert list(of_layers) == ["layer 1", "layer 2", "layer last"]
    best = max(of_layers, key=of_layers.get).removeprefix("layer ")
    assert heads.read(tmp_path / "run").layer == (None if best == "last" else int(best))


# Runs that resume.


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, kind, number):
    """Batches end with an error after so many."""
    real = kind.batches

    def batches(self, *where):
        yield from itertools.islice(real(self, *where), number)
        raise Interrupted

    monkeypatch.setattr(kind, "batches", batches)


@pytest.mark.parametrize(("method", "source"), [("full", Rows), ("lora", Rows), ("frozen", Features)])
def test_a_killed_run_resumes_to_the_same_bits(base, rows, tmp_path, monkeypatch, method, source):
    options = {"finetune__method": method, "finetune__evals_per_epoch": "4", "finetune__plateau_patience": "1"}
    config = labelled_rows.config(base, rows, **options, finetune__patience="4", finetune__reverse_complement="True")
    straight = finetune(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        interrupt(patch, source, 5)
        with pytest.raises(Interrupted):
            finetune(config, tmp_path / "run")
    resumed = finetune(config, tmp_path / "run")
    same(state_of(tmp_path / "run"), state_of(tmp_path / "straight"))
    for one, other in zip(resumed.evaluations, straight.evaluations, strict=True):
        assert one.metrics == other.metrics
    hooks = [run_folder.read_loader_state(tmp_path / name, one.model.step)["hooks"] for name in ("run", "straight")]
    assert hooks[0] == hooks[1]
    assert hooks[0].keys() == {"early_stopping", "plateau"}
    again = finetune(config, tmp_path / "run")  # prints what is stored
    assert again == resumed


def state_of(folder):
    """All arrays of the newest checkpoint."""
    with run_folder.open_manager(folder) as manager:
        items = {name: ocp.args.StandardRestore() for name in ("params", "optimizer")}
        found = manager.restore(manager.latest_step(), args=ocp.args.Composite(**items))
        return flat({name: found[name] for name in items})


def test_early_stopping_ends_a_run_that_does_not_improve(base, rows, tmp_path, capsys):
    options = {"optimizer__peak_learning_rate": "1e-12", "finetune__epochs": "9", "finetune__patience": "2"}
    found = finetune(labelled_rows.config(base, rows, **options), tmp_path / "run")
    assert found["finetune"].model.step == 36  # of equal ones the newest
    assert "ends at step 36: finetune.mcc has not exceeded" in capsys.readouterr().err


# Test rows.


def test_test_rows_change_nothing_but_their_results(base, rows, tmp_path):
    config = labelled_rows.config(base, rows, finetune__test=rows / "dev.tsv", finetune__validation=rows / "test.tsv")
    alone = dataclasses.replace(config.finetune, train=(str(rows / "train.tsv"),), test=())
    both = dataclasses.replace(alone, test=config.finetune.test)
    found = [
        finetune(dataclasses.replace(config, finetune=each), tmp_path / name)
        for name, each in (("alone", alone), ("both", both))
    ]
    same(state_of(tmp_path / "alone"), state_of(tmp_path / "both"))
    assert heads.read(tmp_path / "alone") == heads.read(tmp_path / "both")
    assert [each.dataset.split for each in found[0].evaluations] == ["validation"]
    assert [each.dataset.split for each in found[1].evaluations] == ["test", "validation"]
    assert found[0].evaluations[0].metrics == found[1].evaluations[1].metrics


def test_copies_of_training_rows_are_counted_and_left_out(base, tmp_path):
    pairs = labelled_rows.rows(64, 0)
    labelled_rows.write(tmp_path / "train.tsv", pairs)
    labelled_rows.write(tmp_path / "dev.tsv", labelled_rows.rows(24, 1))
    labelled_rows.write(tmp_path / "test.tsv", [*pairs[:7], *labelled_rows.rows(30, 2)])
    options = {"finetune__baselines": "True"}
    found = finetune(labelled_rows.config(base, tmp_path, **options), tmp_path / "run")["finetune"]
    assert found.counts == {"exact_copies": 7, "near_copies": 0, "rows": 37}
    assert found.breakdown["rows"]["without copies of training rows"]["rows"] == 30
    assert found.baselines.keys() == {"majority", "k-mer logistic"}
    assert found.baselines["k-mer logistic"]["mcc_gain"] == pytest.approx(
        found["mcc"] - found.baselines["k-mer logistic"]["mcc"]
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"finetune__problem": "none"}, "finetune.problem"),
        ({"finetune__train": ""}, "finetune.train"),
        ({"train__init_from": "none"}, "train.init_from"),
        ({"finetune__metric": "pearson"}, "finetune.metric"),
        ({"finetune__layer": "3"}, "finetune.layer"),
        ({"mesh__context": "2", "mesh__fsdp": "4"}, "mesh.context"),
    ],
)
def test_configurations_that_cannot_be_used(base, rows, tmp_path, change, field):
    with pytest.raises(ConfigError) as caught:
        finetune(labelled_rows.config(base, rows, **change), tmp_path / "run")
    assert caught.value.field == field
    assert not (tmp_path / "run").exists()
