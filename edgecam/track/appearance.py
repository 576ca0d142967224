"""A cheap description of a face and the clothes below it, to tell people of one visit apart.

It knows nothing of identity: it holds for minutes and one camera, and is never stored.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.types import Faces, Floats, Image

_SIDE: Final = 32
"""Face and clothes are looked at as 32x32 pictures."""
_CELLS: Final = 4
_TURNS: Final = 8
_CHROMA: Final = 8
"""Bins a side of the histogram of Lab's a and b."""
_LIGHT: Final = 8
WIDTH: Final = _CELLS * _CELLS * _TURNS + 2 * (_CHROMA * _CHROMA + _LIGHT)
_SHAPE_SHARE: Final = 0.35
"""Of the squared length; the rest are colours."""


def appearance(image: Image, faces: Faces) -> Floats:
    """Return (N, 272) float32 unit vectors, >= 0: gradients of the face, colours of face and clothes.

    Args:
        image: (H, W, 3) uint8 BGR, the frame in which the faces were found.
        faces: boxes may reach over the border.
    """
    rows = np.empty((len(faces), WIDTH), np.float32)
    for row, (x, y, w, h) in zip(rows, faces.boxes.tolist()):
        face = _patch(image, x, y, w, h)
        clothes = _patch(image, x - 0.25 * w, y + 1.2 * h, 1.5 * w, 0.9 * h)
        shape = _gradients(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY))
        colour = np.concatenate([_colours(face), _colours(clothes)])
        row[: shape.size] = shape * np.float32(_SHAPE_SHARE**0.5)
        row[shape.size :] = colour * np.float32(((1 - _SHAPE_SHARE) / 2) ** 0.5)
    return rows


def _patch(image: Image, x: float, y: float, w: float, h: float) -> Image:
    """Return 32x32 pixels of a box, the picture's border going on outside it."""
    step = np.array([max(w, 1.0), max(h, 1.0)]) / _SIDE
    matrix = np.array([[step[0], 0, x + step[0] / 2 - 0.5], [0, step[1], y + step[1] / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result: Image = cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return result


def _gradients(grey: Image) -> Floats:
    """Return a unit (128,) histogram of gradient directions (sign ignored) in 4x4 cells."""
    grey = cv2.GaussianBlur(grey, (3, 3), 0)
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength, degrees = cv2.cartToPolar(dx, dy, angleInDegrees=True)
    turn = (degrees * (_TURNS / 180)).astype(np.int32) % _TURNS
    return _unit(np.bincount((_FIRST_BIN + turn).ravel(), strength.ravel(), _CELLS**2 * _TURNS))


def _colours(patch: Image) -> Floats:
    """Return a unit (72,) histogram: chroma and, apart from it, light."""
    lab = cv2.cvtColor(patch, cv2.COLOR_BGR2LAB)
    # Skin and most cloth lie near grey: the middle half of the chroma range gets all the bins.
    chroma = cv2.calcHist([lab], [1, 2], None, [_CHROMA, _CHROMA], [64, 192, 64, 192])
    light = cv2.calcHist([lab], [0], None, [_LIGHT], [0, 256])
    return _unit(np.concatenate([chroma.ravel(), light.ravel()]))


def _unit(histogram: NDArray[Any]) -> Floats:
    """Return the square roots of the shares, of length 1."""
    result: Floats = np.sqrt(histogram / max(float(histogram.sum()), 1e-9)).astype(np.float32)
    return result


_CELL = np.arange(_SIDE) * _CELLS // _SIDE
_FIRST_BIN: Final = np.add.outer(_CELL * _CELLS, _CELL) * _TURNS
"""Of each pixel's cell."""
