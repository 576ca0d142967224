"""Soft labels from many cuts of one tree, and the completion pass for faces that no cut named."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

from edgecam.associate.assign import evidence, nearest_owners, owners, posterior
from edgecam.associate.base import Numbers, Options, Scene
from edgecam.associate.cluster import cut, cuts
from edgecam.types import Floats, Ints

_NEVER = -1e3
"""A log likelihood ratio nothing makes up for."""
_OPEN = -2.0
"""Below this ratio a cluster's own events speak against a device."""
_RIVAL_EVENTS = 3
_SURE = 0.8
"""A label of so much mass is used to measure how alike one person's faces are."""
_FEW = 10
"""Fewer faces or pairs than this measure nothing."""
_SPREAD_MIN = 0.05
_SURE_ARE_NEAR = 1.5
"""All faces of a person spread so much wider than the sure ones."""
_COMPLETIONS = 2
_SAMPLE = 2000
_DEVICE_MOST = 30.0


class Votes(NamedTuple):
    """What the cuts say."""

    labels: Numbers
    """(N, m + 1) rows sum to 1; column 0 unknown."""
    ratios: Numbers
    """(N, m) mean over the cuts of the log likelihood ratio that the devices give the tracklet's cluster."""
    missed: float
    """Mean estimate of the missed devices; NaN without one."""
    rivals: Numbers
    """(m,) evidence of the best other face for the same device, in shares of the winner's, mean over the cuts."""


def vote(tree: Numbers, sizes: Tuple[int, ...], scene: Scene, belief: Numbers, options: Options) -> Votes:
    """Return soft labels: the mean over the cuts of what each says of a tracklet's cluster.

    By likelihood every cluster has a chance for each person and for nobody. One device, one face: of the clusters that
    a device could explain, only those are its owner's that look like the owner (the best one-to-one choice, or the
    verified faces); a device never overrides a face. By the paper's rules m clusters get a vote, the others none.

    Args:
        tree: of the scene's tracklets.
        sizes: numbers of clusters.
        scene: tracklets and devices.
        belief: (h, m) attendance as corrected so far.
        options: rule and priors.
    """
    labels = np.zeros((len(scene.vectors), scene.persons + 1))
    ratios = np.zeros((len(scene.vectors), scene.persons))
    nobody = options.strangers / (options.strangers + scene.persons)
    rivals, missed = np.zeros(scene.persons), []
    verified = _verified_faces(scene)
    finest = cut(tree, max(sizes))
    sums = _sums(scene.vectors, finest)
    for clusters in cuts(tree, sizes):
        count = int(clusters.max()) + 1
        seen = scene.seen(clusters, count)
        if options.rule == "likelihood":
            found = evidence(seen, belief, scene.told(), nobody)
            ratios += found.scores[clusters]
            centre = _unit(_together(sums, finest, clusters, count))  # cuts of one tree nest
            scores, rivalry = one_face_a_device(found.scores, clusters, centre, scene.vectors, seen, verified)
            _lock(scores, clusters, scene)
            labels += posterior(scores, nobody)[clusters]
            rivals += rivalry
            missed.append(found.missed)
        else:
            owner = nearest_owners(seen, belief, options.rule)
            labels[np.arange(len(labels)), owner[clusters] + 1] += 1.0
    labels /= max(len(sizes), 1)
    if options.rule != "likelihood":
        labels = _received(labels, options)
    count = max(len(sizes), 1)
    return Votes(labels, ratios / count, float(np.mean(missed)) if missed else float("nan"), rivals / count)


def _received(labels: Numbers, options: Options) -> Numbers:
    """Divide by the votes received, as published, unless the rest is to be unknown; round if hard."""
    out = labels.copy()
    votes = labels[:, 1:].sum(axis=1)
    if not options.complete:
        got = votes > 0
        out[got, 1:] /= votes[got, None]
        out[got, 0] = 0.0
    if options.hard:
        got = votes > 0
        best = out[:, 1:].argmax(axis=1)
        out[got] = np.eye(out.shape[1])[best[got] + 1]
    return out


def means(vectors: Floats, clusters: Ints) -> Numbers:
    """Return (C, D) unit means of the clusters 0..C-1; each has a member."""
    return _unit(_sums(vectors, clusters))


def _sums(vectors: Floats, clusters: Ints) -> Numbers:
    order = np.argsort(clusters, kind="stable")
    starts = np.searchsorted(clusters[order], np.arange(int(clusters.max()) + 1))
    sums: Numbers = np.add.reduceat(vectors[order].astype(np.float64), starts, axis=0)
    return sums


