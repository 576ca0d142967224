"""Box arithmetic that detectors share. Boxes here are corners: x1, y1, x2, y2."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats, Ints

_REGION_PAD: Final = 0.6
"""A region grows on each side by this share of its longer side: half a face and some surroundings."""
_WHOLE_AREA: Final = 0.8
"""Regions that together cover more of the picture than this are not worth the trouble."""


def nms(corners: Floats, scores: Floats, most: float, *, of_smaller: bool = False) -> Ints:
    """Return the positions of the boxes that survive, best score first.

    Args:
        corners: (N, 4) x1, y1, x2, y2.
        scores: (N,).
        most: a box that overlaps a better one by more than this is dropped.
        of_smaller: overlap is intersection over the smaller box, sides one pixel longer (MTCNN's
            last step), instead of intersection over union.
    """
    extra = 1.0 if of_smaller else 0.0
    x1, y1, x2, y2 = corners.T
    area = (x2 - x1 + extra) * (y2 - y1 + extra)
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while rest.size:
        best, rest = rest[0], rest[1:]
        kept.append(best)
        w = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + extra
        h = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + extra
        overlap = np.maximum(w, 0) * np.maximum(h, 0)
        whole = np.minimum(area[best], area[rest]) if of_smaller else area[best] + area[rest] - overlap
        rest = rest[overlap <= most * whole]
    return np.array(kept, np.int64)


def square(corners: Floats) -> Floats:
    """Return boxes of the same centres whose sides are the longer side."""
    size = corners[:, 2:4] - corners[:, :2]
    longer = size.max(axis=1, keepdims=True)
    low = corners[:, :2] + size / 2 - longer / 2
    result: Floats = np.concatenate([low, low + longer], axis=1)
    return result


def search_areas(regions: Floats, width: int, height: int, min_face_px: float) -> NDArray[Any]:
    """Return the pixel rectangles that must be searched so that faces in `regions` are found.

    Args:
        regions: (N, 4) x, y, w, h; need not lie inside the picture.
        width: of the picture, px.
        height: of the picture, px.
        min_face_px: smallest face looked for.

    Returns:
        (M, 4) int x1, y1, x2, y2 inside the picture; none overlaps another.
    """
    wanted = np.asarray(regions, np.float64).reshape(-1, 4)
    wanted = wanted[np.isfinite(wanted).all(axis=1) & (wanted[:, 2:] >= 0).all(axis=1)]
    pad = _REGION_PAD * wanted[:, 2:].max(axis=1, initial=0)[:, None] + min_face_px
    low = np.floor(np.clip(wanted[:, :2] - pad, 0, None))
    high = np.ceil(np.minimum(wanted[:, :2] + wanted[:, 2:] + pad, (width, height)))
    areas = [row for row in np.concatenate([low, high], axis=1).astype(int) if row[2] > row[0] and row[3] > row[1]]
    merged = _merge(areas)
    if sum((r[2] - r[0]) * (r[3] - r[1]) for r in merged) > _WHOLE_AREA * width * height:
        return np.array([[0, 0, width, height]])
    return np.array(merged, int).reshape(-1, 4)


def _merge(areas: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Join rectangles that overlap until none does."""
    done: list[NDArray[Any]] = []
    for area in areas:
        current = area
        while True:
            hit = next((i for i, other in enumerate(done) if _overlap(current, other)), None)
            if hit is None:
                break
            other = done.pop(hit)
            current = np.concatenate([np.minimum(current[:2], other[:2]), np.maximum(current[2:], other[2:])])
        done.append(current)
    return done


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())
