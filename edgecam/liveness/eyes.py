"""Where the eyes are, and the interface of what tells open from closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Optional, Protocol, Sequence

import cv2
import numpy as np

from edgecam.types import Floats, Image

PATCH_PX: Final = (32, 24)
"""Width and height of an eye patch."""
_PATCH_WIDE: Final = 0.8
"""Its width in eye distances."""
_AREA_PAD: Final = 0.35
"""An area is the face's box and this share of it on every side: the face moves between two detections."""
_AREA_PX: Final = 224
"""Longer side of an area at most."""
_LEAST_APART_PX: Final = 16.0
"""Eyes closer together in the frame are too small to see whether they are open."""
_MAX_YAW: Final = 0.4
"""The nose is this far off the middle of the eyes, in eye distances: the far eye is hidden."""


@dataclass(frozen=True, eq=False)
class Area:
    """The grey surroundings of a face, cut out of a frame."""

    grey: Image
    """(h, w) uint8."""

    origin: Floats
    """(2,) its upper left corner in frame pixels."""

    scale: float
    """Area pixels per frame pixel, at most 1."""


@dataclass(frozen=True, eq=False)
class EyeView:
    """One face whose eyes are to be judged."""

    grey: Image
    """(h, w) uint8."""

    box: Floats
    """(4,) x, y, w, h in pixels of `grey`."""

    landmarks: Floats
    """(5, 2) in pixels of `grey`."""


class EyeEstimator(Protocol):
    """Tells how far eyes are open."""

    @property
    def name(self) -> str:
        """As in the configuration."""
        ...

    @property
    def closed_below(self) -> float:
        """A closed eye's openness is below this part of the same face's usual one."""
        ...

    @property
    def least_open(self) -> float:
        """Usual openness below this is not that of eyes: glasses, or no eyes at all."""
        ...

    def __call__(self, views: Sequence[EyeView]) -> Floats:
        """Return (N,) float32 openness; NaN where it cannot be told."""
        ...


def cut(image: Image, box: Floats) -> Optional[Area]:
    """Cut the surroundings of a face out of a frame, None if it lies outside."""
    height, width = image.shape[:2]
    x, y, w, h = (float(v) for v in box)
    x0, y0 = max(0, int(x - w * _AREA_PAD)), max(0, int(y - h * _AREA_PAD))
    x1, y1 = min(width, int(x + w * (1 + _AREA_PAD)) + 1), min(height, int(y + h * (1 + _AREA_PAD)) + 1)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    grey: Image = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_BGR2GRAY)
    halvings, longer = 0, max(grey.shape)
    while longer > 2 * _AREA_PX and min(grey.shape) > 1:
        # Means over 2x2 and a linear step are five times as fast as any other mean.
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        grey = cv2.resize(grey[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        halvings, longer = halvings + 1, longer // 2
    scale = min(1.0, _AREA_PX / max(grey.shape))
    if scale < 1.0:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return Area(grey, np.array([x0, y0], np.float32), scale * 0.5**halvings)


def view(area: Area, box: Floats, landmarks: Floats) -> Optional[EyeView]:
    """Return the face in an area (box and landmarks in frame pixels); None in profile, too small or outside."""
    eyes = landmarks[:2]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    if apart < _LEAST_APART_PX or apart < 0.25 * float(box[2]):
        return None
    axis = (eyes[1] - eyes[0]) / apart
    if abs(float((landmarks[2] - eyes.mean(axis=0)) @ axis)) > _MAX_YAW * apart:
        return None
    moved = (landmarks - area.origin) * area.scale
    if (moved[:2] < 0).any() or (moved[:2] >= area.grey.shape[::-1]).any():
        return None
    at = np.concatenate([(box[:2] - area.origin) * area.scale, box[2:] * area.scale]).astype(np.float32)
    return EyeView(area.grey, at, moved.astype(np.float32))


def patches(grey: Image, landmarks: Floats, wide: float = _PATCH_WIDE, size: tuple[int, int] = PATCH_PX) -> Image:
    """Return (2, h, w) uint8: both eyes, upright, the image-right one mirrored; not equalised.

    Args:
        grey: (H, W) uint8.
        landmarks: (5, 2) px.
        wide: width in eye distances.
        size: w, h px.
    """
    across = landmarks[1] - landmarks[0]
    result = np.empty((2, size[1], size[0]), np.uint8)
    for i in range(2):
        axis = across * (wide / size[0]) * (1 if i == 0 else -1)
        down = np.array([-across[1], across[0]]) * (wide / size[0])
        middle = landmarks[i] - axis * (size[0] - 1) / 2 - down * (size[1] - 1) / 2
        matrix = np.stack([axis, down, middle], axis=1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(grey, matrix, size, result[i], flags, cv2.BORDER_REPLICATE)
    return result


def equalise(patch: Image) -> Floats:
    """Return float32 of mean 0 and spread 1: after it, light and contrast of the picture play no part."""
    values = cv2.equalizeHist(patch).astype(np.float32)
    result: Floats = (values - values.mean()) / (values.std() + 8.0)
    return result
