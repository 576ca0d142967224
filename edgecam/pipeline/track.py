"""What is remembered of one track while its visit lasts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from edgecam.liveness.challenge import Answer
from edgecam.types import FaceCrop, Floats, Quality

_FIRST_LOOKS = 4
"""So many usable faces are embedded at once, so that a name comes early ..."""
_LOOK_EVERY_S = 0.5
"""... later ones only this often, or when clearly better than what there is."""
_BETTER = 1.15


@dataclass(eq=False)
class Look:
    """One usable face of a track."""

    crop: FaceCrop
    quality: Quality
    at_s: float
    vector: Optional[Floats] = None
    """(D,) unit vector once embedded."""

    features: Optional[Floats] = None


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
    _embedded_s: float = -1e9

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
        return worst is not look

    @property
    def waiting(self) -> List[Look]:
        """Looks that have no vector yet."""
        return [look for look in self.looks if look.vector is None]

    def evidence(self) -> Tuple[Floats, Floats]:
        """Return ((N, D) vectors, (N,) quality weights) of the embedded looks."""
        done = [look for look in self.looks if look.vector is not None and look.quality.ok]
        if not done:
            return np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
        vectors = np.stack([look.vector for look in done if look.vector is not None])
        return vectors, np.array([look.quality.score for look in done], np.float32)

    def features(self) -> Optional[Floats]:
        """Return (K,) the mean of what the encoder's head was given, by quality; None if nothing was embedded."""
        done = [look for look in self.looks if look.features is not None and look.quality.ok]
        if not done:
            return None
        rows = np.stack([look.features for look in done if look.features is not None])
        mean: Floats = np.average(rows, axis=0, weights=[max(look.quality.score, 1e-3) for look in done])
        return mean.astype(np.float32)

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
