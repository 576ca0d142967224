"""Ids: 26 characters of Crockford's base 32, sorted by time, with enough chance in them never to meet."""

from __future__ import annotations

import os
import threading

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26
_CHANCE_BITS = 80


def _number(wall_s: float) -> int:
    milliseconds = min(max(round(wall_s * 1000), 0), (1 << 48) - 1)
    return milliseconds << _CHANCE_BITS | int.from_bytes(os.urandom(_CHANCE_BITS // 8), "big")


def _text(number: int) -> str:
    return "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))


def new_ulid(wall_s: float) -> str:
    """Return an id: 48 bits of milliseconds since 1970, 80 random bits.

    >>> len(new_ulid(1.8e9)), new_ulid(1.0) < new_ulid(2.0)
    (26, True)
    """
    return _text(_number(wall_s))


class Ulids:
    """Ids that rise even within a millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self, wall_s: float) -> str:
        """Return the next id."""
        with self._lock:
            number = _number(wall_s)
            if number >> _CHANCE_BITS == self._last >> _CHANCE_BITS:
                number = self._last + 1
            self._last = number
        return _text(number)
