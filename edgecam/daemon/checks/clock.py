"""The clock: set, kept right, and in the owner's time zone."""

from __future__ import annotations

import ctypes
import time
from typing import Iterator

from edgecam.clock import SystemClock
from edgecam.daemon.checks.base import Finding, Subject

_TIMEX_BYTES = 512
"""More than `struct timex` has anywhere; all zero, it only asks."""
_TIME_ERROR = 5


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the wall clock."""
    set_it = "let it be set by the network: timedatectl set-ntp true"
    if not SystemClock().wall_trusted():
        text = f"the clock says {time.strftime('%Y-%m-%d')}: nothing expires"
        yield Finding("clock", "broken", text, set_it)
        return
    yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M %Z"))
    if _adrift():
        text = "nothing keeps it right (the kernel calls it unsynchronised): the times of visits will drift"
        yield Finding("clock", "hint", text, set_it)
    config = subject.config
    if (config.alerts.quiet_hours or config.pause.schedule) and time.tzname[0] == "UTC":
        text = "the time zone is UTC, and quiet hours or pauses are in local time"
        yield Finding("clock", "hint", text, "timedatectl set-timezone Europe/Berlin, or where you are")


def _adrift() -> bool:
    """Whether the kernel says that nobody disciplines its clock (adjtimex(2), which needs no right to ask)."""
    try:
        answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return answer == _TIME_ERROR
