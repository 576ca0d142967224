"""Liveness on real people, screens and phones: clips, found by the real detector, judged by the real nets."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator, List

import numpy as np
import pytest

from edgecam import align, detect, quality
from edgecam.config import Config, LivenessConfig
from edgecam.detect import Detector
from edgecam.errors import ModelError
from edgecam.evaluation.blink import matched, read_truth
from edgecam.evaluation.presented import Presentation, follow, frames_of
from edgecam.liveness import LivenessNets, LivenessWatch, make
from edgecam.liveness.passive import unfit
from edgecam.nn.registry import ModelRegistry
from edgecam.types import Faces, Floats, Frame, Image, Liveness

pytestmark = [pytest.mark.data, pytest.mark.models]


@pytest.fixture(scope="module")
def detector(registry: ModelRegistry) -> Detector:
    return detect.make(Config().detect, registry)


@pytest.fixture(scope="module")
def nets(registry: ModelRegistry) -> LivenessNets:
    loaded = make(LivenessConfig(), registry)
    if loaded.passive is None:
        pytest.skip(loaded.lacking)
    return loaded


@pytest.fixture(scope="module")
def clips(data_dir: Path) -> Path:
    return data_dir / "videos/liveness"


Play = Callable[[str, str], Presentation]


@pytest.fixture(scope="module")
def play(detector: Detector, nets: LivenessNets, clips: Path) -> Play:
    """Return what is said of the longest track of two seconds of a clip."""

    def one(name: str, condition: str) -> Presentation:
        passive = LivenessNets(nets.passive)
        return follow(frames_of(clips / f"{name}.mp4", condition, 2.0), detector, passive)[0]

    return one


@pytest.mark.parametrize("condition", ["as is", "night colour"])
@pytest.mark.parametrize("name", ["lestari", "tranvan", "wolf"])
def test_a_person_is_live_and_a_screen_is_a_spoof(play: Play, name: str, condition: str) -> None:
    assert play(f"{name}_real", condition).standing.verdict is Liveness.LIVE
    assert play(f"{name}_fake", condition).standing.verdict is Liveness.SPOOF


@pytest.mark.parametrize("condition", ["dark", "5 fps"])
def test_nobody_is_misjudged_in_the_dark_or_at_a_low_frame_rate(play: Play, condition: str) -> None:
    assert play("wolf_real", condition).standing.verdict is Liveness.LIVE
    fake = play("wolf_fake", condition).standing
    assert fake.verdict is Liveness.SPOOF or (fake.verdict is Liveness.UNPROVEN and fake.doubt)


@pytest.mark.parametrize("name", ["wolf_real", "wolf_fake"])
def test_a_grey_picture_is_neither_live_nor_a_spoof(play: Play, name: str) -> None:
    standing = play(name, "grey").standing
    assert standing.verdict is Liveness.UNPROVEN
    assert "infrared" in standing.reason
    assert (standing.doubt, standing.waiting) == ("", False)


def test_a_picture_beside_a_person_gets_an_answer_of_its_own(
    detector: Detector, nets: LivenessNets, clips: Path
) -> None:
    pairs = zip(*(frames_of(clips / f"wolf_{kind}.mp4", "as is", 2.0) for kind in ("real", "fake")))
    together = (Frame(np.hstack([a.image, b.image]), a.captured_at_s) for a, b in pairs)
    tracks = follow(together, detector, LivenessNets(nets.passive))
    assert sorted(one.standing.verdict.value for one in tracks[:2]) == ["live", "spoof"]


def test_a_frozen_camera_makes_no_picture_of_a_person(detector: Detector, nets: LivenessNets, clips: Path) -> None:
    frame = next(frames_of(clips / "wolf_real.mp4", "as is", 1.0))
    frozen = (Frame(frame.image, i * 0.1) for i in range(25))
    (one,) = follow(frozen, detector, nets)
    assert one.standing.verdict is not Liveness.SPOOF
    assert one.blinks.blinks_s == ()


class Scene:
    """One face's place, found once, that other frames are shown at."""

    def __init__(self, detector: Detector, clip: Path) -> None:
        self.frames: List[Frame] = list(islice(frames_of(clip, "as is", 3.0), 0, 60, 6))
        self.faces: Faces = detector(self.frames[0].image)

    def show(self, watch: LivenessWatch, from_s: float) -> None:
        box, landmarks = self.faces.boxes[0], self.faces.landmarks[0]
        for i, frame in enumerate(self.frames):
            rated = quality.assess(align.make_crop(frame.image, box, landmarks), Config().quality)
            watch.see(Frame(frame.image, from_s + 0.26 * i), 1, box, landmarks, rated)


