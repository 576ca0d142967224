"""The tracker on real people: clips, found by the real detector."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple

import cv2
import numpy as np
import pytest
from PIL import Image as Pictures

from edgecam.config import DetectConfig, TrackConfig
from edgecam.detect import make
from edgecam.nn.registry import ModelRegistry
from edgecam.track import Tracker, appearance
from edgecam.types import Faces, Image, Tracks

pytestmark = [pytest.mark.models, pytest.mark.data]


def gif(path: Path, fps: float) -> Iterator[Tuple[float, Image]]:
    """Yield at most `fps` frames a second with their times."""
    with Pictures.open(path) as clip:
        at_s, due_s = 0.0, 0.0
        for i in range(getattr(clip, "n_frames", 1)):
            clip.seek(i)
            if at_s >= due_s - 1e-6:
                due_s = at_s + 1 / fps
                yield at_s, np.ascontiguousarray(np.asarray(clip.convert("RGB"), np.uint8)[..., ::-1])
            at_s += clip.info.get("duration", 80) / 1000


def film(path: Path, fps: float, until_s: float) -> Iterator[Tuple[float, Image]]:
    capture = cv2.VideoCapture(str(path))
    rate, due_s, i = capture.get(cv2.CAP_PROP_FPS), 0.0, 0
    while capture.grab() and i / rate < until_s:
        if i / rate >= due_s:
            due_s += 1 / fps
            yield i / rate, np.asarray(capture.retrieve()[1], np.uint8)
        i += 1
    capture.release()


@pytest.mark.parametrize("fps", [2, 5])
@pytest.mark.parametrize(
    ("name", "people"),
    [
        ("intel_classroom.gif", 4),
        ("intel_face-demographics-walking-and-pause.gif", 3),
        ("intel_head-pose-face-detection-female-and-male.gif", 2),
    ],
)
def test_as_many_tracks_as_people(registry: ModelRegistry, data_dir: Path, name: str, people: int, fps: float) -> None:
    detector, tracker = make(DetectConfig(min_face_px=20), registry, threads=2), Tracker(TrackConfig())
    seen: set[int] = set()
    for at_s, image in gif(data_dir / "videos/multi" / name, fps):
        faces = detector(image)
        seen |= {*tracker.update(faces, at_s, appearance(image, faces)).ids.tolist()}
    assert seen == set(range(1, people + 1))


def test_who_stares_into_the_camera_is_no_picture_but_a_freeze_is(registry: ModelRegistry, data_dir: Path) -> None:
    """The stillest person at hand: a close-up, blinking and hardly moving for 14 s; then one frame of it for 12 s."""
    detector, tracker = make(DetectConfig(min_face_px=80), registry, threads=2), Tracker(TrackConfig())
    at_s, image, found = 0.0, np.zeros((1, 1, 3), np.uint8), Faces.empty()
    for at_s, image in film(data_dir / "videos/blink/blink_repeating.mp4", 4, 14):
        found = detector(image, tracker.predicted_boxes(at_s) if len(found) else None)
        tracks = tracker.update(found, at_s, appearance(image, found))
        assert tracks.ids.tolist() == [1]
    last = Tracks(Faces.empty(), np.zeros(0, np.int64))
    noise = np.random.default_rng(0)
    for i in range(1, 49):
        noisy = np.clip(image + noise.normal(0, 4, image.shape), 0, 255).astype(np.uint8) if i % 4 else image
        frozen = detector(noisy, tracker.predicted_boxes(at_s + i / 4)) if i < 3 else found
        last = tracker.update(frozen, at_s + i / 4)
    assert last.still == (1,)


def test_an_appearance_is_nearer_to_its_person_than_to_others(registry: ModelRegistry, data_dir: Path) -> None:
    image = np.asarray(cv2.imread(str(data_dir / "bbt_cast/bbt3.jpg")), np.uint8)
    faces = make(DetectConfig(), registry, threads=2)(image)
    first = appearance(image, faces)
    darker = np.asarray(image * 0.85, np.uint8)
    moved = np.roll(darker, (3, 5), axis=(0, 1))
    shifted = Faces(faces.boxes + np.array([5, 3, 0, 0], np.float32), faces.scores, faces.landmarks)
    alike = first @ appearance(moved, shifted).T
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert (alike.argmax(axis=1) == np.arange(len(faces))).all()
    assert float(np.diag(alike).min()) > float((alike - 2 * np.eye(len(faces))).max())


def test_an_appearance_needs_no_pixels() -> None:
    boxes = np.array([[-500, -500, 20, 20], [0, 0, 0, 0], [5, 5, 900, 900]], np.float32)
    faces = Faces(boxes, np.ones(3, np.float32), np.zeros((3, 5, 2), np.float32))
    assert np.isfinite(appearance(np.zeros((4, 3, 3), np.uint8), faces)).all()
