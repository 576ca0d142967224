"""MTCNN (Zhang et al. 2016) with facenet-pytorch's weights and conventions.

P-net looks at every place of an image pyramid, R-net and O-net refine what it proposes. Each level of
the pyramid is made from the one before. Corners are x1, y1, x2, y2.
"""

from __future__ import annotations

from typing import Any, Final, Iterator, Optional, Sequence

import cv2
import numpy as np

from edgecam.config import DetectConfig
from edgecam.detect.base import Net
from edgecam.detect.boxes import nms, search_areas, square
from edgecam.types import Faces, Floats, Image

_FACTOR: Final = 0.709
"""From one level of the pyramid to the next."""
_CELL: Final = 12
"""P-net sees windows of 12x12 px ..."""
_STRIDE: Final = 2
"""... 2 px apart."""
_LEVEL_MAX_PX: Final = 1_000_000
"""A larger first level is shrunk to this (minutes and gigabytes else); faces below `min_face_px` are none."""
_BATCH: Final = 64
"""R-net and O-net take so many crops at once: more fall out of the cache."""
_NMS_LEVEL: Final = 0.5
_NMS_ALL: Final = 0.7
_NMS_LAST: Final = 0.7
_LINEAR: Final = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


class Mtcnn:
    """MTCNN; see `Detector`.

    Args:
        config: smallest face and the three nets' thresholds.
        pnet: (N, 3, H, W) -> `reg` (N, 4, h, w), `prob` (N, 2, h, w).
        rnet: (N, 3, 24, 24) -> `reg` (N, 4), `prob` (N, 2).
        onet: (N, 3, 48, 48) -> `reg` (N, 4), `points` (N, 10), `prob` (N, 2).
    """

    def __init__(self, config: DetectConfig, pnet: Net, rnet: Net, onet: Net) -> None:
        self._config = config
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def __call__(self, image: Image, regions: Optional[Floats] = None) -> Faces:
        """Return the faces of a picture, best score first."""
        corners = self._propose(image, regions)
        corners = self._refine(image, corners)
        return self._finish(image, corners)

    def _propose(self, image: Image, regions: Optional[Floats]) -> Floats:
        """Return (N, 4) square candidates in image pixels, by P-net."""
        height, width = image.shape[:2]
        if regions is None:
            areas = np.array([[0, 0, width, height]])
        else:
            areas = search_areas(regions, width, height, self._config.min_face_px)
        found = [self._propose_in(image[y1:y2, x1:x2], x1, y1) for x1, y1, x2, y2 in areas]
        corners, scores, shifts = (np.concatenate(part) for part in zip(*[_no_windows(), *found]))
        keep = nms(corners, scores, _NMS_ALL)
        corners, shifts = corners[keep], shifts[keep]
        size = (corners[:, 2:] - corners[:, :2])[:, [0, 1, 0, 1]]
        return square(corners + shifts * size)

    def _propose_in(self, area: Image, x: int, y: int) -> tuple[Floats, Floats, Floats]:
        """Return corners (N, 4), scores (N,) and shifts (N, 4) in box sides of an area that starts at x, y."""
        found = [_no_windows()]
        for level, scale in _pyramid(area, self._config.min_face_px):
            reg, prob = self._pnet.run({"input": _blob(level[None])})
            row, column = np.nonzero(prob[0, 1] >= self._config.thresholds[0])
            scores = prob[0, 1, row, column]
            at = np.stack([column, row], axis=1) * _STRIDE
            low = np.floor((at + 1) / scale)
            high = np.floor((at + _CELL) / scale)
            corners = np.concatenate([low, high], axis=1).astype(np.float32)
            keep = nms(corners, scores, _NMS_LEVEL)
            found.append((corners[keep], scores[keep], reg[0, :, row[keep], column[keep]]))
        corners, scores, shifts = (np.concatenate(part) for part in zip(*found))
        return corners + np.array([x, y, x, y], np.float32), scores, shifts

    def _refine(self, image: Image, corners: Floats) -> Floats:
        """Return the (N, 4) square candidates that R-net lets pass, moved."""
        corners, blob = _crops(image, corners, 24)
        reg, prob = _batched(self._rnet, blob, _R_SHAPES)
        passed = prob[:, 1] > self._config.thresholds[1]
        corners, scores, reg = corners[passed], prob[passed, 1], reg[passed]
        keep = nms(corners, scores, _NMS_ALL)
        return square(_move(corners[keep], reg[keep]))

    def _finish(self, image: Image, corners: Floats) -> Faces:
        """Return what O-net takes for a face."""
        corners, blob = _crops(image, corners, 48)
        reg, points, prob = _batched(self._onet, blob, _O_SHAPES)
        passed = prob[:, 1] > self._config.thresholds[2]
        corners, scores, reg, points = corners[passed], prob[passed, 1], reg[passed], points[passed]
        size = corners[:, 2:] - corners[:, :2] + 1
        landmarks = np.stack([points[:, :5], points[:, 5:]], axis=2) * size[:, None] + corners[:, None, :2] - 1
        corners = _move(corners, reg)
        keep = nms(corners, scores, _NMS_LAST, of_smaller=True)
        corners = corners[keep]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return Faces(boxes.astype(np.float32), scores[keep], landmarks[keep].astype(np.float32))


