"""The board: too hot, short of power, with cores switched off, or out of memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Iterator, Optional

from edgecam.daemon.checks.base import Finding, Subject
from edgecam.daemon.metrics import temperatures

_HOT_C, _TOO_HOT_C = 80.0, 95.0
_MIN_MEMORY_MB = 400
"""What the daemon takes with one camera (docs/benchmarks.md), and some."""

_COOL = "give it air, a heat sink or a fan; put it out of the sun"


def check(subject: Subject, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Look at what the kernel tells under `sys` and `proc`."""
    hottest = max(((value, labels["zone"]) for labels, value in temperatures(sys / "class/thermal")), default=None)
    if hottest is not None:
        celsius, zone = hottest
        text = f"{celsius:.0f} degrees ({zone})"
        if celsius >= _HOT_C:
            yield Finding("board", "broken" if celsius >= _TOO_HOT_C else "hint", f"{text}: it slows down", _COOL)
        else:
            yield Finding("board", "ok", text)
    yield from _power(sys)
    present, online = (_cores(sys / "devices/system/cpu" / name) for name in ("present", "online"))
    if online < present:
        text = f"{present - online} of {present} cores are switched off"
        yield Finding("board", "hint", text, "on a Jetson: sudo nvpmodel -m 0")
    free = _available_mb(proc / "meminfo")
    if not subject.live and free is not None and free < _MIN_MEMORY_MB:
        text = f"{free} MB of memory are free: the daemon needs {_MIN_MEMORY_MB}"
        yield Finding("board", "broken", text, "close other programs; the desktop, above all")


def _power(sys: Path) -> Iterator[Finding]:
    """Tell of a supply that sags (the alarm that a Raspberry Pi's firmware raises)."""
    for alarm in sorted(sys.glob("class/hwmon/hwmon*/in*_lcrit_alarm")):
        with contextlib.suppress(OSError):
            if alarm.read_text(encoding="ascii").strip() == "1":
                text = "the supply's voltage sinks too low: the board stumbles, and its card is damaged"
                yield Finding("board", "broken", text, "a stronger power supply, a shorter cable")


def _cores(path: Path) -> int:
    """Return how many numbers a list such as `0-3,6` names; 0 without one."""
    count = 0
    with contextlib.suppress(OSError, ValueError):
        for part in path.read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            count += int(last or first) - int(first) + 1
    return count


def _available_mb(path: Path) -> Optional[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 1_000_000
    return None
