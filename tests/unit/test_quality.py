from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List

import cv2
import numpy as np
import pytest

from edgecam.align import make_crop
from edgecam.config import DetectConfig, QualityConfig
from edgecam.detect import Detector, make
from edgecam.geometry import ARCFACE_TEMPLATE
from edgecam.nn.registry import ModelRegistry
from edgecam.quality import assess, pose
from edgecam.types import FaceCrop, Floats, Image

CONFIG = QualityConfig()


def turned(yaw: float, pitch: float, roll: float) -> Floats:
    """The template's face, nose and mouth standing out, turned in space (degrees)."""
    solid = np.concatenate([ARCFACE_TEMPLATE - 56, [[0.0], [0.0], [20.0], [4.0], [4.0]]], axis=1)
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray((solid @ (about_z @ about_x @ about_y).T)[:, :2] * 1.7 + 90, np.float32)


@pytest.mark.parametrize("yaw", [-40, 0, 25])
@pytest.mark.parametrize("pitch", [-20, 0, 20])
def test_pose_is_what_the_face_was_turned_by(yaw: float, pitch: float) -> None:
    found_yaw, found_pitch, roll = pose(turned(yaw, pitch, 0))
    assert found_yaw == pytest.approx(yaw, abs=4)
    assert found_pitch == pytest.approx(pitch, abs=6)
    assert abs(roll) < 10


@pytest.mark.parametrize("roll", [-35.0, 0.0, 50.0])
def test_roll_is_clockwise(roll: float) -> None:
    yaw, pitch, found = pose(turned(0, 0, roll))
    assert (yaw, pitch, found) == pytest.approx((0, 0, roll), abs=1)


def test_points_in_one_place_have_no_pose() -> None:
    assert pose(np.full((5, 2), 7, np.float32)) == (0, 0, 0)


@pytest.mark.parametrize("side", [1, 2, 5, 300])
@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_flat_or_tiny_picture_is_never_good(side: int, value: int) -> None:
    frame = np.full((side, side, 3), value, np.uint8)
    box = np.array([0, 0, side, side], np.float32)
    for landmarks in (turned(0, 0, 0), np.zeros((5, 2), np.float32)):
        quality = assess(make_crop(frame, box, landmarks), CONFIG)
        assert not quality.ok
        assert all(0 <= part <= 1 for part in quality.parts.values())
        assert quality.infrared


# --- On real photos: each fault is named, and no photo without one is refused.


@pytest.fixture(scope="module")
def detector(registry: ModelRegistry) -> Detector:
    return make(DetectConfig(min_face_px=20, thresholds=(0.6, 0.6, 0.7)), registry, threads=2)


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> List[Image]:
    """One photo each of ten people."""
    files = [min(folder.glob("*.jpg")) for folder in sorted(data_dir.glob("lfw_colour_10x10/*")) if folder.is_dir()]
    return [np.asarray(cv2.imread(str(file)), np.uint8) for file in files]


def crop_of(detector: Detector, image: Image) -> FaceCrop:
    faces = detector(image)
    largest = int(faces.boxes[:, 2].argmax())
    return make_crop(image, faces.boxes[largest], faces.landmarks[largest])


def noisy(image: Any) -> Image:
    clean = np.asarray(image, np.float64)
    return np.clip(clean + np.random.default_rng(0).normal(0, 3, clean.shape), 0, 255).astype(np.uint8)


def cover_mouth(crop: FaceCrop) -> FaceCrop:
    image = crop.image.copy()
    image[int(crop.landmarks[2, 1]) :] = 200
    return FaceCrop(image, crop.box, crop.landmarks, crop.scale)


FAULTS: Any = {
    "too dark": lambda image: noisy(image * 0.06),
    "overexposed": lambda image: np.clip(image * 4.0 + 60, 0, 255).astype(np.uint8),
    "blurred": lambda image: noisy(cv2.GaussianBlur(image, (0, 0), 7)),
    "too small": lambda image: cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA),
}


