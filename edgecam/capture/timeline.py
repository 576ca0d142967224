"""Timestamps that can be trusted, made from timestamps that cannot."""

from __future__ import annotations

from typing import Optional

_MAX_GAP_S = 60.0
"""A longer jump within a recording is taken for a broken timestamp."""

_MAX_LAG_S = 5.0
_DRIFT = 1e-3
"""Seconds per second by which a camera's clock may run slow."""


class ClipTimeline:
    """Seconds from the first frame of a recording; never running back, also when it is played again from its start.

    Args:
        rate_fps: the recording's own frame rate, used where a timestamp is missing or broken.
    """

    def __init__(self, rate_fps: float) -> None:
        self._step_s = 1.0 / rate_fps
        self._last_s: Optional[float] = None
        self._shift_s = 0.0

    def next(self, pts_s: Optional[float]) -> float:
        """Return the time of the next frame, given the container's word on it."""
        if self._last_s is None:
            self._shift_s = 0.0 if pts_s is None else -pts_s
            self._last_s = 0.0
            return 0.0
        guess = self._last_s + self._step_s
        at_s = guess if pts_s is None else pts_s + self._shift_s
        if not self._last_s < at_s <= self._last_s + _MAX_GAP_S:
            at_s = guess
            if pts_s is not None:
                self._shift_s = at_s - pts_s
        self._last_s = at_s
        return at_s


class LiveTimeline:
    """Monotonic seconds of exposure from a camera's timestamps and the arrival of its frames.

    Frames arrive late by a changing amount (network, decoder); the least delayed ones anchor the rest.
    """

    def __init__(self) -> None:
        self._offset_s: Optional[float] = None
        self._last_s = -float("inf")
        self._last_arrival_s = 0.0

    def next(self, pts_s: Optional[float], arrival_s: float) -> float:
        """Return the time of a frame that arrived now."""
        at_s = arrival_s
        if pts_s is not None:
            offset = arrival_s - pts_s
            if self._offset_s is not None:
                drift = _DRIFT * (arrival_s - self._last_arrival_s)
                offset = min(offset, self._offset_s + drift)
            if arrival_s - (pts_s + offset) > _MAX_LAG_S:
                offset = arrival_s - pts_s
            self._offset_s = offset
            at_s = pts_s + offset
        self._last_arrival_s = arrival_s
        self._last_s = max(at_s, self._last_s)
        return self._last_s


class Thinner:
    """Which frames to keep so that about `fps` a second remain, evenly spaced."""

    def __init__(self, fps: float) -> None:
        self._step_s = 1.0 / fps
        self._due_s: Optional[float] = None

    def keep(self, at_s: float) -> bool:
        """Whether the frame of this time is wanted."""
        # A tenth of a step of tolerance: jitter must not make a 15 fps camera a 7.5 fps one.
        if self._due_s is not None and at_s < self._due_s - 0.1 * self._step_s:
            return False
        behind = self._due_s is None or at_s > self._due_s + self._step_s
        self._due_s = (at_s if behind or self._due_s is None else self._due_s) + self._step_s
        return True
