"""Every detector, on real pictures: the same promises, whichever is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from edgecam.config import DetectConfig
from edgecam.detect import Detector, make
from edgecam.geometry import iou
from edgecam.nn.registry import ModelRegistry
from edgecam.types import Faces, Floats, Image

pytestmark = pytest.mark.models

KINDS = get_args(DetectConfig.model_fields["kind"].annotation)
MANY = ["bbt_cast/bbt3.jpg", "dlib_faces/2008_001322.jpg", "dlib_faces/2008_002470.jpg"]


@pytest.fixture(scope="module", params=KINDS)
def detector(request: pytest.FixtureRequest, registry: ModelRegistry) -> Detector:
    return make(DetectConfig(kind=request.param), registry, threads=2)


def read(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None, path
    return np.asarray(image, np.uint8)


def agree(a: Faces, b: Faces, least: float) -> bool:
    overlaps = iou(a.boxes, b.boxes)
    return len(a) == len(b) and (len(a) == 0 or float(overlaps.max(axis=1).min()) >= least)


def moved(boxes: Floats, x: float, y: float) -> Floats:
    return np.asarray(np.add(boxes, np.array([x, y, 0, 0])), np.float32)


@pytest.mark.data
def test_finds_the_one_person_of_every_photo(detector: Detector, data_dir: Path) -> None:
    photos = sorted(data_dir.glob("lfw_colour_10x10/*/*.jpg"))
    assert len(photos) == 100
    missed = [photo.name for photo in photos if not len(detector(read(photo)))]
    assert missed == []


@pytest.mark.data
@pytest.mark.parametrize("name", MANY)
def test_finds_a_group_as_it_was_counted(detector: Detector, data_dir: Path, name: str) -> None:
    faces = detector(read(data_dir / name))
    assert len(faces) == {"bbt3.jpg": 5, "2008_001322.jpg": 3, "2008_002470.jpg": 6}[Path(name).name]
    assert (np.diff(faces.scores) <= 0).all()
    assert faces.scores.min() > 0.5
    assert faces.scores.max() <= 1


@pytest.mark.data
def test_landmarks_are_image_left_first_and_inside_the_box(detector: Detector, data_dir: Path) -> None:
    faces = detector(read(data_dir / MANY[0]))
    left, right, nose, mouth_left, mouth_right = faces.landmarks.transpose(1, 0, 2)
    assert (left[:, 0] < right[:, 0]).all()
    assert (mouth_left[:, 0] < mouth_right[:, 0]).all()
    assert (left[:, 1] < nose[:, 1]).all()
    assert (nose[:, 1] < mouth_right[:, 1]).all()
    low, high = faces.boxes[:, None, :2], faces.boxes[:, None, :2] + faces.boxes[:, None, 2:]
    assert ((faces.landmarks > low) & (faces.landmarks < high)).all()


@pytest.mark.data
@pytest.mark.parametrize("name", MANY)
def test_a_face_in_a_region_is_found_as_in_the_whole(detector: Detector, data_dir: Path, name: str) -> None:
    """The region is the face's own box, then one that has the face at its corner; other faces stay out."""
    image = read(data_dir / name)
    for box in detector(image).boxes:
        for share in (0.0, -0.5, 0.5):
            region = moved(box[None], box[2] * share, box[3] * share)
            found = detector(image, region)
            overlaps = iou(box[None], found.boxes)
            assert overlaps.max(initial=0) > 0.7, region
            assert (overlaps > 0.3).sum() == 1


@pytest.mark.data
def test_regions_that_overlap_give_no_face_twice(detector: Detector, data_dir: Path) -> None:
    image = read(data_dir / MANY[0])
    whole = detector(image)
    twice = np.concatenate([whole.boxes, moved(whole.boxes, 5, 5)])
    assert agree(whole, detector(image, twice), 0.7)


@pytest.mark.data
def test_no_region_means_no_search(detector: Detector, data_dir: Path) -> None:
    image = read(data_dir / MANY[0])
    outside = np.array([[5000, 5000, 50, 50], [np.nan, 0, 5, 5], [10, 10, -5, 20]], np.float32)
    assert len(detector(image, np.zeros((0, 4), np.float32))) == 0
    assert len(detector(image, outside)) == 0


@pytest.mark.data
def test_does_not_alter_the_picture_and_repeats_itself(detector: Detector, data_dir: Path) -> None:
    image = read(data_dir / MANY[0])
    before = image.copy()
    image.flags.writeable = False
    first, second = detector(image), detector(image)
    assert (image == before).all()
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.landmarks, second.landmarks)


@pytest.mark.data
def test_finds_faces_in_a_grey_copy_and_a_view(detector: Detector, data_dir: Path) -> None:
    image = read(data_dir / MANY[0])
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2).astype(np.uint8)
    assert agree(detector(image), detector(grey), 0.5)
    wide = np.zeros((image.shape[0], image.shape[1] + 7, 3), np.uint8)
    wide[:, 3:-4] = image
    assert agree(detector(image), detector(wide[:, 3:-4]), 0.99)


@pytest.mark.data
def test_small_faces_are_left_out_on_demand(detector: Detector, data_dir: Path, registry: ModelRegistry) -> None:
    image = read(data_dir / "dlib_faces/2008_002470.jpg")  # faces of 37 to 52 px
    config = DetectConfig(kind="yunet" if "YuNet" in type(detector).__name__ else "mtcnn", min_face_px=150)
    assert len(make(config, registry)(image)) < len(detector(image))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (12, 12), (13, 40), (31, 33), (64, 64), (480, 640)])
@pytest.mark.parametrize("fill", ["black", "white", "noise"])
def test_a_picture_without_a_face_has_none(detector: Detector, size: tuple[int, int], fill: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image: Any = {"black": np.zeros_like(noise), "white": np.full_like(noise, 255), "noise": noise}[fill]
    assert len(detector(image)) == 0
    assert len(detector(image, np.array([[0, 0, size[1], size[0]]], np.float32))) == 0


@pytest.mark.data
def test_a_huge_photo_is_searched_in_bounded_time(detector: Detector, data_dir: Path) -> None:
    image = read(data_dir / MANY[0])
    huge = cv2.resize(image, (5940, 3830), interpolation=cv2.INTER_NEAREST)
    small = detector(image)
    large = Faces(small.boxes * np.float32(10), small.scores, small.landmarks * np.float32(10))
    assert agree(large, detector(np.asarray(huge, np.uint8)), 0.6)
