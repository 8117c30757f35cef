"""Neighbours of other groups against a loop; copies within a group do not count; votes, agreement."""

import numpy as np
import pytest

from gener_jax.runtime.errors import InputError
from gener_jax.statistics.neighbours import agreement, nearest, standardized, voted
from tests.raised import raises

rng = np.random.default_rng(0)


def test_neighbours_are_those_of_a_loop():
    features, groups = rng.normal(size=(40, 3)), rng.choice(list("abcde"), 40)
    found = nearest(features, groups, 4)
    for i in range(40):
        others = [j for j in range(40) if groups[j] != groups[i]]
        expected = sorted(others, key=lambda j: np.linalg.norm(features[i] - features[j]))[:4]
        assert found[i].tolist() == expected
    with raises(InputError, argument="groups"):
        nearest(features, np.repeat("a", 40), 1)


def test_copies_within_a_group_teach_nothing():
    """Rows of a contig are copies of each other, and each contig has a random label."""
    groups = np.repeat(np.arange(60), 5)
    features, labels = rng.normal(size=(60, 8))[groups], rng.integers(0, 2, 60)[groups]
    alone = voted(labels, nearest(features, np.arange(300), 3))
    by_group = voted(labels, nearest(features, groups, 10))
    assert (alone == labels).all()
    assert (by_group == labels).mean() == pytest.approx(0.5, abs=0.15)


def test_a_vote_goes_to_the_nearer_of_equal_labels():
    labels = np.array([0, 0, 1, 1, 2])
    near = np.array([[0, 1, 2], [2, 0, 4], [0, 2, 4], [4, 2, 3]])
    assert voted(labels, near).tolist() == [0, 1, 0, 1]


def test_features_weigh_alike():
    features = rng.normal(size=(30, 3)) * [1, 1000, 0] + [5, 0, 7]
    found = standardized(features)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(0), [1, 1, 0], atol=1e-12)


def test_clusters_agree_with_what_made_them_and_not_with_shuffled_labels():
    labels = np.repeat([0, 1, 2], 30)
    features = 10 * np.eye(3)[labels] + rng.normal(size=(90, 3))
    found = agreement(features, labels)
    assert (found["ari"], found["nmi"]) == (1, 1)
    distances = np.linalg.norm(features[:, None] - features, axis=-1)
    own = np.array([distances[i, labels == labels[i]].sum() / 29 for i in range(90)])
    other = np.array([min(distances[i, labels == x].mean() for x in {0, 1, 2} - {labels[i]}) for i in range(90)])
    assert found["silhouette"] == pytest.approx(((other - own) / np.maximum(own, other)).mean())
    shuffled = agreement(features, rng.permutation(labels))
    assert max(abs(x) for x in shuffled.values()) < 0.1
