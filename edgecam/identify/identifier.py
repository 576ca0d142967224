"""Who is it? Prototypes and a linear SVM over the household, and a threshold that strangers set.

A face is compared with every person's prototypes by cosine. What a cosine is worth differs from person to person
(some faces are everybody's neighbour), so each person's cosines are standardised by those of virtual strangers
(z-norm, Auckenthaler et al. 2000). The highest standardised score is thresholded at the quantile of the strangers'
highest scores that the false-accept target names, times a tail factor, because drawn people are less extreme than
real ones. A linear SVM over the enrolled people gives a second opinion: where it disagrees, both names are told.

Strangers are drawn by day. A mean of infrared faces is near everybody who rings at night and says nothing of it by day,
so whoever has daylight faces is matched by these; infrared ones help once the household shows what its light does to
faces, and that is taken out (`light.py`). Whom cameras here saw in infrared alone is not named before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.config import IdentifyConfig
from edgecam.errors import ShapeError
from edgecam.identify.light import Light, learn_light, unit
from edgecam.identify.recognizability import Recognizability
from edgecam.identify.svm import fit_linear_svm
from edgecam.types import Floats, Match, Verdict

_MEAN, _SPREAD = 0.12, 0.09
"""A typical stranger's cosine; similarity = _MEAN + _SPREAD * score, so that it reads like a cosine."""
_TAIL = 1.13
"""Real strangers reach this much higher than drawn ones at 0.3 %: learnt on one half of the calibration people and
checked on the other, both ways (docs/recognition.md)."""
_LEAST_RADIUS = 0.38
"""No person is accepted under this cosine, whatever the virtual strangers say: people before one camera share its light
and look more alike than public photos do. On five other sets (films, series, clips, ORL, family photos) this removes
most of the strangers still named and loses no enrolled face; 0.40 does lose some."""
_EARLY = 1.0 / 3.0
"""An early name spends a third of the false-accept target."""
_LIT_FACES, _LIT_PEOPLE = 3, 2
"""So many faces in each light of so many people show what infrared does; of one person alone, too much is their own."""
_INFRARED_SHARE = 0.5
"""Weight of a person's infrared faces beside the daylight ones, once the light is taken out: more names more strangers
(docs/recognition.md)."""
_SVM_PEOPLE = 60
"""Above so many people the SVM's opinion takes longer than it is worth; the prototypes stand alone."""
_SVM_C = 1.0
_LOCAL_MIN = 30
"""Fewer local strangers say nothing about rare events."""


