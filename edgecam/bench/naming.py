"""From the first face to the first name, over visits cut at random from clips.

Frames arrive ten a second and are looked at by the real stages, which take what they take on this machine: the clock
of a visit advances by the measured time, frames that come meanwhile are dropped by the real slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edgecam.bench.lab import Lab, Subject, timed
from edgecam.bench.report import Figure, Row
from edgecam.bench.scene import FPS, Clip, Scene, Visitor
from edgecam.capture.motion import MotionGate
from edgecam.capture.preroll import PreRoll
from edgecam.clock import SystemClock
from edgecam.pipeline.camera import CameraPath, Said, Stages
from edgecam.pipeline.slot import Slot
from edgecam.pipeline.visits import VisitBook
from edgecam.types import Floats, Frame, Image, Phase

_EMPTY_S = 2.0
"""The door is empty before; the gate must open by itself."""
_VISIT_S = 6.0
_ENOUGH = 100


@dataclass(frozen=True)
class Visit:
    """One visit, and what came of it."""

    subject: str
    delay_s: Optional[float]
    """From the arrival of the first frame with a face of 40 px to the first name; None: no name came."""
    source_delay_s: Optional[float]
    """The same without the time that looking takes."""
    name: Optional[str]
    dropped: int


def first_name(lab: Lab) -> Iterator[Row]:
    """Yield median and 95th percentile of the time to the first name; with both clocks."""
    count = lab.of_extent(12, 110, 300)
    rng = np.random.default_rng(20)
    by_wall: List[Visit] = []
    by_cpu: List[Visit] = []
    for number in range(count):
        if number % 10 == 0:
            lab.tell(f"visits to the first name: {number} of {count}")
        frames, first_s, name = _come(lab, lab.subjects[number % len(lab.subjects)], rng)
        if first_s is not None:
            by_wall.append(_Door(lab, by_cpu=False).play(frames, first_s, name))
            by_cpu.append(_Door(lab, by_cpu=True).play(frames, first_s, name))
    yield from _rows("first_name", by_wall, (1.0, 2.0))
    yield from _rows("first_name_by_cpu_time", by_cpu, (None, None))


def _rows(name: str, visits: Sequence[Visit], targets: Tuple[Optional[float], Optional[float]]) -> Iterator[Row]:
    delays = sorted(float("inf") if v.delay_s is None else v.delay_s for v in visits)
    source = sorted(float("inf") if v.source_delay_s is None else v.source_delay_s for v in visits)
    detail: Dict[str, Any] = {
        "visits": len(visits),
        "people": len({v.subject for v in visits}),
        "unnamed": sum(v.name is None for v in visits),
        "wrong_name": sum(v.name not in (None, v.subject) for v in visits),
        "frames_dropped_a_visit": float(np.mean([v.dropped for v in visits])) if visits else 0.0,
    }
    if len(visits) < _ENOUGH:
        detail["note"] = f"fewer than {_ENOUGH} visits"
    for label, share, target in zip(("median", "p95"), (0.5, 0.95), targets):
        value = _rank(delays, share)
        yield Figure(
            f"{name}_{label}",
            _finite(value),
            "s",
            target,
            detail={**detail, "by_recording_time_s": _finite(_rank(source, share))},
        )


def _rank(values: List[float], share: float) -> Optional[float]:
    """Return the value that this share does not exceed."""
    return values[min(len(values) - 1, int(np.ceil(share * len(values))) - 1)] if values else None


def _finite(value: Optional[float]) -> Optional[float]:
    """Return None for what never happened."""
    return None if value is None or np.isinf(value) else value


def _come(lab: Lab, subject: Subject, rng: np.random.Generator) -> Tuple[List[Frame], Optional[float], str]:
    """Return the pictures of a visit, and when a full search first finds the face in them (None: never)."""
    clip, start_s = _cut(subject, rng)
    person = Visitor(Clip(clip, start_s), _EMPTY_S, _VISIT_S, 480, walks=False)
    frames = [Frame(image, k / FPS, "bench") for k, image in enumerate(_images(Scene([person], int(rng.integers(99)))))]
    first = next((f.captured_at_s for f in frames if f.captured_at_s >= _EMPTY_S and _sees(lab, f)), None)
    return frames, first, subject.name


def _cut(subject: Subject, rng: np.random.Generator) -> Tuple[Path, float]:
    lengths = np.array([max(0.0, to_s - from_s - _VISIT_S) for _, from_s, to_s in subject.seen])
    clip, from_s, _ = subject.seen[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
    length = float(lengths[[c for c, _, _ in subject.seen].index(clip)])
    return clip, from_s + float(rng.uniform(0.0, length))


def _images(scene: Scene) -> Iterator[Image]:
    return (scene.at(index) for index in range(round((_EMPTY_S + 4.0) * FPS)))


def _sees(lab: Lab, frame: Frame) -> bool:
    boxes = lab.detector(frame.image).boxes
    return bool(len(boxes)) and bool(np.any(boxes[:, 2] >= lab.config.detect.min_face_px))


class _Door:
    """Capture and perception of one camera on a clock that advances by the time the work takes.

    Args:
        lab: stages and configuration.
        by_cpu: the clock counts processor time: as on one core that nobody else uses.
    """

    def __init__(self, lab: Lab, *, by_cpu: bool) -> None:
        self._lab, self._by_cpu = lab, by_cpu
        self._said: List[Said] = []
        self._gate = MotionGate(lab.config.motion)
        self._ring = PreRoll(lab.config.motion.pre_roll_s)
        self._slot: Slot[Tuple[Frame, Optional[Floats], bool]] = Slot()
        # The anti-spoof nets tell somebody composed into a door as what they are, a picture.
        stages = Stages(lab.stages.detector, *lab.stages.now)
        self._path = CameraPath("bench", lab.camera, lab.config, stages, VisitBook(), SystemClock(), self._said.append)

    def play(self, frames: List[Frame], first_face_s: float, subject: str) -> Visit:
        """Play the frames until a name is said."""
        now_s, coming = 0.0, iter(frames)
        ahead = next(coming, None)
        named: Optional[Said] = None
        while named is None:
            while ahead is not None and ahead.captured_at_s <= now_s + 1e-9:
                self._capture(ahead)
                ahead = next(coming, None)
            item = self._slot.take(0.0)
            if item is None:
                if ahead is None:
                    break
                now_s = ahead.captured_at_s
                continue
            frame, moving, active = item

            def look(frame: Frame = frame, moving: Optional[Floats] = moving, active: bool = active) -> None:
                if self._path.perceive(frame, moving, active=active):
                    self._gate.extend()

            wall_s, cpu_s = timed(look)
            now_s += cpu_s if self._by_cpu else wall_s
            named = next((said for said in self._said if said.decision.phase is Phase.NAMED), None)
        self._path.close()
        if named is None:
            return Visit(subject, None, None, None, self._slot.dropped)
        name = self._lab.names.get(named.decision.person_id or "")
        at_s = named.decision.t_named_s or 0.0
        return Visit(subject, now_s - first_face_s, at_s - first_face_s, name, self._slot.dropped)

    def _capture(self, frame: Frame) -> None:
        motion = self._gate(frame)
        if motion.opened:
            self._slot.keep([(early, None, False) for early in self._ring.take(frame.captured_at_s)])
        if self._gate.is_open:
            self._slot.put((frame, motion.boxes, motion.active))
        else:
            self._ring.add(frame)
