"""Where to draw the line between a phone at the door and one elsewhere, from signals measured at both."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence, Tuple

ENOUGH = 10
"""Fewer seconds with a sign say nothing."""

_NEAR_SHARE, _FAR_SHARE = 0.2, 0.95
"""Of what is heard at the door, so much may be weaker than the line; of what is heard elsewhere, so much must be."""


class Threshold(NamedTuple):
    """The line, and what it costs."""

    rssi_dbm: int
    near: Tuple[int, int, int]
    """Weak (20 %), median and strongest signal at the door, dBm."""
    far: Tuple[int, int, int]
    """Weakest, median and strong (95 %) signal elsewhere, dBm."""
    kept: float
    """Share of the door's seconds at or above the line."""
    leaking: float
    """Share of the other place's seconds at or above it."""
    apart: bool
    """Whether the two places can be told apart at all."""


def between(near: Sequence[int], far: Sequence[int]) -> Threshold:
    """Return the line half-way between the door's weaker and the other place's stronger signals.

    Args:
        near: dBm, a value a second, at least `ENOUGH`.
        far: the same elsewhere; empty where the phone was not heard at all.

    >>> between([-50] * 10, [-70] * 10)[0], between([-50] * 10, [])[0], between([-50] * 10, [-49] * 10).apart
    (-60, -60, False)
    """
    low = _quantile(near, _NEAR_SHARE)
    high = _quantile(far, _FAR_SHARE) if far else low - 20
    line = math.ceil((low + high) / 2)
    return Threshold(
        line,
        (low, _quantile(near, 0.5), max(near)),
        (min(far), _quantile(far, 0.5), high) if far else (high, high, high),
        sum(value >= line for value in near) / len(near),
        sum(value >= line for value in far) / len(far) if far else 0.0,
        low > high,
    )


def _quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
