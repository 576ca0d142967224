"""A camera that comes and goes, as frames for ever: reconnects, reports changes of state once, stops at once."""

from __future__ import annotations

import logging
import random
import threading
from enum import Enum
from typing import Callable, Generator, Iterator, List, Optional

from edgecam.capture.base import FrameSource
from edgecam.clock import Clock
from edgecam.errors import EdgecamError, InputError, SourceAuthError
from edgecam.types import Frame

_LOGGER = logging.getLogger(__name__)

_FIRST_S, _MOST_S = 0.5, 30.0
_REFUSED_S = 60.0
"""A camera that refuses a password locks out who asks often."""

_STABLE_S = 10.0
"""A camera must have sent pictures for so long before the next loss starts with a short wait again."""

_NUDGE_S = 0.5
_HANGING_MOST = 3


class LinkState(str, Enum):
    """How things stand with a camera."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"
    REFUSED = "refused"
    ENDED = "ended"
    """A recording is over."""


OnState = Callable[[LinkState, str], None]
"""Told of every change of state, and why, from the iterating thread."""


class BackOff:
    """Waits that double from 0.5 s to 30 s, each shortened at random so that cameras do not come back in step.

    Args:
        draw: returns a number in 0..1.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._next_s = _FIRST_S

    def reset(self) -> None:
        """Start with the shortest wait again."""
        self._next_s = _FIRST_S

    def wait_s(self, *, refused: bool) -> float:
        """Return how long to wait before the next attempt."""
        whole_s = _REFUSED_S if refused else self._next_s
        self._next_s = min(_MOST_S, 2 * whole_s)
        return whole_s * (0.5 + 0.5 * self._draw())


class LiveFrames:
    """Iterates a source for ever, in the caller's thread, while a thread of its own opens and reads it.

    That thread may hang in a camera; `stop` does not. Of a camera only the newest frame is kept (`dropped` counts the
    rest), a recording waits for its reader and ends the iteration. An iteration that is closed can be begun again.

    Args:
        make: returns a source, not yet open; a hanging one is left behind and a new one is made.
        camera_id: names the thread.
        clock: monotonic time.
        stall_after_s: a thread that has been silent for twice as long is left behind.
        on_state: see `OnState`.
        back_off: replaced by tests.
    """

    def __init__(
        self,
        make: Callable[[], FrameSource],
        camera_id: str,
        clock: Clock,
        stall_after_s: float,
        on_state: Optional[OnState] = None,
        back_off: Optional[BackOff] = None,
    ) -> None:
        self._make, self._camera, self._clock = make, camera_id, clock
        self._stall_after_s = stall_after_s
        self._on_state = on_state
        self._back_off = back_off or BackOff()
        self._stopped = threading.Event()
        self._reader: Optional[_Reader] = None
        self._hanging: List[_Reader] = []
        self.state = LinkState.CONNECTING
        self.reason = ""
        self._over = False
        self.dropped = 0
        """Frames of the camera that nobody fetched in time."""

    def stop(self) -> None:
        """End the iteration; may be called from any thread."""
        self._stopped.set()
        reader = self._reader
        if reader is not None:
            reader.leave()

    def join(self, timeout_s: float) -> bool:
        """Wait, after the iteration, until every source is closed; return whether all are (none hangs)."""
        until_s = self._clock.monotonic_s() + timeout_s
        for reader in self._hanging:
            reader.join(max(0.0, until_s - self._clock.monotonic_s()))
        return not any(reader.is_alive() for reader in self._hanging)

    def __iter__(self) -> Generator[Optional[Frame], None, None]:
        """Yield frames until `stop` or a recording's end; None at least every half second while there is none."""
        self.state, self.reason, self._over = LinkState.CONNECTING, "", False
        while not self._stopped.is_set():
            self._hanging = [left for left in self._hanging if left.is_alive()]
            # A driver that never returns must not cost a thread a minute.
            if len(self._hanging) < _HANGING_MOST:
                yield from self._attempt()
            if self._stopped.is_set() or self._over:
                return
            wait_s = self._back_off.wait_s(refused=self.state is LinkState.REFUSED)
            until_s = self._clock.monotonic_s() + wait_s
            while not self._stopped.is_set() and (left_s := until_s - self._clock.monotonic_s()) > 0:
                yield None
                self._stopped.wait(min(left_s, _NUDGE_S))

    def _attempt(self) -> Iterator[Optional[Frame]]:
        reader = self._reader = _Reader(self._make(), self._camera, self._clock)
        reader.start()
        try:
            yield from self._until_lost(reader)
        finally:
            reader.leave()
            self.dropped += reader.dropped
            self._hanging.append(reader)

    def _until_lost(self, reader: _Reader) -> Iterator[Optional[Frame]]:
        live_since_s: Optional[float] = None
        while not self._stopped.is_set():
            frame = reader.next(_NUDGE_S)
            if frame is not None:
                now_s = self._clock.monotonic_s()
                live_since_s = now_s if live_since_s is None else live_since_s
                if now_s - live_since_s > _STABLE_S:
                    self._back_off.reset()
                self._change(LinkState.LIVE, "")
            elif reader.over():
                self._conclude(reader)
                return
            elif reader.silent_s() > 2 * self._stall_after_s:
                self._change(LinkState.LOST, f"{reader.where}: hangs; is its network cable in?")
                return
            yield frame

    def _conclude(self, reader: _Reader) -> None:
        self._over = not reader.live
        if reader.error is None:
            self._change(LinkState.ENDED, "the recording is over")
        elif isinstance(reader.error, SourceAuthError):
            self._change(LinkState.REFUSED, str(reader.error))
        else:
            self._change(LinkState.LOST, str(reader.error))

    def _change(self, state: LinkState, reason: str) -> None:
        changed, self.state, self.reason = state is not self.state, state, reason
        if changed and self._on_state is not None:
            self._on_state(state, reason)