_R_SHAPES: Final = (4, 2)
_O_SHAPES: Final = (4, 10, 2)


def _no_windows() -> tuple[Floats, Floats, Floats]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)


def _pyramid(area: Image, min_face_px: int) -> Iterator[tuple[Image, float]]:
    """Yield (level, its scale), finest first."""
    height, width = area.shape[:2]
    scale = min(_CELL / min_face_px, (_LEVEL_MAX_PX / (height * width)) ** 0.5)
    level = area
    while min(height, width) * scale >= _CELL:
        size = (int(width * scale + 1), int(height * scale + 1))
        while min(level.shape[1] / size[0], level.shape[0] / size[1]) >= 2:
            level = _half(level)
        level = cv2.resize(level, size, interpolation=cv2.INTER_LINEAR)
        yield level, scale
        scale *= _FACTOR


def _half(image: Image) -> Image:
    """Return the mean of each 2x2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    result: Image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return result


def _blob(crops: Image) -> Floats:
    """Return (N, h, w, 3) BGR bytes as (N, 3, h, w) RGB, (x - 127.5) / 128."""
    blob = np.empty((crops.shape[0], 3, *crops.shape[1:3]), np.float32)
    np.subtract(crops.transpose(0, 3, 1, 2)[:, ::-1], np.float32(127.5), out=blob)
    blob *= np.float32(1 / 128)
    return blob


def _crops(image: Image, corners: Floats, side: int) -> tuple[Floats, Floats]:
    """Return the candidates that have pixels, and their (N, 3, side, side) blob.

    A crop that reaches over the border is clipped and stretched; it begins one pixel up and left of
    its corner, as the weights were used at their source.
    """
    height, width = image.shape[:2]
    whole = np.trunc(corners).astype(int)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], (width, height))
    inside = (high > low).all(axis=1)
    corners, low, high = corners[inside], low[inside], high[inside]
    crops = np.empty((len(corners), side, side, 3), np.uint8)
    halves = [image]
    for i, ((x1, y1), (x2, y2)) in enumerate(zip(low.tolist(), high.tolist())):
        # A mean over 2x2, 4x4, ... and then a linear step of less than 2 is 10 times faster than INTER_AREA.
        depth = max(0, int(np.log2(max(1.0, min(x2 - x1, y2 - y1) / side))))
        while len(halves) <= depth:
            halves.append(_half(halves[-1]))
        scale = 0.5**depth
        dx, dy = (x2 - x1) * scale / side, (y2 - y1) * scale / side
        matrix = np.array([[dx, 0, x1 * scale + dx / 2 - 0.5], [0, dy, y1 * scale + dy / 2 - 0.5]])
        cv2.warpAffine(halves[depth], matrix, (side, side), crops[i], _LINEAR, cv2.BORDER_REPLICATE)
    return corners, _blob(crops)


def _batched(net: Net, blob: Floats, widths: tuple[int, ...]) -> list[Floats]:
    """Return the net's outputs, each (N, width), for any N."""
    parts: list[Sequence[Any]] = [[np.zeros((0, width), np.float32) for width in widths]]
    parts += [net.run({"input": blob[i : i + _BATCH]}) for i in range(0, len(blob), _BATCH)]
    return [np.concatenate(part) for part in zip(*parts)]


def _move(corners: Floats, reg: Floats) -> Floats:
    """Return the corners moved by shares of the side (one pixel longer, as trained)."""
    size = corners[:, 2:] - corners[:, :2] + 1
    result: Floats = corners + reg * size[:, [0, 1, 0, 1]]
    return result
