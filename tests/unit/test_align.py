from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecam.align import arcface_input, facenet_input, make_crop
from edgecam.errors import ShapeError
from edgecam.geometry import ARCFACE_TEMPLATE
from edgecam.types import FaceCrop, Floats, Image


def ramp(height: int, width: int) -> Image:
    """Blue tells the column, green the row (both modulo 256)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) % 256
    image[..., 1] = (np.arange(height) % 256)[:, None]
    return image


def box(x: float, y: float, w: float, h: float) -> Floats:
    return np.array([x, y, w, h], np.float32)


POINTS = np.array([[60, 60], [90, 60], [75, 75], [62, 90], [88, 90]], np.float32)


def test_a_crop_is_the_box_and_sixty_percent_unscaled() -> None:
    crop = make_crop(ramp(200, 240), box(50, 40, 50, 60), POINTS)
    assert crop.image.shape == (96, 80, 3)
    assert crop.image[0, 0, :2].tolist() == [35, 22]  # 50 - 0.3 * 50, 40 - 0.3 * 60
    assert crop.box.tolist() == [15, 18, 50, 60]
    assert crop.landmarks.tolist() == (POINTS - [35, 22]).tolist()
    assert crop.scale == 1


def test_a_crop_is_clipped_at_the_border_and_nothing_is_made_up() -> None:
    crop = make_crop(ramp(100, 100), box(-10, 70, 50, 60), POINTS)
    assert crop.image.shape == (48, 55, 3)
    assert crop.image[0, 0, :2].tolist() == [0, 52]
    assert crop.box.tolist() == [-10, 18, 50, 60]


def test_a_large_face_is_shrunk_to_256_with_its_box_and_landmarks() -> None:
    crop = make_crop(ramp(1000, 1000), box(200, 200, 400, 500), POINTS * 6)
    assert crop.image.shape == (256, 205, 3)
    assert crop.scale == pytest.approx(256 / 800)
    assert crop.box[2] / crop.scale == pytest.approx(400, rel=0.01)
    # A landmark still points at the same pixel: the ramp tells where it came from (coarsely, it was averaged).
    x, y = crop.landmarks[0]
    assert abs(int(crop.image[int(y), int(x), 1]) - (360 % 256)) <= 3


def test_a_crop_does_not_hold_on_to_the_frame() -> None:
    frame = ramp(100, 100)
    crop = make_crop(frame, box(-50, -50, 300, 300), POINTS)
    frame[:] = 255
    assert crop.image.max() < 255


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 4), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_any_box_gives_usable_crops(sides: tuple[float, ...], height: int, width: int) -> None:
    crop = make_crop(ramp(height, width), np.array(sides, np.float32), POINTS)
    assert 1 <= min(crop.image.shape[:2]) <= max(crop.image.shape[:2]) <= 256
    assert facenet_input(crop).shape == (160, 160, 3)
    assert arcface_input(crop).shape == (112, 112, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ShapeError):
        make_crop(ramp(9, 9), box(bad, 0, 1, 1), POINTS)
    with pytest.raises(ShapeError):
        make_crop(ramp(9, 9), box(0, 0, 1, 1), POINTS * np.float32(bad))


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(ShapeError):
        make_crop(np.zeros((0, 5, 3), np.uint8), box(0, 0, 1, 1), POINTS)


def test_facenet_gets_the_box_and_a_margin_stretched_in_rgb() -> None:
    """Facts: margin .3 sqrt(w h) in total, so a 90x160 box reads 18 px more on each side."""
    crop = make_crop(ramp(255, 255), box(60, 50, 90, 160), POINTS)
    image = facenet_input(crop)
    assert image[80, 0, 2] == pytest.approx(60 - 18, abs=1)
    assert image[80, -1, 2] == pytest.approx(60 + 90 + 18, abs=2)
    assert image[0, 80, 1] == pytest.approx(50 - 18, abs=1)
    assert image[-1, 80, 1] == pytest.approx(50 + 160 + 18, abs=2)
    assert image[..., 0].max() == 0  # red of the frame


@pytest.mark.parametrize("turn_deg", [0.0, 25.0, -40.0])
def test_arcface_gets_the_landmarks_where_it_wants_them(turn_deg: float) -> None:
    turn = np.radians(turn_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = ((ARCFACE_TEMPLATE - 56) @ rotation.T * 1.5 + 128).astype(np.float32)
    frame = np.zeros((256, 256, 3), np.uint8)
    for i, (x, y) in enumerate(points):
        frame[round(float(y)) - 2 : round(float(y)) + 3, round(float(x)) - 2 : round(float(x)) + 3] = 50 * (i + 1)
    image = arcface_input(FaceCrop(frame, box(60, 60, 130, 150), points))
    at = np.round(ARCFACE_TEMPLATE).astype(int)
    assert image[at[:, 1], at[:, 0], 0].tolist() == [50, 100, 150, 200, 250]


def test_landmarks_in_one_point_fall_back_to_the_box() -> None:
    crop = make_crop(ramp(200, 200), box(50, 50, 60, 60), np.full((5, 2), 80, np.float32))
    image = arcface_input(crop)
    assert image[56, 56, 0] == pytest.approx(80, abs=2)
    assert image[56, 56, 1] == pytest.approx(80, abs=2)
