"""Labelled rows as batches: every row once per epoch, a function of the number; framing, chunks, strands, weights."""

import dataclasses
import types

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, PAD
from gener_jax.finetuning import labels
from gener_jax.finetuning.plan import base_of
from gener_jax.finetuning.source import Rows, labels_of
from gener_jax.labelled import splits as labelled
from gener_jax.runtime.errors import ConfigError
from gener_jax.training.loop import Run
from tests import labelled_rows
from tests.raised import raises


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("base") / "model")


def source(config, pairs, folder, **kinds) -> Rows:
    """The rows of training pairs."""
    labelled_rows.write(folder / "train.tsv", pairs)
    labelled_rows.write(folder / "dev.tsv", pairs)
    splits = labelled.read(config.finetune)
    config, head, framing = labels.resolve(config, splits, base_of(config))
    return Rows(config, splits.problem, head, framing, splits.train, splits.validation)


def batch(rows, position, size):
    return next(rows.batches(position, size, range(size)))


def test_every_row_is_read_once_per_epoch(base, tmp_path):
    pairs = labelled_rows.rows(21, 0)
    rows = source(labelled_rows.config(base, tmp_path), pairs, tmp_path)
    order = [rows.place(number)[0] for number in range(63)]
    epochs = [order[i : i + 21] for i in (0, 21, 42)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    across = batch(rows, 16, 8)  # rows of two epochs
    np.testing.assert_array_equal(across["labels"], rows.labels[order[16:24]])
    part = next(rows.batches(16, 8, [2, 5]))
    for name, x in part.items():
        np.testing.assert_array_equal(x, across[name][[2, 5]])
    again = dataclasses.replace(rows.config, train=dataclasses.replace(rows.config.train, seed=1))
    other = Rows(again, rows.problem, rows.head, rows.framing, rows.train, rows.train)
    assert [other.place(number)[0] for number in range(21)] != epochs[0]


def test_rows_are_framed_and_padded(base, tmp_path):
    dna = "ATCATCATCAT"  # two bases left over
    pairs = [(dna, "yes"), (dna + dna, "no"), ("NATCAT", "no"), ("ATCATC", "yes")]
    rows = source(labelled_rows.config(base, tmp_path), pairs, tmp_path)
    token = rows.config.tokenizer.make().encode_bases(bases.encode("ATC"))[0]
    found = {rows.place(i)[0]: rows.example(i) for i in range(4)}
    assert rows.config.data.context_length == 9  # <s>, seven 3-mers, <s>
    assert found[0]["inputs"].tolist() == [BOS, token, token, token, BOS, *[PAD] * 4]
    assert found[0]["lengths"] == 5
    assert found[2]["inputs"].tolist()[:2] == [BOS, OOV]
    assert [int(found[i]["labels"]) for i in range(4)] == [1, 0, 0, 1]
    untrimmed = source(labelled_rows.config(base, tmp_path, finetune__untrimmed="True"), pairs, tmp_path)
    row = next(untrimmed.example(i) for i in range(4) if untrimmed.place(i)[0] == 0)
    assert row["inputs"].tolist() == [BOS, token, token, token, OOV, BOS, *[PAD] * 4]
    assert rows.digest != untrimmed.digest


def test_the_strand_of_a_row_is_drawn_for_each_epoch(base, tmp_path):
    pairs = labelled_rows.rows(30, 0)
    rows = source(labelled_rows.config(base, tmp_path, finetune__reverse_complement="True"), pairs, tmp_path)
    drawn = [[reverse for _, reverse in sorted(rows.place(e * 30 + i) for i in range(30))] for e in range(2)]
    assert all(5 < sum(strands) < 25 for strands in drawn)
    assert drawn[0] != drawn[1]
    number = next(i for i in range(30) if rows.place(i)[1])
    codes = bases.reverse_complement(bases.encode(pairs[rows.place(number)[0]][0]))
    expected = rows.framing.rows(codes)[0]
    assert rows.example(number)["inputs"][: len(expected)].tolist() == expected.tolist()


def test_classes_weigh_the_same(base, tmp_path):
    pairs = [(dna, "no" if i % 4 else "yes") for i, (dna, _) in enumerate(labelled_rows.rows(32, 0))]
    rows = source(labelled_rows.config(base, tmp_path, finetune__class_weights="True"), pairs, tmp_path)
    found = [(int(x["labels"]), float(x["weights"])) for x in map(rows.example, range(32))]
    assert set(found) == {(0, np.float32(32 / 2 / 24)), (1, 2.0)}


def test_outputs_of_regression_are_standardized(base, tmp_path):
    pairs = labelled_rows.rows(40, 0, "regression")
    rows = source(labelled_rows.config(base, tmp_path, finetune__problem="regression"), pairs, tmp_path)
    found = labels_of(rows.problem, rows.train.targets)
    assert rows.example(0)["labels"].shape == (2,)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-5)
    back = found * rows.head.scale + rows.head.mean
    np.testing.assert_allclose(back, rows.train.targets, rtol=1e-5)


