"""A recording through one camera's path, in its own time."""

from __future__ import annotations

from dataclasses import dataclass

from edgecam.capture.base import make_source
from edgecam.capture.motion import MotionGate
from edgecam.clock import Clock
from edgecam.config import CameraConfig, Config
from edgecam.pipeline.asking import TellPrompt
from edgecam.pipeline.camera import CameraPath, Sink, Stages
from edgecam.pipeline.visits import VisitBook

_STEP_S = 0.095
"""A recording is perceived at about 10 frames a second, the rate that a small board holds."""
_WATCH_EVERY_S = 1.0
"""Without motion one frame in so long is searched all the same: a recording gets a decision where a face is seen."""


@dataclass
class ReplayCounts:
    """What went through."""

    frames: int = 0
    perceived: int = 0
    visits: int = 0
    duration_s: float = 0.0


def replay(
    camera: CameraConfig,
    config: Config,
    stages: Stages,
    clock: Clock,
    sink: Sink,
    *,
    paced: bool,
    prompt: TellPrompt = lambda _: None,
) -> ReplayCounts:
    """Play a recording through motion gate and perception.

    The gate is triggered at the start and by every face, so that a recording that begins in the middle of a visit, or
    a visitor who stands still, is not missed; otherwise it is the camera's own.

    Raises:
        InputError: nothing in the file can be played.
    """
    counts = ReplayCounts()
    gate = MotionGate(config.motion, camera.ignore_zones)
    path = CameraPath("recording", camera, config, stages, VisitBook(), clock, sink, prompt)
    source = make_source(camera, "recording", clock, paced=paced)
    source.open()
    looked_s = -1e9
    try:
        while (frame := source.read()) is not None:
            counts.frames += 1
            counts.duration_s = frame.captured_at_s
            if counts.frames == 1:
                gate.trigger()
            motion = gate(frame)
            path.glimpse(frame)
            if motion.closed and path.close() is not None:
                counts.visits += 1
            since = frame.captured_at_s - looked_s
            if since < (_STEP_S if gate.is_open else _WATCH_EVERY_S):
                continue
            looked_s = frame.captured_at_s
            counts.perceived += 1
            if gate.is_open:
                if path.perceive(frame, motion.boxes, active=motion.active):
                    gate.extend()
            elif len(stages.detector(frame.image)):
                gate.trigger()
                path.perceive(frame, None, active=False)
    finally:
        source.close()
    if path.close() is not None:
        counts.visits += 1
    return counts
