"""Tell a picture (a poster, a T-shirt on a rack) from a person: it never moves, apart from noise.

A detector's landmarks jitter on a picture too. On a person they jitter and drift: even who stands still
sways, looks about and blinks. So a face is a picture if its landmarks hardly scatter, or if they scatter
a little but without memory, each frame's error being independent of the last one's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Optional

import numpy as np

from edgecam.types import Floats

REASON: Final = "a picture, not a person: it has not moved"

_SCATTER: Final = 0.0065
"""Standard deviation of landmarks in face widths. Measured over 10 s: pictures through H.264 up to .0062; people .0087
(a close-up, staring), else .013 and more."""
_SCATTER_NOISY: Final = 0.012
"""Pictures before a noisy camera reach this ..."""
_WHITE: Final = 0.75
"""... with a von Neumann ratio (squared steps over twice the variance, 1 without memory) above this; people at 5
frames a second stay below .55."""
_WHITE_FROM: Final = 40
"""The ratio means little on fewer faces than this."""
_EVERY_S: Final = 0.09
"""More frames a second than 10 or so tell no more."""
_JUDGE_EVERY_S: Final = 0.5
_SAME: Final = 0.06
"""A face whose landmarks are all this close (in face widths) to a known picture's is that picture."""
_LEFT: Final = 0.12
"""A known picture is one until its landmarks are this far away: more than noise on a single frame."""
_PLACES: Final = 32


@dataclass(frozen=True, eq=False)
class StillPlace:
    """Where a picture hangs."""

    box: Floats
    """(4,) float32 x, y, w, h in frame pixels."""

    landmarks: Floats
    """(5, 2) float32 frame pixels."""

    first_s: float
    last_s: float
    """Seconds of the tracker's clock at which it was first and last seen there."""


class Stillness:
    """Watches one track.

    Args:
        still_after_s: a face that has not moved for so long is a picture.
    """

    def __init__(self, still_after_s: float) -> None:
        self._after_s = still_after_s
        self._seen: list[tuple[float, Floats]] = []
        """Time and (5, 2) landmarks, of the last `still_after_s` and at least `_WHITE_FROM`."""
        self._judged_s = -np.inf
        self._place: Optional[StillPlace] = None
        self._moved = False

    def see(self, box: Floats, landmarks: Floats, at_s: float, places: list[StillPlace]) -> bool:
        """Take over a face and return whether it is a picture.

        Args:
            box: (4,) x, y, w, h.
            landmarks: (5, 2) px.
            at_s: never earlier than before.
            places: known pictures; a new one is added, a known one's `last_s` is brought up to date.
        """
        width = max(float(box[2]), 1.0)
        if self._place is None and not self._moved:
            self._place = next((p for p in places if _apart(p.landmarks, landmarks) <= _SAME * width), None)
        elif self._place is not None and _apart(self._place.landmarks, landmarks) > _LEFT * width:
            self._leave()
        if not self._seen or at_s - self._seen[-1][0] >= _EVERY_S:
            self._seen.append((at_s, landmarks))
        if at_s - self._judged_s >= _JUDGE_EVERY_S:
            self._judged_s = at_s
            self._judge(box, width, at_s)
        if self._place is None:
            return False
        seen = replace(self._place, last_s=at_s)
        others = [p for p in places if p is not self._place]
        places[:] = [*others[1 - _PLACES :], seen]
        self._place = seen
        return True

    def _judge(self, box: Floats, width: float, at_s: float) -> None:
        while len(self._seen) > _WHITE_FROM and at_s - self._seen[1][0] >= self._after_s:
            del self._seen[0]
        if at_s - self._seen[0][0] < self._after_s:
            return
        points = np.stack([landmarks for _, landmarks in self._seen]).reshape(-1, 10)
        scatter = float(np.sqrt(points.var(axis=0).mean())) / width
        if self._place is not None:
            if scatter > _LEFT / 3:
                self._leave()
        elif scatter <= _SCATTER or (
            scatter <= _SCATTER_NOISY and len(points) >= _WHITE_FROM and _von_neumann(points) >= _WHITE
        ):
            middle = np.median(points, axis=0).reshape(5, 2).astype(np.float32)
            self._place = StillPlace(box.copy(), middle, self._seen[0][0], at_s)

    def _leave(self) -> None:
        """It moved: whatever it was taken for, it is not that picture."""
        self._place = None
        self._moved = True
        self._seen = self._seen[-1:]


def _von_neumann(series: Floats) -> float:
    """Return the mean squared step over twice the variance, of (N, D) over N."""
    steps = float((np.diff(series, axis=0) ** 2).sum()) / (len(series) - 1)
    variance = float(((series - series.mean(axis=0)) ** 2).sum()) / (len(series) - 1)
    return steps / max(2 * variance, 1e-12)


def _apart(a: Floats, b: Floats) -> float:
    """Return the greatest distance of a landmark from itself, px."""
    return float(np.linalg.norm(a - b, axis=1).max())
