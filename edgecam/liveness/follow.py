"""Liveness of everybody before one camera: passive looks and eyes, each track for itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, Dict, Final, List, Optional, Sequence, Tuple

import numpy as np

from edgecam.liveness.blink import Blinks, EyeSeries
from edgecam.liveness.eyes import Area, EyeEstimator, EyeView, cut, view
from edgecam.liveness.passive import Look, unfit
from edgecam.liveness.vote import Standing, Vote
from edgecam.types import Floats, Frame, Image, Liveness, Quality

_EYES_EVERY_S: Final = 0.03
"""Eyes are looked at no more often than this."""
_PENDING: Final = 48
"""Areas that wait for the next detection, all tracks together: 2 MB."""
_GRID: Final = 8
"""Every so many pixels are compared with the last picture's: a camera's noise never leaves them all the same."""
_STANDS: Final = "the camera's picture stands still"
_BETWEEN_S: Final = 0.6
"""Where a face was between two detections further apart than this is a guess."""


@dataclass(frozen=True)
class LivenessNets:
    """What can be asked; either may be missing."""

    passive: Optional[Look] = None
    eyes: Optional[EyeEstimator] = None
    lacking: str = "no anti-spoof nets were loaded"
    """Why there is no passive net, in words."""


class _Watched:
    """One track."""

    def __init__(self, eyes: Optional[EyeEstimator]) -> None:
        self.vote = Vote()
        self.series = None if eyes is None else EyeSeries(eyes.closed_below, eyes.least_open)
        self.at_s = -np.inf
        self.box: Floats = np.zeros(4, np.float32)
        self.landmarks: Floats = np.zeros((5, 2), np.float32)
        self.eyes_s = -np.inf


class LivenessWatch:
    """Follows the tracks of one camera.

    `glimpse` may be called from another thread than the rest.

    Args:
        nets: shared by all cameras.
    """

    def __init__(self, nets: LivenessNets) -> None:
        self._nets = nets
        self._tracks: Dict[int, _Watched] = {}
        self._where: Tuple[Tuple[int, Floats], ...] = ()
        """Track and box of the last detection, as one value."""
        self._pending: Deque[Tuple[int, float, Area]] = deque(maxlen=_PENDING)
        self._glimpsed_s = -np.inf
        self._shown_s = -np.inf
        self._shown: Optional[Image] = None
        self._same = False

    def glimpse(self, frame: Frame) -> None:
        """Keep the surroundings of the tracked faces of a frame that is not searched for faces.

        Eyes close for a tenth of a second, and a small board looks for faces five times a second. Where exactly the
        eyes were is known with the next detection.
        """
        if self._nets.eyes is None or frame.captured_at_s - self._glimpsed_s < _EYES_EVERY_S:
            return
        self._glimpsed_s = frame.captured_at_s
        for track_id, box in self._where:
            area = cut(frame.image, box)
            if area is not None:
                self._pending.append((track_id, frame.captured_at_s, area))

    def see(self, frame: Frame, track_id: int, box: Floats, landmarks: Floats, quality: Quality) -> None:
        """Look at one tracked face of a frame; a frame that is the last one again proves nothing."""
        watched = self._tracks.setdefault(track_id, _Watched(self._nets.eyes))
        if self.repeats(frame):
            watched.vote.abstain(_STANDS)
        else:
            self._look(watched, frame, box, quality)
            self._follow_eyes(watched, track_id, frame, box, landmarks)
        watched.at_s, watched.box, watched.landmarks = frame.captured_at_s, box.copy(), landmarks.copy()

    def repeats(self, frame: Frame) -> bool:
        """Return whether a frame is, to the last bit, the one before: the camera, or what sends its pictures, hangs."""
        if frame.captured_at_s != self._shown_s:
            grid = frame.image[::_GRID, ::_GRID].copy()
            self._same = self._shown is not None and bool(np.array_equal(grid, self._shown))
            self._shown_s, self._shown = frame.captured_at_s, grid
        return self._same

    def watch(self, ids: Sequence[int]) -> None:
        """Finish a frame: these tracks are followed until the next one."""
        self._where = tuple((i, self._tracks[i].box) for i in ids if i in self._tracks)

    def standing(self, track_id: int) -> Standing:
        """Return what the passive nets say of a track; blinks support it, and never make it: replays blink."""
        if self._nets.passive is None:
            return Standing(Liveness.UNPROVEN, self._nets.lacking, "", waiting=False)
        watched = self._tracks.get(track_id)
        return (Vote() if watched is None else watched.vote).standing

    def blinks(self, track_id: int) -> Blinks:
        """Return the blinks of a track."""
        watched = self._tracks.get(track_id)
        if watched is None or watched.series is None:
            return Blinks((), (), 0.0, "eyes are not followed")
        return watched.series.find()

    def is_spoof(self, track_id: int) -> bool:
        """Return whether a track is a spoof so far (cheap)."""
        return self.standing(track_id).verdict is Liveness.SPOOF

    def looks(self, track_id: int) -> int:
        """Return how often the passive nets were asked about a track."""
        watched = self._tracks.get(track_id)
        return 0 if watched is None else watched.vote.looks

    def forget(self, track_id: int) -> None:
        """Drop what is known of a track that ended."""
        self._tracks.pop(track_id, None)

    def reset(self) -> None:
        """Drop everything: the visit is over."""
        self._tracks.clear()
        self._where = ()
        self._pending.clear()

    def _look(self, watched: _Watched, frame: Frame, box: Floats, quality: Quality) -> None:
        if self._nets.passive is None:
            return
        why_not = unfit(frame.image, box, quality)
        if why_not is not None:
            watched.vote.abstain(why_not)
        elif watched.vote.due(frame.captured_at_s):
            watched.vote.add(frame.captured_at_s, self._nets.passive(frame.image, box), quality.score)

    def _follow_eyes(self, watched: _Watched, track_id: int, frame: Frame, box: Floats, landmarks: Floats) -> None:
        """Judge the eyes of this frame and of those since the last detection, their place interpolated."""
        eyes, series = self._nets.eyes, watched.series
        if eyes is None or series is None:
            return
        now_s = frame.captured_at_s
        between = now_s - watched.at_s
        views: List[Tuple[float, EyeView]] = []
        for at_s, area in self._take(track_id, now_s):
            if at_s > watched.at_s and between <= _BETWEEN_S and at_s - watched.eyes_s >= _EYES_EVERY_S:
                part = (at_s - watched.at_s) / between
                there = watched.box + (box - watched.box) * part
                points = watched.landmarks + (landmarks - watched.landmarks) * part
                _append(views, at_s, view(area, there, points))
                watched.eyes_s = at_s
        if now_s - watched.eyes_s >= _EYES_EVERY_S:
            area_now = cut(frame.image, box)
            _append(views, now_s, None if area_now is None else view(area_now, box, landmarks))
            watched.eyes_s = now_s
        for (at_s, _), openness in zip(views, eyes([v for _, v in views])):
            series.add(at_s, float(openness))

    def _take(self, track_id: int, until_s: float) -> List[Tuple[float, Area]]:
        """Return the waiting areas of a track from before this time, in order; the others go on waiting."""
        waiting = [self._pending.popleft() for _ in range(len(self._pending))]
        mine = [entry for entry in waiting if entry[0] == track_id and entry[1] < until_s]
        self._pending.extendleft(reversed([entry for entry in waiting if not any(entry is taken for taken in mine)]))
        return [(at_s, area) for _, at_s, area in mine]


def _append(views: List[Tuple[float, EyeView]], at_s: float, one: Optional[EyeView]) -> None:
    if one is not None:
        views.append((at_s, one))