LONG = {"model__max_position_embeddings": "12"}  # ten 3-mers and two <s>


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("short") / "model", **LONG, data__context_length="12")


def long_rows(short, folder, bases_, **changes):
    pairs = [("ACG" * 4, "no"), ("TTG" * 7 + "ACG" * ((bases_ - 21) // 3), "yes")] * 6
    config = labelled_rows.config(short, folder, data__context_length="12", **LONG, **changes)
    rows = source(config, pairs, folder)
    found = {rows.place(i)[0]: rows.example(i) for i in range(2 * 6)}
    return rows, found[0], found[1]


def test_long_rows_are_refused_with_their_number(short, tmp_path):
    with raises(ConfigError, field="finetune.long", value="refuse") as caught:
        long_rows(short, tmp_path, 75)
    assert "6 of 12 train" in str(caught.value)
    assert "27" in str(caught.value)


def test_long_rows_are_truncated_before_the_separator(short, tmp_path):
    rows, _, row = long_rows(short, tmp_path, 75, finetune__long="truncate")
    assert rows.head.long == "truncate"
    assert rows.config.data.context_length == 12
    assert row["inputs"][[0, -1]].tolist() == [BOS, BOS]
    assert row["lengths"] == 12


def test_long_rows_have_chunks(short, tmp_path):
    rows, row, other = long_rows(short, tmp_path, 75, finetune__long="chunks")  # 25 3-mers
    assert rows.head.chunks == 3
    assert row["inputs"].shape == (3, 12)
    assert row["lengths"].tolist() == [6, 0, 0]
    assert other["lengths"].tolist() == [12, 12, 7]
    assert rows.axes["inputs"] == ("batch", None, None)
    of_step = Run.tokens_per_step.fget(types.SimpleNamespace(config=rows.config, stream=rows))
    assert of_step == rows.config.train.batch_size * 36
    assert rows.stats["tokens"] == rows.stats["rows"] * 36


def test_long_rows_extend_the_model(short, tmp_path):
    rows, _, row = long_rows(short, tmp_path, 75, finetune__long="yarn")
    assert rows.config.model.max_length >= 27 == row["lengths"] == rows.config.data.context_length
    rows, _, row = long_rows(short, tmp_path, 75, finetune__long="window")
    assert rows.config.model.sliding_window == 12
    assert rows.config.model.max_length is None
    assert row["lengths"] == 27


def test_a_row_without_a_token_is_refused(base, tmp_path):
    pairs = [*labelled_rows.rows(20, 0), ("AC", "yes")]
    with raises(DataError) as caught:
        source(labelled_rows.config(base, tmp_path), pairs, tmp_path)
    assert "train.tsv: line 22" in str(caught.value)
