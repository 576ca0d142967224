"""AutoTune's loop (Lu et al. 2019): cluster, assign, vote, tune, correct the attendance, again until nothing moves."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

import numpy as np

from edgecam.associate import attendance, tell
from edgecam.associate.base import Association, Numbers, Options, Round, Scene, Tuner, named
from edgecam.associate.cluster import cut, cut_sizes, grow, joint_distances
from edgecam.associate.vote import Votes, complete, hold, vote
from edgecam.types import Ints

_CONTESTED = 0.5
"""Another face with half of the winner's evidence for the same device: two people carry it."""


def associate(scene: Scene, options: Optional[Options] = None, tuner: Optional[Tuner] = None) -> Association:
    """Return who the tracklets are, by the devices that were heard when they were seen.

    Without a tuner one pass is made and the given vectors are kept. The same input gives the same output.
    """
    options = options or Options()
    reason = _why_not(scene, options)
    if reason:
        return _nobody(scene, reason, options)
    belief, now = scene.heard.astype(np.float64), scene
    rounds: List[Round] = []
    before: Optional[Ints] = None
    for iteration in range(options.iterations):
        heard = belief if options.corrected_tree else scene.heard
        beta = max(options.beta - iteration * options.beta_step, 0.0)
        tree = grow(joint_distances(now.vectors, now.events, heard, options.mode, beta, now.apart))
        votes, labels = _labels(tree, now, belief, options)
        names = named(labels, (), options.name_from)
        churn = 1.0 if before is None else float((names != before).mean())
        fresh = attendance.update(now, belief, labels, options)
        rounds.append(Round(churn, attendance.rms(fresh, belief), float((names >= 0).mean()), votes.missed))
        belief, before = fresh, names
        calm = churn < options.calm_churn or (iteration > 0 and rounds[-1].rms <= options.calm_rms)
        if tuner is None or calm or iteration + 1 == options.iterations:
            return _told(now, options, tree, votes, labels, belief, rounds)
        now = replace(now, vectors=tuner(labels))
    raise AssertionError("the last iteration returns")


def _labels(tree: Numbers, scene: Scene, belief: Numbers, options: Options) -> Tuple[Votes, Numbers]:
    sizes = options.cuts or cut_sizes(scene.persons, len(scene.vectors))
    votes = vote(tree, tuple(min(size, len(scene.vectors)) for size in sizes), scene, belief, options)
    labels = votes.labels
    if options.complete:
        labels = complete(hold(labels, scene), votes.ratios, scene, options)
    return votes, labels


def _told(
    scene: Scene,
    options: Options,
    tree: Numbers,
    votes: Votes,
    labels: Numbers,
    belief: Numbers,
    rounds: List[Round],
) -> Association:
    contested: Tuple[int, ...] = ()
    tied: Tuple[Tuple[int, ...], ...] = ()
    if options.rule == "likelihood":
        confirmed = set() if scene.verified is None else {int(v) - 1 for v in scene.verified if v > 0}
        contested = tuple(int(j) for j in np.flatnonzero(votes.rivals >= _CONTESTED) if int(j) not in confirmed)
        tied = tell.groups(scene, labels, options.min_regret_events)
    together = tell.counts(scene, labels)
    labels = tell.split(labels, tied, contested)
    if options.rule == "likelihood":
        labels = hold(labels, scene)
    clusters = cut(tree, min(2 * scene.persons, len(scene.vectors)))
    asked = tell.questions(scene, labels, clusters, tied, contested)
    return Association(
        labels, tied, contested, together, belief, scene.vectors, asked, tuple(rounds), "", options.name_from
    )


def _why_not(scene: Scene, options: Options) -> str:
    faced = len(np.unique(scene.events[scene.events >= 0]))
    if not scene.persons:
        return "cannot tell: no device is bound to a person"
    if not len(scene.vectors):
        return "cannot tell: no faces"
    if not scene.heard.any():
        return "cannot tell: no device was heard"
    if faced < options.min_events:
        return f"cannot tell: {faced} events with faces, {options.min_events} are needed"
    return ""


def _nobody(scene: Scene, reason: str, options: Options) -> Association:
    """Return unknown for all but what the user said."""
    labels = np.zeros((len(scene.vectors), scene.persons + 1))
    labels[:, 0] = 1.0
    none = np.zeros((scene.persons, 2), np.int64)
    return Association(
        hold(labels, scene), (), (), none, scene.heard, scene.vectors, (), (), reason, options.name_from
    )  # fmt: skip
