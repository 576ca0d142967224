from __future__ import annotations

import contextlib
import threading
import time
from typing import Iterator, List, Optional, Tuple

import numpy as np
import pytest

from edgecam.capture.reconnect import BackOff, LinkState, LiveFrames
from edgecam.clock import SystemClock
from edgecam.errors import InputError, SourceAuthError, SourceError
from edgecam.types import Frame


class Fake:
    """A camera that plays a script: numbers are frames, errors are raised, "hang" waits for `freed`."""

    def __init__(self, script: List[object], *, live: bool = True, refuse: Optional[Exception] = None) -> None:
        self.live = live
        self._script, self._refuse = iter(script), refuse
        self.freed = threading.Event()
        self.closed = threading.Event()

    def describe(self) -> str:
        return "fake://camera"

    def open(self) -> None:
        if self._refuse is not None:
            raise self._refuse

    def read(self) -> Optional[Frame]:
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            self.freed.wait(30.0)
            raise SourceError("freed")
        if isinstance(step, float):
            time.sleep(0.01)
            return Frame(np.zeros((4, 4, 3), np.uint8), step)
        return None

    def close(self) -> None:
        self.closed.set()

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.read, None)


class Quick(BackOff):
    """Hardly waits; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: List[bool] = []

    def wait_s(self, *, refused: bool) -> float:
        self.asked.append(refused)
        return 0.01


def run(
    sources: List[Fake], until: int = 10**6, back_off: Optional[BackOff] = None
) -> Tuple[List[float], List[LinkState], LiveFrames]:
    """Iterate until so many frames, or until the sources are used up."""
    left = iter(sources)
    states: List[LinkState] = []
    done = threading.Event()

    def make() -> Fake:
        source = next(left, None)
        if source is None:
            done.set()
            return Fake([], refuse=SourceError("no more"))
        return source

    def changed(state: LinkState, _: str) -> None:
        states.append(state)

    frames = LiveFrames(make, "front", SystemClock(), 0.2, changed, back_off or Quick())
    seen: List[float] = []
    for frame in frames:
        if frame is not None:
            seen.append(frame.captured_at_s)
        if len(seen) >= until or done.is_set():
            frames.stop()
    return seen, states, frames


def test_comes_back_after_a_loss_and_says_so_once() -> None:
    gone = SourceError("cam: the stream ended")
    seen, states, _ = run(
        [Fake([1.0, 2.0, gone]), Fake([], refuse=gone), Fake([], refuse=gone), Fake([3.0, 4.0, gone])]
    )
    assert seen[0] == 1.0
    assert seen[-1] == 4.0
    assert states == [LinkState.LIVE, LinkState.LOST, LinkState.LIVE, LinkState.LOST]


def test_a_refusal_is_its_own_state_and_waits_longer() -> None:
    quick = Quick()
    _, states, _ = run(
        [Fake([], refuse=SourceAuthError("cam: wrong password")), Fake([1.0, SourceError("x")])], 1, quick
    )
    assert states == [LinkState.REFUSED, LinkState.LIVE]
    assert quick.asked == [True]


def test_a_recording_ends_the_iteration_and_loses_no_frame() -> None:
    script: List[object] = [float(i) for i in range(30)]
    seen, states, frames = run([Fake(script, live=False)])
    assert seen == script
    assert states == [LinkState.LIVE, LinkState.ENDED]
    assert frames.dropped == 0


def test_a_recording_waits_for_a_slow_reader() -> None:
    source = Fake([float(i) for i in range(10)], live=False)
    frames = LiveFrames(lambda: source, "front", SystemClock(), 5.0, None, Quick())
    seen = []
    for frame in frames:
        if frame is not None:
            seen.append(frame.captured_at_s)
            time.sleep(0.05)
    assert seen == [float(i) for i in range(10)]


def test_a_recording_that_cannot_be_read_ends_with_its_reason() -> None:
    _, states, frames = run([Fake([], live=False, refuse=InputError("clip.mp4: empty"))])
    assert states == [LinkState.LOST]
    assert frames.reason == "clip.mp4: empty"


def test_of_a_camera_only_the_newest_frame_waits() -> None:
    source = Fake([float(i) for i in range(40)] + [SourceError("x")])
    frames = LiveFrames(lambda: source, "front", SystemClock(), 5.0, None, Quick())
    seen = []
    for frame in frames:
        if frame is not None:
            seen.append(frame.captured_at_s)
            time.sleep(0.2)
        if source.closed.is_set():
            frames.stop()
    assert seen == sorted(seen)
    assert len(seen) < 10
    assert frames.dropped >= 40 - len(seen) - 1


def read_all(frames: LiveFrames) -> threading.Event:
    """Read in a thread; return what is set when there are no more."""
    ended = threading.Event()

    def loop() -> None:
        for _ in frames:
            pass
        ended.set()

    threading.Thread(target=loop, daemon=True).start()
    return ended


@pytest.mark.parametrize("hang_in", ["open", "read"])
def test_stops_within_a_second_while_the_camera_hangs(hang_in: str) -> None:
    source = Fake([1.0, "hang"])
    if hang_in == "open":
        source.open = lambda: (source.freed.wait(30.0), None)[1]  # type: ignore[method-assign]
    frames = LiveFrames(lambda: source, "front", SystemClock(), 60.0)
    ended = read_all(frames)
    time.sleep(0.3)
    began = time.monotonic()
    frames.stop()
    assert ended.wait(1.0)
    assert time.monotonic() - began < 1.0
    source.freed.set()
    assert source.closed.wait(5.0), "the reader does not close what it opened"


def test_stops_within_a_second_while_waiting_for_the_next_attempt() -> None:
    class Slow(BackOff):
        def wait_s(self, *, refused: bool) -> float:
            return 60.0

    frames = LiveFrames(lambda: Fake([], refuse=SourceError("x")), "front", SystemClock(), 1.0, None, Slow())
    ended = read_all(frames)
    time.sleep(0.2)
    frames.stop()
    assert ended.wait(1.0)


def test_a_camera_that_hangs_is_left_behind_but_not_without_end() -> None:
    hanging: List[Fake] = []

    def make() -> Fake:
        hanging.append(Fake(["hang"]))
        return hanging[-1]

    frames = LiveFrames(make, "front", SystemClock(), 0.05, None, Quick())
    end_s = time.monotonic() + 4.0
    nudges = 0
    for frame in frames:
        nudges += frame is None
        if time.monotonic() > end_s:
            frames.stop()
    assert 2 <= len(hanging) <= 3
    assert frames.state is LinkState.LOST
    assert nudges >= 3, "the caller must hear something while there are no frames"
    for source in hanging:
        source.freed.set()


def test_waits_double_up_to_half_a_minute_and_are_jittered() -> None:
    back_off = BackOff(lambda: 1.0)
    assert [back_off.wait_s(refused=False) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    back_off.reset()
    assert back_off.wait_s(refused=False) == 0.5
    assert BackOff(lambda: 0.0).wait_s(refused=False) == 0.25
    assert [BackOff(lambda: 1.0).wait_s(refused=True) for _ in range(2)] == [60.0, 60.0]


def test_a_closed_iteration_can_be_begun_again_and_reports_anew() -> None:
    lost = SourceError("cam: no route")
    sources = iter([Fake([1.0, "hang"]), Fake([], refuse=lost), Fake([], refuse=lost)])
    states: List[LinkState] = []
    made: List[Fake] = []

    def make() -> Fake:
        made.append(next(sources))
        return made[-1]

    frames = LiveFrames(make, "front", SystemClock(), 60.0, lambda state, _: states.append(state), Quick())
    with contextlib.closing(iter(frames)) as first:
        assert next(frame for frame in first if frame is not None).captured_at_s == 1.0
    assert not frames.join(0.05), "it hangs"
    made[0].freed.set()
    assert frames.join(5.0)
    assert made[0].closed.is_set()
    for count in (2, 3):
        with contextlib.closing(iter(frames)) as again:
            assert next(again) is None
        assert states == [LinkState.LIVE, *[LinkState.LOST] * (count - 1)]
