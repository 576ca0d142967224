"""Two clocks: monotonic seconds decide, wall seconds inform."""

from __future__ import annotations

import time
from typing import Protocol

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