@dataclass(frozen=True, eq=False)
class Household:
    """The enrolled faces, in one encoder's vectors."""

    people: Tuple[str, ...]
    """Person ids."""

    owner: NDArray[np.int64]
    """(N,) index into `people` of each face."""

    vectors: Floats
    """(N, D) unit vectors."""

    infrared: NDArray[np.bool_]
    """(N,) whether the face was seen in infrared."""

    by_night: Tuple[str, ...] = ()
    """Ids of the people of whom there is only what cameras here saw in infrared."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        n = len(self.vectors)
        if self.owner.shape != (n,) or self.infrared.shape != (n,) or self.vectors.ndim != 2:
            raise ShapeError(f"want {n} owners and flags, got {self.owner.shape} {self.infrared.shape}")

    @staticmethod
    def of(faces: Sequence[Tuple[str, Floats, bool]], by_night: Sequence[str] = ()) -> Household:
        """Build from (person id, (D,) vector, infrared) rows."""
        people = tuple(dict.fromkeys(person for person, _, _ in faces))
        index = {person: i for i, person in enumerate(people)}
        owner = np.array([index[person] for person, _, _ in faces], np.int64)
        vectors = np.stack([v for _, v, _ in faces]) if faces else np.zeros((0, 1), np.float32)
        infrared = np.array([ir for _, _, ir in faces], np.bool_)
        return Household(people, owner, vectors.astype(np.float32), infrared, tuple(by_night))


@dataclass(frozen=True)
class Calibration:
    """What the thresholds rest on, for `edgecam calibrate` and the log."""

    target_fpir: float
    threshold: float
    """Similarity from which a face is known."""
    early_threshold: float
    virtual_strangers: int
    local_strangers: int
    local_fpir: Optional[Tuple[float, float]]
    """95 % Clopper-Pearson interval of the local strangers accepted at the virtual threshold; None if too few."""
    radius: Dict[str, float]
    """Person id -> cosine to the prototype from which a face is taken for this person."""
    nearest_pair: Optional[Tuple[str, str, float]]
    """The two enrolled people most alike, with the similarity of one to the other."""
    by_night: Tuple[str, ...] = ()
    """Who is known by infrared or grey faces alone while nobody shows what infrared does: if it is infrared, many a
    stranger at night looks like them (docs/recognition.md)."""


class Identifier:
    """Decides who a face, or a track of faces, is.

    Args:
        household: the enrolled; may be empty.
        strangers: unit vectors of virtual strangers of the same encoder, in (M_i, D) chunks; not kept.
        config: target and margin.
        recognizability: kept for whoever weighs faces; of the same encoder.
        local: (L, D) unit vectors of real strangers seen here, one a visit; L may be 0.
    """

    def __init__(
        self,
        household: Household,
        strangers: Iterable[Floats],
        config: IdentifyConfig,
        recognizability: Recognizability,
        local: Optional[Floats] = None,
    ) -> None:
        self.people = household.people
        self.recognizability = recognizability
        self._margin = config.min_margin
        self._light: Optional[Light] = None
        self._unsure: FrozenSet[str] = frozenset()
        self._mean, self._sd = np.zeros(0), np.ones(0)
        self.calibration = Calibration(config.target_fpir, 1.0, 1.0, 0, 0, None, {}, None)
        if household.people:
            chunks = iter(strangers)
            first = next(chunks)
            self._light = _light_of(household, first.mean(axis=0))
            self._unsure = frozenset(household.by_night if self._light is None else ())
            self._prototypes, self._lit = _prototypes(household, self._light)
            self._svm = _second_opinion(household, self._light)
            self._calibrate(chain([first], chunks), config.target_fpir, local)

    def _calibrate(self, strangers: Iterable[Floats], target: float, local: Optional[Floats]) -> None:
        lit: List[Floats] = []
        cast: List[Floats] = []
        for chunk in strangers:
            lit.append(self._cosines(chunk))
            if self._light is not None:
                cast.append(self._cosines(self._light.cast(chunk)))
        cosines = np.concatenate(lit)
        self._mean, self._sd = cosines.mean(axis=0), np.maximum(cosines.std(axis=0), 1e-3)
        if cast:
            dark, lone = np.concatenate(cast), ~self._lit
            self._mean[lone] = np.maximum(self._mean, dark.mean(axis=0))[lone]
            self._sd[lone] = np.maximum(self._sd, dark.std(axis=0))[lone]
        highest = np.sort(self._standardised(cosines).max(axis=1))[::-1]

        def level(share: float) -> float:
            return _MEAN + _TAIL * (float(highest[int(share * len(highest))]) - _MEAN)

        threshold, early = level(target), level(target * _EARLY)
        interval, count = None, 0 if local is None else len(local)
        if local is not None and count >= _LOCAL_MIN:
            seen = np.sort(self.scores(local).max(axis=1))[::-1]
            accepted = int(np.sum(seen >= threshold))
            interval = clopper_pearson(accepted, count)
            if interval[0] > target:  # this door's strangers are surely worse than the virtual ones
                needed = float(seen[int(target * count)]) + 1e-6
                early, threshold = early + max(0.0, needed - threshold), max(threshold, needed)
        z = (threshold - _MEAN) / _SPREAD
        self._mean = np.maximum(self._mean, _LEAST_RADIUS - z * self._sd)
        grey = () if self._light else tuple(person for person, day in zip(self.people, self._lit) if not day)
        self.calibration = Calibration(
            target, threshold, early, len(cosines), count, interval, self._radius(threshold), self._nearest_pair(), grey
        )  # fmt: skip

    def _radius(self, threshold: float) -> Dict[str, float]:
        z = (threshold - _MEAN) / _SPREAD
        return {person: float(min(1.0, m + z * sd)) for person, m, sd in zip(self.people, self._mean, self._sd)}

    def _nearest_pair(self) -> Optional[Tuple[str, str, float]]:
        if len(self.people) < 2:
            return None
        alike = self.scores(self._prototypes)
        np.fill_diagonal(alike, -2.0)
        a, b = np.unravel_index(int(np.argmax(alike)), alike.shape)
        return self.people[a], self.people[b], float(alike[a, b])

    def scores(self, vectors: Floats) -> Floats:
        """Return (N, P) similarities of unit vectors to the people, -1..1."""
        return self._standardised(self._cosines(vectors))

    def _cosines(self, vectors: Floats) -> Floats:
        """Return (N, P) cosines to the prototypes, to those of daylight without the light."""
        if self._light is None:
            return vectors @ self._prototypes.T
        return np.where(self._lit, self._light.without(vectors) @ self._prototypes.T, vectors @ self._prototypes.T)

    def _standardised(self, cosines: Floats) -> Floats:
        out: Floats = np.clip(_MEAN + _SPREAD * (cosines - self._mean) / self._sd, -1.0, 1.0).astype(np.float32)
        return out

    def match(self, vectors: Floats, weights: Optional[Floats] = None) -> Match:
        """Judge one track.

        Args:
            vectors: (N, D) unit vectors of the same track, N >= 1.
            weights: (N,) positive; equal if None. Scores are averaged, not maximised: the best of N looks would
                multiply the false accepts by up to N.
        """
        if not self.people:
            return Match(Verdict.UNKNOWN, None, None, -1.0, (), "nobody is enrolled")
        fused = np.average(self.scores(vectors), axis=0, weights=weights)
        order = np.argsort(-fused)
        best, similarity = int(order[0]), float(fused[order[0]])
        nearest = self.people[best]
        if similarity < self.calibration.threshold:
            return Match(Verdict.UNKNOWN, None, nearest, similarity, (), "unlike everybody enrolled")
        rivals = [int(i) for i in order[1:] if similarity - fused[i] < self._margin]
        if not rivals:
            voted = self._vote(vectors, weights)
            rivals = [voted] if voted is not None and voted != best else []
        if rivals:
            names = (nearest, *(self.people[i] for i in rivals[:3]))
            return Match(Verdict.UNCERTAIN, None, nearest, similarity, names, "looks like more than one person")
        if nearest in self._unsure:
            return Match(Verdict.UNCERTAIN, None, nearest, similarity, (nearest,), "known by infrared faces alone")
        return Match(Verdict.KNOWN, nearest, nearest, similarity, (), "")

    def sure(self, match: Match) -> bool:
        """Whether a match also holds at the early threshold."""
        return match.verdict is Verdict.KNOWN and match.similarity >= self.calibration.early_threshold

    def _vote(self, vectors: Floats, weights: Optional[Floats]) -> Optional[int]:
        """Return whom the SVM votes for; None without one."""
        if self._svm is None:
            return None
        planes, offsets = self._svm
        vectors = vectors if self._light is None else self._light.without(vectors)
        return int(np.argmax(np.average(vectors @ planes.T + offsets, axis=0, weights=weights)))


def clopper_pearson(k: int, n: int) -> Tuple[float, float]:
    """Return the exact 95 % interval of a rate of which k of n were seen.

    >>> tuple(round(x, 3) for x in clopper_pearson(0, 158))
    (0.0, 0.023)
    """
    from scipy.special import betaincinv  # 20 MB that most boxes never need

    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))
    return low, high


def _light_of(household: Household, mean: Floats) -> Optional[Light]:
    """Return what infrared does to this household's faces; None if too few people have enough faces in both lights."""
    day, night = [], []
    for i in range(len(household.people)):
        mine, infrared = household.owner == i, household.infrared
        if min(int((mine & infrared).sum()), int((mine & ~infrared).sum())) >= _LIT_FACES:
            day.append(household.vectors[mine & ~infrared].mean(axis=0))
            night.append(household.vectors[mine & infrared].mean(axis=0))
    return learn_light(np.stack(day), np.stack(night), mean) if len(day) >= _LIT_PEOPLE else None


