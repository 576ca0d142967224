"""Ids: 26 characters of Crockford's base 32, sorted by time, unguessable enough never to meet."""

from __future__ import annotations

import os

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26


def new_ulid(wall_s: float) -> str:
    """Return an id: 48 bits of milliseconds since 1970, 80 random bits.

    >>> len(new_ulid(1.8e9)), new_ulid(1.0) < new_ulid(2.0)
    (26, True)
    """
    milliseconds = min(max(int(wall_s * 1000), 0), (1 << 48) - 1)
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_DIGITS[value >> 5 * place & 31] for place in reversed(range(_LENGTH)))