class _Reader(threading.Thread):
    """Opens and reads one source until it ends, fails or nobody wants it any more; closes it itself."""

    def __init__(self, source: FrameSource, camera_id: str, clock: Clock) -> None:
        super().__init__(name=f"read-{camera_id}", daemon=True)
        self._source, self._clock = source, clock
        self._ready = threading.Condition()
        self._frame: Optional[Frame] = None
        self._left = False
        self._sign_s = clock.monotonic_s()
        self.live = source.live
        self.where = source.describe()
        self.error: Optional[EdgecamError] = None
        self.ended = False
        self.dropped = 0

    def run(self) -> None:
        error: Optional[EdgecamError] = None
        try:
            self._source.open()
            self._sign_s = self._clock.monotonic_s()
            while not self._left and (frame := self._source.read()) is not None:
                self._put(frame)
        except EdgecamError as err:
            error = err
        except Exception as err:
            # Nothing foreign may pass: its text could hold the address.
            _LOGGER.debug("camera reader died of %s", type(err).__name__)
            error = InputError(f"{self.where}: reading failed ({type(err).__name__})")
        finally:
            self._source.close()
        with self._ready:
            self.error, self.ended = error, True
            self._ready.notify_all()

    def _put(self, frame: Frame) -> None:
        with self._ready:
            while self._frame is not None and not self.live and not self._left:
                self._ready.wait()
            self.dropped += self._frame is not None
            self._frame, self._sign_s = frame, self._clock.monotonic_s()
            self._ready.notify_all()

    def next(self, timeout_s: float) -> Optional[Frame]:
        """Return the next frame; None if there is none in time or ever."""
        with self._ready:
            if self._frame is None and not self.ended and not self._left:
                self._ready.wait(timeout_s)
            frame, self._frame = self._frame, None
            self._ready.notify_all()
            return frame

    def over(self) -> bool:
        """Whether the source has ended or failed and its last frame is fetched."""
        with self._ready:
            return self.ended and self._frame is None

    def silent_s(self) -> float:
        """Return the seconds since the source last gave a sign of life."""
        return self._clock.monotonic_s() - self._sign_s

    def leave(self) -> None:
        """Let the thread end when its source returns; wake whoever waits."""
        with self._ready:
            self._left = True
            self._ready.notify_all()
