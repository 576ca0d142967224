"""One tree of faces, cut at many heights.

Average linkage over the joint distance of face and attendance; the cuts of one tree are what refitting would give.
Memory: two arrays of n (n - 1) / 2 doubles, so tracklets, not frames: 15,000 of them take 1.9 GB.
"""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from edgecam.associate.base import Mode, Numbers
from edgecam.types import Floats, Ints

_EPS = 0.01
_BLOCK = 512
_APART = 4.0
"""Distance of two faces seen at once; two unit vectors are at most 2 apart."""
_CUTS = 31
_FEW, _MORE = 7, 20
"""Below so many persons the last cut has so many clusters more: strangers need room."""


def joint_distances(
    vectors: Floats, events: Ints, attendance: Numbers, mode: Mode, beta: float, apart: Ints
) -> Numbers:
    """Return (n (n - 1) / 2,) distances in scipy's condensed order.

    `plain`: Euclidean D. `paper` (eq. of sec. 4.1): D + beta (OR - AND). `code`: sqrt(D^2 + beta^2 |u - u'|^2).
    `prior`: D - beta log(.01 + sum_j pi_j pi'_j), pi = u / sum u: the chance that two draws are one person.

    Args:
        vectors: (n, D) unit vectors.
        events: (n,) row of attendance; -1 adds nothing.
        attendance: (h, m) 0..1.
        mode: above.
        beta: weight of attendance.
        apart: (C, 2) pairs that are two people.
    """
    n = len(vectors)
    extra = _between_events(attendance, mode)
    out = np.empty(n * (n - 1) // 2)
    for start in range(0, n, _BLOCK):
        rows = vectors[start : start + _BLOCK]
        squared = np.maximum(2.0 - 2.0 * (rows @ vectors[start:].T).astype(np.float64), 0.0)
        if mode == "code":
            squared += beta * beta * extra[np.ix_(events[start : start + _BLOCK], events[start:])]
        block = np.sqrt(squared)
        if mode in ("paper", "prior"):
            block += beta * extra[np.ix_(events[start : start + _BLOCK], events[start:])]
        for i in range(len(rows)):
            at = _row_start(start + i, n)
            # The chance of `prior` may be a little over 1: the same face twice would be less than nothing apart.
            out[at : at + n - start - i - 1] = np.maximum(block[i, i + 1 :], 0.0)
    for a, b in apart:
        i, j = (int(a), int(b)) if a < b else (int(b), int(a))
        out[_row_start(i, n) + j - i - 1] = _APART
    return out


def _row_start(i: int, n: int) -> int:
    return i * n - i * (i + 1) // 2


def _between_events(attendance: Numbers, mode: Mode) -> Numbers:
    """Return (h + 1, h + 1) what two events add; the last row and column (event -1) are neutral."""
    h = len(attendance)
    out = np.zeros((h + 1, h + 1))
    if mode == "prior":
        share = attendance / np.maximum(attendance.sum(axis=1, keepdims=True), 1e-9)
        out[:h, :h] = -np.log(_EPS + share @ share.T)
        out[h, :] = out[:, h] = float(np.median(out[:h, :h])) if h else 0.0
    elif mode == "paper":
        for k in range(h):
            out[k, :h] = np.abs(attendance - attendance[k]).sum(axis=1)  # max - min: OR - AND
    elif mode == "code":
        for k in range(h):
            out[k, :h] = ((attendance - attendance[k]) ** 2).sum(axis=1)
    return out


def grow(distances: Numbers) -> Numbers:
    """Return scipy's (n - 1, 4) linkage matrix."""
    from scipy.cluster.hierarchy import linkage

    tree: Numbers = linkage(distances, "average") if len(distances) else np.zeros((0, 4))
    return tree


def cut(tree: Numbers, clusters: int) -> Ints:
    """Return (n,) cluster numbers from 0; at most so many clusters."""
    from scipy.cluster.hierarchy import fcluster

    if not len(tree):
        return np.zeros(1, np.int64)
    found: Ints = fcluster(tree, clusters, "maxclust").astype(np.int64) - 1
    return found


def cut_sizes(persons: int, tracklets: int) -> Tuple[int, ...]:
    """Return the numbers of clusters to try: 2 m..5 m, for few persons up to m + 20, never more than tracklets."""
    last = 5 * persons if persons >= _FEW else max(5 * persons, persons + _MORE)
    sizes = np.unique(np.linspace(2 * persons, last, _CUTS).round().astype(int))
    return tuple(sorted({int(min(size, tracklets)) for size in sizes}))


def cuts(tree: Numbers, sizes: Tuple[int, ...]) -> Iterator[Ints]:
    """Yield (n,) cluster numbers, a cut at a time."""
    for size in sizes:
        yield cut(tree, size)
