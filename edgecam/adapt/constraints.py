"""What is known of faces without a label: which are surely one person, and which surely two (`algorithms.md` 1B.4-6).

One track is one person. Two faces before one camera at once are two people. A like face in like clothes, on one day at
one place, is the same person, if of pairs known to be two people one in a thousand at most is as like, and one in a
thousand dressed as alike. What the user said holds. And what follows: same(A, C) and apart(B, C) make apart(A, B).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Dict, Iterable, Iterator, List, Sequence, Set, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.adapt.samples import Track
from edgecam.types import Floats, Ints

_CERTAIN = 0.999
"""Quantile of the cosines of pairs known to be two people; only what exceeds it is joined (`algorithms.md` 4B.5).

Of fewer than a thousand pairs it is about the largest: one of n + 1 others would exceed that, too. Hence faces and
clothes must each do so; clothes alone would join two people in the same uniform.
"""
_KNOWN_MIN = 20
"""Of fewer such pairs nothing is concluded, and clothes join nobody."""


@dataclass(frozen=True, eq=False)
class Constraints:
    """N tracks in groups that are surely one person each."""

    group: Ints
    """(N,) int64 group of each track, 0..G-1."""

    apart: Ints
    """(C, 2) int64 pairs of tracks of two people, the smaller first: seen at once, said to be, or what follows."""

    joined: int
    """Pairs of tracks that clothes made one person."""

    dropped: int
    """What clothes, or the user, said against a stronger sign, and was left out."""

    alike: Tuple[float, float]
    """Cosines of faces and of clothes that a pair must exceed to be joined; NaN where too little is known."""


def constrain(tracks: Sequence[Track], vectors: Floats) -> Constraints:
    """Find what is known of these tracks.

    Args:
        tracks: N of them.
        vectors: (N, D) unit vectors of their means, by the head in service.
    """
    seen_at_once = together(tracks)
    known = _Known(len(tracks))
    for a, b in [*seen_at_once.tolist(), *_said_apart(tracks)]:
        known.part(a, b)
    dropped = sum(not known.join(a, b) for a, b in _said_same(tracks))
    alike, pairs = dressed_alike(tracks, vectors, seen_at_once)
    joined = 0
    for a, b in pairs.tolist():
        if known.root(a) == known.root(b):
            continue
        if known.join(a, b):
            joined += 1
        else:
            dropped += 1
    return Constraints(known.groups(), known.pairs(), joined, dropped, alike)


def together(tracks: Sequence[Track]) -> Ints:
    """Return (C, 2) pairs of tracks that one camera saw at the same time: two people (ST eq. 2)."""
    by_view: Dict[Tuple[str, str], List[int]] = {}
    for i, track in enumerate(tracks):
        by_view.setdefault((track.visit, track.camera), []).append(i)
    pairs = [
        (a, b)
        for group in by_view.values()
        for a, b in combinations(group, 2)
        if min(tracks[a].last_s, tracks[b].last_s) > max(tracks[a].first_s, tracks[b].first_s)
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def dressed_alike(tracks: Sequence[Track], vectors: Floats, apart: Ints) -> Tuple[Tuple[float, float], Ints]:
    """Return which cosines of faces and clothes make one person, and the (S, 2) pairs beyond both, the likest first.

    Only tracks of one place and day are compared; grey ones, and those of an unset clock, not at all.

    Args:
        tracks: N of them.
        vectors: (N, D) unit vectors.
        apart: (C, 2) pairs known to be two people; with fewer than 20 of them dressed nothing is said (NaN, no pairs).
    """
    dressed = np.array([track.clothes.size > 0 and track.day >= 0 for track in tracks], np.bool_)
    known = apart[dressed[apart].all(axis=1)]
    if len(known) < _KNOWN_MIN:
        return (float("nan"), float("nan")), np.zeros((0, 2), np.int64)
    faces, worn = (float(np.quantile(cosines, _CERTAIN)) for cosines in _cosines(tracks, vectors, known))
    here: Dict[Tuple[str, int], List[int]] = {}
    for i in np.flatnonzero(dressed).tolist():
        here.setdefault((tracks[i].place, tracks[i].day), []).append(i)
    pairs = np.array([pair for group in here.values() for pair in combinations(group, 2)], np.int64).reshape(-1, 2)
    of_faces, of_clothes = _cosines(tracks, vectors, pairs)
    order = np.argsort(-(of_faces + of_clothes), kind="stable")
    return (faces, worn), pairs[order[(of_faces[order] > faces) & (of_clothes[order] > worn)]]


def _cosines(tracks: Sequence[Track], vectors: Floats, pairs: Ints) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (C,) the cosines of the faces of (C, 2) pairs, and (C,) those of the clothes."""
    both = [(vectors[a] @ vectors[b], tracks[a].clothes @ tracks[b].clothes) for a, b in pairs.tolist()]
    columns = np.array(both, np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _said_same(tracks: Sequence[Track]) -> Iterator[Tuple[int, int]]:
    last: Dict[str, int] = {}
    for i, track in enumerate(tracks):
        if track.verified and track.person_id is not None:
            if track.person_id in last:
                yield last[track.person_id], i
            last[track.person_id] = i


def _said_apart(tracks: Sequence[Track]) -> Iterator[Tuple[int, int]]:
    """Yield what the user's words make two people; of those who are nobody's it is not known who is who."""
    said = [i for i, track in enumerate(tracks) if track.verified]
    for a, b in combinations(said, 2):
        if tracks[a].person_id != tracks[b].person_id:
            yield a, b


class _Known:
    """Groups that grow, and which of them are two people."""

    def __init__(self, count: int) -> None:
        self._root = list(range(count))
        self._rivals: Dict[int, Set[int]] = {}

    def root(self, i: int) -> int:
        """Return what stands for the group of i."""
        while self._root[i] != i:
            self._root[i] = self._root[self._root[i]]
            i = self._root[i]
        return i

    def part(self, a: int, b: int) -> None:
        """Note that two groups are two people."""
        one, other = self.root(a), self.root(b)
        self._rivals.setdefault(one, set()).add(other)
        self._rivals.setdefault(other, set()).add(one)

    def join(self, a: int, b: int) -> bool:
        """Make two groups one; return False, and change nothing, if they are two people."""
        one, other = sorted((self.root(a), self.root(b)))
        if other in self._rivals.get(one, ()):
            return False
        if one != other:
            self._root[other] = one
            for rival in self._rivals.pop(other, set()):
                self._rivals[rival].discard(other)
                self._rivals[rival].add(one)
                self._rivals.setdefault(one, set()).add(rival)
        return True

    def groups(self) -> Ints:
        """Return (N,) the group of each, numbered from 0."""
        roots = [self.root(i) for i in range(len(self._root))]
        return np.unique(np.array(roots, np.int64), return_inverse=True)[1].astype(np.int64).reshape(-1)

    def pairs(self) -> Ints:
        """Return (C, 2) every pair of two people."""
        members: Dict[int, List[int]] = {}
        for i in range(len(self._root)):
            members.setdefault(self.root(i), []).append(i)
        found = sorted(set(self._all(members)))
        return np.array(found, np.int64).reshape(-1, 2)

    def _all(self, members: Dict[int, List[int]]) -> Iterable[Tuple[int, int]]:
        for one, rivals in self._rivals.items():
            for other in rivals:
                for a in members[one]:
                    for b in members[other]:
                        yield (a, b) if a < b else (b, a)
