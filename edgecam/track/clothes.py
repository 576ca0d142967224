"""What somebody wears below the face: holds for a day, and tells nothing of who it is.

The torso is taken from where it is under any upright face, as a fixed part of the picture (Zhang et al. 2016 learn a
mask; the description is ours): colours, light and the grain of the cloth, above and below apart.
"""

from __future__ import annotations

from typing import Any, Final, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats, Image

_TORSO: Final = (-0.25, 1.45, 1.5, 1.6)
"""x, y, width, height in sides of the face's box: from below the collar; shoulders are wider than the face."""
_SEEN: Final = 0.7
"""At least this share of the torso lies within the picture."""
_SIDE: Final = 32
_BANDS: Final = 2
_CHROMA: Final = 8
"""Bins a side of the histogram of Lab's a and b, in the middle half of their range, where cloth lies."""
_LIGHT: Final = 8
_TURNS: Final = 8
_SHARES: Final = (0.55, 0.2, 0.25)
"""Of the squared length: colours, light (the sun moves), grain."""
WIDTH: Final = _BANDS * (_CHROMA**2 + _LIGHT + _TURNS)


def clothes(image: Image, box: Floats) -> Floats:
    """Return (160,) a float32 unit vector, >= 0, or (0,) if too little of the torso is in the picture.

    Args:
        image: (H, W, 3) uint8 BGR, the frame in which the face was found. A grey one has only light and grain to go by:
            do not ask of infrared pictures.
        box: (4,) x, y, w, h of the face; may reach over the border.
    """
    x, y, w, h = (float(v) for v in box)
    left, top, width, height = x + _TORSO[0] * w, y + _TORSO[1] * h, _TORSO[2] * w, _TORSO[3] * h
    x0, y0 = max(0, round(left)), max(0, round(top))
    x1, y1 = min(image.shape[1], round(left + width)), min(image.shape[0], round(top + height))
    if x1 <= x0 or y1 <= y0 or (x1 - x0) * (y1 - y0) < _SEEN * width * height:
        return np.zeros(0, np.float32)
    patch = cv2.resize(image[y0:y1, x0:x1], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(cv2.GaussianBlur(patch, (3, 3), 0), cv2.COLOR_BGR2LAB)
    grain = _grain(lab[:, :, 0])
    bands = np.array_split(np.arange(_SIDE), _BANDS)
    parts = []
    for rows in bands:
        band = np.ascontiguousarray(lab[rows])
        chroma = cv2.calcHist([band], [1, 2], None, [_CHROMA, _CHROMA], [64, 192, 64, 192])
        light = cv2.calcHist([band], [0], None, [_LIGHT], [0, 256])
        # Neighbouring bins share, so that a shade over a bin's edge is not another colour.
        parts += [cv2.GaussianBlur(chroma, (3, 3), 0), cv2.GaussianBlur(light, (1, 3), 0), grain[rows].sum(axis=0)]
    scaled = [np.sqrt(_share(part) * _SHARES[i % 3] / _BANDS) for i, part in enumerate(parts)]
    return _unit(np.concatenate(scaled))


def mean_clothes(seen: Sequence[Floats]) -> Floats:
    """Return the (160,) unit mean of what was seen, or (0,) if nothing was."""
    rows = [one for one in seen if one.size]
    return _unit(np.mean(rows, axis=0)) if rows else np.zeros(0, np.float32)


def _grain(light: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (32, 8) the strength of each direction of edges (sign ignored), by row."""
    dx, dy = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    strength, degrees = cv2.cartToPolar(dx, dy, angleInDegrees=True)
    turn = (degrees * (_TURNS / 180)).astype(np.int64) % _TURNS
    at = np.arange(_SIDE)[:, None] * _TURNS + turn
    summed = np.bincount(at.ravel(), strength.ravel(), _SIDE * _TURNS)
    return np.asarray(summed, np.float64).reshape(_SIDE, _TURNS)


def _share(part: NDArray[Any]) -> NDArray[np.float64]:
    flat = np.asarray(part, np.float64).ravel()
    return flat / max(float(flat.sum()), 1e-9)


def _unit(row: NDArray[np.float64]) -> Floats:
    length = float(np.linalg.norm(row))
    return (row / max(length, 1e-9)).astype(np.float32)
