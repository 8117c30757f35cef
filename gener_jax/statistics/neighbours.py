"""Whether rows with the same label lie together: nearest neighbours of other groups, k-means, silhouette.

Distances are Euclidean, between features of which each has mean 0 and standard deviation 1 (`standardized`): a few
hidden units of a language model are hundreds of times larger than the others, and would be all that counts.
"""

import numpy as np

from gener_jax.runtime.errors import InputError

NUMBER = 10  # of neighbours
_MEMORY = 256  # MiB of distances at a time


def standardized(features) -> np.ndarray:
    """Features with mean 0 and standard deviation 1, float64 [N, D]; constant ones are 0."""
    features = np.asarray(features, np.float64)
    deviation = features.std(0)
    return (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)


def nearest(features: np.ndarray, groups: np.ndarray, number: int = NUMBER) -> np.ndarray:
    """The nearest rows of each row that are not of its group, int64 [N, number], the nearest first.

    Args:
      features: [N, D].
      groups: [N], such as contigs. What lies on one contig is often a copy: repeats, gene families, rows that overlap.

    Raises:
      InputError: a row has fewer than `number` of them.
    """
    from sklearn.metrics import pairwise_distances_chunked

    groups = np.unique(groups, return_inverse=True)[1]
    if len(groups) - np.bincount(groups).max(initial=0) < number:
        raise InputError(f"must leave every row {number} rows of other groups", "groups")

    def block(distances, start):
        distances[groups[start : start + len(distances), None] == groups] = np.inf
        return np.argsort(distances, axis=1, kind="stable")[:, :number]

    return np.concatenate([*pairwise_distances_chunked(features, reduce_func=block, working_memory=_MEMORY)])


def voted(labels: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The commonest label, int64 [N], of each row's neighbours, [N, number]; of equally common ones, the nearer."""
    number = near.shape[1]
    weights = 1 + 1e-3 * np.arange(number, 0, -1) / number**2  # all the small parts together are under one vote
    votes = np.zeros((len(near), int(labels.max()) + 1))
    for rank in range(number):
        votes[np.arange(len(near)), labels[near[:, rank]]] += weights[rank]
    return votes.argmax(1)


def agreement(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """What needs no neighbours: `ari` and `nmi` of labels with k-means of as many clusters, and the `silhouette`.

    Rows of the same group count here: where labels and groups go together, neither tells a label from a group.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    classes = len(np.unique(labels))
    found = KMeans(classes, n_init=4, random_state=seed).fit_predict(features)
    return {
        "ari": float(adjusted_rand_score(labels, found)),
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "silhouette": float(silhouette_score(features, labels)),
    }
