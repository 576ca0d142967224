"""Across visits: which faces of different days are one person (`algorithms.md` 1B.13-14, 4B.3, 4B.8).

Average linkage over tracks: the distance of two clusters is the mean over all pairs of their faces of the squared
distance (ST eq. 12). Two clusters of which a pair is known to be two people never merge, and what they merge with
inherits that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.adapt.gather import Kept, Project, stacked
from edgecam.types import Floats, Ints

_BETWEEN = 0.05
"""The stop distance does not exceed this quantile of the distances of pairs known to be two people (4B.3) ..."""
_STRANGERS = 0.001
"""... nor this one of the distances of virtual strangers: a week has a hundred thousand pairs of tracks. 4B.3's other
bound, what is usual within a track, is left out: faces of one visit are far more alike than those of two (docs)."""
_PAIRS_MIN = 20
"""Of fewer pairs a quantile says nothing."""
_VISITS_MIN = 2
"""Who came once has not come again."""


@dataclass(frozen=True, eq=False)
class Linked:
    """Who came again."""

    visitors: Tuple[Tuple[str, ...], ...]
    """Tracklet ids of each unknown visitor of at least two visits, as `visitors.put` takes them."""

    group: Ints
    """(N,) int64 cluster of each kept track, known or not, 0..C-1."""

    stop: float
    """Squared distance of unit vectors, 0..4, from which nothing was merged."""


def link(kept: Kept, project: Project, strangers: Floats, named: NDArray[np.bool_]) -> Linked:
    """Link the kept tracks across visits.

    Memory grows with the square of the tracks: 14 bytes a pair, 28 MB for the 1,400 that a week writes at most.

    Args:
        kept: what was gathered.
        project: of the head in service.
        strangers: (V, K) features of virtual strangers, V >= 100.
        named: (N,) which tracks have a name by other means than the user's word (the association, the identifier):
            whoever is linked with one of them is no unknown visitor.
    """
    tracks, count = kept.tracks, len(kept.tracks)
    faces = np.array([len(track.features) for track in tracks], np.int64)
    distances = _squared([project(track.features.astype(np.float32)) for track in tracks])
    apart = np.zeros((count, count), np.bool_)
    apart[kept.known.apart[:, 0], kept.known.apart[:, 1]] = True
    stop = stop_distance(distances[apart], project(strangers))
    distances[kept.known.group[:, None] == kept.known.group[None]] = 0.0  # known to be one person: merged first
    group = cluster(distances, faces, apart | apart.T, stop)
    unknown = ~named & np.array([track.person_id is None and not track.nobody for track in tracks], np.bool_)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    visitors = tuple(
        tuple(tracks[i].id for i in mine)
        for mine in members
        if unknown[mine].all() and len({tracks[i].visit for i in mine}) >= _VISITS_MIN
    )
    return Linked(visitors, group, stop)


def stop_distance(apart: Floats, strangers: Floats) -> float:
    """Return the squared distance from which two clusters are not merged.

    Args:
        apart: (A,) distances of pairs known to be two people; fewer than 20 say nothing.
        strangers: (V, D) unit vectors of as many virtual people.
    """
    between = 2.0 - 2.0 * (strangers @ strangers.T)[np.triu_indices(len(strangers), 1)]
    stop = float(np.quantile(between, _STRANGERS))
    return min(stop, float(np.quantile(apart, _BETWEEN))) if len(apart) >= _PAIRS_MIN else stop


def cluster(distances: Floats, faces: Ints, apart: NDArray[np.bool_], stop: float) -> Ints:
    """Merge the two nearest clusters again and again (average linkage), never two of which a pair is two people.

    Args:
        distances: (N, N) float32 mean squared distances of the tracks' faces; not changed.
        faces: (N,) of each track, at least 1.
        apart: (N, N) symmetric, pairs of two people.
        stop: clusters at least so far from each other are not merged.

    Returns:
        (N,) int64 cluster of each track, 0..C-1, numbered by its first.
    """
    # What must not merge is infinitely far, and so is whatever takes it in: a mean with infinity is infinite.
    left = np.where(apart, np.float32(np.inf), distances)
    np.fill_diagonal(left, np.inf)
    sizes, label = faces.astype(np.float32), np.arange(len(left), dtype=np.int64)
    while len(left):
        a, b = sorted(divmod(int(left.argmin()), len(left)))
        if not left[a, b] < stop:
            break
        merged = (sizes[a] * left[a] + sizes[b] * left[b]) / (sizes[a] + sizes[b])
        merged[[a, b]] = np.inf
        left[a] = left[:, a] = merged
        left[b] = left[:, b] = np.inf
        sizes[a] += sizes[b]
        label[label == b] = a
    numbers: Ints = np.unique(label, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return numbers


def _squared(vectors: Sequence[Floats]) -> Floats:
    """Return (N, N) the mean over all pairs of two tracks' faces of their squared distance (ST eq. 12).

    Args:
        vectors: N times (n, D) unit vectors.
    """
    means = stacked([rows.mean(axis=0) for rows in vectors])
    distances: Floats = 2.0 - 2.0 * (means @ means.T)
    return distances
