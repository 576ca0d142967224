"""The belief who was there, corrected by who was seen."""

from __future__ import annotations

import numpy as np

from edgecam.associate.base import Numbers, Options, Scene

_FLOOR = 0.2
"""A device that was heard never says less than this."""
_STEP = 0.05
_SURE, _LOST = 0.4, 0.95
"""Distances to a person's centre at which the published code is sure, and gives up."""


def shown(scene: Scene, labels: Numbers) -> Numbers:
    """Return (h, m) chance that the person was shown at least once: 1 - prod(1 - w y) over the event's tracklets."""
    h, m = scene.heard.shape
    missing = np.zeros((h, m))
    timed = scene.events >= 0
    quality = np.ones(len(labels)) if scene.quality is None else scene.quality
    mass = np.clip(labels[timed, 1:] * quality[timed, None], 0.0, 1.0 - 1e-6)
    np.add.at(missing, scene.events[timed], np.log1p(-mass))
    chance: Numbers = 1.0 - np.exp(missing)
    return chance


def update(scene: Scene, belief: Numbers, labels: Numbers, options: Options) -> Numbers:
    """Return (h, m) the belief a step nearer to what was seen; events without faces stay.

    `ours`: towards the chance of being shown, quicker up than down, never under .2 where the device was heard.
    `paper`: eq. 6, u - gamma (u - mean y), as printed: everybody in a full event is shrunk.
    `code`: .05 up for who is seen, weighted by how near the face is to the centre, .05 down for who is not.
    """
    out = belief.copy()
    faced = np.unique(scene.events[scene.events >= 0])
    if not len(faced):
        return out
    if options.update == "paper":
        target = _means(scene, labels)
        out[faced] -= options.gamma_up * (belief - target)[faced]
    elif options.update == "code":
        near = _confidence(scene, labels)
        step = np.where(near > 0, _STEP * near, np.where(belief > 0, -_STEP, 0.0))
        out[faced] = np.clip(belief + step, 0.0, 1.0)[faced]
    else:
        target = shown(scene, labels)
        pace = np.where(target > belief, options.gamma_up, options.gamma_down)
        moved = np.maximum(belief + pace * (target - belief), np.minimum(scene.heard, _FLOOR))
        out[faced] = moved[faced]
    return out


def _means(scene: Scene, labels: Numbers) -> Numbers:
    h, m = scene.heard.shape
    sums, counts = np.zeros((h, m)), np.zeros(h)
    timed = scene.events >= 0
    np.add.at(sums, scene.events[timed], labels[timed, 1:])
    np.add.at(counts, scene.events[timed], 1.0)
    means: Numbers = sums / np.maximum(counts, 1.0)[:, None]
    return means


def _confidence(scene: Scene, labels: Numbers) -> Numbers:
    """Return (h, m) the nearest face's confidence, by distance to the centre of those voted the person's."""
    out = np.zeros(scene.heard.shape)
    centre = labels[:, 1:].T @ scene.vectors
    lengths = np.linalg.norm(centre, axis=1, keepdims=True)
    cosine = scene.vectors @ (centre / np.maximum(lengths, 1e-9)).T
    best = cosine.argmax(axis=1)
    distance = np.sqrt(np.maximum(2.0 - 2.0 * cosine.max(axis=1), 0.0))
    sure = 1.0 - (np.clip((distance - _SURE) / (_LOST - _SURE), 0.0, 1.0)) ** 2
    timed = scene.events >= 0
    np.maximum.at(out, (scene.events[timed], best[timed]), sure[timed])
    return out


def rms(after: Numbers, before: Numbers) -> float:
    """Return the root mean square change per entry; 0 without entries."""
    return float(np.sqrt(np.mean((after - before) ** 2))) if after.size else 0.0


def brier(belief: Numbers, truth: Numbers) -> float:
    """Return the mean squared error of a belief against 0 or 1."""
    return float(np.mean((belief - truth) ** 2))
