"""A challenge: somebody is asked to turn the head or to blink twice. A state machine in the frames' own time.

It sees one track, frame by frame, and ends with an answer: done, not done, or nobody can tell. A passed challenge makes
an unproven face live; it overrules neither a spoof nor a doubt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Deque, Final, List, Mapping, Optional, Tuple

import numpy as np

from edgecam.liveness.blink import Blinks
from edgecam.liveness.eyes import Area
from edgecam.liveness.turn import flatness, parallax
from edgecam.liveness.vote import Standing
from edgecam.types import Action, Asked, Floats, Liveness

TEXTS: Final[Mapping[Action, str]] = {
    Action.TURN_LEFT: "Please turn your head to your left.",
    Action.TURN_RIGHT: "Please turn your head to your right.",
    Action.BLINK_TWICE: "Please blink twice.",
}
THANKS: Final = "Thank you."
"""Said at the end of every challenge: whoever holds a photo need not learn how near he came."""

_DONE: Final[Mapping[Action, str]] = {
    Action.TURN_LEFT: "turned the head to the left when asked",
    Action.TURN_RIGHT: "turned the head to the right when asked",
    Action.BLINK_TWICE: "blinked twice when asked",
}
_GAP_S: Final = 0.45
"""After a longer time without the face it may be another one: a turn has to begin anew ..."""
_AWAY_S: Final = 1.5
"""... and after so long it has left."""
_LEAST_HZ: Final = 3.0
"""Seen less often, nothing can be told."""
_JUMP: Final = 0.8
"""A face that moves farther between two frames, in its widths, has not moved: it was exchanged."""
_FRONT_DEG: Final = 20.0
_FRONT: Final = 3
"""A turn begins after so many faces from the front."""
_TURNED: Final = 0.17
"""Parallax of a turn, in eye distances: 20 degrees ..."""
_TWICE: Final = 2
"""... in so many faces, on one side."""
_FLAT: Final = 0.95
"""Two views of a face that correlate so well are of a flat one: turned heads reach .95, pictures .97 and more ..."""
_FLAT_FROM: Final = 0.27
"""... which is held against a face from this parallax on: smooth cheeks turned a little look flat, too."""
_REACTS_S: Final = 0.2
_BLINKS_S: Final = 2.5
"""Two blinks at most so far apart were meant."""


@dataclass(frozen=True, eq=False)
class Sight:
    """The face asked, in one frame."""

    at_s: float
    box: Floats
    """(4,) x, y, w, h, px of the frame."""

    landmarks: Floats
    """(5, 2) px of the frame."""

    yaw_deg: float
    area: Optional[Area]
    """Its surroundings; None outside of the picture."""

    blinks: Blinks
    """Of the whole track so far."""


@dataclass(frozen=True)
class Answer:
    """How a challenge ended."""

    state: Asked
    reason: str


class Challenge:
    """One question to one track.

    Args:
        action: what was asked.
        asked_s: when, in the time of the frames.
        limit_s: how long may be taken over it.
    """

    def __init__(self, action: Action, asked_s: float, limit_s: float) -> None:
        self.action, self._asked_s, self._limit_s = action, asked_s, limit_s
        self.answer: Optional[Answer] = None
        """None while it runs."""
        self._seen: List[float] = []
        self._still = 0
        self._last: Optional[Sight] = None
        self._front: Deque[Sight] = deque(maxlen=_FRONT)
        self._base: Optional[Sight] = None
        self._turned: List[str] = []
        """What the latest faces showed beyond the threshold, in a row: `right`, `left` (of the image) or `flat`."""

    def see(self, sight: Sight) -> None:
        """Take in the face of one frame."""
        if self.answer is not None or self._late(sight.at_s):
            return
        last, self._last = self._last, sight
        if last is not None and _leaps(last, sight):
            self.end("the face was exchanged, or moved too far at once")
            return
        self._seen.append(sight.at_s)
        if last is not None and sight.at_s - last.at_s > _GAP_S:
            self._start_again()
        if self.action is Action.BLINK_TWICE:
            self._look_for_blinks(sight.blinks)
        else:
            self._look_for_turn(sight)

    def miss(self, at_s: float) -> None:
        """Take in a frame in which the face is not to be seen."""
        if self.answer is None and not self._late(at_s):
            since_s = self._asked_s if self._last is None else self._last.at_s
            if at_s - since_s > _AWAY_S:
                self.end("the face left the picture")

    def hold(self, at_s: float) -> None:
        """Take in a frame that is the last one again: it says nothing."""
        self._still += 1
        if self.answer is None:
            self._late(at_s)

    def end(self, reason: str) -> None:
        """Break it off."""
        if self.answer is None:
            self.answer = Answer(Asked.ENDED, reason)

    def _late(self, at_s: float) -> bool:
        """Return whether the time is over, and answer then."""
        took_s = at_s - self._asked_s
        if took_s <= self._limit_s:
            return False
        cannot = self._why_not(took_s)
        if cannot:
            self.answer = Answer(Asked.CANNOT_TELL, f"cannot tell: {cannot}")
        else:
            self.answer = Answer(Asked.FAILED, f"not done within {self._limit_s:g} s")
        return True

    def _why_not(self, took_s: float) -> str:
        if self._still > len(self._seen):
            return "the camera's picture stands still"
        if len(self._seen) / took_s < _LEAST_HZ:
            return f"the face was seen {len(self._seen) / took_s:.1f} times a second"
        if self.action is Action.BLINK_TWICE:
            return "" if self._last is None else self._last.blinks.reason.replace("cannot tell: ", "")
        return "" if self._base is not None else "the face was not seen from the front"

    def _look_for_blinks(self, blinks: Blinks) -> None:
        found = [at_s for at_s in blinks.blinks_s if at_s >= self._asked_s + _REACTS_S]
        if not blinks.reason and any(b - a <= _BLINKS_S for a, b in zip(found, found[1:])):
            self._pass()

    def _start_again(self) -> None:
        self._front.clear()
        self._turned.clear()
        self._base = None

    def _look_for_turn(self, sight: Sight) -> None:
        if self._base is None:
            if abs(sight.yaw_deg) > _FRONT_DEG or sight.area is None:
                self._front.clear()
                return
            self._front.append(sight)
            if len(self._front) == _FRONT:
                self._base = _middle(self._front)
            return
        way = self._side(self._base, sight)
        self._turned = [*self._turned, way][-_TWICE:] if way else []
        if len(self._turned) < _TWICE or len(set(self._turned)) > 1:
            return
        if way == "flat":
            self.answer = Answer(Asked.FAILED, "moved like a flat picture")
        elif (way == "right") == (self.action is Action.TURN_LEFT):
            # Who faces a camera has the left hand at the image's right.
            self._pass()
        else:
            self.answer = Answer(Asked.FAILED, "turned to the other side")

    @staticmethod
    def _side(base: Sight, sight: Sight) -> str:
        way, fits = parallax(base.landmarks, sight.landmarks)
        if abs(way) < _TURNED or base.area is None or sight.area is None:
            return ""
        if not fits:
            return "flat"
        flat = flatness(base.area, base.landmarks, sight.area, sight.landmarks)
        if flat is None or flat >= _FLAT:
            return "flat" if flat is not None and abs(way) >= _FLAT_FROM else ""
        return "right" if way > 0 else "left"

    def _pass(self) -> None:
        self.answer = Answer(Asked.PASSED, _DONE[self.action])


def possible(blinks: Blinks, seen_hz: float) -> Tuple[Action, ...]:
    """Return what somebody can be asked so that an answer can be told; empty if nothing.

    Args:
        blinks: of the track so far.
        seen_hz: how often its face is seen.
    """
    if seen_hz < _LEAST_HZ:
        return ()
    turns = (Action.TURN_LEFT, Action.TURN_RIGHT)
    return turns if blinks.reason else (*turns, Action.BLINK_TWICE)


def proven(standing: Standing, answer: Answer) -> Standing:
    """Return what is known of a track after a challenge: only an unproven face about which there is no doubt gains."""
    if standing.verdict is not Liveness.UNPROVEN:
        return standing
    if answer.state is Asked.PASSED and not standing.doubt:
        return replace(standing, verdict=Liveness.LIVE, reason=f"challenge: {answer.reason}", waiting=False, told=True)
    return replace(standing, reason=f"{standing.reason}; challenge: {answer.reason}")


def _leaps(last: Sight, now: Sight) -> bool:
    """Return whether two sights of a track, one after the other, can hardly be of the same face."""
    size = max(1.0, float(min(last.box[2], now.box[2])))
    middle = (now.box[:2] + now.box[2:] / 2) - (last.box[:2] + last.box[2:] / 2)
    grown = max(float(last.box[2]), float(now.box[2])) / size
    return bool(float(np.linalg.norm(middle)) > _JUMP * size or grown > 1 + _JUMP)


def _middle(sights: Deque[Sight]) -> Sight:
    """Return the sight whose landmarks are the most usual ones, place apart."""
    shapes = np.stack([sight.landmarks - sight.landmarks.mean(axis=0) for sight in sights])
    off = np.abs(shapes - np.median(shapes, axis=0)).sum(axis=(1, 2))
    return sights[int(np.argmin(off))]
