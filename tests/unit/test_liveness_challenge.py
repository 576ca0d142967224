"""Challenges: what passes, what does not, and when nobody can tell. Heads and photos are drawn; every time is given."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Callable, Optional, Tuple

import cv2
import numpy as np
import pytest

from edgecam.liveness.blink import Blinks
from edgecam.liveness.challenge import Answer, Challenge, Sight, possible, proven
from edgecam.liveness.eyes import Area
from edgecam.liveness.turn import flatness, parallax
from edgecam.liveness.vote import Standing
from edgecam.types import Action, Asked, Floats, Image, Liveness

LIMIT_S = 8.0
SIDE = 160
_RNG = np.random.default_rng(5)
_SKIN = cv2.GaussianBlur(_RNG.normal(0, 1, (400, 800)).astype(np.float32), (0, 0), 18)
_SKIN = 128 + 40 * _SKIN / _SKIN.std()
UNIT = 40.0
"""px of an eye distance."""
SOLID = np.array([[-0.5, -0.45, 1.34], [0.5, -0.45, 1.34], [0.0, 0.15, 1.9], [-0.4, 0.6, 1.3], [0.4, 0.6, 1.3]])
"""On a ball of 1.5 eye distances, and the nose in front of it."""


def turned(yaw_deg: float) -> Floats:
    """Return (5, 2) landmarks of a head turned to the image's right."""
    angle = np.radians(yaw_deg)
    x = SOLID[:, 0] * np.cos(angle) + SOLID[:, 2] * np.sin(angle)
    return np.asarray(np.stack([x, SOLID[:, 1]], axis=1) * UNIT + SIDE / 2, np.float32)


