"""The fine-tuning matrix on two toy tasks: rows and folds, cells resumed to the same predictions, and its tables."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipeline.dataset import builder
from data_pipeline.errors import DatasetError
from data_pipeline.regions.schemes import Scheme
from gener_jax.benchmarks import finetune, finetune_cells, finetune_estimate, finetune_matrix, finetune_report
from gener_jax.benchmarks.finetune_cells import Arm
from gener_jax.benchmarks.finetune_matrix import Matrix
from gener_jax.benchmarks.finetune_tasks import Made, Task
from gener_jax.runtime.errors import ConfigError
from tests import labelled_rows
from tests.raised import raises

ARMS = {
    "frozen": Arm((1e-2, 3e-2), finetune={"method": "frozen"}, batch=16, whole_model=False),
    "full": Arm((1e-3,), ("pre-trained",), {"method": "full"}, batch=16, seeds=1),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Test data with a task of three files, and one of a file with groups, of which a label is empty."""
    data = tmp_path_factory.mktemp("data")
    labelled_rows.folder(data / "downstream" / "motif")
    rows = labelled_rows.rows(90, 5, "single_label")
    lines = [f"{dna}\t{3.0 * (label == 'yes') + i % 3}\telement{i // 2}_{i}\n" for i, (dna, label) in enumerate(rows)]
    lines[7] = f"{rows[7][0]}\t\telement3_7\n"
    (data / "downstream" / "values.tsv").write_text("sequence\tlabel\tname\n" + "".join(lines))
    return data


MOTIF = Task("motif", train=("motif/train.tsv",), validation=("motif/dev.tsv",), test=("motif/test.tsv",))
TASKS = (
    MOTIF,
    Task("values", "regression", ("values.tsv",), group="name:_", folds=2),
    Task("absent", train=("motif/absent.tsv",), test=("motif/test.tsv",), note="its file is not there"),
)


@pytest.fixture(autouse=True)
def one_task_for_the_whole_model(monkeypatch):
    monkeypatch.setattr(finetune_matrix, "WHOLE_MODEL", ("motif",))


def matrix(data, folder, seeds=2, base=None, **changes):
    if base is None and not (base := folder.parent / "base").exists():
        labelled_rows.base(base)
    options = {"tasks": TASKS, "arms": ARMS, "rows": 60, "epochs": 1, "seeds": seeds}
    return Matrix(data, str(base), folder, **options | changes)


def test_rows_are_limited_and_folds_keep_groups(data, tmp_path):
    made = matrix(data, tmp_path / "matrix")
    assert made.rows["motif", 0].facts["rows"] == {"train": 60, "validation": 30, "test": 40}
    assert made.rows["motif", 0].facts["all_train"] == 96
    assert "absent.tsv" in made.rows["absent", 0].refused
    tests = [made.rows["values", fold].splits.test for fold in range(2)]
    assert sum(map(len, tests)) == 89
    names = {}
    for line in (data / "downstream" / "values.tsv").read_text().splitlines()[1:]:
        dna, _, name = line.split("\t")
        names[dna] = name.partition("_")[0]
    elements = [{names[dna] for dna in test.sequences} for test in tests]
    assert not elements[0] & elements[1]
    for fold in range(2):
        splits = made.rows["values", fold].splits
        trained = {names[dna] for dna in (*splits.train.sequences, *splits.validation.sequences)}
        assert not trained & elements[fold]
        assert any("1 row with an empty label left out" in note for note in made.rows["values", fold].facts["notes"])
    again = matrix(data, tmp_path / "matrix")
    assert dataclasses.asdict(again.rows["motif", 0]) == dataclasses.asdict(made.rows["motif", 0])
    with raises(ConfigError, field="output"):
        matrix(data, tmp_path / "matrix", epochs=2)


def test_test_rows_in_the_named_training_data_are_counted(data, tmp_path):
    published = {"base": "tiny", "tasks": [MOTIF], "arms": {}}
    unknown = matrix(data, tmp_path / "unknown", **published)
    unknown.measure_overlap()
    assert np.isnan(unknown.rows["motif", 0].masks["overlap"]).all()

    sequence = unknown.rows["motif", 0].splits.test.sequences[0]
    (tmp_path / "genome.fa").write_text(f">contig\n{sequence}\n")
    builder.build([tmp_path / "genome.fa"], tmp_path / "set", scheme=Scheme("whole"), validation_fraction=0)
    made = matrix(data, tmp_path / "matrix", **published, dataset=str(tmp_path / "set"))
    made.measure_overlap()
    overlap = made.rows["motif", 0].masks["overlap"]
    assert overlap[0] == 1
    assert overlap[1:].max() < 1
    assert "| motif | mcc | 60 / 40 |" in finetune_report.report(matrix(data, tmp_path / "new", **published))

    with raises(DatasetError):
        matrix(data, tmp_path / "gone", **published, dataset=str(tmp_path / "none")).measure_overlap()