@pytest.mark.models
@pytest.mark.data
@pytest.mark.parametrize("word", FAULTS)
def test_a_fault_is_named_and_lowers_its_part(detector: Detector, photos: List[Image], word: str) -> None:
    part = {"too dark": "light", "overexposed": "light", "blurred": "blur", "too small": "size"}[word]
    spoil: Callable[[Image], Image] = FAULTS[word]
    named = 0
    for photo in photos:
        good = crop_of(detector, photo)
        scale = 0.25 if word == "too small" else 1.0
        bad = make_crop(
            spoil(photo), _box(detector, photo) * np.float32(scale), _points(detector, photo) * np.float32(scale)
        )
        before, after = assess(good, CONFIG), assess(bad, CONFIG)
        assert after.parts[part] < before.parts[part]
        named += str(after.reason).startswith(word)
    assert named >= 8


@pytest.mark.models
@pytest.mark.data
def test_too_small_tells_the_size_in_the_frame(detector: Detector, photos: List[Image]) -> None:
    """A stored crop may be shrunk; what counts is the frame."""
    box, points = _box(detector, photos[0]), _points(detector, photos[0])
    small = make_crop(FAULTS["too small"](photos[0]), box / np.float32(4), points / np.float32(4))
    side = round(float(np.sqrt(box[2] * box[3])) / 4)
    assert assess(small, CONFIG).reason == f"too small ({side} px, need 40)"
    huge = cv2.resize(photos[0], None, fx=6, fy=6)
    shrunk = make_crop(np.asarray(huge, np.uint8), box * np.float32(6), points * np.float32(6))
    assert shrunk.scale < 0.5
    far_more = QualityConfig(min_face_px=400)
    assert assess(shrunk, far_more).ok
    assert assess(shrunk, far_more).parts["size"] == pytest.approx(side * 24 / 800, rel=0.03)


@pytest.mark.models
@pytest.mark.data
def test_a_covered_mouth_and_a_cut_face_are_told_apart(detector: Detector, photos: List[Image]) -> None:
    hidden, cut = 0, 0
    for photo in photos:
        crop = crop_of(detector, photo)
        hidden += assess(cover_mouth(crop), CONFIG).parts["occlusion"] < 0.7 * assess(crop, CONFIG).parts["occlusion"]
        box, points = _box(detector, photo), _points(detector, photo)
        edge = int(box[0] + 0.52 * box[2])
        half = make_crop(
            photo[:, edge:], box - np.array([edge, 0, 0, 0], np.float32), points - np.array([edge, 0], np.float32)
        )
        cut += assess(half, CONFIG).reason == "cut off by the border"
    assert hidden >= 8
    assert cut == 10


@pytest.mark.models
@pytest.mark.data
def test_good_photos_pass_and_only_grey_ones_are_infrared(detector: Detector, data_dir: Path) -> None:
    colour = sorted(data_dir.glob("lfw_colour_10x10/*/*.jpg"))
    qualities = [assess(crop_of(detector, np.asarray(cv2.imread(str(file)), np.uint8)), CONFIG) for file in colour]
    assert sum(quality.ok for quality in qualities) >= 99
    assert not any(quality.infrared for quality in qualities)
    grey = sorted(data_dir.glob("lfw_gray/*/*"))[::60]
    results = []
    for file in grey:
        tight = np.asarray(cv2.imread(str(file)), np.uint8)
        padded = cv2.copyMakeBorder(tight, 48, 48, 48, 48, cv2.BORDER_REPLICATE)
        if len(detector(np.asarray(padded, np.uint8))):
            results.append(assess(crop_of(detector, np.asarray(padded, np.uint8)), CONFIG))
    assert len(results) >= 0.98 * len(grey)
    assert sum(quality.ok for quality in results) >= 0.985 * len(results)
    assert all(quality.infrared for quality in results)


def _box(detector: Detector, image: Image) -> Floats:
    faces = detector(image)
    return faces.take([int(faces.boxes[:, 2].argmax())]).boxes.reshape(4)


def _points(detector: Detector, image: Image) -> Floats:
    faces = detector(image)
    return faces.take([int(faces.boxes[:, 2].argmax())]).landmarks.reshape(5, 2)
