"""Which cluster is whose: the paper's Hamming cost, and a likelihood ratio.

A phone is often silent, and a cluster holds only part of its person's events; so the product asks, over the events in
which a cluster was SEEN, how much likelier its device record is if the device's owner is in it than if not:
S = sum_k w_k [u_k log((1 - r) / p) + (1 - u_k) log(r / (1 - p))], r the rate of missed devices, p how often the
device is heard anyway. r is estimated by expectation maximisation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgecam.associate.base import Numbers, Rule
from edgecam.types import Ints

_MISSED_AT_FIRST, _MISSED_WEIGHT = 0.3, 10.0
"""Where the estimate starts, and how many events that start is worth."""
_MISSED_RANGE = (0.02, 0.9)
_ROUNDS = 5


class Evidence(NamedTuple):
    """What devices say of clusters."""

    scores: Numbers
    """(C, m) log likelihood ratio against "nobody with a device"."""
    missed: float
    """Estimated r."""


def evidence(seen: Numbers, heard: Numbers, weight: Numbers, unknown: float) -> Evidence:
    """Return the likelihood ratios of C clusters and m devices, with r estimated from them.

    Args:
        seen: (C, h) 0 or 1.
        heard: (h, m) 0..1.
        weight: (h, m) 0..1.
        unknown: prior share of clusters that are nobody's, in (0, 1).
    """
    h = max(len(heard), 1)
    base = (weight * heard).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)
    base = np.clip(base, 0.5 / h, 1.0 - 0.5 / h)
    hits, misses = seen @ (weight * heard), seen @ (weight * (1.0 - heard))
    missed = _MISSED_AT_FIRST
    scores = _ratio(hits, misses, missed, base)
    for _ in range(_ROUNDS):
        mass = posterior(scores, unknown)[:, 1:]
        silent, all_ = float((mass * misses).sum()), float((mass * (hits + misses)).sum())
        missed = (silent + _MISSED_AT_FIRST * _MISSED_WEIGHT) / (all_ + _MISSED_WEIGHT)
        missed = float(np.clip(missed, *_MISSED_RANGE))
        scores = _ratio(hits, misses, missed, base)
    return Evidence(scores, missed)


def _ratio(hits: Numbers, misses: Numbers, missed: float, base: Numbers) -> Numbers:
    scores: Numbers = hits * np.log((1.0 - missed) / base) + misses * np.log(missed / (1.0 - base))
    return scores


def posterior(scores: Numbers, unknown: float) -> Numbers:
    """Return (C, m + 1) chances of nobody and of each person, from (C, m) log likelihood ratios.

    >>> posterior(np.array([[np.log(9.0)]]), 0.5).round(2)
    array([[0.1, 0.9]])
    """
    rows, persons = scores.shape
    joint = np.empty((rows, persons + 1))
    joint[:, 0] = np.log(unknown)
    joint[:, 1:] = scores + np.log((1.0 - unknown) / max(persons, 1))
    joint -= joint.max(axis=1, keepdims=True)
    chances = np.exp(joint)
    chances /= chances.sum(axis=1, keepdims=True)
    return chances


def owners(scores: Numbers) -> Ints:
    """Return (C,) person of each cluster, -1 for none: the best one-to-one choice among positive scores."""
    from scipy.optimize import linear_sum_assignment

    out = np.full(len(scores), -1, np.int64)
    gain = np.maximum(scores, 0.0)
    rows, columns = linear_sum_assignment(-gain)
    good = gain[rows, columns] > 0
    out[rows[good]] = columns[good]
    return out


def nearest_owners(seen: Numbers, heard: Numbers, rule: Rule) -> Ints:
    """Return (C,) person of each cluster by the paper's cost, -1 for none: m clusters survive.

    Args:
        seen: (C, h) 0 or 1.
        heard: (h, m) 0..1.
        rule: `squared` (eq. 1) or `norm` (the published code).
    """
    from scipy.optimize import linear_sum_assignment

    cost = (seen**2).sum(axis=1)[:, None] - 2.0 * seen @ heard + (heard**2).sum(axis=0)[None]
    if rule == "norm":
        cost = np.sqrt(np.maximum(cost, 0.0))
    rows, columns = linear_sum_assignment(cost)
    out = np.full(len(seen), -1, np.int64)
    out[rows] = columns
    return out
