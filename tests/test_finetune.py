"""Fine-tuning: planted motifs are learned; what must not move does not; runs resume to the same bits."""

import dataclasses
import functools
import itertools
import json
import shutil

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

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return labelled_rows.folder(tmp_path_factory.mktemp("rows") / "single_label")


METHODS = {
    "full": {"optimizer__weight_decay": "1.0"},
    "lora": {
        "finetune__rank": "4", "finetune__targets": "q,v,down", "optimizer__peak_learning_rate": "3e-2",
    },
    "frozen": {"optimizer__peak_learning_rate": "3e-2"},
}  # fmt: skip


def run_config(base, rows, method):
    """The configuration of `learned`."""
    return labelled_rows.config(
        base, rows, finetune__method=method, finetune__epochs="6", finetune__patience="5",
        finetune__plateau_patience="1", finetune__reverse_complement="True", **METHODS[method],
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned(base, rows, tmp_path_factory):
    """A run of a method that was not interrupted, once for all tests: its folder and its results."""

    @functools.cache
    def run(method):
        folder = tmp_path_factory.mktemp(method) / "run"
        return folder, finetune(run_config(base, rows, method), folder)

    return run


def predictions(folder, column=-1):
    """What a run wrote for its test rows: the label, and a column of numbers."""
    lines = [line.split("\t") for line in (folder / "test_predictions.tsv").read_text().splitlines()[1:]]
    return [line[2] for line in lines], np.array([float(line[column]) for line in lines])


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow), "frozen"])
def test_a_planted_motif_is_learned(learned, method):
    folder, found = learned(method)
    assert found["finetune"].dataset.split == "test"
    assert found["finetune"]["mcc"] > 0.6
    assert results.read(folder) == found
    kept = json.loads((folder / "config.json").read_text())
    assert kept["train"]["num_steps"] == 72
    assert kept["checkpoint"]["best"] == "finetune.mcc"
    lm = gener_jax.load(folder, step=found["finetune"].model.step)
    predicted = lm.predict([dna for dna, _ in labelled_rows.rows(40, 2)])
    labels, numbers = predictions(folder)
    assert labels == predicted.labels
    np.testing.assert_allclose(numbers, predicted.probabilities[:, 1], atol=2e-4)
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


def test_other_losses_of_regression(base, tmp_path, eight_devices):
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


def test_full_trains_all_but_the_unused_head(base, learned):
    folder, _ = learned("full")
    before, after = params_of(base), params_of(folder)
    unmoved = {name for name, x in before.items() if np.array_equal(x, after[name])}
    assert unmoved == {"lm_head"}
    assert after.keys() - before.keys() == {"head/kernel", "head/bias"}
    assert run_folder.base_of(folder) is None


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "frozen"])
def test_the_base_of_adapters_and_heads_does_not_move(base, rows, learned, tmp_path, method):
    folder, _ = learned(method)
    kept = {name.partition("/")[0] for name in params_of(folder)}
    assert kept == {"head", "adapters"} - ({"adapters"} if method == "frozen" else set())
    assert run_folder.base_of(folder)["path"] == str(base)
    config, other = run_config(base, rows, method), labelled_rows.base(tmp_path / "other", seed=1)
    changed = dataclasses.replace(config.train, init_from=str(other), allow_changes=("train.init_from",))
    folder = shutil.copytree(folder, tmp_path / "run")
    with raises(CheckpointError, path=folder / "base.json", name="checksum"):
        finetune(dataclasses.replace(config, train=changed), folder)


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_lower_layer_needs_no_layer_above_it(base, rows, tmp_path, method):
    options = {"finetune__method": method, "finetune__layer": "1", "finetune__epochs": "1"}
    found = finetune(labelled_rows.config(base, rows, **options), tmp_path / "run")
    assert heads.read(tmp_path / "run").layer == 1
    lm = gener_jax.load(tmp_path / "run", step=found["finetune"].model.step)
    assert lm.spec.model.num_hidden_layers == 1
    predicted = lm.predict([dna for dna, _ in labelled_rows.rows(40, 2)]).probabilities
    np.testing.assert_allclose(predictions(tmp_path / "run")[1], predicted[:, 1], atol=2e-4)


def test_a_sweep_chooses_the_layer_on_validation(base, rows, tmp_path):
    config = labelled_rows.config(base, rows, finetune__method="frozen", finetune__layer="sweep")
    found = finetune(config, tmp_path / "run")
    of_layers = {name: row["mcc"] for name, row in found.evaluations[1].breakdown["layer"].items()}
    assert list(of_layers) == ["layer 1", "layer 2", "layer last"]
    best = max(of_layers, key=of_layers.get).removeprefix("layer ")
    assert heads.read(tmp_path / "run").layer == (None if best == "last" else int(best))


# Runs that resume.


