"""How the daemon is: what is wrong now, and whether every loop still turns."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from edgecam.alerts.message import HealthState
from edgecam.clock import Clock
from edgecam.errors import StoreError

_LOGGER = logging.getLogger(__name__)

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 256 * 1024

BOX = ""
"""Instead of a camera's id: what concerns all of them."""

FAULTS = frozenset({"camera_lost", "camera_refused", "camera_ended", "camera_wrong", "camera_starting", "loop_stuck"})
"""Problems with which nobody at a door would be noticed."""


class Problems:
    """What is wrong now, by camera; one log line when something begins and one when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Dict[Tuple[str, str], str] = {}
        self.changes = 0
        """Rises with every change."""

    def begin(self, where: str, code: str, detail: str, *, quietly: bool = False) -> None:
        """Note a problem; again with another detail is no news.

        Args:
            where: camera id, or `BOX`.
            code: short, for machines (`camera_lost`).
            detail: one line without names and secrets.
            quietly: somebody else has logged it.
        """
        with self._lock:
            new = (where, code) not in self._now
            self._now[where, code] = detail
            self.changes += new
        if new and not quietly:
            _LOGGER.warning("%s%s: %s", f"camera {where}: " if where else "", code, detail)

    def end(self, where: str, code: str, *, quietly: bool = False) -> None:
        """Note that a problem is over; if there was none, nothing happens."""
        with self._lock:
            gone = self._now.pop((where, code), None)
            self.changes += gone is not None
        if gone is not None and not quietly:
            _LOGGER.info("%s%s is over", f"camera {where}: " if where else "", code)

    def clear(self, where: str) -> None:
        """Forget a camera."""
        with self._lock:
            self._now = {key: text for key, text in self._now.items() if key[0] != where}
            self.changes += 1

    def of(self, where: str) -> Dict[str, str]:
        """Return the problems of a camera (or of the box) with their details."""
        with self._lock:
            return {code: text for (place, code), text in self._now.items() if place == where}

    def state(self, camera: str, *, paused: bool) -> HealthState:
        """Return a camera's state in one word; what concerns the box degrades every camera."""
        mine, box = self.of(camera), self.of(BOX)
        if FAULTS & {*mine, *box}:
            return HealthState.FAULT
        if paused:
            return HealthState.PAUSED
        return HealthState.DEGRADED if mine or box else HealthState.OK


class Beats:
    """When each loop last turned; the watchdog is fed only while all of them do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Dict[str, Tuple[float, float]] = {}

    def expect(self, loop: str, within_s: float) -> None:
        """From now on this loop must turn at least so often."""
        with self._lock:
            self._last[loop] = (self._clock.monotonic_s(), within_s)

    def turn(self, loop: str) -> None:
        """The loop turned."""
        with self._lock:
            if loop in self._last:
                self._last[loop] = (self._clock.monotonic_s(), self._last[loop][1])

    def ended(self, loop: str) -> None:
        """The loop ended as it should; nothing is expected of it any more."""
        with self._lock:
            self._last.pop(loop, None)

    def stuck(self) -> List[str]:
        """Return the loops that are overdue."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            return [loop for loop, (at_s, within_s) in self._last.items() if now_s - at_s > within_s]


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Replace the health file in one step. It is not forced to the disk: it is worth nothing after a power cut.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1, sort_keys=True)
            file.write("\n")
        os.replace(temporary, path)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err


def name_thread() -> None:
    """Show the present thread by its name in `top -H` and in the kernel's reports."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(
            threading.current_thread().name[:15], encoding="ascii", errors="replace"
        )


def memory_mb() -> float:
    """Return the resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def return_memory() -> None:
    """Give the system back what is free; loading nets leaves holes of 50 MB."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def spare_memory() -> None:
    """Make glibc return large blocks at once and share two arenas; call it before threads start.

    By default it keeps what a frame or a net once needed, in an arena for every thread: 150 MB here.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, 2)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") else None
