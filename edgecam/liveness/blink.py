"""Blinks in one face's eye openness over time: seconds, not frames, at any rate that suffices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats

_BLINK_S: Final = (0.05, 0.5)
"""A closure this long is a blink (80 to 500 ms, less what the first and last half of it hide from a threshold)."""
_GAP_S: Final = 0.15
"""Samples further apart say nothing of what happened between them."""
_LEAST_HZ: Final = 9.5
_USUAL_OVER_S: Final = 8.0
"""How open eyes usually are is taken from so much time before and after."""
_USUAL_AT: Final = 80.0
"""... as this percentile: blinks and noise lie below."""
_USUAL_EVERY_S: Final = 0.5
_LEAST_SAMPLES: Final = 8
_SPAN: Final = 6000
"""Samples kept: minutes."""


@dataclass(frozen=True)
class Blinks:
    """What was found in a series."""

    blinks_s: Tuple[float, ...]
    """Middle of each blink."""

    closures_s: Tuple[Tuple[float, float], ...]
    """From and to of closures too long for a blink."""

    watched_s: float
    """So long the eyes were followed closely enough."""

    reason: str
    """Why blinks cannot be told; empty if they can."""


class EyeSeries:
    """How far the eyes of one face are open, over time.

    Args:
        closed_below: part of the face's usual openness.
        least_open: a lower usual openness is none.
    """

    def __init__(self, closed_below: float, least_open: float) -> None:
        self._closed_below, self._least_open = closed_below, least_open
        self._seen: List[Tuple[float, float]] = []

    def __len__(self) -> int:
        """Return how many samples are kept."""
        return len(self._seen)

    def add(self, at_s: float, openness: Optional[float]) -> None:
        """Take in one sample; None (profile, too small) is a gap. Times that do not advance are left out."""
        if openness is None or not np.isfinite(openness) or (self._seen and at_s <= self._seen[-1][0]):
            return
        if len(self._seen) >= _SPAN:
            del self._seen[: _SPAN // 4]
        self._seen.append((at_s, openness))

    def find(self) -> Blinks:
        """Return the blinks so far; a closure that has not ended yet is none."""
        if len(self._seen) < _LEAST_SAMPLES:
            return Blinks((), (), 0.0, "eyes hardly seen")
        times, values = np.array(self._seen).T
        steps = np.diff(times)
        close = steps <= _GAP_S
        watched = float(steps[close].sum())
        if not close.any() or 1 / float(np.median(steps)) < _LEAST_HZ:
            return Blinks((), (), watched, f"cannot tell: eyes seen {1 / float(np.median(steps)):.0f} times a second")
        usual = _usual(times, values)
        if float(np.median(usual)) < self._least_open:
            return Blinks((), (), watched, "eyes not seen open (glasses?)")
        relative = np.where(usual >= self._least_open, values / usual, 1.0) - self._closed_below
        blinks, closures = [], []
        for start, end in _closures(times, relative, close):
            if end - start > _BLINK_S[1]:
                closures.append((start, end))
            elif end - start >= _BLINK_S[0]:
                blinks.append((start + end) / 2)
        return Blinks(tuple(blinks), tuple(closures), watched, "")


def _usual(times: NDArray[Any], values: NDArray[Any]) -> Floats:
    """Return (N,) the usual openness around each sample."""
    low = np.searchsorted(times, times - _USUAL_OVER_S)
    high = np.searchsorted(times, times + _USUAL_OVER_S, side="right")
    result = np.empty(len(times))
    last, at = -np.inf, 0.0
    for i, time in enumerate(times.tolist()):
        if time - last >= _USUAL_EVERY_S:
            last, at = time, float(np.percentile(values[low[i] : high[i]], _USUAL_AT))
        result[i] = at
    return np.maximum(result, 1e-6).astype(np.float32)


def _closures(times: NDArray[Any], relative: NDArray[Any], close: NDArray[Any]) -> List[Tuple[float, float]]:
    """Return (from, to) of stretches below zero whose both ends were seen, crossings interpolated."""
    found = []
    start: Optional[float] = None
    for i in range(1, len(times)):
        if not close[i - 1]:
            start = None
            continue
        before, now = float(relative[i - 1]), float(relative[i])
        if (before >= 0) == (now >= 0):
            continue
        at = float(times[i - 1] + (times[i] - times[i - 1]) * before / (before - now))
        if now < 0:
            start = at
        elif start is not None:
            found.append((start, at))
            start = None
    return found