def _prototypes(household: Household, light: Optional[Light]) -> Tuple[Floats, NDArray[np.bool_]]:
    """Return a (D,) unit mean a person, and whether it is of daylight faces.

    Faces without any colour may be grey photos: who has no others is taken at these.
    """
    rows: List[Floats] = []
    lit: List[bool] = []
    for i in range(len(household.people)):
        mine = household.owner == i
        day, night = household.vectors[mine & ~household.infrared], household.vectors[mine & household.infrared]
        mean = (day if len(day) else night).mean(axis=0)
        if light is not None and len(day):
            mean = light.without(mean[None])[0]
            if min(len(day), len(night)) >= _LIT_FACES:
                mean = mean + _INFRARED_SHARE * light.without(night.mean(axis=0)[None])[0]
        rows.append(unit(mean))
        lit.append(len(day) > 0)
    return np.stack(rows).astype(np.float32), np.array(lit, np.bool_)


def _second_opinion(household: Household, light: Optional[Light]) -> Optional[Tuple[Floats, Floats]]:
    """Return the (P, D) planes and (P,) offsets of a one-against-rest linear SVM over what the prototypes rest on."""
    people = len(household.people)
    if not 2 <= people <= _SVM_PEOPLE:
        return None
    lit = np.unique(household.owner[~household.infrared])
    counts = ~household.infrared | ~np.isin(household.owner, lit)
    vectors = household.vectors if light is None else light.without(household.vectors)
    return fit_linear_svm(vectors[counts], household.owner[counts], people, _SVM_C)
