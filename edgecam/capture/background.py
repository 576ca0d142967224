"""What the empty scene looks like, cell by cell, and which cells do not look like it now.

Cells hold log brightness, so that a change of gain is one number for the whole picture; each has a mean and a
variance that follow the scene in seconds, whatever the frame rate.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats, Image

_DARK = 16.0
"""Added to the brightness: the logarithm must not blow the noise of dark cells up."""

_LIT = 12.0
"""Cells brighter than this tell the gain, if they are a quarter of the picture."""

_TAU_S = 20.0
_TAU_CHANGED_S = 40.0
_TAU_VARIANCE_S = 30.0
_TAU_ACTIVITY_S = 60.0
_FLICKER_S = 0.1
_TAU_SETTLE_S = 0.15
_FIRST_TAU_S = 0.5

_SD_START = 0.04
_SD_MAX = 0.30
_GREY_LEVEL = 0.8
"""Noise that every 8-bit picture has, in grey levels."""

_BURNT, _WHITE = float(np.log(235.0 + _DARK)), float(np.log(255.0 + _DARK))
_BURNT_FOR_S = 60.0
_AROUND = np.ones((3, 3), np.uint8)

_ROBUST = 1.4826
"""Standard deviations in a median absolute deviation."""

_EVEN = 0.015
_STALE = 1.5
_HURRY = 0.04
"""Half the cells further off than `_STALE` times noise and `_EVEN`: up to 1/`_HURRY` times faster."""

_SPREAD_LIMIT = 9.0
"""A single frame raises a cell's variance as if it were at most this many variances off."""

_LIGHT_SHARE = 0.30
_LIGHT_JUMP = 0.22
_GAIN_JUMP = 0.2
_LIGHT_LOOKBACK_S = 0.3
_SETTLE_S = 0.8
_SETTLE_AT_MOST_S = 3.0


