"""Tests that copies of training rows are found."""

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.config import Finetune
from gener_jax.labelled import audit, splits
from gener_jax.labelled.examples import Examples
from tests.data import data_path


def made(*sequences, targets=None):
    targets = np.zeros(len(sequences), np.int32) if targets is None else np.array(targets, np.int32)
    return Examples("rows", list(sequences), targets, [""] * len(sequences))


def dna(seed, length):
    return bases.decode(np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8))


def mutated(sequence, every):
    return "".join({"A": "C"}.get(x, "A") if i % every == every - 1 else x for i, x in enumerate(sequence))


def opposite(sequence):
    return bases.decode(bases.reverse_complement(bases.encode(sequence)))


def test_copies():
    long, short, other = dna(0, 400), dna(1, 31), dna(2, 400)
    train = made(long, short, long, targets=[0, 1, 1])
    test = made(
        long, opposite(long), short, opposite(short), other, mutated(long, 80), opposite(mutated(long, 80)),
        mutated(long, 20), short[:30], "N" * 40, targets=[0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    )  # fmt: skip
    found = audit.leaks(train, test)
    assert found.exact.tolist() == [True] * 4 + [False] * 6
    assert found.same_strand.tolist() == [True, False, True] + [False] * 7
    assert found.conflicting.tolist() == [True, True, False, True] + [False] * 6
    assert found.near.tolist() == [False] * 5 + [True, True] + [False] * 3
    assert found.clean.tolist() == [False] * 4 + [True] + [False] * 2 + [True] * 3
    kmers = 400 - 31
    assert found.overlap[5] == pytest.approx(5 * (80 - 1 - 31) / kmers, abs=2 / kmers)
    assert found.counts == {"rows": 10, "exact": 4, "same_strand": 2, "conflicting": 3, "near": 2}
    assert "4 exact copies of" in str(found)
    assert "1 exact copy of" in str(audit.leaks(train, test.take([0])))


def test_no_shared_kmer_spans_two_training_rows():
    long = dna(3, 64)
    assert audit.leaks(made(long[:32], long[32:]), made(long)).overlap[0] == pytest.approx(2 / 33)


def test_batches_of_training_rows(monkeypatch):
    train = [dna(i, 100) for i in range(20)]
    monkeypatch.setattr(audit, "_BATCH", 250)
    assert audit.leaks(made(*train), made(*(mutated(x, 60) for x in train))).near.all()


@pytest.mark.parametrize(("name", "copies"), [("prom_core_all", 43), ("prom_core_notata", 30)])
def test_copies_in_gue(name, copies):
    train = (str(data_path("downstream", "gue", "prom", name)),)
    found = splits.read(Finetune(problem="single_label", train=train))
    leaks = audit.leaks(found.train, found.test)
    assert leaks.exact.sum() == leaks.same_strand.sum() == copies
    assert leaks.near.sum() > copies
