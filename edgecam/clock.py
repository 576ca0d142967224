"""Two clocks: monotonic seconds decide, wall seconds inform."""

from __future__ import annotations

import re
import time
from typing import Optional, Protocol

WALL_TRUSTED_AFTER_S = 1_767_225_600.0
"""2026-01-01 UTC: a board without a battery wakes up before this and is not believed."""


class Clock(Protocol):
    """What the daemon asks for the time; tests inject their own."""

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start; never jumps."""
        ...

    def wall_s(self) -> float:
        """Return seconds since 1970 UTC; may jump, may be unset."""
        ...

    def wall_trusted(self) -> bool:
        """Whether the wall clock has plausibly been set."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a fake clock advances instead."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wall_s(self) -> float:
        """See `Clock`."""
        return time.time()

    def wall_trusted(self) -> bool:
        """See `Clock`."""
        return time.time() >= WALL_TRUSTED_AFTER_S

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


MAX_LENGTH_S = 366 * 86_400.0
"""Longest pause with an end."""

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_length(text: str) -> Optional[float]:
    """Return the seconds of a pause, at most `MAX_LENGTH_S`; None without an end, 0 for `off`.

    Raises:
        ValueError: not a length of time.

    >>> parse_length("4h"), parse_length("on"), parse_length("off"), parse_length("0m")
    (14400.0, None, 0.0, 0.0)
    >>> parse_length("400d") == MAX_LENGTH_S
    True
    """
    text = text.strip().lower()
    if text in ("on", "off"):
        return None if text == "on" else 0.0
    found = re.fullmatch(r"([0-9]{1,6})\s*([smhd])", text)
    if found is None:
        raise ValueError(f"{text!r} is not a length of time: say 30m, 4h, 2d, on or off")
    return min(int(found[1]) * _UNITS_S[found[2]], MAX_LENGTH_S)
