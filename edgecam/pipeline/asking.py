"""Challenges before one camera: whom to ask, what, and what the answer is worth."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Optional, Sequence

from edgecam.clock import Clock
from edgecam.config import LivenessConfig
from edgecam.decide import Evidence
from edgecam.liveness.blink import Blinks
from edgecam.liveness.challenge import TEXTS, THANKS, Answer, Challenge, Sight, possible
from edgecam.liveness.eyes import cut
from edgecam.pipeline.track import TrackRecord
from edgecam.pipeline.visits import Visit
from edgecam.store import new_ulid
from edgecam.types import Action, Asked, FaceCrop, Floats, Frame, Liveness, Prompt, Quality, Verdict

TellPrompt = Callable[[Prompt], None]
Pick = Callable[[Sequence[Action]], Action]

_AFTER_S = 2.0
"""The nets have had their looks by then, and how often the face is seen can be told."""
_SIGHTS = 240
_ANSWERED_BY = 3
"""The last so many faces before a challenge is passed must be of the person it was put to."""
_WAIT_S = 5.0
"""Asked from outside, the box waits so long for a face that stays."""
_NOBODY = "Nobody is there."


@dataclass(frozen=True, eq=False)
class Seen:
    """One tracked face of a frame."""

    record: TrackRecord
    crop: FaceCrop
    box: Floats
    landmarks: Floats
    quality: Quality


class _Running:
    """A challenge, and to whom it was put."""

    def __init__(self, prompt: Prompt, record: TrackRecord, person_id: Optional[str], challenge: Challenge) -> None:
        self.prompt, self.record, self.person_id, self.challenge = prompt, record, person_id, challenge
        self.crops: Deque[FaceCrop] = deque(maxlen=_ANSWERED_BY)


@dataclass(frozen=True, eq=False)
class Proof:
    """A finished challenge."""

    record: TrackRecord
    person_id: Optional[str]
    """Whom the face was taken for when it was asked."""

    answer: Answer
    crops: Sequence[FaceCrop]
    """Faces that gave the answer, if any were good enough."""


class Asker:
    """Asks one at a time.

    Args:
        camera: its id.
        config: when to ask, and how long to wait.
        clock: for requests from outside, and the wall time of prompts.
        tell: receives every prompt.
        pick: chooses among what can be asked; unforeseeable by default.
    """

    def __init__(
        self, camera: str, config: LivenessConfig, clock: Clock, tell: TellPrompt, pick: Pick = secrets.choice
    ) -> None:
        self._camera, self._config, self._clock = camera, config, clock
        self._tell, self.pick = tell, pick
        self._running: Optional[_Running] = None
        self._requested_s: Optional[float] = None
        self._sights: Deque[float] = deque(maxlen=_SIGHTS)

    def request(self) -> None:
        """Ask whoever is there, or comes within moments; from any thread."""
        if self._config.challenge != "off":
            self._requested_s = self._clock.monotonic_s()

    def watch(self, frame: Frame, seen: Sequence[Seen], blinks: Callable[[int], Blinks], *, still: bool) -> None:
        """Follow the running challenge through a frame.

        Args:
            frame: just perceived.
            seen: its faces.
            blinks: of a track.
            still: the frame is the last one again.
        """
        if seen and not still:
            self._sights.append(frame.captured_at_s)
        running = self._running
        if running is None:
            return
        mine = next((one for one in seen if one.record is running.record), None)
        if still:
            running.challenge.hold(frame.captured_at_s)
        elif mine is None:
            running.challenge.miss(frame.captured_at_s)
        else:
            area = cut(frame.image, mine.box)
            if mine.quality.ok:
                running.crops.append(mine.crop)
            running.challenge.see(
                Sight(
                    frame.captured_at_s,
                    mine.box,
                    mine.landmarks,
                    mine.quality.yaw_deg,
                    area,
                    blinks(mine.record.track_id),
                )
            )

    def due(self, evidence: Evidence, record: TrackRecord, at_s: float) -> bool:
        """Return whether a track is to be asked because it is known and stays unproven."""
        return (
            self._config.challenge == "unproven"
            and self._running is None
            and record.answer is None
            and at_s - record.first_s >= _AFTER_S
            and evidence.match is not None
            and evidence.match.verdict is Verdict.KNOWN
            and evidence.sure
            and evidence.liveness is Liveness.UNPROVEN
            and not evidence.doubt
            and not evidence.waiting
        )

    def wanted(self, visit: Visit, seen: Sequence[Seen], at_s: float) -> Optional[Seen]:
        """Return whom to ask because it was requested: the nearest face; None if nobody is to be asked now."""
        since_s = self._requested_s
        if since_s is None or self._running is not None:
            return None
        late = self._clock.monotonic_s() - since_s > _WAIT_S
        staying = [one for one in seen if late or at_s - one.record.first_s >= _AFTER_S]
        if staying:
            self._requested_s = None
            return max(staying, key=lambda one: float(one.box[2] * one.box[3]))
        if late:
            self._nobody(visit.id)
        return None

    def ask(self, visit: Visit, record: TrackRecord, person_id: Optional[str], at_s: float, blinks: Blinks) -> None:
        """Put a challenge to a track, or say at once that its answer could not be told."""
        choice = possible(blinks, self._rate(at_s))
        action = self.pick(choice) if choice else None
        state = Asked.ASKED if action is not None else Asked.CANNOT_TELL
        reason = "" if action is not None else f"cannot tell: the face is seen {self._rate(at_s):.1f} times a second"
        text = THANKS if action is None else TEXTS[action]
        prompt = self._prompt(visit.id, record.number, state, action, text, reason)
        if action is None:
            record.answer = Answer(state, reason)
        else:
            challenge = Challenge(action, at_s, self._config.challenge_s)
            self._running = _Running(prompt, record, person_id, challenge)
        self._tell(prompt)

    def take(self) -> Optional[Proof]:
        """Return the challenge that has just ended, once; its last word is left to `close`."""
        running = self._running
        if running is None or running.challenge.answer is None:
            return None
        return Proof(running.record, running.person_id, running.challenge.answer, tuple(running.crops))

    def close(self, answer: Answer) -> None:
        """Say how the challenge ended."""
        running, self._running = self._running, None
        if running is not None:
            first = running.prompt
            self._tell(
                self._prompt(first.visit, first.track, answer.state, first.action, THANKS, answer.reason, first.id)
            )

    def leave(self, record: TrackRecord, reason: str) -> None:
        """End the challenge of a track that is no more."""
        if self._running is not None and self._running.record is record:
            self._running.challenge.end(reason)

    def reset(self, visit: Visit) -> None:
        """The visit is over: nobody is asked any more."""
        self._sights.clear()
        if self._requested_s is not None:
            self._nobody(visit.id)

    def _nobody(self, visit: str) -> None:
        self._requested_s = None
        self._tell(self._prompt(visit, 0, Asked.ENDED, None, _NOBODY, "no face was seen"))

    def _rate(self, at_s: float) -> float:
        """Return how often faces were seen of late, a second."""
        return sum(at_s - seen_s < _AFTER_S for seen_s in self._sights) / _AFTER_S

    def _prompt(
        self,
        visit: str,
        track: int,
        state: Asked,
        action: Optional[Action],
        text: str,
        reason: str,
        prompt_id: str = "",
    ) -> Prompt:
        wall_s = self._clock.wall_s()
        limit_s = self._config.challenge_s
        return Prompt(
            prompt_id or new_ulid(wall_s), visit, track, state, action, text, reason, limit_s, self._camera, wall_s
        )
