"""Baselines: counts by hand; planted motifs are found; choices are by validation rows; determinism."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.baselines import cnn, constant, fitting, kmer, linear
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.statistics.metrics import evaluate

TWO = Problem("single_label", ("no", "yes"))
MOTIF = "TGACTCAG"


def planted(rows, seed, name="train", kind="single_label", strands=False):
    """Random sequences of unequal length, half of which hold the motif; with `strands`, on a random strand."""
    rng = np.random.default_rng(seed)
    has, sequences = rng.random(rows) < 0.5, []
    for present in has:
        codes = rng.integers(0, 4, rng.integers(90, 130)).astype(np.uint8)
        if present:
            at = rng.integers(len(codes) - len(MOTIF))
            codes[at : at + len(MOTIF)] = bases.encode(MOTIF)
            codes = bases.reverse_complement(codes) if strands and rng.random() < 0.5 else codes
        sequences.append(bases.decode(codes))
    if kind == "single_label":
        targets = has.astype(np.int32)
    elif kind == "multi_label":
        targets = np.stack([has, ~has, np.zeros(rows)], 1).astype(np.float32)
    else:
        targets = np.stack([has * 3.0 + 100, has * -0.5], 1).astype(np.float32)
        targets += rng.normal(size=targets.shape).astype(np.float32) * [0.6, 0.1]
    return Examples(name, sequences, targets, [f"row {i}" for i in range(rows)])


def problem_of(kind, train):
    if kind == "regression":
        return Problem(kind, ("a", "b"), tuple(train.targets.mean(0)), tuple(train.targets.std(0)))
    return TWO if kind == "single_label" else Problem(kind, ("yes", "no", "never"))


def test_counts_by_hand():
    found = kmer.counts(["AATT", "ANTAA", "", "C"], 2, canonical=False).toarray()
    a, t = bases.A, bases.T
    assert {tuple(map(int, x)): int(found[tuple(x)]) for x in np.argwhere(found)} == {
        (0, a * 4 + a): 1, (0, a * 4 + t): 1, (0, t * 4 + t): 1, (1, t * 4 + a): 1, (1, a * 4 + a): 1,
    }  # fmt: skip
    both = kmer.counts(["AATT"], 2, canonical=True).toarray()
    assert both[0, a * 4 + a] == 2
    assert both.sum() == 3


@pytest.mark.parametrize("k", [3, 6])
def test_canonical_counts_are_those_of_the_other_strand(k):
    sequences = planted(5, 0).sequences
    other = [bases.decode(bases.reverse_complement(bases.encode(x))) for x in sequences]
    one, two = (kmer.counts(x, k, canonical=True).toarray() for x in (sequences, other))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one.sum(1), [len(x) - k + 1 for x in sequences])
    assert (kmer.counts(sequences, k, False) != kmer.counts(other, k, False)).nnz


def test_features_have_length_one_and_rows_without_kmers_none():
    found = kmer.features(["ACGTACGTA", "ACNAC", ""], 3, canonical=False)
    np.testing.assert_allclose(np.sqrt(found.power(2).sum(1)), [1, 0, 0])


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_a_kmer_model_finds_a_planted_motif(kind, monkeypatch):
    monkeypatch.setattr(kmer, "KS", (3, 6))
    train, validation, test = (planted(300, seed, kind=kind, strands=True) for seed in range(3))
    problem = problem_of(kind, train)
    found = kmer.fit(train, validation, problem)
    metrics = evaluate(kind, test.targets, found.predict(test.sequences))
    assert next(iter(metrics.values())) > (0.8 if kind == "multi_label" else 0.5)
    assert (found.choices["k"], found.choices["strands"]) == (6, "both")
    if kind == "single_label":
        again = kmer.fit(train, validation, problem, seed=1)
        np.testing.assert_array_equal(found.predict(test.sequences), again.predict(test.sequences))
    if kind == "multi_label":
        np.testing.assert_array_equal(found.predict(test.sequences)[:, 2], 0)
    if kind == "regression":
        assert found.predict(["", "N" * 30]).shape == (2, 2)


def test_choices_are_those_of_the_validation_rows(monkeypatch):
    monkeypatch.setattr(kmer, "KS", (3, 6))
    train, validation = planted(200, 0), planted(200, 1)
    found = kmer.fit(train, validation, TWO, metric="auroc")
    turned = dataclasses.replace(validation, targets=1 - validation.targets)
    assert kmer.fit(train, turned, TWO, metric="auroc").choices != found.choices
    best = evaluate("single_label", validation.targets, found.predict(validation.sequences))["auroc"]
    for k, strands, penalty in ((3, False, 1e-3), (6, True, 1e-2), (6, False, 1e-5)):
        rows, held_out = (kmer.features(x.sequences, k, strands) for x in (train, validation))
        model, _, value = linear.fit(
            rows, train.targets, held_out, validation.targets, TWO, "auroc", penalties=(penalty,)
        )
        assert evaluate("single_label", validation.targets, model(held_out))["auroc"] == value <= best


@pytest.mark.parametrize("kind", ["single_label", "regression"])
def test_a_kmer_model_is_scikit_learns(kind, monkeypatch):
    from sklearn.linear_model import LogisticRegression, Ridge

    monkeypatch.setattr(kmer, "KS", (3,))
    train, validation = planted(150, 0, kind=kind), planted(80, 1, kind=kind)
    problem = problem_of(kind, train)
    found = kmer.fit(train, validation, problem)
    canonical, penalty = found.choices["strands"] == "both", found.choices["penalty"]
    rows, held_out = (kmer.features(x.sequences, 3, canonical) for x in (train, validation))
    if kind == "regression":
        model = Ridge(alpha=penalty * 150, solver="sparse_cg").fit(rows, train.targets / np.asarray(problem.scale))
        expected = model.predict(held_out) * problem.scale
    else:
        expected = LogisticRegression(C=1 / (penalty * 150), max_iter=300).fit(rows, train.targets)
        expected = expected.predict_proba(held_out)
    np.testing.assert_array_equal(found.predict(validation.sequences), expected)


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_dense_features_are_standardised_on_training_rows(kind):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 6)).astype(np.float32)
    rows[:, 5] = 7.0  # a constant column has no spread
    has = rows[:, 0] + rng.normal(size=200) > 0
    targets = has.astype(np.int32)
    if kind != "single_label":
        targets = np.stack([has, ~has, has], 1).astype(np.float32) * (1 if kind == "multi_label" else 50)
    problem = Problem(kind, ("a", "b", "c"), tuple(targets.mean(0)), tuple(targets.std(0))) if targets.ndim > 1 else TWO
    split = (rows[:120], targets[:120], rows[120:], targets[120:], problem)
    predict, choices, value = linear.fit(*split)
    assert 0.2 < value <= 1
    other = rows * np.array([1e4, 1, 1, 1, 1, 1], np.float32) + np.array([0, -900, 0, 0, 0, 3], np.float32)
    again = linear.fit(other[:120], targets[:120], other[120:], targets[120:], problem)
    assert again[1] == choices
    np.testing.assert_allclose(again[0](other[120:]), predict(rows[120:]), atol=1e-3 * np.abs(targets).max())
    chosen = (choices["penalty"],)
    shifted, _, _ = linear.fit(rows[:120], targets[:120], rows[120:] + 5, targets[120:], problem, penalties=chosen)
    np.testing.assert_array_equal(shifted(rows[120:]), predict(rows[120:]))  # validation rows do not scale it


def test_of_penalties_that_are_as_good_the_first_one_is_taken():
    rows, targets = np.eye(2)[[0, 1] * 20], np.array([0, 1] * 20, np.int32)
    assert linear.fit(rows, targets, rows, targets, TWO, "auroc", penalties=(1e-3, 1.0))[1] == {"penalty": 1e-3}


def test_a_class_without_rows_has_probability_0(monkeypatch):
    monkeypatch.setattr(kmer, "KS", (3,))
    train = planted(100, 0)
    three = Problem("single_label", ("no", "yes", "never"))
    p = kmer.fit(train, planted(100, 1), three).predict(train.sequences)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(p[:, 2], 0)
    one = dataclasses.replace(train, targets=np.ones_like(train.targets))
    np.testing.assert_array_equal(kmer.fit(one, train, TWO).predict(train.sequences[:2]), [[0, 1], [0, 1]])


def test_the_constant_is_the_majority_or_the_mean():
    train = planted(200, 0)
    found = constant.fit(train, train, TWO)
    np.testing.assert_allclose(found.predict(["A", "C"]), [np.bincount(train.targets) / 200] * 2)
    assert found.name == "majority"
    values = planted(200, 0, kind="regression")
    found = constant.fit(values, values, problem_of("regression", values))
    np.testing.assert_allclose(found.predict(["A"]), [values.targets.mean(0)], rtol=1e-6)
    assert (found.name, found.choices) == ("mean", {})


@pytest.fixture
def small(monkeypatch):
    """A CNN of few epochs and one rate."""
    monkeypatch.setattr(cnn, "RATES", (3e-3,))
    monkeypatch.setattr(cnn, "EPOCHS", 4)


@pytest.mark.parametrize("kind", ["single_label", "regression"])
def test_a_cnn_finds_a_planted_motif(small, kind):
    train, validation, test = planted(1000, 0, kind=kind), planted(150, 1, kind=kind), planted(150, 2, kind=kind)
    found = cnn.fit(train, validation, problem_of(kind, train))
    predictions = found.predict(test.sequences)
    assert next(iter(evaluate(kind, test.targets, predictions).values())) > 0.8
    np.testing.assert_allclose(found.predict(test.sequences[:3]), predictions[:3], atol=1e-5)


def test_a_cnn_is_the_same_for_the_same_seed(small, monkeypatch):
    monkeypatch.setattr(cnn, "EPOCHS", 2)
    train, validation = planted(128, 0), planted(64, 1)
    one, two, other = (cnn.fit(train, validation, TWO, seed=seed).predict(train.sequences) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-3


def test_padding_does_not_reach_the_outputs():
    network = cnn.Network(2)
    codes, lengths = cnn.encoded(planted(4, 0).sequences)
    params = network.init(cnn.jax.random.key(0), codes, lengths)
    wide = np.concatenate([codes, np.full((4, 64), bases.A, np.uint8)], axis=1)
    expected = network.apply(params, codes, lengths)
    np.testing.assert_allclose(network.apply(params, wide, lengths), expected, atol=1e-6)
    shorter = network.apply(params, codes, lengths - 40)
    assert np.abs(shorter - expected).max() > 1e-4  # the bases within do


def test_which_baselines_are_fitted(small, monkeypatch):
    monkeypatch.setattr(cnn, "EPOCHS", 1)
    monkeypatch.setattr(kmer, "KS", (3,))
    monkeypatch.setattr(cnn, "LEAST_ROWS", 100)
    validation = planted(40, 1)
    few, enough = (fitting.fit(planted(rows, 0), validation, TWO) for rows in (99, 100))
    assert [x.name for x in few] == ["majority", "k-mer logistic"]
    assert [x.name for x in enough] == ["majority", "k-mer logistic", "CNN"]
    assert enough[2].choices == {"rate": 3e-3, "epoch": 1}