def test_the_command_passes_on_its_options(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(finetune, "TASKS", TASKS)
    monkeypatch.setattr(finetune, "ARMS", ARMS)
    options = ["--tasks", "values", "--arms", "frozen", "--rows=60", "--epochs=1", "--seeds=2", "--plan"]
    finetune.main([f"--data={data}", "--base=tiny", f"--output={tmp_path / 'matrix'}", *options])
    # 2 weights × (2 rates + 1 seed + 2 seeds of the other fold)
    assert capsys.readouterr().out.splitlines()[-1].startswith("all: 10 cells")
    settings = {"base": "tiny", "rows": 60, "epochs": 1}
    assert json.loads((tmp_path / "matrix" / "settings.json").read_text()) == settings


@pytest.mark.slow
def test_resumed_equal_and_reported(data, tmp_path, monkeypatch):
    whole = matrix(data, tmp_path / "whole")
    plan = finetune_estimate.left(whole)
    # frozen: motif 2 weights × (2 rates + 1 seed), values 2 weights × (2 rates + 1 seed + 2 seeds of the other fold)
    assert plan[-1].startswith("all: 17 cells")
    whole.fill()
    assert len(whole.done) == 17 + 3 * 2  # and two baselines of each fold
    assert not any((tmp_path / "whole" / "runs").iterdir())
    toys = {"tasks": [MOTIF], "arms": {"frozen": ARMS["frozen"]}}
    stopped = matrix(data, tmp_path / "stopped", **toys)
    finish = Matrix.finish

    def stop(self, key, row):
        if len(self.done) == 4:
            raise KeyboardInterrupt
        finish(self, key, row)

    monkeypatch.setattr(Matrix, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.fill()
    monkeypatch.setattr(Matrix, "finish", finish)
    with open(tmp_path / "stopped" / "cells.jsonl", "a") as cells:
        cells.write('{"key": "cut sh')
    resumed = matrix(data, tmp_path / "stopped", **toys)
    assert len(resumed.done) == 4
    resumed.fill()
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole" / "cells.jsonl", tmp_path / "stopped" / "cells.jsonl")
    ]
    assert [row for row in rows[0] if row["task"] == "motif" and row.get("arm") != "full"] == rows[1]
    for row in rows[1]:
        both = [np.load(tmp_path / x / "predictions" / f"{row['key']}.npy") for x in ("whole", "stopped")]
        np.testing.assert_array_equal(*both)
    assert finetune_estimate.left(resumed) == ["all: 0 cells, 0 min"]

    text = finetune_report.report(whole)
    table = [[x.strip() for x in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    first = {row[0]: row for row in table[2:5]}
    assert first["motif"][2] == "60 / 40"
    assert first["values"][2].endswith("/ 89")
    assert first["absent"][-1].startswith("refused: ")
    chosen = [x for x in rows[0] if (x.get("arm"), x.get("weights"), x["task"]) == ("frozen", "pre-trained", "motif")]
    best = max(chosen[:2], key=lambda x: x["validation"])
    values = [x["metrics"]["mcc"] for x in chosen if x["rate"] == best["rate"]]
    assert len(values) == 2
    assert first["motif"][5].startswith(f"{np.mean(values):.3f}")
    gains = next(row for row in table if row[:2] == ["motif", "frozen"])
    assert gains[2].count(",") >= 1  # a gain for each seed
    assert next(row for row in table if row[:2] == ["motif", "full"])[2] == ""  # there are no random weights


@pytest.mark.slow
def test_labels_per_base(data, tmp_path, monkeypatch):
    """A value and a gain with intervals over windows, and a linear model of the k-mers around a base beside it."""
    rng, folder = np.random.default_rng(0), data / "downstream" / "bases"
    folder.mkdir(exist_ok=True)
    fasta, labels = "", ""
    for name, length in (("a", 3000), ("b", 2500), ("c", 6000)):
        fasta += f">{name}\n{''.join(rng.choice(list('ACGT'), length))}\n"
        labels += "".join(f"{name}\t{at}\t{at + 40}\t{'xy'[at // 80 % 2]}\n" for at in range(0, length - 80, 80))
    (folder / "contigs.fa").write_text(fasta)
    (folder / "labels.bed").write_text(labels)
    files = (str(folder / "contigs.fa"), str(folder / "labels.bed"))
    splits = {"train": files, "validation": ("b",), "test": ("c",)}
    monkeypatch.setattr(finetune_cells, "TOKEN_CONTEXT", 31)
    task = Task("bases", "token", make=lambda data, folder, fold: Made(splits))
    arm = Arm((1e-2,), finetune=ARMS["frozen"].finetune, whole_model=False)
    made = matrix(data, tmp_path / "bases", tasks=[task], arms={"frozen": arm}, seeds=1)
    made.fill()
    text = finetune_report.report(made)
    table = [
        [x.strip() for x in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| bases")
    ]
    value, gain = table[0][5], table[1][2:]
    cell = next(row for row in made.done.values() if row["weights"] == "pre-trained")
    assert value.startswith(f"{cell['metrics']['mcc']:.3f} [")
    assert "k-mer logistic" in table[0][3]
    assert "[" in gain[0]
    assert "k-mer logistic" in gain[1]