def test_a_face_and_a_picture_that_change_places_in_one_track_are_not_live(
    detector: Detector, nets: LivenessNets, clips: Path
) -> None:
    real, fake = (Scene(detector, clips / f"wolf_{kind}.mp4") for kind in ("real", "fake"))
    watch = LivenessWatch(LivenessNets(nets.passive))
    fake.show(watch, 0.0)
    assert watch.is_spoof(1)
    real.show(watch, 3.0)
    assert watch.standing(1).verdict is Liveness.UNPROVEN
    watch.forget(1)
    real.show(watch, 6.0)
    assert watch.standing(1).verdict is Liveness.LIVE


def grey_of(image: Image) -> Image:
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)


def test_the_nets_abstain_where_they_know_nothing(detector: Detector, clips: Path) -> None:
    frame = next(frames_of(clips / "wolf_real.mp4", "as is", 1.0))
    faces = detector(frame.image)
    box, landmarks = faces.boxes[0], faces.landmarks[0]

    def why(image: Image, box: Floats, landmarks: Floats) -> str:
        rated = quality.assess(align.make_crop(image, box, landmarks), Config().quality)
        return str(unfit(image, box, rated))

    assert why(frame.image, box, landmarks) == "None"
    assert "no colour" in why(grey_of(frame.image), box, landmarks)
    x, y, w, h = (int(v) for v in box)
    tight = np.ascontiguousarray(frame.image[y + h // 20 : y + h, x + w // 20 : x + w - w // 20])
    assert "too close" in why(tight, box - np.array([x, y, 0, 0], np.float32), landmarks - np.array([x, y], np.float32))
    small = np.ascontiguousarray(frame.image[::8, ::8])
    assert "too small" in why(small, box / 8, landmarks / 8)


def test_without_the_nets_everything_is_unproven_and_it_is_said_so(
    registry: ModelRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bare = make(LivenessConfig(), ModelRegistry(tmp_path))
    assert bare.passive is None
    assert "edgecam models pull" in caplog.text
    standing = LivenessWatch(bare).standing(1)
    assert standing.verdict is Liveness.UNPROVEN
    assert "minifasnet_v2" in standing.reason
    assert not standing.waiting


def test_dlib_without_its_landmarks_is_refused_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--accept-licence landmarks68"):
        make(LivenessConfig(eyes="dlib"), ModelRegistry(tmp_path))


def slowly(frames: Iterator[Frame], detector: Detector, nets: LivenessNets, *, glimpses: bool) -> LivenessWatch:
    """Look for faces five times a second, as a small board does; follow the eyes between or not."""
    watch, looked_s = LivenessWatch(nets), -1.0
    for frame in frames:
        if glimpses:
            watch.glimpse(frame)
        if frame.captured_at_s - looked_s >= 0.2:
            looked_s = frame.captured_at_s
            faces = detector(frame.image)
            rated = quality.assess(align.make_crop(frame.image, faces.boxes[0], faces.landmarks[0]), Config().quality)
            watch.see(frame, 1, faces.boxes[0], faces.landmarks[0], rated)
            watch.watch([1])
    return watch


def test_blinks_are_counted_between_the_looks_for_faces(detector: Detector, nets: LivenessNets, data_dir: Path) -> None:
    """Six blinks of six, of two long closures none; without the frames between nothing can be told."""
    folder = data_dir / "videos/blink"
    truth = read_truth(folder)["blink_repeating.mp4"]
    eyes = LivenessNets(eyes=nets.eyes)
    clip = folder / "blink_repeating.mp4"
    found = slowly(frames_of(clip, "as is", None), detector, eyes, glimpses=True).blinks(1)
    assert matched(found.blinks_s, truth.blinks, truth.slack_s) == len(found.blinks_s) == len(truth.blinks) == 6
    assert len(found.closures_s) == len(truth.closures) == 2
    blind = slowly(frames_of(clip, "as is", 5.0), detector, eyes, glimpses=False).blinks(1)
    assert blind.blinks_s == ()
    assert "cannot tell" in blind.reason
