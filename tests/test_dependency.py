"""Dependency maps: the definition, causality, each strand's triangle, planted dependencies, unknown bases, the plot."""

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.inference.dependency import dependency_map
from gener_jax.plotting import region
from gener_jax.plotting.figure import save
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_generate import make_lm

K = 3
SEQUENCE = "".join(np.random.default_rng(0).choice(list("ACGT"), 20))


class Pairing:
    """Predicts the complement of the base 5 before, with probability 0.7, and any other base alike."""

    def base_probabilities(self, sequences, *, given, phases, batch_tokens):
        found = []
        for sequence in sequences:
            p = np.full((len(sequence.codes), 4), 0.25, np.float32)
            for j, letter in enumerate(bases.decode(sequence.codes)[:-5], 5):
                p[j] = 0.1
                p[j, "TGCA".index(letter)] = 0.7
            found.append(p)
        return found


def mapped(lm, sequence, window=None, strand="+"):
    return dependency_map(lm, sequence, window=window, strand=strand, given="bases", phases=1, batch_tokens=1)


def test_a_planted_dependency_is_found_on_each_strand():
    change = np.log2(0.7 / 0.3) - np.log2(0.1 / 0.9)
    plus, minus, both = (mapped(Pairing(), SEQUENCE, strand=strand) for strand in ("+", "-", "both"))
    np.testing.assert_allclose(plus, change * np.eye(20, k=5), atol=1e-5)
    np.testing.assert_allclose(minus, change * np.eye(20, k=-5), atol=1e-5)
    np.testing.assert_array_equal(both, plus + minus)
    np.testing.assert_array_equal(mapped(Pairing(), SEQUENCE, (4, 16), "both"), both[4:16, 4:16])


@pytest.fixture(scope="module")
def lm():
    return make_lm(K)


@pytest.mark.parametrize(("given", "phases"), [("bases", 1), ("tokens", K)])
def test_the_map_is_its_definition(lm, given, phases):
    """All pairs, computed one by one: where the map is 0 by causality, the model says so too."""
    options = {"given": given, "phases": phases}

    def log_odds(text):
        [p] = lm.base_probabilities([text], **options)
        return np.log2(p / (1 - p))

    expected = np.zeros((20, 20))
    for i, letter in enumerate(SEQUENCE):
        texts = [SEQUENCE[:i] + other + SEQUENCE[i + 1 :] for other in "ACGT" if other != letter]
        expected[i] = np.max([np.abs(log_odds(text) - log_odds(SEQUENCE)).max(1) for text in texts], axis=0)
    plus = lm.dependency_map(SEQUENCE, strand="+", **options)
    assert plus.dtype == np.float32
    np.testing.assert_allclose(plus, expected, atol=1e-3)
    assert not np.tril(plus).any()
    assert plus[np.triu_indices(20, k=K)].min() > 1e-3  # a random model: everything depends on everything before
    both = lm.dependency_map(SEQUENCE, **options)
    back = bases.decode(bases.reverse_complement(bases.encode(SEQUENCE)))
    opposite = lm.dependency_map(back, strand="+", **options)
    np.testing.assert_allclose(np.triu(both), plus, atol=1e-3)
    np.testing.assert_allclose(np.tril(both), opposite[::-1, ::-1], atol=1e-3)


def test_a_token_hides_its_own_bases_unless_they_are_given(lm):
    within = np.repeat(np.arange(20) // K, 20).reshape(20, 20) == np.arange(20) // K
    after = np.triu(np.ones((20, 20), bool), k=1)
    by_tokens, by_bases = (lm.dependency_map(SEQUENCE, strand="+", given=given) for given in ("tokens", "bases"))
    assert by_tokens[within & after].max() < 1e-3 < by_bases[within & after].min()


def test_unknown_bases_are_left_out(lm):
    found = lm.dependency_map("ACGTNNGTCA")
    unknown = np.arange(10)[:, None] // 2 == 2
    np.testing.assert_array_equal(np.isnan(found), unknown | unknown.T)


@pytest.mark.parametrize(("window", "value"), [((0, 21), (0, 21)), ((-1, 5), -1), ((5, 5), (5, 5))])
def test_a_window_must_be_within_the_sequence(lm, window, value):
    with raises(InputError, argument="window", value=value):
        lm.dependency_map(SEQUENCE, window=window)
    with raises(InputError, argument="strand", value="x"):
        lm.dependency_map(SEQUENCE, strand="x")


def test_the_picture_has_a_cell_per_pair(tmp_path):
    values = mapped(Pairing(), SEQUENCE, strand="both")
    values[3] = np.nan
    figure = region.dependencies(values, SEQUENCE, "chr1", 99)
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape == (20, 20)
    assert axes.images[0].get_array().mask[3].all()
    assert [x.get_text() for x in axes.get_yticklabels()] == ["100", "105", "110", "115"]
    for labels in (axes.get_xticklabels, axes.get_yticklabels):
        assert "".join(x.get_text() for x in labels(minor=True)) == SEQUENCE
    save(figure, tmp_path / "a.png")
    assert region.dependencies(np.zeros((2, 2)), "AC").axes