def _together(sums: Numbers, fine: Ints, coarse: Ints, count: int) -> Numbers:
    parent = np.zeros(len(sums), np.int64)
    parent[fine] = coarse
    out = np.zeros((count, sums.shape[1]))
    np.add.at(out, parent, sums)
    return out


def _unit(rows: Numbers) -> Numbers:
    unit: Numbers = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


def one_face_a_device(
    scores: Numbers, clusters: Ints, centre: Numbers, vectors: Floats, seen: Numbers, verified: Numbers
) -> Tuple[Numbers, Numbers]:
    """Return the scores with every face ruled out that is not the owner's, and (m,) how strong the best rival was.

    Args:
        scores: (C, m) log likelihood ratios.
        clusters: (N,) of each tracklet.
        centre: (C, D) unit means.
        vectors: (N, D).
        seen: (C, h).
        verified: (m, D) unit mean of the faces that the user confirmed, zero without.
    """
    persons = scores.shape[1]
    some = slice(None, None, 1 + len(vectors) // _SAMPLE)
    within = float(np.median((vectors[some] * centre[clusters[some]]).sum(axis=1)))
    winner = owners(scores)
    between = _between(centre, winner)
    won = np.flatnonzero(winner >= 0)
    home = verified.copy()
    free = won[~home[winner[won]].any(axis=1)]
    home[winner[free]] = centre[free]
    alike = centre @ home.T  # (C, m)
    threshold = (within + between) / 2.0
    foreign = (alike < threshold) & home.any(axis=1)[None]
    out = np.where(foreign, _NEVER, _with_alike(scores, centre, (3.0 * within + between) / 4.0))
    best = np.zeros(persons)
    best[winner[won]] = scores[won, winner[won]]
    # A face that some other device explains is no rival, and neither is one seen too seldom.
    unexplained = (out.max(axis=1, initial=_NEVER) <= 0) & (seen.sum(axis=1) >= _RIVAL_EVENTS)
    rival = np.where(foreign & unexplained[:, None], scores, 0.0).max(axis=0, initial=0.0)
    return out, np.where(best > 0, rival / np.maximum(best, 1e-9), 0.0)


def _between(centre: Numbers, winner: Ints) -> float:
    """Return the median cosine of two persons, 0 without two."""
    won = centre[winner >= 0]
    pairs = (won @ won.T)[np.triu_indices(len(won), 1)]
    return float(np.median(pairs)) if len(pairs) else 0.0


def _with_alike(scores: Numbers, centre: Numbers, least_cosine: float) -> Numbers:
    """Return the scores of clusters with those of the clusters that look the same added.

    A part of a person's faces was seen in too few events to tell much, if many devices were missed. But a cluster whose
    own events speak against a device is not talked into it by a face alike: it may be a double.
    """
    alike = (centre @ centre.T >= least_cosine).astype(np.float64)
    np.fill_diagonal(alike, 0.0)
    return np.where(scores > _OPEN, scores + np.maximum(alike @ scores, 0.0), scores)


def _verified_faces(scene: Scene) -> Numbers:
    out = np.zeros((scene.persons, scene.vectors.shape[1]))
    if scene.verified is not None:
        known = scene.verified > 0
        np.add.at(out, scene.verified[known] - 1, scene.vectors[known])
    return _unit(out)


def _lock(scores: Numbers, clusters: Ints, scene: Scene) -> None:
    """Clusters with confirmed faces go where most of those say."""
    if scene.verified is None:
        return
    asked = np.flatnonzero(scene.verified)
    ballots = np.zeros((len(scores), scene.persons + 1))
    np.add.at(ballots, (clusters[asked], np.maximum(scene.verified[asked], 0)), 1.0)
    for c in np.flatnonzero(ballots.any(axis=1)):
        said = int(ballots[c].argmax())
        scores[c] = _NEVER
        if said:
            scores[c, said - 1] = -_NEVER


def hold(labels: Numbers, scene: Scene) -> Numbers:
    """Return labels that keep what is certain: the user's word, who was elsewhere, two faces at once."""
    out = labels.copy()
    if scene.barred is not None:
        timed = scene.events >= 0
        no = np.zeros((len(out), scene.persons), np.bool_)
        no[timed] = scene.barred[scene.events[timed]]
        out[:, 1:][no] = 0.0
    if scene.verified is not None:
        asked = scene.verified != 0
        out[asked] = np.eye(out.shape[1])[np.maximum(scene.verified[asked], 0)]
    locked = np.zeros(len(out), np.bool_) if scene.verified is None else scene.verified != 0
    for a, b in scene.apart:
        both = np.minimum(out[a, 1:], out[b, 1:]) > 0
        first = (out[a, 1:] >= out[b, 1:]) if locked[a] == locked[b] else np.full(scene.persons, bool(locked[a]))
        out[b, 1:][both & first] = 0.0
        out[a, 1:][both & ~first] = 0.0
    out[:, 0] = np.maximum(1.0 - out[:, 1:].sum(axis=1), 0.0)
    return out


class Likeness(NamedTuple):
    """Cosines of a face with its own person's centre, and with others'."""

    own: float
    own_spread: float
    other: float
    other_spread: float

    def ratio(self, cosine: Numbers) -> Numbers:
        """Return the log likelihood ratio same/other: two Gaussians, made monotone beyond their means."""
        c = np.clip(cosine, self.other, self.own)
        same = -0.5 * ((c - self.own) / self.own_spread) ** 2 - np.log(self.own_spread)
        other = -0.5 * ((c - self.other) / self.other_spread) ** 2 - np.log(self.other_spread)
        ratio: Numbers = same - other
        return ratio

    @property
    def radius(self) -> float:
        """Return the cosine at which both are equally likely."""
        grid = np.linspace(self.other, self.own, 201)
        return float(grid[int(np.argmax(self.ratio(grid) >= 0))])


def centres(vectors: Floats, mass: Numbers) -> Numbers:
    """Return (m, D) stochastic centres (eq. 3), sum_i y_ij z_i scaled to length 1; zero for persons without mass."""
    return _unit(mass.T @ vectors)


def measure(vectors: Floats, labels: Numbers) -> Optional[Likeness]:
    """Return how alike faces of one and of two persons are here; None if too little is known."""
    mass = np.where(labels[:, 1:] >= 0.5, labels[:, 1:], 0.0)
    rows = np.flatnonzero(labels[:, 1:].max(axis=1, initial=0.0) >= _SURE)
    who = labels[rows, 1:].argmax(axis=1)
    several = np.bincount(who, minlength=mass.shape[1])[who] > 1
    rows, who = rows[several], who[several]
    if len(rows) < _FEW:
        return None
    sums = mass.T @ vectors
    without = sums[who] - mass[rows, who][:, None] * vectors[rows]  # leave one out, or it meets itself
    own = (without * vectors[rows]).sum(axis=1) / np.maximum(np.linalg.norm(without, axis=1), 1e-9)
    cosine = vectors[rows] @ centres(vectors, mass).T
    foreign = np.ones(cosine.shape, np.bool_)
    foreign[np.arange(len(rows)), who] = False
    foreign[:, ~mass.any(axis=0)] = False
    other = cosine[foreign]
    if not len(other):  # one person: the others are those whom no cut named
        nobody = labels[:, 0] >= _SURE
        other = (vectors[nobody] @ centres(vectors, mass).T)[:, mass.any(axis=0)].ravel()
    if len(other) < _FEW:
        return None
    middle, far = float(np.median(own)), float(np.median(other))
    # From the median deviation: the standard deviation would take in strangers, and they would widen it further.
    spread = max(_SPREAD_MIN, 1.4826 * float(np.median(np.abs(own - middle)))) * _SURE_ARE_NEAR
    if middle <= far + spread:
        return None
    return Likeness(middle, spread, far, max(_SPREAD_MIN, float(other.std())))


def complete(labels: Numbers, ratios: Numbers, scene: Scene, options: Options) -> Numbers:
    """Return labels from each face's likeness to the persons' centres and from its cluster's devices.

    A face beyond the radius that separates own from other faces here stays unknown, whatever device was there; a face
    within it stays unknown if those who look like it kept coming without the device (a double).

    Args:
        labels: (N, m + 1) votes.
        ratios: (N, m) log likelihood ratio of the tracklet's clusters.
        scene: tracklets and devices.
        options: share of unknown faces.
    """
    out = labels
    device = np.clip(ratios, -_DEVICE_MOST, _DEVICE_MOST)
    for _ in range(_COMPLETIONS):
        likeness = measure(scene.vectors, out)
        if likeness is None:
            return out
        mass = np.where(out[:, 1:] >= 0.5, out[:, 1:], 0.0)
        face = likeness.ratio(scene.vectors @ centres(scene.vectors, mass).T)
        # The device may decide between faces, never make one of a face that is not.
        scores = np.where(face > 0, face + device, np.minimum(face + device, face))
        scores[:, mass.sum(axis=0) <= 1.0] = _NEVER
        out = hold(posterior(scores, options.unknown), scene)
    return out
