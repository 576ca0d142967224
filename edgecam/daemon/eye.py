"""One camera's two threads: capture (frames, motion, pre-roll) and perception (faces, names), with a slot between."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import Callable, Iterator, Optional

from edgecam.alerts.client import AlertClient
from edgecam.capture.base import FrameSource, make_source
from edgecam.capture.motion import MotionGate
from edgecam.capture.preroll import PreRoll
from edgecam.capture.reconnect import LinkState, LiveFrames
from edgecam.clock import Clock
from edgecam.config import CameraConfig, Config
from edgecam.daemon.health import Beats, Problems, name_thread
from edgecam.daemon.pause import Pause
from edgecam.daemon.recorder import Recorder
from edgecam.errors import EdgecamError
from edgecam.pipeline.camera import CameraPath, Stages
from edgecam.pipeline.slot import Slot
from edgecam.pipeline.visits import Visit, VisitBook
from edgecam.types import Floats, Frame, Prompt

_LOGGER = logging.getLogger(__name__)

_POLL_S = 0.5
_CLOSE_S = 0.5
_LATE_S = 10.0
"""A loop may be this late before it counts as stuck; a net on a slow box takes seconds."""
_SOMEBODY_S = 1.0
"""Motion as long as this ends in a word even without a face, so from here on the visit is told to the store."""


_EARLY, _EARLY_STEP = 3, 2
"""Of the pre-roll (5 a second) every second frame, the last three: each costs a full search while somebody waits."""
_AWAY = ("camera_starting", "camera_lost", "camera_refused")


@dataclass(frozen=True, eq=False)
class Glance:
    """A frame to be looked at, with what the gate said of it."""

    frame: Frame
    moving: Optional[Floats]
    active: bool


class _End:
    """The gate has closed."""


_END = _End()


@dataclass
class Shared:
    """What all cameras use."""

    config: Config
    stages: Stages
    visits: VisitBook
    recorder: Recorder
    clock: Clock
    problems: Problems
    beats: Beats
    pause: Pause
    alerts: AlertClient


class Eye:
    """One camera, from the source to the recorder.

    Args:
        camera: its id.
        config: its section.
        shared: what all cameras use; `alerts` may be replaced meanwhile.
    """

    def __init__(self, camera: str, config: CameraConfig, shared: Shared) -> None:
        self.camera, self.config, self._shared = camera, config, shared
        self._slot: Slot[object] = Slot()
        self._stop = threading.Event()
        self._pressed = threading.Event()
        self._face = threading.Event()
        self.ended = threading.Event()
        """The recording is over and everything in it was looked at."""
        self._captured = False
        self._path = CameraPath(
            camera, config, shared.config, shared.stages, shared.visits, shared.clock, shared.recorder.say, self._say
        )
        self.live = self._make_source().live
        """Whether it is a camera; a recording ends."""
        self._frames = LiveFrames(self._make_source, camera, shared.clock, config.stall_after_s, self._on_link)
        self._capture = threading.Thread(target=self._guarded, args=(self._run_capture,), name=f"see-{camera}")
        self._perceive = threading.Thread(target=self._guarded, args=(self._run_perception,), name=f"know-{camera}")
        self._capture.daemon = self._perceive.daemon = True
        self.frames = 0
        """Frames captured since the start."""
        self.last_frame_s: Optional[float] = None
        self.visit_open = False

    def start(self) -> None:
        """Begin to watch; the camera itself may be away."""
        self._capture.start()
        self._perceive.start()

    def press(self) -> None:
        """Open a visit with the next frame: the button was pressed."""
        self._pressed.set()

    def challenge(self) -> None:
        """Ask whoever stands there to show that they live; opens a visit, for they may have stood still for long."""
        self._path.asker.request()
        self.press()

    def stop(self) -> None:
        """Ask both threads to end; open visits are concluded."""
        self._stop.set()
        self._frames.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for all threads; return whether they ended (one that hangs in the camera is not waited for long)."""
        until = self._shared.clock.monotonic_s() + timeout_s
        for thread in (self._perceive, self._capture):
            thread.join(max(0.05, until - self._shared.clock.monotonic_s()))
        return not (self._capture.is_alive() or self._perceive.is_alive()) and self._frames.join(_CLOSE_S)

    @property
    def perceived(self) -> int:
        """Frames looked at since the start."""
        return self._path.frames

    @property
    def dropped(self) -> int:
        """Frames of visits that nobody had time to look at."""
        return self._slot.dropped

    def _make_source(self) -> FrameSource:
        return make_source(self.config, self.camera, self._shared.clock, paced=True)

    def _say(self, prompt: Prompt) -> None:
        _LOGGER.info("camera %s: challenge, track %d: %s", self.camera, prompt.track, prompt.reason or prompt.action)
        self._shared.alerts.say(prompt)

    def _guarded(self, loop: Callable[[], None]) -> None:
        name_thread()
        try:
            loop()
        except Exception:
            # Its heartbeat stops with it, and the watchdog acts on that.
            _LOGGER.exception("camera %s: %s died", self.camera, threading.current_thread().name)
            self._shared.problems.begin(self.camera, "loop_stuck", "a thread died; the log has the details")

    # Capture.

    def _run_capture(self) -> None:
        shared, loop = self._shared, f"see-{self.camera}"
        shared.beats.expect(loop, _LATE_S + _POLL_S)
        more = True
        while more and not self._stop.is_set():
            shared.beats.turn(loop)
            if shared.pause.active():
                for code in _AWAY:
                    shared.problems.end(self.camera, code, quietly=True)
                self._stop.wait(_POLL_S)
            else:
                shared.problems.begin(self.camera, "camera_starting", "no picture yet", quietly=True)
                with contextlib.closing(iter(self._frames)) as frames:
                    more = self._watch(frames, loop)
        self._captured = True
        shared.beats.ended(loop)

    def _watch(self, frames: Iterator[Optional[Frame]], loop: str) -> bool:
        """Watch until the pause or the stop; return False when a recording is over."""
        gate = MotionGate(self._shared.config.motion, self.config.ignore_zones)
        ring = PreRoll(self._shared.config.motion.pre_roll_s)
        try:
            for frame in frames:
                self._shared.beats.turn(loop)
                if frame is not None:
                    self._take(frame, gate, ring)
                elif self.visit_open and self._blind_s() >= self._shared.config.motion.burst_s:
                    gate.close()
                    self._show_visit(is_open=False)
                if self._stop.is_set() or self._shared.pause.active():
                    return True
            return False
        finally:
            self._show_visit(is_open=False)
            self._shared.alerts.set_camera_online(self.camera, online=False)

    def _on_link(self, state: LinkState, reason: str) -> None:
        problems, camera = self._shared.problems, self.camera
        if state is LinkState.LIVE:  # the first frame says so
            return
        problems.end(camera, "camera_starting", quietly=True)
        if state is LinkState.ENDED:
            _LOGGER.info("camera %s: %s", camera, reason)
            problems.begin(camera, "camera_ended", reason, quietly=True)
            return
        refused = state is LinkState.REFUSED
        problems.end(camera, "camera_lost" if refused else "camera_refused", quietly=True)
        problems.begin(camera, "camera_refused" if refused else "camera_lost", reason)
        self._shared.alerts.set_camera_online(camera, online=False)

    def _take(self, frame: Frame, gate: MotionGate, ring: PreRoll) -> None:
        """Judge one frame; hand it over while a visit is open, keep it for the pre-roll otherwise."""
        self.frames += 1
        self.last_frame_s = self._shared.clock.monotonic_s()
        if self._shared.problems.of(self.camera):
            self._there()
        self._shared.alerts.set_camera_online(self.camera, online=True)
        # The gate's own flags are for its own thread.
        if self._pressed.is_set():
            self._pressed.clear()
            gate.trigger()
        if self._face.is_set():
            self._face.clear()
            gate.extend()
        motion = gate(frame)
        if motion.closed:
            self._show_visit(is_open=False)
        if motion.opened:
            self._show_visit(is_open=True)
            early = ring.take(frame.captured_at_s)[::-_EARLY_STEP][:_EARLY][::-1]
            self._slot.keep([Glance(before, None, active=False) for before in early])
        if gate.is_open:
            self._path.glimpse(frame)
            self._slot.put(Glance(frame, motion.boxes, motion.active))
        else:
            ring.add(frame)

    def _blind_s(self) -> float:
        last_s = self.last_frame_s
        return 0.0 if last_s is None else self._shared.clock.monotonic_s() - last_s

    def _there(self) -> None:
        problems = self._shared.problems
        if "camera_starting" in problems.of(self.camera):
            _LOGGER.info("camera %s: pictures arrive", self.camera)
        problems.end(self.camera, "camera_starting", quietly=True)
        for code in _AWAY:
            problems.end(self.camera, code)

    def _show_visit(self, *, is_open: bool) -> None:
        if self.visit_open and not is_open:
            self._slot.mark(_END)
        self.visit_open = is_open
        self._shared.alerts.set_motion(self.camera, moving=is_open)

    # Perception.

    def _run_perception(self) -> None:
        shared, loop = self._shared, f"know-{self.camera}"
        shared.beats.expect(loop, _LATE_S + _POLL_S)
        told: Optional[Visit] = None
        while True:
            shared.beats.turn(loop)
            item = self._slot.take(_POLL_S)
            if isinstance(item, Glance):
                told = self._look(item, told)
            elif item is not None:
                self._close(told)
                told = None
            elif self._stop.is_set() or self._captured:
                break
        self._close(told)
        shared.beats.ended(loop)
        if self._captured and not self._stop.is_set():
            self.ended.set()

    def _look(self, glance: Glance, told: Optional[Visit]) -> Optional[Visit]:
        """Perceive one frame; return the visit the store knows of."""
        visit = self._path.open()
        try:
            if self._path.perceive(glance.frame, glance.moving, active=glance.active):
                self._face.set()
        except EdgecamError as err:
            self._shared.problems.begin(self.camera, "perception_failing", str(err))
            return told
        self._shared.problems.end(self.camera, "perception_failing")
        if told is not visit and (visit.faces_seen or visit.motion_s >= _SOMEBODY_S):
            self._shared.recorder.opened(visit, self.camera)
            return visit
        return told

    def _close(self, told: Optional[Visit]) -> None:
        """Conclude this camera's part of the visit."""
        visit = self._path.close()
        if visit is not None and (told is visit or visit.decisions):
            self._shared.recorder.closed(visit)
