"""One camera's path on real clips: what is said, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Tuple

import cv2
import numpy as np
import pytest
from heads import turned

from edgecam.capture.base import make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, Config
from edgecam.errors import ModelError
from edgecam.identify import Household, Identifier
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import IdentifierFactory, make_stages
from edgecam.pipeline.camera import CameraPath, Said, Stages
from edgecam.pipeline.still import find_faces
from edgecam.pipeline.visits import VisitBook
from edgecam.types import Frame, Phase, Verdict

pytestmark = [pytest.mark.data, pytest.mark.models]
CONFIG = Config()


class Rig:
    """The nets, once, and a household of the first frames of a clip."""

    def __init__(self, registry: ModelRegistry, clips: Path) -> None:
        self.clips = clips
        self.detector, self.encoder = make_stages(CONFIG, registry)
        self.factory = IdentifierFactory(self.encoder, CONFIG.embed, CONFIG.identify)

    def frames(self, name: str, every_s: float = 0.1, until_s: float = 1e9) -> Iterator[Frame]:
        """Yield frames of a clip at about 10 a second."""
        source = make_source(CameraConfig(url=str(self.clips / name)), "front", SystemClock())
        source.open()
        due = 0.0
        try:
            while (frame := source.read()) is not None and frame.captured_at_s <= until_s:
                if frame.captured_at_s >= due:
                    due = frame.captured_at_s + every_s - 0.005
                    yield frame
        finally:
            source.close()

    def household(self, **clips: str) -> Identifier:
        """Enrol people from the first second of their clips."""
        rows: List[Tuple[str, Any, bool]] = []
        for person, clip in clips.items():
            for frame in self.frames(clip, until_s=1.0):
                faces = find_faces(
                    frame.image, self.detector, self.encoder, self.factory.recognizability, CONFIG.quality
                )
                rows += [(person, face.vector, False) for face in faces[:1]]
        return self.factory.make(Household.of(rows))

    def play(self, identifier: Identifier, frames: Iterator[Frame]) -> List[Said]:
        """Return everything that is said of one visit."""
        said: List[Said] = []
        stages = Stages(self.detector, self.encoder, identifier)
        camera = CameraConfig(url="none")
        path = CameraPath("front", camera, CONFIG, stages, VisitBook(), SystemClock(), said.append)
        for frame in frames:
            path.perceive(frame, None)
        path.close()
        return said


@pytest.fixture(scope="module")
def rig(registry: ModelRegistry, data_dir: Path) -> Rig:
    return Rig(registry, data_dir / "videos/liveness")


@pytest.fixture(scope="module")
def family(rig: Rig) -> Identifier:
    return rig.household(lestari="lestari_real.mp4", wolf="wolf_real.mp4")


def test_the_enrolled_is_named_early_and_confirmed(rig: Rig, family: Identifier) -> None:
    said = [s.decision for s in rig.play(family, rig.frames("lestari_real.mp4"))]
    assert [(d.phase, d.verdict, d.person_id) for d in said] == [
        (Phase.NAMED, Verdict.KNOWN, "lestari"),
        (Phase.FINAL, Verdict.KNOWN, "lestari"),
    ]
    assert said[0].t_named_s is not None
    assert said[0].t_named_s - said[0].t_first_s < 1.0
    assert len({d.visit for d in said}) == 1
    assert len({d.id for d in said}) == len(said)


def test_a_stranger_is_unknown_once(rig: Rig, family: Identifier) -> None:
    said = rig.play(family, rig.frames("tranvan_real.mp4", until_s=3.0))
    assert {(s.decision.phase, s.decision.verdict) for s in said} == {(Phase.FINAL, Verdict.UNKNOWN)}
    assert said[0].picture is not None
    assert said[0].decision.person_id is None


def test_nobody_enrolled_makes_everybody_unknown(rig: Rig) -> None:
    (only,) = rig.play(rig.factory.make(Household.of([])), rig.frames("wolf_real.mp4", until_s=1.5))
    assert (only.decision.verdict, only.decision.similarity) == (Verdict.UNKNOWN, -1.0)


def side_by_side(left: Iterator[Frame], right: Iterator[Frame]) -> Iterator[Frame]:
    for a, b in zip(left, right):
        height = min(a.image.shape[0], b.image.shape[0], 480)
        parts = [cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height)) for i in (a.image, b.image)]
        yield Frame(np.concatenate(parts, axis=1), a.captured_at_s, "front")


def test_two_people_at_once_get_an_answer_each(rig: Rig, family: Identifier) -> None:
    both = side_by_side(rig.frames("lestari_real.mp4", until_s=2.0), rig.frames("wolf_real.mp4", until_s=2.0))
    final = [s.decision for s in rig.play(family, both) if s.decision.phase is not Phase.NAMED]
    assert sorted(str(d.person_id) for d in final) == ["lestari", "wolf"]
    assert sorted(d.track for d in final) == [1, 2]


def test_a_face_too_small_to_recognise_is_poor_with_the_reason(rig: Rig, family: Identifier) -> None:
    def far() -> Iterator[Frame]:
        for frame in rig.frames("lestari_real.mp4", until_s=2.0):
            (box,) = rig.detector(frame.image).boxes[:1]
            scale = 44.0 / float(box[2])  # detectable, but blurred and noisy like a distant face
            small = cv2.resize(frame.image, None, fx=scale / 4, fy=scale / 4, interpolation=cv2.INTER_AREA)
            back = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
            yield Frame(back, frame.captured_at_s, "front")

    final = [s.decision for s in rig.play(family, far()) if s.decision.phase is not Phase.NAMED]
    assert [d.verdict for d in final] == [Verdict.POOR]
    assert final[0].reason


def test_motion_without_a_face_ends_as_no_face(rig: Rig, family: Identifier) -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    (only,) = rig.play(family, (Frame(grey, 0.1 * i, "front") for i in range(20)))
    assert (only.decision.verdict, only.decision.track) == (Verdict.NO_FACE, 0)


def test_a_passing_shadow_is_nobody(rig: Rig, family: Identifier) -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    assert rig.play(family, (Frame(grey, 0.1 * i, "front") for i in range(4))) == []


def test_two_cameras_at_one_door_make_one_visit(rig: Rig, family: Identifier) -> None:
    said: List[Said] = []
    stages, book = Stages(rig.detector, rig.encoder, family), VisitBook()
    paths = [
        CameraPath(name, CameraConfig(url="none"), CONFIG, stages, book, SystemClock(), said.append)
        for name in ("left", "right")
    ]
    for frame in rig.frames("lestari_real.mp4", until_s=1.0):
        for path in paths:
            path.perceive(frame, None)
    assert paths[0].close() is None
    assert paths[1].close() is not None
    assert len({s.decision.visit for s in said}) == 1
    final = [s.decision for s in said if s.decision.phase is not Phase.NAMED]
    assert sorted((d.camera, d.track) for d in final) == [("left", 1), ("right", 2)]


def test_whoever_was_named_gets_a_last_word_however_short_the_visit(rig: Rig, family: Identifier) -> None:
    frames = list(rig.frames("lestari_real.mp4", until_s=0.5))[:2]
    said = rig.play(family, (Frame(f.image, 0.1 * i, "front") for i, f in enumerate(frames)))
    assert [s.decision.phase for s in said if s.decision.phase is Phase.NAMED] == [Phase.NAMED]
    assert said[-1].decision.phase is not Phase.NAMED
    assert said[-1].decision.track == 1


def test_a_head_taken_over_in_mid_visit_loses_nobody(rig: Rig, family: Identifier, registry: ModelRegistry) -> None:
    tuned = rig.encoder.with_heads(turned(registry), "night")
    assert (tuned.version, tuned.base, tuned.installed.version) == ("night", rig.encoder.version, rig.encoder.version)
    rows = [
        (person, tuned.project(face.features[None])[0], False)
        for person, clip in (("lestari", "lestari_real.mp4"), ("wolf", "wolf_real.mp4"))
        for frame in rig.frames(clip, until_s=1.0)
        for face in find_faces(frame.image, rig.detector, rig.encoder, rig.factory.recognizability, CONFIG.quality)[:1]
    ]
    after = rig.factory.make(Household.of(rows), encoder=tuned)
    said: List[Said] = []
    stages = Stages(rig.detector, rig.encoder, family)
    path = CameraPath("front", CameraConfig(url="none"), CONFIG, stages, VisitBook(), SystemClock(), said.append)
    for i, frame in enumerate(rig.frames("lestari_real.mp4", until_s=2.0)):
        path.perceive(frame, None)
        if i == 8:
            stages.now = (tuned, after)
    path.close()
    assert [(s.decision.phase, s.decision.person_id, s.decision.model) for s in said] == [
        (Phase.NAMED, "lestari", rig.encoder.version),
        (Phase.FINAL, "lestari", "night"),
    ]
    assert said[-1].decision.similarity > family.calibration.threshold
    with pytest.raises(ModelError, match="lacks facenet_head"):
        rig.encoder.with_heads({}, "night")