def interrupt(monkeypatch, kind, number):
    """Ctrl-C after so many batches."""
    real = kind.batches

    def batches(self, *where):
        yield from itertools.islice(real(self, *where), number)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "batches", batches)


@pytest.mark.parametrize(  # of adapters also in test_causal.py
    ("method", "source"), [("full", Rows), pytest.param("lora", Rows, marks=pytest.mark.slow), ("frozen", Features)]
)
def test_a_killed_run_resumes_to_the_same_bits(base, rows, learned, tmp_path, monkeypatch, method, source):
    config, (folder, straight) = run_config(base, rows, method), learned(method)
    with monkeypatch.context() as patch:
        interrupt(patch, source, 40)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "run")
    resumed = finetune(config, tmp_path / "run")
    same(state_of(tmp_path / "run"), state_of(folder))
    for one, other in zip(resumed.evaluations, straight.evaluations, strict=True):
        assert one.metrics == other.metrics
    hooks = [run_folder.read_loader_state(x, one.model.step)["hooks"] for x in (tmp_path / "run", folder)]
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
    more = {"finetune__method": "frozen", "finetune__epochs": "9", "finetune__patience": "2"}
    config = labelled_rows.config(base, rows, optimizer__peak_learning_rate="1e-12", **more)
    found = finetune(config, tmp_path / "run")
    assert found["finetune"].model.step == 36  # of equal ones the newest
    assert "ends at step 36: finetune.mcc has not exceeded" in capsys.readouterr().err


# Test rows.


def test_test_rows_change_nothing_but_their_results(base, rows, tmp_path):
    named = {"finetune__test": rows / "dev.tsv", "finetune__validation": rows / "test.tsv"}
    config = labelled_rows.config(base, rows, finetune__method="frozen", **named)
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
    more = {"finetune__method": "frozen", "finetune__baselines": "True"}
    config = labelled_rows.config(base, tmp_path, **more)
    found = finetune(config, tmp_path / "run")["finetune"]
    assert found.counts == {"exact_copies": 7, "near_copies": 0, "rows": 37}
    assert found.breakdown["rows"]["without copies of training rows"]["rows"] == 30
    assert found.baselines.keys() == {"majority", "k-mer logistic"}
    assert found.baselines["k-mer logistic"]["mcc_gain"] == pytest.approx(
        found["mcc"] - found.baselines["k-mer logistic"]["mcc"]
    )

    # Test rows that change later are measured again; without test rows, those of validation are audited.
    labelled_rows.write(tmp_path / "test.tsv", pairs[:30])
    config = labelled_rows.config(base, tmp_path, finetune__method="frozen")
    found = finetune(config, tmp_path / "run")["finetune"]
    assert found.counts["exact_copies"] == found.counts["rows"] == 30
    alone = dataclasses.replace(config.finetune, train=(str(tmp_path / "train.tsv"),))
    (tmp_path / "dev.tsv").write_bytes((tmp_path / "test.tsv").read_bytes())
    alone = dataclasses.replace(alone, validation=(str(tmp_path / "dev.tsv"),))
    found = finetune(dataclasses.replace(config, finetune=alone), tmp_path / "other")["finetune"]
    assert found.dataset.split == "validation"
    assert found.counts["exact_copies"] == 30


@pytest.mark.parametrize(
    ("long", "method"),
    [
        ("chunks", "frozen"),
        *(pytest.param(long, "full", marks=pytest.mark.slow) for long in ("chunks", "truncate", "yarn", "window")),
    ],
)
def test_rows_that_exceed_the_context(base, tmp_path, long, method):
    """A whole run, and predictions by its folder: of base, 128 tokens."""
    for seed, (name, number) in enumerate({"train": 24, "dev": 8, "test": 8}.items()):
        labelled_rows.write(tmp_path / f"{name}.tsv", labelled_rows.rows(number, seed, least=300, most=700))
    more = {"finetune__method": method, "finetune__epochs": "1", "finetune__average_strands": "True"}
    found = finetune(labelled_rows.config(base, tmp_path, finetune__long=long, **more), tmp_path / "run")
    head = heads.read(tmp_path / "run")
    assert (head.long, head.chunks) == (long, 2 if long == "chunks" else 1)
    lm = gener_jax.load(tmp_path / "run", step=found["finetune"].model.step)
    predicted = lm.predict([dna for dna, _ in labelled_rows.rows(8, 2, least=300, most=700)])
    np.testing.assert_allclose(predictions(tmp_path / "run")[1], predicted.probabilities[:, 1], atol=2e-4)


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


def test_the_folder_of_another_run_is_left_as_it_is(base, rows, tmp_path):
    """Also by a run that would keep features there."""
    config = labelled_rows.config(base, rows)
    run_folder.describe(tmp_path, config)
    before = sorted(tmp_path.rglob("*"))
    frozen = dataclasses.replace(config.finetune, method="frozen")
    with pytest.raises(ConfigError):
        finetune(dataclasses.replace(config, finetune=frozen), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
