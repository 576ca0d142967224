"""When somebody may be there: the gate that lets the detector sleep."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, Optional, Sequence, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.capture.background import Background, shrink, zone_mask
from edgecam.config import MotionConfig, Polygon
from edgecam.types import Floats, Frame

_LOW = 2.0
_HIGH = 3.0
"""Standard deviations: a region grows down to the low one and counts by its cells above the high one."""

_LEAST_CHANGE = 0.06
"""Log brightness, about 6 %: less is never motion."""

_SMOOTH_CELLS = 9
_EDGED = 0.04
"""Log brightness: light and shadow change a region smoothly, a body does not."""

_SETTLING = 1.5
"""While the light settles, so many times stricter."""

_CELLS = 6.0
"""Quiet cells above the high threshold that make a region motion (at 80 cells a row)."""

_ACTIVE_SHARE = 0.03
_ACTIVE_WEIGHT = 0.12
"""A cell that flickers this often (foliage) counts this much ..."""

_ACTIVE_PACE = 0.2
"""... and what moves only among such cells must do so longer."""

_NEAR = ((0.08, np.ones((5, 5), np.uint8)), (0.2, np.ones((9, 9), np.uint8)))
"""So many seconds ago something must have been so near: insects and drops come out of nothing."""

_JOIN = np.ones((3, 3), np.uint8)
_WEATHER_S = 10.0
_SPECKLED = 0.003
_SOLID = np.ones((2, 2), np.uint8)
_FORGET_S = 0.45
_PERSIST_S = 0.1
_LINGER_S = 0.3
_MAX_BOXES = 16


@dataclass(frozen=True, eq=False)
class Motion:
    """What the gate says of one frame."""

    active: bool
    """Something moves now."""

    share: float
    """Share of the picture that moves, 0..1."""

    boxes: Floats
    """(N, 4) float32 x, y, w, h in frame pixels: moving regions, largest first."""

    opened: bool
    """A visit begins with this frame."""

    closed: bool
    """The visit ended before this frame."""


class MotionGate:
    """Opens and closes visits; call it with every frame of one camera.

    Args:
        config: size of the search picture, sensitivity and lengths.
        ignore_zones: polygons, in shares of the picture, in which nothing counts.
    """

    def __init__(self, config: MotionConfig, ignore_zones: Sequence[Polygon] = ()) -> None:
        self._config = config
        self._zones = tuple(ignore_zones)
        self._columns = max(16, config.width_px // 2)
        self._background = Background()
        self._mask: NDArray[np.bool_] = np.ones((0, 0), bool)
        self._past = _Past()
        self._weather = _Weather()
        self._evidence = _Evidence(_PERSIST_S / min(2.0, max(0.5, config.sensitivity)))
        self._opened_s: Optional[float] = None
        self._until_s = 0.0
        self._asked_open = False
        self._asked_longer = False

    @property
    def is_open(self) -> bool:
        """Whether a visit is under way."""
        return self._opened_s is not None

    def trigger(self) -> None:
        """Open a visit with the next frame, or prolong it: somebody pressed the button."""
        self._asked_open = True

    def extend(self) -> None:
        """Keep the visit open for another burst from the next frame on: a face is in view."""
        self._asked_longer = True

    def close(self) -> None:
        """End the visit without a frame: the camera is away."""
        self._opened_s = None

    def __call__(self, frame: Frame) -> Motion:
        """Judge one frame."""
        cells = shrink(frame.image, self._columns)
        if self._mask.shape != cells.shape:
            self._mask = zone_mask(self._zones, (cells.shape[0], cells.shape[1]))
        at_s = frame.captured_at_s
        difference, score = self._background.compare(cells, at_s)
        strict = (_SETTLING if self._background.settling else 1.0) / self._config.sensitivity**0.5
        big = (np.abs(difference) > _LEAST_CHANGE * strict) & self._mask
        changed = big & (score > _LOW * strict)
        solid = self._weather.clear(changed, at_s)
        sure = (score > _HIGH * strict) & _edged(difference, strict) & self._past.near(solid, at_s)
        regions, strong, busy = self._regions(solid, sure)
        self._evidence.add(strong, at_s, 1.0 - (1.0 - _ACTIVE_PACE) * busy)
        active = self._evidence.enough
        person = self._asked_longer or self._asked_open
        self._background.learn(difference, changed, at_s, person=person)
        opened, closed = self._advance(at_s, active=active)
        boxes = self._to_pixels(regions, frame)
        return Motion(active, float(np.mean(changed)), boxes, opened, closed)

    def _regions(
        self, solid: NDArray[np.uint8], sure: NDArray[np.bool_]
    ) -> Tuple[NDArray[np.int32], NDArray[np.int32], float]:
        """Return connected regions, those that count as motion, and how busy (0..1) the quietest of these is.

        Regions are (N, 4) x, y, w, h in cells.
        """
        # The parts of a faint body may lie a cell or two apart.
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(solid, _JOIN), connectivity=8)
        if count == 1:
            return _NO_BOXES, _NO_BOXES, 0.0
        busy = np.clip(self._background.activity / _ACTIVE_SHARE, 0.0, 1.0)
        weight = np.where(sure, 1.0 - (1.0 - _ACTIVE_WEIGHT) * busy, 0.0)
        points = np.bincount(labels.ravel(), weight.ravel(), count)[1:]
        cells = np.bincount(labels.ravel(), sure.ravel(), count)[1:]
        stats = stats[1:]
        # A larger search picture has more cells for the same person.
        need = _CELLS * (self._columns / 80.0) ** 2 / self._config.sensitivity
        order = np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")
        boxes = stats[order, :4].astype(np.int32)
        points, cells, areas = points[order], cells[order], stats[order, cv2.CC_STAT_AREA]
        strong = points >= need
        busiest = 1.0 - float(np.max(points[strong] / cells[strong], initial=0.0))
        return boxes[areas >= need / 2][:_MAX_BOXES], boxes[strong], busiest

    def _advance(self, at_s: float, *, active: bool) -> Tuple[bool, bool]:
        asked_open, asked_longer = self._asked_open, self._asked_longer
        self._asked_open = self._asked_longer = False
        closed = False
        if self._opened_s is not None:
            if active or asked_open or asked_longer:
                self._until_s = at_s + self._config.burst_s
            closed = at_s >= self._until_s or at_s - self._opened_s >= self._config.max_visit_s
            if closed:
                self._opened_s = None
            return False, closed
        if active or asked_open:
            self._opened_s = at_s
            self._until_s = at_s + self._config.burst_s
        return self._opened_s is not None, closed

    def _to_pixels(self, boxes: NDArray[np.int32], frame: Frame) -> Floats:
        height, width = frame.image.shape[:2]
        rows, columns = self._mask.shape
        per_cell = np.array([width / columns, height / rows])
        low = np.maximum(boxes[:, :2] - 1, 0) * per_cell
        high = np.minimum(boxes[:, :2] + boxes[:, 2:] + 1, [columns, rows]) * per_cell
        result: Floats = np.hstack([low, high - low]).astype(np.float32)
        return result


def _edged(difference: Floats, strict: float) -> NDArray[np.bool_]:
    """Return the cells around which the difference varies more than light and shadow make it."""
    detail = difference - cv2.blur(difference, (_SMOOTH_CELLS, _SMOOTH_CELLS))
    result: NDArray[np.bool_] = cv2.blur(detail * detail, (5, 5)) > (_EDGED * strict) ** 2
    return result


_NO_BOXES: NDArray[np.int32] = np.zeros((0, 4), np.int32)


class _Weather:
    """Takes rain and edges of leaves, a cell wide, out of the picture while there are many."""

    def __init__(self) -> None:
        self._specks = 0.02
        self._last_s: Optional[float] = None

    def clear(self, changed: NDArray[np.bool_], at_s: float) -> NDArray[np.uint8]:
        """Return the changed cells (0, 1) without the specks of bad weather."""
        every = changed.astype(np.uint8)
        solid = cv2.morphologyEx(every, cv2.MORPH_OPEN, _SOLID)
        share = float(np.mean(every)) - float(np.mean(solid))
        dt_s = float(np.clip(at_s - self._last_s, 0.0, 1.0)) if self._last_s is not None else 0.0
        self._last_s = at_s
        self._specks += (share - self._specks) * float(-np.expm1(-dt_s / _WEATHER_S))
        result: NDArray[np.uint8] = solid if self._specks > _SPECKLED else every
        return result


class _Past:
    """Where something was in the last moments."""

    def __init__(self) -> None:
        self._maps: Deque[Tuple[float, NDArray[np.uint8]]] = deque()

    def near(self, solid: NDArray[np.uint8], at_s: float) -> NDArray[np.bool_]:
        """Take the newest map (0, 1) and return its cells near which something was all the time.

        Args:
            solid: (rows, columns) of this frame.
            at_s: its time.
        """
        if self._maps and (self._maps[-1][1].shape != solid.shape or self._maps[-1][0] > at_s):
            self._maps.clear()
        while self._maps and self._maps[0][0] < at_s - _FORGET_S:
            self._maps.popleft()
        result: NDArray[np.bool_] = solid > 0
        for ago_s, reach in _NEAR:
            # The newest that is old enough; a camera of few frames a second has none, and none is asked for.
            before = next((past for past_s, past in reversed(self._maps) if past_s <= at_s - ago_s + 1e-3), None)
            if before is not None:
                result = result & (cv2.dilate(before, reach) > 0)
        self._maps.append((at_s, solid))
        return result


class _Evidence:
    """Seconds for which a region has stayed in view; an insect before the lens does not stay.

    Args:
        need_s: so long makes a visitor.
    """

    def __init__(self, need_s: float) -> None:
        self._need_s = need_s
        self._seen_s = 0.0
        self._last_s: Optional[float] = None
        self._boxes = _NO_BOXES
        self._boxes_s = -float("inf")

    @property
    def enough(self) -> bool:
        return self._seen_s >= self._need_s - 1e-6

    def add(self, boxes: NDArray[np.int32], at_s: float, pace: float) -> None:
        """Take the regions of a frame; each second counts `pace`."""
        dt_s = float(np.clip(at_s - self._last_s, 0.0, 1.0)) if self._last_s is not None else 0.0
        self._last_s = at_s
        fresh = at_s - self._boxes_s <= max(_LINGER_S, 1.5 * dt_s)
        if len(boxes) and fresh and _touch(self._boxes, boxes):
            self._seen_s = min(self._seen_s + pace * dt_s, self._need_s + _LINGER_S)
        elif not len(boxes) or not fresh:
            self._seen_s = max(0.0, self._seen_s - dt_s)
        if len(boxes):
            self._boxes, self._boxes_s = boxes, at_s


def _touch(a: NDArray[np.int32], b: NDArray[np.int32]) -> bool:
    """Whether a box of `a`, widened by half its size for a walker, meets one of `b`."""
    reach = np.maximum(a[:, 2:] // 2, 2)
    low = np.maximum((a[:, :2] - reach)[:, None], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:] + reach)[:, None], (b[:, :2] + b[:, 2:])[None])
    return bool(np.any(np.all(high > low, axis=2)))
