"""The hand-off between capture and perception: the latest frame wins, what was dropped is counted."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Deque, Generic, Optional, Sequence, Tuple, TypeVar

T = TypeVar("T")

_LIMIT = 64
"""Entries that may wait; only a perception that stands still gets there, and the watchdog ends that."""


class Slot(Generic[T]):
    """Holds what perception has not looked at yet, in order.

    Of the live items only the newest waits, so a slow box skips frames and never lags behind the door. Kept items
    (pre-roll, the end of a visit) are not replaced by later ones.
    """

    def __init__(self) -> None:
        self._entries: Deque[Tuple[T, bool]] = deque()
        """(item, whether a newer live item replaces it)."""
        self._changed = threading.Condition()
        self.dropped = 0
        """Items nobody looked at, since the start."""

    def put(self, item: T) -> None:
        """Hand over a live item; an earlier one that still waits is dropped."""
        with self._changed:
            if self._entries and self._entries[-1][1]:
                self._entries.pop()
                self.dropped += 1
            if len(self._entries) >= _LIMIT:
                self.dropped += 1
                return
            self._entries.append((item, True))
            self._changed.notify_all()

    def keep(self, items: Sequence[T]) -> None:
        """Hand over items that later ones do not replace; those beyond the limit are dropped."""
        with self._changed:
            room = max(0, _LIMIT - 2 - len(self._entries))
            self.dropped += max(0, len(items) - room)
            self._entries.extend((item, False) for item in items[:room])
            self._changed.notify_all()

    def mark(self, item: T) -> None:
        """Hand over something that must arrive: it is kept whatever waits, but never twice in a row."""
        with self._changed:
            if not self._entries or self._entries[-1][0] is not item:
                self._entries.append((item, False))
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Optional[T]:
        """Return the oldest item, waiting for one if need be; None when none came in time."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while not self._entries:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)
            return self._entries.popleft()[0]

    def clear(self) -> int:
        """Throw everything away, counted; return how much it was."""
        with self._changed:
            gone = len(self._entries)
            self._entries.clear()
            self.dropped += gone
            return gone

    def __len__(self) -> int:
        """Return how many items wait."""
        with self._changed:
            return len(self._entries)