def shrink(image: Image, columns: int) -> Floats:
    """Return the picture as (rows, columns) float32 log brightness of its green channel.

    Reads about 16 pixels a cell: cheap, and enough against noise.
    """
    height, width = image.shape[:2]
    columns = max(1, min(columns, width))
    rows = max(1, round(columns * height / width))
    step = max(1, width // (4 * columns))
    sampled = np.ascontiguousarray(image[::step, ::step, 1])
    cells = cv2.resize(sampled, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    result: Floats = np.log(cells + np.float32(_DARK))
    return result


class Background:
    """The model of one camera's empty scene."""

    def __init__(self) -> None:
        self.activity: Floats = np.zeros((0, 0), np.float32)
        """(rows, columns) 0..1: how often a cell flickers (foliage); who walks by flips it but twice."""

        self.settling = False
        """The light has just changed: the model runs after the picture instead of averaging it."""

        self._mean: Floats = np.zeros((0, 0), np.float32)
        self._variance: Floats = np.zeros((0, 0), np.float32)
        self._previous: Floats = np.zeros((0, 0), np.float32)
        self._burnt_s: NDArray[np.float64] = np.zeros((0, 0))
        self._noise = 0.02
        self._stale = 0.0
        self._changed: NDArray[np.bool_] = np.zeros((0, 0), bool)
        self._looked_s = -float("inf")
        self._age_s = 0.0
        self._last_s: Optional[float] = None
        self._settle_from_s = -float("inf")
        self._settle_to_s = -float("inf")
        self._boost = 0.0
        self._shares: list[Tuple[float, float]] = []

    def compare(self, cells: Floats, at_s: float) -> Tuple[Floats, Floats]:
        """Return each cell's difference (log brightness, gain removed) and the same in standard deviations.

        Args:
            cells: of `shrink`; another shape than before starts the model anew.
            at_s: time of the frame.
        """
        gap_s = at_s - self._last_s if self._last_s is not None else 0.0
        if cells.shape != self._mean.shape or gap_s < 0:
            self._start(cells)
        gain = self._take_gain(cells)
        # What is burnt out does not follow the gain: it may well be brighter than it should, or no brighter than white.
        burnt = np.maximum(cells, self._mean) > _BURNT
        self._burnt_s[cv2.dilate(burnt.astype(np.uint8), _AROUND) > 0] = at_s
        np.minimum(self._mean, _WHITE, out=self._mean)
        difference = cells - self._mean
        difference[(self._burnt_s > at_s - _BURNT_FOR_S) & (difference > 0)] = 0.0
        self._measure_noise(cells)
        spread = _ROBUST * float(np.median(np.abs(difference)))
        self._stale = spread / float(np.hypot(self._noise, _EVEN))
        floor = _GREY_LEVEL * np.exp(-cells)
        deviation = np.sqrt(self._variance + floor * floor + np.float32(self._noise**2 + self._boost**2))
        score: Floats = np.abs(difference) / deviation
        self._watch_light(float(np.mean(score > 3.0)), gain, at_s)
        return difference, score

    def learn(self, difference: Floats, changed: NDArray[np.bool_], at_s: float, *, person: bool) -> None:
        """Move the model towards the frame just compared.

        Args:
            difference: of `compare`.
            changed: (rows, columns) cells that differ.
            at_s: time of the frame.
            person: somebody is known to be there: what differs now says nothing about foliage.
        """
        dt_s = float(np.clip(at_s - (self._last_s if self._last_s is not None else at_s), 0.0, 1.0))
        self._last_s = at_s
        self._age_s += dt_s
        # Most of the picture being off is light (dusk, a cloud), never a visitor: the whole model hurries after it.
        hurry = float(np.clip((_STALE / self._stale) ** 2, _HURRY, 1.0)) if self._stale > 0 else 1.0
        tau_s = min(_TAU_S * hurry, max(_FIRST_TAU_S, self._age_s))
        tau_changed_s = _TAU_CHANGED_S * hurry if self._age_s > 2.0 else tau_s
        follow = np.where(changed, _step(dt_s, tau_changed_s), _step(dt_s, tau_s)).astype(np.float32)
        if self.settling:
            follow = np.full_like(difference, _step(dt_s, _TAU_SETTLE_S))
        self._mean += follow * difference
        self._boost *= 1.0 - _step(dt_s, 1.0)
        if self.settling:
            return
        limit = _SPREAD_LIMIT * (self._variance + np.float32(1e-5))
        pull = np.minimum(difference * difference, limit) - self._variance
        learns = np.float32(_step(dt_s, min(_TAU_VARIANCE_S, max(1.0, self._age_s))))
        if person:
            pull[changed] = 0.0
        self._count_flicker(changed, at_s, person=person)
        self._variance = np.clip(self._variance + learns * pull, 1e-6, _SD_MAX**2)

    def _count_flicker(self, changed: NDArray[np.bool_], at_s: float, *, person: bool) -> None:
        since_s = at_s - self._looked_s
        if 0 <= since_s < 0.9 * _FLICKER_S:
            return
        if not person and since_s < 1.0:
            flipped = (changed != self._changed).astype(np.float32)
            self.activity += np.float32(_step(since_s, _TAU_ACTIVITY_S)) * (flipped - self.activity)
        self._changed, self._looked_s = changed, at_s

    def _start(self, cells: Floats) -> None:
        if cells.shape != self._mean.shape:
            self.activity = np.zeros_like(cells)
            self._changed = np.zeros(cells.shape, bool)
            self._variance = np.full_like(cells, _SD_START**2)
        self._mean = cells.copy()
        self._burnt_s = np.full_like(cells, -np.inf, np.float64)
        self._previous = cells
        self._age_s = 0.0
        self._shares = []

    def _take_gain(self, cells: Floats) -> float:
        """Carry the gain of the whole picture over into the model: drift is no motion, nor is what follows from it."""
        seen, known = np.exp(cells) - _DARK, np.maximum(np.exp(self._mean) - _DARK, 0.5)
        ratio = np.log((seen + 1.0) / (known + 1.0))
        lit = ratio[known > _LIT]
        gain = float(np.median(lit if 4 * lit.size > ratio.size else ratio))
        self._mean = np.log(known * np.float32(np.exp(gain)) + np.float32(_DARK))
        return gain

    def _measure_noise(self, cells: Floats) -> None:
        """Follow the noise, taken from one frame to the next so that light and people do not count as such."""
        step = cells - self._previous
        step -= np.median(step)
        noise = _ROBUST * float(np.median(np.abs(step))) / np.sqrt(2.0)
        self._noise = min(float(noise), 1.2 * self._noise + 0.001)
        self._previous = cells

    def _watch_light(self, share: float, gain: float, at_s: float) -> None:
        self._shares = [(t, s) for t, s in self._shares if at_s - _LIGHT_LOOKBACK_S <= t] or self._shares[-1:]
        before = min((s for _, s in self._shares), default=share)
        self._shares.append((at_s, share))
        jumped = (share > _LIGHT_SHARE and share - before > _LIGHT_JUMP) or abs(gain) > _GAIN_JUMP
        if jumped:
            if at_s > self._settle_to_s:
                self._settle_from_s = at_s
            # Somebody right before the lens also changes everything, again and again: not for ever.
            self._settle_to_s = min(at_s + _SETTLE_S, self._settle_from_s + _SETTLE_AT_MOST_S)
            self._boost = 0.05
        self.settling = at_s < self._settle_to_s


def _step(dt_s: float, tau_s: float) -> float:
    """Return the share of the way that an exponential average goes in `dt_s`."""
    return float(-np.expm1(-dt_s / tau_s))


def zone_mask(zones: Any, shape: Tuple[int, int]) -> NDArray[np.bool_]:
    """Return the cells, (rows, columns), whose middle lies in none of the polygons (shares of the picture)."""
    rows, columns = shape
    mask = np.ones(shape, np.uint8)
    for zone in zones:
        # Sixteenths of a cell; a cell's middle is the integer coordinate.
        corners = (np.asarray(zone, np.float64) * (columns, rows) - 0.5) * 16
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (0,), cv2.LINE_8, 4)
    result: NDArray[np.bool_] = mask.astype(bool)
    return result
