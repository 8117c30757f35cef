"""The command that predicts: its inputs, its table, flags and resuming."""

import csv
import gzip
import json

import numpy as np
import pytest

import gener_jax
from data_pipeline.errors import FormatError
from gener_jax import predict
from gener_jax.cli.command import FLAGGED
from gener_jax.config import Head
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import run_folder
from tests import finetuned, tiny
from tests.raised import raises
from tests.test_convert import last_line, make_lm, published

pytestmark = pytest.mark.usefixtures("one_device")

HEAD = Head("single_label", ("other", "promoter"))
DNA = ["ACGTTGACCGTA", "TTGACCGTAC", "GATTACAGATTACA"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finetuned.write(tmp_path_factory.mktemp("finetuned") / "run", make_lm(), HEAD)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


def run(folder, path, output, *more):
    return predict.main(["--checkpoint", str(folder), "--input", str(path), "--output", str(output), *more])


def written(path, sequences=DNA):
    """A table or FASTA of sequences with names."""
    if "fa" in path.suffixes[0]:
        text = "".join(f">s{i} note\n{sequence}\n" for i, sequence in enumerate(sequences))
    elif path.suffix == ".jsonl":
        text = "".join(json.dumps({"ID": f"s{i}", "dna": x}) + "\n" for i, x in enumerate(sequences))
    else:
        text = "name,seq,label\n" + "".join(f'"s,{i}",{x},1\n' for i, x in enumerate(sequences))
    (gzip.open if path.suffix == ".gz" else open)(path, "wt").write(text)
    return path


@pytest.mark.parametrize(
    ("name", "output", "named", "first"),
    [
        ("x.csv", "y.csv", "name", "s,0"),
        ("x.fa.gz", "y.tsv", "name", "s0"),
        ("x.jsonl", "y.tsv", "ID", "s0"),
    ],
)
def test_every_format_gives_the_same_table(name, output, named, first, folder, tmp_path, capsys):
    more = ["--sequence", "dna"] if name.endswith("jsonl") else []
    assert run(folder, written(tmp_path / name), tmp_path / output, *more, "--json") == 0
    assert last_line(capsys)["rows"] == 3
    rows = table(tmp_path / output)
    assert list(rows[0]) == ["row", named, "label", "p(other)", "p(promoter)", "flag"]
    assert [row["row"] for row in rows] == ["1", "2", "3"]
    assert rows[0][named] == first
    found = gener_jax.load(folder).predict(DNA)
    assert [row["label"] for row in rows] == found.labels
    numbers = [[float(row["p(other)"]), float(row["p(promoter)"])] for row in rows]
    np.testing.assert_allclose(numbers, found.probabilities, atol=1e-5)


def test_values_have_the_unit_of_the_labels(tmp_path):
    head = Head("regression", ("dev",), mean=(100.0,), scale=(2.0,))
    folder = finetuned.write(tmp_path / "run", make_lm(), head)
    run(folder, written(tmp_path / "x.csv"), tmp_path / "y.tsv")
    rows = table(tmp_path / "y.tsv")
    assert list(rows[0]) == ["row", "name", "dev", "flag"]
    np.testing.assert_allclose(
        [float(row["dev"]) for row in rows], gener_jax.load(folder).predict(DNA).values[:, 0], 1e-4
    )


def test_a_row_that_cannot_be_predicted_has_a_flag(folder, tmp_path, capsys):
    path = written(tmp_path / "x.csv", ["ACGACG", "AC", "", "AC-G", "ACG" * 70, "GATTACA"])
    assert run(folder, path, tmp_path / "y.tsv") == FLAGGED
    assert last_line(capsys)["flagged"] == 4
    rows = table(tmp_path / "y.tsv")
    assert [bool(row["flag"]) for row in rows] == [False, True, True, True, True, False]
    assert [row["label"] == row["p(other)"] == "" for row in rows] == [False, True, True, True, True, False]


def test_it_resumes_where_it_stopped(folder, tmp_path, monkeypatch):
    path = written(tmp_path / "x.csv", [*DNA, "AC"] * 3)
    monkeypatch.setattr(predict, "_SEQUENCES", 5)  # before both, since numbers may differ by the batch's shape
    run(folder, path, tmp_path / "whole.tsv")
    calls, framed = [], predict.ResumableFile.append

    def append(self, *args, **facts):
        framed(self, *args, **facts)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict.ResumableFile, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(folder, path, tmp_path / "y.tsv")
    assert not (tmp_path / "y.tsv").exists()
    assert run(folder, path, tmp_path / "y.tsv") == FLAGGED
    assert len(calls) == 3
    assert (tmp_path / "y.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


def test_of_a_fine_tuned_run_the_best_checkpoint_is_used(tmp_path):
    lm = make_lm()
    folder = finetuned.write(tmp_path / "run", lm, HEAD)
    config = tiny.config(
        tmp_path, checkpoint__best="finetune.mcc", finetune__problem="single_label", finetune__train="x",
        model__max_position_embeddings=64, model__num_hidden_layers=2, model__intermediate_size=24,
    )  # fmt: skip
    run_folder.describe(folder, config)
    other = finetuned.write(tmp_path / "other", lm, HEAD)
    (other / "checkpoints/0").rename(folder / "checkpoints/9")
    measured = {"metric": "finetune.mcc", "higher_is_better": True}
    for step, value in ((0, 0.9), (9, 0.5)):
        run_folder.write_metrics(folder, step, {**measured, "value": value})
    assert [gener_jax.load(folder, step=step).step for step in (None, "best", 9)] == [0, 0, 9]
    run_folder.write_metrics(folder, 9, {**measured, "value": 0.95})
    assert gener_jax.load(folder).step == 9


def test_bad_command_lines(folder, tmp_path):
    path = written(tmp_path / "x.csv")
    with raises(ConfigError, field="--output", value=str(tmp_path / "y.txt")):
        run(folder, path, tmp_path / "y.txt")
    with raises(FormatError, field="--sequence", value="nothing"):
        run(folder, path, tmp_path / "y.tsv", "--sequence", "nothing")
    with raises(ConfigError, field="--checkpoint"):
        run(published(tmp_path / "base", make_lm()), path, tmp_path / "y.tsv")
    with raises(CheckpointError, path=tmp_path / "absent"):
        run(tmp_path / "absent", path, tmp_path / "y.tsv")
    assert not list(tmp_path.glob("y.*"))
