"""Whom a challenge is put to, when, and what is said if nobody is there."""

from __future__ import annotations

import secrets
from typing import Any, List

import numpy as np

from edgecam.config import LivenessConfig
from edgecam.liveness.blink import Blinks
from edgecam.pipeline.asking import Asker, Seen
from edgecam.pipeline.track import TrackRecord
from edgecam.pipeline.visits import Visit
from edgecam.types import Asked, FaceCrop, Frame, Prompt, Quality

VISIT = Visit("door", "v-1")
_GREY = np.full((120, 160, 3), 90, np.uint8)
EYES = Blinks((), (), 3.0, "")


class HandClock:
    """A clock that is moved by hand."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return 1_775_000_000.0 + self.now_s

    def wall_trusted(self) -> bool:
        return True

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Camera:
    """One camera's asker and what it says."""

    def __init__(self, challenge: str = "request") -> None:
        self.clock = HandClock()
        self.said: List[Prompt] = []
        config = LivenessConfig.model_validate({"challenge": challenge})
        self.asker = Asker("front", config, self.clock, self.said.append)

    def show(self, *faces: Seen, hz: float = 10.0, seconds: float = 3.0) -> None:
        """Show faces for a while, as the live path does."""
        for _ in range(round(hz * seconds)):
            self.clock.now_s += 1 / hz
            at_s = self.clock.now_s
            frame = Frame(_GREY, at_s)
            self.asker.watch(frame, faces, lambda _: EYES, still=False)
            proof = self.asker.take()
            if proof is not None:
                self.asker.close(proof.answer)
            wanted = self.asker.wanted(VISIT, faces, at_s)
            if wanted is not None:
                self.asker.ask(VISIT, wanted.record, None, at_s, EYES)


def face(track: int, side: float = 40.0) -> Seen:
    box = np.array([50, 30, side, side], np.float32)
    points = (box[:2] + side * np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])).astype(
        np.float32
    )
    quality = Quality(0.8, {}, 0.0, 0.0, 0.0, infrared=False)
    record = TrackRecord(track, 100.0, 4, track_id=track)
    return Seen(record, FaceCrop(_GREY, box, points), box, points, quality)


def test_nobody_there_is_said_after_a_moment() -> None:
    camera = Camera()
    camera.asker.request()
    camera.show(seconds=4.5)
    assert camera.said == []
    camera.show(seconds=1.0)
    (word,) = camera.said
    assert (word.state, word.action, word.track, word.text) == (Asked.ENDED, None, 0, "Nobody is there.")


def test_a_visit_that_ends_first_answers_a_request() -> None:
    camera = Camera()
    camera.asker.request()
    camera.asker.reset(VISIT)
    camera.asker.reset(VISIT)
    assert [word.state for word in camera.said] == [Asked.ENDED]


def test_the_nearest_is_asked_once_they_have_stayed_and_one_at_a_time() -> None:
    camera = Camera()
    camera.asker.request()
    faces = face(1, 30), face(2, 60)
    camera.show(*faces, seconds=1.5)
    assert camera.said == []
    camera.show(*faces, seconds=1.0)
    assert [(word.track, word.state) for word in camera.said] == [(2, Asked.ASKED)]
    camera.asker.request()
    camera.show(*faces, seconds=5.0)
    assert len(camera.said) == 1, "a second question while the first is open"
    camera.show(*faces, seconds=8.0)
    first, second, third = camera.said[:3]
    assert (second.state, second.id, second.text) == (Asked.FAILED, first.id, "Thank you.")
    assert third.state is Asked.ASKED
    assert third.id != first.id


def test_seen_too_seldom_nobody_is_asked_and_it_is_said_why() -> None:
    camera = Camera()
    camera.asker.request()
    one = face(1)
    camera.show(one, hz=1.0, seconds=8)
    (word,) = camera.said
    assert word.state is Asked.CANNOT_TELL
    assert "times a second" in word.reason
    assert one.record.answer is not None
    assert one.record.answer.state is Asked.CANNOT_TELL


def test_off_means_off() -> None:
    camera = Camera("off")
    camera.asker.request()
    camera.show(face(1), seconds=8.0)
    camera.asker.reset(VISIT)
    assert camera.said == []


def test_a_track_that_ends_takes_its_challenge_with_it() -> None:
    camera = Camera()
    camera.asker.request()
    one = face(1)
    camera.show(one)
    camera.asker.leave(face(2).record, "another's end")
    assert camera.asker.take() is None
    camera.asker.leave(one.record, "the visit is over")
    proof: Any = camera.asker.take()
    assert (proof.answer.state, proof.answer.reason) == (Asked.ENDED, "the visit is over")


def test_what_is_asked_cannot_be_foreseen() -> None:
    asked = set()
    for _ in range(60):
        camera = Camera()
        camera.asker.request()
        camera.show(face(1), seconds=2.5)
        asked.add(camera.said[0].action)
    assert len(asked) == 3
    assert Camera().asker.pick == secrets.choice