@cache
def head(yaw_deg: float) -> Image:
    """Draw a ball of skin, turned."""
    y, x = (np.mgrid[:SIDE, :SIDE] - SIDE / 2) / (1.5 * UNIT)
    inside = x**2 + y**2 < 1
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    at_lon = np.arctan2(x, z) - np.radians(yaw_deg)
    at = np.stack([(at_lon / np.pi + 0.5) * 799, (y / 2 + 0.5) * 399]).astype(np.float32)
    drawn = cv2.remap(_SKIN.astype(np.float32), at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.where(inside, np.clip(drawn, 0, 255), 60).astype(np.uint8)


@cache
def tilted(yaw_deg: float, out: float = 0.0) -> Tuple[Floats, Image]:
    """Return a photo of the head from the front, tilted; `out` moves the nose as a landmark finder that errs would."""
    matrix = np.array([[np.cos(np.radians(yaw_deg)), 0, 0], [0.06, 1.0, 0]])
    matrix[:, 2] = SIDE / 2 - matrix[:, :2] @ [SIDE / 2, SIDE / 2]
    points = turned(0) @ matrix[:, :2].T + matrix[:, 2]
    points[2, 0] += out * UNIT
    picture = cv2.warpAffine(head(0), matrix, (SIDE, SIDE), borderValue=60)
    return points.astype(np.float32), np.asarray(picture, np.uint8)


OPEN = Blinks((), (), 5.0, "")


def sight(
    at_s: float,
    yaw_deg: float = 0.0,
    *,
    blinks: Blinks = OPEN,
    shown: Optional[Tuple[Floats, Image]] = None,
    moved: Tuple[float, float] = (0.0, 0.0),
    larger: float = 1.0,
) -> Sight:
    landmarks, grey = shown or (turned(yaw_deg), head(yaw_deg))
    area = Area(grey, np.zeros(2, np.float32), 1.0)
    box = np.array([40 + moved[0], 30 + moved[1], 80 * larger, 100 * larger], np.float32)
    return Sight(at_s, box, landmarks, yaw_deg, area, blinks)


def play(
    action: Action, looks: Callable[[float], Any], hz: float = 10.0, until_s: float = 10.0, asked_s: float = 0.0
) -> Answer:
    """Ask and show what `looks` returns at each time: a Sight, None for an empty frame, "same" for a frame repeated."""
    challenge = Challenge(action, asked_s, LIMIT_S)
    for n in range(round(until_s * hz)):
        at_s = asked_s + n / hz
        seen = looks(at_s)
        if seen is None:
            challenge.miss(at_s)
        elif isinstance(seen, str):
            challenge.hold(at_s)
        else:
            challenge.see(seen)
    assert challenge.answer is not None
    return challenge.answer


def turning(to_deg: float, from_s: float = 2.0) -> Callable[[float], Sight]:
    return lambda at_s: sight(at_s, to_deg * float(np.clip((at_s - from_s) * 2, 0, 1)))


@pytest.mark.parametrize(
    ("action", "to_deg", "state"),
    [
        (Action.TURN_LEFT, 35, Asked.PASSED),
        (Action.TURN_RIGHT, -35, Asked.PASSED),
        (Action.TURN_LEFT, -35, Asked.FAILED),
        (Action.TURN_RIGHT, 35, Asked.FAILED),
        (Action.TURN_LEFT, 8, Asked.FAILED),
        (Action.TURN_LEFT, 0, Asked.FAILED),
    ],
)
def test_a_head_that_turns_as_asked_passes_and_no_other(action: Action, to_deg: float, state: Asked) -> None:
    answer = play(action, turning(to_deg))
    assert answer.state is state
    if state is Asked.FAILED:
        assert ("other side" in answer.reason) == (abs(to_deg) > 30)


@pytest.mark.parametrize("hz", [4.0, 30.0])
def test_at_any_rate_that_suffices(hz: float) -> None:
    assert play(Action.TURN_LEFT, turning(35), hz=hz).state is Asked.PASSED


@pytest.mark.parametrize("hz", [1.0, 2.0])
@pytest.mark.parametrize("action", list(Action))
def test_at_one_or_two_frames_a_second_nobody_can_tell(action: Action, hz: float) -> None:
    twice = Blinks((3.0, 4.0), (), 5.0, "cannot tell: eyes seen 1 times a second")
    answer = play(action, lambda at_s: replace(turning(35)(at_s), blinks=twice), hz=hz, until_s=12)
    assert answer.state is Asked.CANNOT_TELL
    assert f"{hz:.1f} times a second" in answer.reason


@pytest.mark.parametrize("out", [0.0, 0.22, -0.3])
@pytest.mark.parametrize("to_deg", [25, 60])
@pytest.mark.parametrize("action", [Action.TURN_LEFT, Action.TURN_RIGHT])
def test_a_tilted_photo_does_not_pass_even_if_its_landmarks_err(action: Action, to_deg: float, out: float) -> None:
    """The finder of landmarks knows heads, and reads turns into squeezed photos: the pixels tell."""

    def wave(at_s: float) -> Sight:
        return sight(at_s) if at_s < 1 else sight(at_s, shown=tilted(to_deg, out))

    assert play(action, wave).state is Asked.FAILED


def test_a_tilted_photo_with_glare_on_it_is_narrower_than_its_turn_explains() -> None:
    """Glare keeps the pixels from agreeing; the squeezed face remains."""
    landmarks, picture = tilted(60, 0.25)
    glare = np.exp(-((np.mgrid[:SIDE, :SIDE] - SIDE / 2) ** 2).sum(axis=0) / (2 * 14.0**2)) * 200
    shown = landmarks, np.clip(picture + glare, 0, 255).astype(np.uint8)
    front = Area(head(0), np.zeros(2, np.float32), 1.0)
    flat = flatness(front, turned(0), Area(shown[1], np.zeros(2, np.float32), 1.0), landmarks)
    assert flat is not None
    assert flat < 0.95
    answer = play(Action.TURN_LEFT, lambda at_s: sight(at_s) if at_s < 1 else sight(at_s, shown=shown))
    assert answer == Answer(Asked.FAILED, "moved like a flat picture")


def test_one_odd_face_is_no_turn() -> None:
    def once(at_s: float) -> Sight:
        return sight(at_s, 35 if at_s == 3.0 else 0)

    answer = play(Action.TURN_LEFT, once)
    assert (answer.state, answer.reason) == (Asked.FAILED, "not done within 8 s")


def test_somebody_who_never_faces_the_camera_cannot_be_told() -> None:
    answer = play(Action.TURN_LEFT, lambda at_s: sight(at_s, 40))
    assert answer == Answer(Asked.CANNOT_TELL, "cannot tell: the face was not seen from the front")


def blinking(*at_s: float) -> Callable[[float], Sight]:
    """Look with blinks known 0.2 s after their middle."""
    return lambda now_s: sight(now_s, blinks=Blinks(tuple(t for t in at_s if t + 0.2 <= now_s), (), now_s, ""))


@pytest.mark.parametrize(
    ("blinks", "state"),
    [
        ((2.0, 2.6), Asked.PASSED),
        ((1.5, 4.0, 5.0), Asked.PASSED),
        ((2.0,), Asked.FAILED),
        ((1.0, 6.0), Asked.FAILED),
        ((-1.0, -0.5), Asked.FAILED),
        ((0.1, 1.0), Asked.FAILED),
        ((), Asked.FAILED),
    ],
)
def test_two_blinks_soon_after_each_other_after_the_question(blinks: Tuple[float, ...], state: Asked) -> None:
    assert play(Action.BLINK_TWICE, blinking(*blinks)).state is state


def test_eyes_behind_dark_glasses_cannot_be_told() -> None:
    hidden = Blinks((), (), 3.0, "eyes not seen open (glasses?)")
    answer = play(Action.BLINK_TWICE, lambda at_s: sight(at_s, blinks=hidden))
    assert answer == Answer(Asked.CANNOT_TELL, "cannot tell: eyes not seen open (glasses?)")
    assert Action.BLINK_TWICE not in possible(hidden, 10.0)


def test_a_face_that_leaves_ends_it_at_once_although_it_comes_back() -> None:
    answer = play(Action.TURN_LEFT, lambda at_s: None if 1.0 < at_s < 2.9 else turning(35, 4.0)(at_s))
    assert answer == Answer(Asked.ENDED, "the face left the picture")


def test_a_turn_does_not_go_on_over_a_gap() -> None:
    """The face before a gap and the one after it need not be the same."""

    def hidden_while_turning(at_s: float) -> Optional[Sight]:
        return None if 2.0 < at_s < 3.0 else sight(at_s, 0 if at_s <= 2.0 else 35)

    assert play(Action.TURN_LEFT, hidden_while_turning).state is Asked.CANNOT_TELL


@pytest.mark.parametrize("change", [{"moved": (90.0, 0.0)}, {"moved": (0.0, -90.0)}, {"larger": 2.0}])
def test_a_face_that_is_exchanged_ends_it(change: Any) -> None:
    answer = play(Action.TURN_LEFT, lambda at_s: sight(at_s, 35 if at_s > 2 else 0, **(change if at_s > 2 else {})))
    assert answer.state is Asked.ENDED
    assert "exchanged" in answer.reason


def test_a_camera_that_hangs_neither_passes_nor_fails() -> None:
    answer = play(Action.TURN_LEFT, lambda at_s: "same" if at_s > 0.5 else sight(at_s))
    assert answer == Answer(Asked.CANNOT_TELL, "cannot tell: the camera's picture stands still")


def test_nothing_changes_an_answer() -> None:
    challenge = Challenge(Action.TURN_LEFT, 0.0, LIMIT_S)
    challenge.end("the visit is over")
    challenge.miss(20.0)
    challenge.hold(20.0)
    challenge.see(sight(20.0, 35))
    assert challenge.answer == Answer(Asked.ENDED, "the visit is over")


def test_what_can_be_asked() -> None:
    assert set(possible(OPEN, 10.0)) == set(Action)
    assert set(possible(Blinks((), (), 0.0, "cannot tell"), 5.0)) == {Action.TURN_LEFT, Action.TURN_RIGHT}
    assert possible(OPEN, 1.0) == ()


PASSED = Answer(Asked.PASSED, "turned the head to the left when asked")


@pytest.mark.parametrize("state", list(Asked))
@pytest.mark.parametrize("verdict", list(Liveness))
@pytest.mark.parametrize("doubt", ["", "may be a picture"])
def test_only_a_passed_challenge_lifts_and_only_what_is_unproven(state: Asked, verdict: Liveness, doubt: str) -> None:
    before = Standing(verdict, "so it is", doubt, waiting=False)
    after = proven(before, Answer(state, "it was so"))
    lifted = state is Asked.PASSED and verdict is Liveness.UNPROVEN and not doubt
    assert after.verdict is (Liveness.LIVE if lifted else verdict)
    assert after.doubt == doubt
    if verdict is Liveness.UNPROVEN:
        assert "challenge: it was so" in after.note
    else:
        assert after == before


def test_parallax_is_that_of_the_nose_alone() -> None:
    for yaw in (-40, -20, 20, 40):
        way, fits = parallax(turned(0), turned(yaw))
        assert np.sign(way) == np.sign(yaw)
        assert abs(way) > 0.17
        assert fits
        larger = turned(yaw) * 1.7 + np.array([30, -8], np.float32)
        assert parallax(turned(0), larger)[0] == pytest.approx(way, abs=1e-3)
    way, fits = parallax(turned(0), tilted(60)[0])
    assert abs(way) < 0.01
    assert not fits
    assert parallax(turned(0), tilted(60, 0.2)[0])[1] is False
    assert parallax(np.zeros((5, 2), np.float32), turned(0)) == (0.0, False)
    assert parallax(turned(0), np.zeros((5, 2), np.float32)) == (0.0, False)


def test_flat_pictures_are_flat_and_heads_are_not() -> None:
    def area(grey: Image) -> Area:
        return Area(grey, np.zeros(2, np.float32), 1.0)

    front = area(head(0))
    for degrees in (30, 40):
        landmarks, picture = tilted(degrees)
        flat, round_ = (
            flatness(front, turned(0), area(grey), points)
            for grey, points in ((picture, landmarks), (head(degrees), turned(degrees)))
        )
        assert flat is not None
        assert flat > 0.97
        assert round_ is not None
        assert round_ < 0.95
    empty = area(np.full((SIDE, SIDE), 60, np.uint8))
    assert flatness(front, turned(0), empty, turned(30)) is None
