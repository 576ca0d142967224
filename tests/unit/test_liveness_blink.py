"""Blinks in series of eye openness, and the eyes themselves."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
import pytest

from edgecam.liveness.blink import Blinks, EyeSeries
from edgecam.liveness.ear import EyeAspect, aspect
from edgecam.liveness.eyes import cut, patches, view
from edgecam.nn.registry import ModelRegistry
from edgecam.types import Floats

OPEN, SHUT = 0.95, 0.05
Spans = List[Tuple[float, float]]


def watch(
    closed: Spans, fps: float, until_s: float = 10.0, gaps: Sequence[Tuple[float, float]] = (), level: float = OPEN
) -> Blinks:
    """Return what is found when eyes close in these spans and are not seen in those."""
    series = EyeSeries(closed_below=0.5, least_open=0.5)
    for at_s in np.arange(0, until_s, 1 / fps):
        hidden = any(a <= at_s <= b for a, b in gaps)
        value = SHUT if any(a <= at_s <= b for a, b in closed) else level
        series.add(float(at_s), None if hidden else value)
    return series.find()


@pytest.mark.parametrize("fps", [30, 24, 15, 10])
@pytest.mark.parametrize("lasts_s", [0.12, 0.2, 0.35])
def test_a_blink_is_found_at_its_middle_whatever_the_frame_rate(fps: float, lasts_s: float) -> None:
    found = watch([(3.0, 3.0 + lasts_s), (7.0, 7.0 + lasts_s)], fps)
    assert found.blinks_s == pytest.approx((3.0 + lasts_s / 2, 7.0 + lasts_s / 2), abs=0.08)
    assert (found.closures_s, found.reason) == ((), "")


@pytest.mark.parametrize("fps", [8, 5, 2, 0.5])
def test_too_few_frames_cannot_tell(fps: float) -> None:
    found = watch([(3.0, 3.4), (7.0, 7.4)], fps, until_s=60)
    assert found.blinks_s == ()
    assert "cannot tell" in found.reason


@pytest.mark.parametrize("fps", [30, 10])
def test_a_long_closure_is_no_blink(fps: float) -> None:
    found = watch([(3.0, 5.2)], fps)
    assert found.blinks_s == ()
    assert found.closures_s[0] == pytest.approx((3.0, 5.2), abs=0.1)


def test_a_single_frame_that_flickers_is_no_blink() -> None:
    assert watch([(3.0, 3.01)], 30).blinks_s == ()


@pytest.mark.parametrize("gap", [(2.8, 3.1), (3.1, 3.5), (3.06, 3.24)])
def test_a_closure_of_which_an_end_was_not_seen_is_no_evidence(gap: Tuple[float, float]) -> None:
    found = watch([(3.0, 3.3), (7.0, 7.2)], 30, gaps=[gap])
    assert found.blinks_s == pytest.approx((7.1,), abs=0.05)


def test_eyes_that_are_still_closed_at_the_end_have_not_blinked() -> None:
    assert watch([(9.8, 11.0)], 30).blinks_s == ()


def test_eyes_never_seen_open_tell_nothing() -> None:
    found = watch([(3.0, 3.2)], 30, level=0.3)
    assert (found.blinks_s, found.reason) == ((), "eyes not seen open (glasses?)")


def test_narrow_eyes_are_measured_by_their_own_openness() -> None:
    """A fixed threshold of 0.2 on the aspect ratio would call these closed all the time."""
    series = EyeSeries(EyeAspect.closed_below, EyeAspect.least_open)
    for at_s in np.arange(0, 10, 1 / 25):
        series.add(float(at_s), 0.09 if 4.0 <= at_s <= 4.2 else 0.18)
    assert series.find().blinks_s == pytest.approx((4.1,), abs=0.05)


@pytest.mark.parametrize("openness", [None, float("nan")])
def test_what_is_not_seen_is_left_out(openness: Optional[float]) -> None:
    series = EyeSeries(0.5, 0.5)
    series.add(0.0, openness)
    series.add(1.0, OPEN)
    series.add(0.5, SHUT)
    assert len(series) == 1
    assert series.find().reason == "eyes hardly seen"


FRONTAL = np.array([[70, 80], [130, 80], [100, 115], [78, 150], [122, 150]], np.float32)
BOX = np.array([50, 40, 100, 130], np.float32)


def seen(landmarks: Floats, box: Floats = BOX) -> bool:
    area = cut(np.zeros((240, 320, 3), np.uint8), box)
    return area is not None and view(area, box, landmarks) is not None


def test_only_eyes_that_face_the_camera_and_are_large_enough_are_judged() -> None:
    assert seen(FRONTAL)
    profile = FRONTAL.copy()
    profile[2, 0] += 40
    assert not seen(profile)
    assert not seen(FRONTAL * 0.2, BOX * 0.2)
    assert not seen(FRONTAL + 400, BOX + 400)


def test_both_eyes_are_shown_alike_even_if_the_head_is_tilted() -> None:
    """The image-right eye is mirrored: a symmetric face gives the same patch twice."""
    y, x = np.mgrid[:240, :320].astype(np.float32)
    for degrees in (0, 25):
        turn = np.radians(degrees)
        across, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        u = (x - 160) * across[0] + (y - 120) * across[1]
        v = (x - 160) * down[0] + (y - 120) * down[1]
        grey = (128 + 60 * np.sin(np.abs(u) / 9) * np.cos(v / 7 + np.abs(u) / 11)).astype(np.uint8)
        middle = np.array([160, 120])
        landmarks = np.stack([middle - 40 * across, middle + 40 * across, middle, middle, middle]).astype(np.float32)
        left, right = patches(grey, landmarks).astype(int)
        assert np.abs(left - right).mean() < 3
        assert np.abs(left - right[:, ::-1]).mean() > 15


def test_the_aspect_ratio_is_height_by_width() -> None:
    points = np.array([[0, 0], [2, -1.5], [4, -1.5], [6, 0], [4, 1.5], [2, 1.5]], np.float32)
    assert aspect(points) == pytest.approx(0.5)


def test_dlib_finds_open_eyes_wider_than_closed_ones(registry: ModelRegistry) -> None:
    pytest.importorskip("dlib")
    if not registry.available("landmarks68"):
        pytest.skip("landmarks68 was not accepted: edgecam models pull --accept-licence landmarks68")
    assert EyeAspect(registry.path("landmarks68"))([]).shape == (0,)
