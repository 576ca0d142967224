"""What may be said: who cannot be told apart, what to ask, what may teach the encoder."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.associate.base import Numbers, Question, Scene
from edgecam.types import Ints

QUESTIONS_A_DAY = 3
FACES_A_DAY = 20
"""Of one person; a bad day must not fill the training set."""
_ADMIT_FIRST, _ADMIT_LAST, _ADMIT_STEP = 0.8, 0.6, 0.05
_SHOWN_WITH_A_QUESTION = 6
_WORTH_ASKING = 0.2
"""Ambiguity from which the user is troubled: nine tenths of the mass on one name is clear enough."""
_ROUNDING = 1e-9


def seen_events(scene: Scene, labels: Numbers) -> Numbers:
    """Return (m, h) 0 or 1: the person is the likely name of a face of the event."""
    best = np.where(labels[:, 1:].max(axis=1, initial=0.0) >= 0.5, labels[:, 1:].argmax(axis=1), -1)
    return scene.seen(best.astype(np.int64), scene.persons)


def counts(scene: Scene, labels: Numbers) -> Ints:
    """Return (m, 2) events in which the person was seen with the device heard, and without it."""
    seen = seen_events(scene, labels)
    heard = (seen * (scene.heard > 0).T).sum(axis=1)
    out: Ints = np.stack([heard, seen.sum(axis=1) - heard], axis=1).astype(np.int64)
    return out


def swap_regret(seen: Numbers, scene: Scene) -> Numbers:
    """Return (m, m) by how many events it would be worse to swap two persons' devices.

    c(i, j') + c(i', j) - c(i, j) - c(i', j') for c the squared Hamming cost, which is 2 (r_i - r_i').(u_j - u_j').

    Args:
        seen: (m, h) events of each person's faces.
        scene: its devices as heard, not as corrected: the belief must not prove itself.
    """
    heard = (scene.told() * scene.heard).T
    fit = seen @ heard.T
    own = np.diag(fit)
    regret: Numbers = 2.0 * (own[:, None] + own[None] - fit - fit.T)
    return regret


def groups(scene: Scene, labels: Numbers, min_regret: float) -> Tuple[Tuple[int, ...], ...]:
    """Return persons whose devices nearly always come together, so that swapping them costs next to nothing.

    Somebody whose device was never heard is in no group, nor is anybody whose face the user confirmed.
    """
    seen = seen_events(scene, labels)
    known = scene.heard.any(axis=0)
    if scene.verified is not None:
        known[scene.verified[scene.verified > 0] - 1] = False
    either = seen.any(axis=1)
    tied = (swap_regret(seen, scene) < min_regret) & known[:, None] & known[None] & (either[:, None] | either[None])
    return _components(tied)


def _components(tied: NDArray[np.bool_]) -> Tuple[Tuple[int, ...], ...]:
    group_of: Dict[int, List[int]] = {}
    for a, b in np.argwhere(np.triu(tied, 1)):
        one, two = group_of.get(int(a), [int(a)]), group_of.get(int(b), [int(b)])
        if one is not two:
            one = one + two
            for j in one:
                group_of[j] = one
    return tuple(sorted({tuple(sorted(g)) for g in group_of.values()}))


def split(labels: Numbers, apart_not: Sequence[Tuple[int, ...]], contested: Sequence[int]) -> Numbers:
    """Return labels with a group's mass split evenly, and the mass of contested persons given to the unknown."""
    out = labels.copy()
    for group in apart_not:
        columns = [1 + j for j in group]
        out[:, columns] = out[:, columns].mean(axis=1, keepdims=True)
    for j in contested:
        out[:, 0] += out[:, 1 + j]
        out[:, 1 + j] = 0.0
    return out


def admit(labels: Numbers, days: Ints, night: int, quality: Numbers) -> NDArray[np.bool_]:
    """Return (N,) which tracklets may teach: the sure first (.8), a little less so each night (to .6).

    Args:
        labels: (N, m + 1).
        days: (N,) day number of each tracklet.
        night: nights since the association began to teach, from 0.
        quality: (N,) 0..1; of a person's faces of one day the best twenty are taken.
    """
    least = max(_ADMIT_LAST, _ADMIT_FIRST - _ADMIT_STEP * night)
    out = np.zeros(len(labels), np.bool_)
    if labels.shape[1] < 2:
        return out
    best = labels[:, 1:].argmax(axis=1)
    sure = labels[:, 1:].max(axis=1) >= least - _ROUNDING
    taken: Dict[Tuple[int, int], int] = {}
    for i in np.lexsort((np.arange(len(labels)), -quality)):
        key = (int(best[i]), int(days[i]))
        if sure[i] and taken.get(key, 0) < FACES_A_DAY:
            taken[key] = taken.get(key, 0) + 1
            out[i] = True
    return out


def questions(
    scene: Scene, labels: Numbers, clusters: Ints, tied: Sequence[Tuple[int, ...]], contested: Sequence[int]
) -> Tuple[Question, ...]:
    """Return at most three questions, by ambiguity times the events they would settle.

    Args:
        scene: tracklets.
        labels: (N, m + 1), group mass split.
        clusters: (N,) faces that look like one person, from 0.
        tied: groups of persons who cannot be told apart.
        contested: persons whose device two faces carry.
    """
    found: List[Question] = []
    for c in range(int(clusters.max(initial=-1)) + 1):
        rows = np.flatnonzero(clusters == c)
        if scene.verified is not None and scene.verified[rows].any():
            continue
        mass = labels[rows].mean(axis=0)
        ambiguity = 1.0 - abs(2.0 * float(mass[1:].max(initial=0.0)) - 1.0)
        likely = tuple(int(j) for j in np.argsort(-mass[1:], kind="stable") if mass[1 + j] >= 0.1)
        for group in tied:
            if set(group) & set(likely):
                likely = tuple(sorted(set(group) | set(likely)))
        if contested and not likely:
            likely, ambiguity = tuple(contested), 1.0
        events = len(np.unique(scene.events[rows][scene.events[rows] >= 0]))
        if likely and ambiguity >= _WORTH_ASKING:
            typical = np.argsort(-(scene.vectors[rows] @ scene.vectors[rows].mean(axis=0)), kind="stable")
            shown = tuple(int(rows[i]) for i in typical[:_SHOWN_WITH_A_QUESTION])
            found.append(Question(likely, shown, float(ambiguity * events)))
    found.sort(key=lambda q: (-q.worth, q.tracklets))
    return tuple(found[:QUESTIONS_A_DAY])
