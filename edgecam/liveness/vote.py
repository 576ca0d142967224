"""Single looks into one word about a track: live, spoof or unproven, with hysteresis and a budget of looks."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Counter as Counts
from typing import Deque, Final, Optional

from edgecam.types import Liveness

_AGAIN_S: Final = 0.08
"""The second look follows at once, so that a name need not wait for it ..."""
_UNDECIDED_S: Final = 0.25
"""... others so much later: frames just after each other err together ..."""
_DECIDED_S: Final = 1.0
"""... and rarely once it is clear."""
_AT_ONCE: Final = 2
_FACES_A_LOOK: Final = 2
"""On average at most one look for so many faces, however slow the frames come."""
_WINDOW_S: Final = 10.0
"""So much of the past counts ..."""
_STANDS_FOR_S: Final = (0.1, 1.0)
"""... each look for the time since the one before, within these: looks in a row see the same turned head."""
_LIVE, _SPOOF, _HALF = 0.7, 0.3, 0.5
"""Mean from which a track is live, up to which it is a spoof; neither is left before the mean crosses the half."""
_LEAST: Final = 3
"""Looks needed for either ..."""
_LEAST_SPREAD_S: Final = 0.3
"""... and how far apart the first and the last are."""
_SURE_AFTER_S: Final = 1.5
"""After so long as a spoof it is never live again."""
_LATEST: Final = 2
"""A name waits if the last so many looks say spoof, whatever was seen before."""
_LEAST_WEIGHT: Final = 0.05


@dataclass(frozen=True)
class Standing:
    """What the looks at a track say so far."""

    verdict: Liveness
    reason: str
    doubt: str
    """Why the face may be a picture although that is not certain; no name is told then. Empty without doubt."""

    waiting: bool
    """The next look or two may change the matter: an early name should wait for them."""

    told: bool = False
    """The reason is worth telling although the face is live."""

    @property
    def note(self) -> str:
        """The reason in words for the household where there is something to say."""
        if self.verdict is Liveness.UNPROVEN:
            return f"not proven to be alive: {self.reason}"
        return self.reason if self.told else ""


class Vote:
    """Collects the passive looks at one track.

    Once a spoof for a while, a track is never live again: two things were before the camera, and nobody knows which of
    them the name belongs to.
    """

    def __init__(self) -> None:
        self._looks: Deque[tuple[float, float, float]] = deque()
        """(seconds, score, weight)."""
        self._verdict = Liveness.UNPROVEN
        self._spoof_since_s: Optional[float] = None
        self._was_spoof = False
        self._abstained: Counts[str] = Counter()
        self._seen = 0
        self.looks = 0
        """Looks taken."""

    def due(self, at_s: float) -> bool:
        """Count one face that could be looked at; return whether it should be."""
        self._seen += 1
        if not self._looks:
            return True
        since = at_s - self._looks[-1][0]
        if self.looks < _AT_ONCE:
            return since >= _AGAIN_S
        if self.looks >= _AT_ONCE + self._seen / _FACES_A_LOOK:
            return False
        last = Liveness.LIVE if self._looks[-1][1] > _HALF else Liveness.SPOOF
        return since >= (_DECIDED_S if self._verdict is last else _UNDECIDED_S)

    def abstain(self, reason: str) -> None:
        """Count one face that cannot be judged."""
        self._abstained[reason] += 1

    def add(self, at_s: float, score: float, weight: float) -> None:
        """Take in one look.

        Args:
            at_s: when.
            score: 0..1, high for a living face.
            weight: quality of the face, 0..1.
        """
        self.looks += 1
        since = at_s - self._looks[-1][0] if self._looks else _UNDECIDED_S
        stands_for = min(max(since, _STANDS_FOR_S[0]), _STANDS_FOR_S[1])
        self._looks.append((at_s, score, stands_for * max(weight, _LEAST_WEIGHT)))
        while at_s - self._looks[0][0] > _WINDOW_S:
            self._looks.popleft()
        mean = self._mean()
        if (self._verdict is Liveness.LIVE and mean < _HALF) or (self._verdict is Liveness.SPOOF and mean > _HALF):
            self._verdict = Liveness.UNPROVEN
        enough = len(self._looks) >= _LEAST and at_s - self._looks[0][0] >= _LEAST_SPREAD_S
        if enough and mean <= _SPOOF:
            self._verdict = Liveness.SPOOF
        elif enough and mean >= _LIVE and not self._was_spoof:
            self._verdict = Liveness.LIVE
        if self._verdict is not Liveness.SPOOF:
            self._spoof_since_s = None
        elif self._spoof_since_s is None:
            self._spoof_since_s = at_s
        self._was_spoof |= self._spoof_since_s is not None and at_s - self._spoof_since_s >= _SURE_AFTER_S

    @property
    def standing(self) -> Standing:
        """What is to be said now."""
        if not self._looks:
            reason = self._abstained.most_common(1)[0][0] if self._abstained else "not looked at yet"
            return Standing(Liveness.UNPROVEN, reason, "", waiting=not self._abstained)
        mean = self._mean()
        said = f"anti-spoof nets: {mean:.2f} of 1 in {self.looks} looks"
        latest = [score for _, score, _ in self._looks][-_LATEST:]
        waiting = len(latest) < _LATEST or max(latest) <= _SPOOF
        if self._verdict is not Liveness.UNPROVEN:
            return Standing(self._verdict, said, "", waiting)
        if sum(self._abstained.values()) > self.looks:
            said = f"{said}; {self._abstained.most_common(1)[0][0]}"
        doubt = ""
        if self._was_spoof:
            doubt = "looked like a picture before"
        elif mean < _HALF:
            doubt = "may be a picture"
        return Standing(self._verdict, said, doubt, waiting)

    def _mean(self) -> float:
        weights = sum(w for _, _, w in self._looks)
        return sum(score * w for _, score, w in self._looks) / weights
