"""A log that nothing can fill: what repeats is counted instead of written.

Of each kind of line the first ones pass at once, then one an interval, with how many were left out. A kind is the place
in the code, the text without its numbers and ids, and the error's type; so errors of different kinds are not mixed.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

_VARYING = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b|0x[0-9a-fA-F]+|\d+(?:[.:]\d+)*")
"""Ids (ULID), addresses, numbers, times."""

_KINDS = 256
_AGAIN_S = 600.0
"""So long after the last word of it a count is told, whatever comes."""

Kind = Tuple[str, int, str, str]


@dataclass(frozen=True)
class Limit:
    """So many lines at once, then one each so many seconds."""

    burst: int
    every_s: float


FAULTS = Limit(5, 600.0)
EVENTS = Limit(20, 60.0)
"""INFO: visits and their like are no flood."""

PLACE = Limit(60, 10.0)
"""Of one line of code, however its texts differ."""


class _Bucket:
    """What may still be written, and what was not."""

    def __init__(self, limit: Limit, now_s: float, first: logging.LogRecord) -> None:
        self._limit, self.last = limit, first
        self._tokens, self._filled_s = float(limit.burst), now_s
        self.told_s = now_s
        self.hidden = 0

    def take(self, now_s: float) -> bool:
        """Whether one more line may be written; it is then counted as written."""
        gained = (now_s - self._filled_s) / self._limit.every_s
        self._tokens, self._filled_s = min(float(self._limit.burst), self._tokens + gained), now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def hide(self, record: logging.LogRecord) -> None:
        self.hidden, self.last = self.hidden + 1, record

    def reveal(self, now_s: float) -> int:
        """Return how many lines were left out; they are told of now."""
        hidden, self.hidden, self.told_s = self.hidden, 0, now_s
        return hidden


class Flood(logging.Filter):
    """Lets the first lines of each kind through and counts the rest; belongs behind `Redact`, for several threads.

    Args:
        handler: whose filter it is; counts are written to it.
        monotonic_s: the time.
    """

    def __init__(self, handler: logging.Handler, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handler, self._now = handler, monotonic_s
        self._lock = threading.Lock()
        self._kinds: OrderedDict[Kind, _Bucket] = OrderedDict()
        self._places: Dict[Tuple[str, int], _Bucket] = {}
        self._timer: Optional[threading.Timer] = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is written; one that was asked for (DEBUG) always is."""
        if record.levelno < logging.INFO or getattr(record, "is_count", False):
            return True
        try:
            text = record.getMessage()
        except Exception:  # a wrong format string is its author's bug; the handler reports it
            return True
        counts: List[logging.LogRecord] = []
        with self._lock:
            passes, hidden = self._judge(record, text, counts)
            if not passes:
                self._expect_end()
        for count in counts:
            self._handler.handle(count)
        if hidden:
            record.msg, record.args = f"{text} (… {hidden} more like this)", ()
        return passes

    def tell(self, *, all_of_it: bool = False) -> bool:
        """Write the counts that are due; return whether some are left for later.

        Args:
            all_of_it: also what is not due yet: the program ends.
        """
        now_s, counts = self._now(), []
        with self._lock:
            waiting = False
            for bucket in (*self._kinds.values(), *self._places.values()):
                if bucket.hidden and (all_of_it or now_s - bucket.told_s >= _AGAIN_S):
                    counts.append(_count(bucket, now_s))
                waiting = waiting or bucket.hidden > 0
        for count in counts:
            self._handler.handle(count)
        return waiting

    def _judge(self, record: logging.LogRecord, text: str, counts: List[logging.LogRecord]) -> Tuple[bool, int]:
        """Return whether it passes, and of how many it is then to tell."""
        now_s, place = self._now(), (record.pathname, record.lineno)
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        kind = (*place, _VARYING.sub("#", text), error)
        here = self._places.setdefault(place, _Bucket(PLACE, now_s, record))
        mine = self._kinds.get(kind)
        if mine is None:
            # Of a flood of ever new texts none may drive out the counts of others.
            if not here.take(now_s):
                here.hide(record)
                return False, 0
            limit = FAULTS if record.levelno > logging.INFO else EVENTS
            mine = self._kinds[kind] = _Bucket(limit, now_s, record)
            if len(self._kinds) > _KINDS:
                _, oldest = self._kinds.popitem(last=False)
                if oldest.hidden:
                    counts.append(_count(oldest, now_s))
            return mine.take(now_s), 0
        self._kinds.move_to_end(kind)
        if mine.take(now_s) and here.take(now_s):
            return True, mine.reveal(now_s)
        mine.hide(record)
        return False, 0

    def _expect_end(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(_AGAIN_S, self._on_time)
            self._timer.name, self._timer.daemon = "log-counts", True
            self._timer.start()

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
        if self.tell():
            with self._lock:
                self._expect_end()


def _count(bucket: _Bucket, now_s: float) -> logging.LogRecord:
    """Return the line that tells how many were left out."""
    last = bucket.last
    took_s, hidden = now_s - bucket.told_s, bucket.reveal(now_s)
    text = f"… {hidden} more like this in {took_s:.0f} s: {last.getMessage()}"
    return logging.makeLogRecord(
        {
            **{key: getattr(last, key) for key in ("name", "levelno", "levelname", "pathname", "lineno")},
            "msg": text,
            "is_count": True,
        }
    )
