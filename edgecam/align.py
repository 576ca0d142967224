"""Cut a face out of a frame, and bring the crop into the shape an encoder wants."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from edgecam.errors import ShapeError
from edgecam.geometry import ARCFACE_TEMPLATE, similarity_transform
from edgecam.types import FaceCrop, Floats, Image

CROP_SIDE: Final = 1.6
"""Sides of a stored crop, in sides of the detector's box."""
CROP_MAX_PX: Final = 256
FACENET_PX: Final = 160
FACENET_MARGIN: Final = 0.3
"""Added to both sides of the box before it is stretched, in sqrt(w * h)."""
ARCFACE_PX: Final = 112
_ARCFACE_SIDE: Final = 1.3
"""Without usable landmarks the template is replaced by a square of so many longer box sides."""


def make_crop(image: Image, box: Floats, landmarks: Floats) -> FaceCrop:
    """Cut box + 60 % out of a frame: unstretched, clipped at the border, never enlarged.

    Args:
        image: (H, W, 3) uint8 BGR.
        box: (4,) x, y, w, h in frame pixels; may reach over the border.
        landmarks: (5, 2) frame pixels.

    Returns:
        A crop of its own memory, at most 256 px a side. A box without area or outside the frame
        gives the nearest pixels (at least 1x1).

    Raises:
        ShapeError: the image is empty or not colour, or a number is not finite.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ShapeError(f"image: want (H, W, 3), got {image.shape}")
    box = np.asarray(box, np.float32).reshape(4)
    landmarks = np.asarray(landmarks, np.float32).reshape(5, 2)
    if not (np.isfinite(box).all() and np.isfinite(landmarks).all()):
        raise ShapeError("box and landmarks must be finite")
    more = box[2:] * np.float32(CROP_SIDE - 1)
    x0, y0, x1, y1 = _clip(image, box, more[0], more[1])
    part = image[y0:y1, x0:x1]
    height, width = part.shape[:2]
    shrink = min(1.0, CROP_MAX_PX / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    pixels = np.ascontiguousarray(part) if shrink == 1.0 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    if pixels is part or np.shares_memory(pixels, image):
        pixels = pixels.copy()
    per_px = np.array([size[0] / width, size[1] / height], np.float32)
    origin = np.array([x0, y0], np.float32)
    crop_box = np.concatenate([(box[:2] - origin) * per_px, box[2:] * per_px]).astype(np.float32)
    crop_landmarks = ((landmarks - origin) * per_px).astype(np.float32)
    return FaceCrop(pixels, crop_box, crop_landmarks, shrink)


def facenet_input(crop: FaceCrop) -> Image:
    """Return (160, 160, 3) uint8 RGB: the box plus 0.3 sqrt(w h), clipped, then stretched."""
    margin = FACENET_MARGIN * float(np.sqrt(max(0.0, float(crop.box[2] * crop.box[3]))))
    x0, y0, x1, y1 = _clip(crop.image, crop.box, margin, margin)
    return _rgb(_stretch(crop.image[y0:y1, x0:x1], FACENET_PX))


def arcface_input(crop: FaceCrop) -> Image:
    """Return (112, 112, 3) uint8 BGR, the five landmarks moved onto the ArcFace template.

    Landmarks that coincide (no rotation or scale can be told) give a square around the box instead.
    """
    matrix = similarity_transform(crop.landmarks, ARCFACE_TEMPLATE)
    if matrix is None or not np.isfinite(matrix).all():
        side = _ARCFACE_SIDE * float(max(crop.box[2], crop.box[3]))
        x0, y0, x1, y1 = _clip(crop.image, crop.box, side - float(crop.box[2]), side - float(crop.box[3]))
        return _stretch(crop.image[y0:y1, x0:x1], ARCFACE_PX)
    result: Image = cv2.warpAffine(crop.image, matrix, (ARCFACE_PX, ARCFACE_PX), flags=cv2.INTER_LINEAR)
    return result


def _clip(image: Image, box: Floats, more_w: float, more_h: float) -> tuple[int, int, int, int]:
    """Return the pixel rectangle x0, y0, x1, y1 of the enlarged box inside the image, at least 1x1."""
    height, width = image.shape[:2]
    x, y, w, h = box
    # float32 throughout, in every numpy: before version 2 a scalar is promoted and a border moves by a pixel.
    left, top = np.float32(more_w) / np.float32(2), np.float32(more_h) / np.float32(2)
    x0 = int(np.clip(x - left, 0, width - 1))
    y0 = int(np.clip(y - top, 0, height - 1))
    x1 = int(np.clip(x + w + left, x0 + 1, width))
    y1 = int(np.clip(y + h + top, y0 + 1, height))
    return x0, y0, x1, y1


def _stretch(image: Image, side: int) -> Image:
    smaller = image.shape[0] >= side and image.shape[1] >= side
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    result: Image = cv2.resize(image, (side, side), interpolation=how)
    return result


def _rgb(image: Image) -> Image:
    return np.ascontiguousarray(image[:, :, ::-1])
