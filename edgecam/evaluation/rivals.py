"""What AutoTune is compared with: profile photos, and one association on other clusterings."""

from __future__ import annotations

from typing import Callable, Iterator

import numpy as np

from edgecam.associate import Scene
from edgecam.associate.assign import nearest_owners
from edgecam.associate.cluster import cut_sizes, cuts, grow, joint_distances
from edgecam.associate.vote import means
from edgecam.metrics import Numbers
from edgecam.types import Floats, Ints

Clusterer = Callable[[Floats, int], Ints]
_DIMS = 30
"""Principal axes kept for a mixture: its covariances need more faces than dimensions."""


def by_template(scene: Scene, templates: Floats) -> Ints:
    """Return (N,) person of each tracklet, -1 none: at each cut a cluster a person by its mean's cosine to a photo.

    Args:
        scene: tracklets; the devices are not looked at.
        templates: (m, D) unit vector of one photo a person.
    """
    from scipy.optimize import linear_sum_assignment

    sizes = cut_sizes(scene.persons, len(scene.vectors))
    tree = grow(joint_distances(scene.vectors, scene.events, scene.heard, "plain", 0.0, scene.apart))
    votes = np.zeros((len(scene.vectors), scene.persons))
    for clusters in cuts(tree, sizes):
        centre = means(scene.vectors, clusters)
        rows, columns = linear_sum_assignment(-(centre @ templates.T))
        owner = np.full(len(centre), -1)
        owner[rows] = columns
        _count(votes, owner[clusters])
    return _voted(votes)


def by_clustering(scene: Scene, clusterer: Clusterer) -> Ints:
    """Return (N,) person of each tracklet, -1 none: the paper's association once, on other clusterings."""
    votes = np.zeros((len(scene.vectors), scene.persons))
    for clusters in _clusterings(scene, clusterer):
        owner = nearest_owners(scene.seen(clusters, int(clusters.max()) + 1), scene.heard, "squared")
        _count(votes, owner[clusters])
    return _voted(votes)


def _clusterings(scene: Scene, clusterer: Clusterer) -> Iterator[Ints]:
    """Yield three clusterings: each is a fit of its own, not a cut."""
    for times in (2, 3, 5):
        found = clusterer(scene.vectors, min(times * scene.persons, len(scene.vectors)))
        yield np.unique(found, return_inverse=True)[1].astype(np.int64)


def spectral(vectors: Floats, clusters: int) -> Ints:
    """Return (N,) clusters of the graph of positive cosines (to the fourth power)."""
    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(
        clusters, affinity="precomputed", random_state=0, assign_labels="cluster_qr", eigen_solver="arpack"
    )  # fmt: skip
    similarity = np.maximum(vectors @ vectors.T, 0.0).astype(np.float64) ** 4
    labels: Ints = model.fit_predict(similarity)
    return labels


def mixture(vectors: Floats, clusters: int) -> Ints:
    """Return (N,) components of a mixture of diagonal Gaussians on the principal axes."""
    from sklearn.mixture import GaussianMixture

    centred = vectors - vectors.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:_DIMS]
    model = GaussianMixture(clusters, covariance_type="diag", random_state=0, reg_covar=1e-4)
    labels: Ints = model.fit_predict(centred @ axes.T)
    return labels


def _count(votes: Numbers, said: Ints) -> None:
    named = np.flatnonzero(said >= 0)
    votes[named, said[named]] += 1.0


def _voted(votes: Numbers) -> Ints:
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
