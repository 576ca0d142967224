"""What is remembered of one track while its visit lasts."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Deque, List, Optional, Tuple

import numpy as np

from edgecam.embed import Encoder
from edgecam.liveness.challenge import Answer
from edgecam.types import FaceCrop, Floats, Ints, Quality

_FIRST_LOOKS = 4
"""So many usable faces are embedded at once, so that a name comes early ..."""
_LOOK_EVERY_S = 0.5
"""... later ones only this often, or when clearly better than what there is."""
_BETTER = 1.15


SAME_PICTURE = 0.95
"""Faces whose features have a larger cosine are as good as one: a third of neighbours half a second apart do."""
_PAST = 24
"""So many faces are remembered by their features alone after better ones took their place."""

_Glance = Tuple[Floats, float, bool]
"""Features, quality, infrared."""


@dataclass(eq=False)
class Look:
    """One usable face of a track."""

    crop: FaceCrop
    quality: Quality
    at_s: float
    vector: Optional[Floats] = None
    """(D,) unit vector once embedded."""

    features: Optional[Floats] = None
    model: str = ""
    """Version of the encoder that made the vector."""

    @property
    def glance(self) -> Optional[_Glance]:
        """What is left of it without its picture; None if it was not embedded, or is beyond recognition."""
        if self.features is None or not self.quality.ok:
            return None
        return self.features, self.quality.score, self.quality.infrared


@dataclass(eq=False)
class TrackRecord:
    """One track: its best faces, its complaints and what was said of it."""

    number: int
    """Within the visit, from 1."""

    first_s: float
    best_k: int
    last_s: float = 0.0
    seen: int = 0
    usable: int = 0
    complaints: Counter[str] = field(default_factory=Counter)
    looks: List[Look] = field(default_factory=list)
    poor: Optional[Look] = None
    """The best of the unusable faces, so that a `poor` visit has a picture, too."""
    named: Optional[str] = None
    """Person id announced early."""
    named_s: Optional[float] = None
    track_id: int = 0
    """The tracker's."""
    answer: Optional[Answer] = None
    """To a challenge, once it has ended."""
    answered_as: Optional[str] = None
    """Person id that the face had been given when it was asked."""
    clothes: Deque[Floats] = field(default_factory=lambda: deque(maxlen=_PAST))
    """(160,) each, what was worn whenever a face was embedded (`track.clothes`); never of a grey picture."""
    _embedded_s: float = -1e9
    _past: Deque[_Glance] = field(default_factory=lambda: deque(maxlen=_PAST))

    def add(self, crop: FaceCrop, quality: Quality, at_s: float) -> bool:
        """Take in one more face; return whether it should be embedded now."""
        self.seen += 1
        self.last_s = at_s
        look = Look(crop, quality, at_s)
        if quality.reason is not None:
            self.complaints[quality.reason.split(" (")[0]] += 1
            if self.poor is None or quality.score > self.poor.quality.score:
                self.poor = look
            return False
        self.usable += 1
        best = max((x.quality.score for x in self.looks), default=0.0)
        if not self._keep(look):
            return False
        due = at_s - self._embedded_s >= _LOOK_EVERY_S or quality.score > best * _BETTER
        if self.usable <= _FIRST_LOOKS or due:
            self._embedded_s = at_s
            return True
        return False

    def _keep(self, look: Look) -> bool:
        self.looks.append(look)
        if len(self.looks) <= self.best_k:
            return True
        worst = min(self.looks, key=lambda x: x.quality.score)
        self.looks.remove(worst)
        if worst.glance is not None:
            self._past.append(worst.glance)
        return worst is not look

    @property
    def waiting(self) -> List[Look]:
        """Looks that have no vector yet."""
        return [look for look in self.looks if look.vector is None]

    def evidence(self, encoder: Encoder) -> Tuple[Floats, Floats]:
        """Return ((N, D) vectors, (N,) quality weights) of the embedded looks, as this encoder sees them.

        A head that came into service during the visit is given what its predecessor was given.
        """
        done = [look for look in self.looks if look.vector is not None and look.quality.ok]
        for look in done:
            if look.model != encoder.version and look.features is not None:
                look.vector, look.model = encoder.project(look.features[None])[0], encoder.version
        if not done:
            return np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
        vectors = np.stack([look.vector for look in done if look.vector is not None])
        return vectors, np.array([look.quality.score for look in done], np.float32)

    def faces(self, most: int) -> Tuple[Floats, Floats, bool]:
        """Return what the night may learn from: faces unlike each other, the best first.

        Args:
            most: so many at most.

        Returns:
            (N, K) features, (N,) qualities, and whether most of all usable faces are grey; N = 0 without any.
        """
        done = [*self._past, *(one for one in (look.glance for look in self.looks) if one is not None)]
        if not done:
            return np.zeros((0, 0), np.float32), np.zeros(0, np.float32), False
        features, qualities = np.stack([one[0] for one in done]), np.array([one[1] for one in done], np.float32)
        chosen = unlike(features, qualities, most)
        return features[chosen], qualities[chosen], sum(one[2] for one in done) * 2 > len(done)

    @property
    def picture(self) -> Optional[FaceCrop]:
        """The best face seen, for the local history."""
        if self.looks:
            return max(self.looks, key=lambda x: x.quality.score).crop
        return self.poor.crop if self.poor else None

    @property
    def complaint(self) -> str:
        """Why faces were not usable: the commonest reason, empty if all were."""
        beyond = Counter(look.quality.reason for look in self.looks if look.quality.reason)
        reasons = (self.complaints + beyond).most_common(1)
        return str(reasons[0][0]) if reasons else ""


def unlike(features: Floats, qualities: Floats, most: int) -> Ints:
    """Return the positions of at most so many faces, none nearly the same as another: the best, then what adds most.

    Args:
        features: (N, K), N >= 1.
        qualities: (N,) 0..1.
        most: at least 1.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    chosen = [int(qualities.argmax())]
    nearest = unit @ unit[chosen[0]]
    nearest[chosen] = np.inf
    while len(chosen) < most and nearest.min() <= SAME_PICTURE:
        worth = np.where(nearest <= SAME_PICTURE, (1.0 - nearest) * np.maximum(qualities, 1e-3), -1.0)
        chosen.append(int(worth.argmax()))
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
        nearest[chosen] = np.inf
    return np.array(chosen, np.int64)
