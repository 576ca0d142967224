"""How far a face can be trusted for recognition, and why not, in words for the people of the house.

Each part was kept because, on photos and film faces, a lower value went with a poorer match.
"""

from __future__ import annotations

from typing import Any, Dict, Final, List, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.align import arcface_input
from edgecam.config import QualityConfig
from edgecam.geometry import ARCFACE_TEMPLATE
from edgecam.types import FaceCrop, Floats, Image, Quality

_FACE_PX: Final = 96
"""Sharpness and light are judged on a face of this size, so that they mean the same near and far."""
_GOOD_SIZE: Final = 2.0
"""From this multiple of the smallest size on, more pixels do not help."""
_SHARPNESS: Final = (0.03, 0.10)
"""Unusable and good; 99 % of good photos reach .10."""
_BRIGHTNESS: Final = (8.0, 50.0)
"""Median of the face's grey values, unusable and good."""
_CONTRAST: Final = (6.0, 35.0)
"""Spread of its grey values (5th to 95th percentile)."""
_BURNT: Final = (0.7, 0.15)
"""Share of its pixels at the upper end."""
_BURNT_FROM: Final = 248
_FRONTAL_DEG: Final = 15.0
_PITCH_MAX_DEG: Final = 45.0
_ROLL_MAX_DEG: Final = 60.0
_FACE_LIKE: Final = (-0.6, 0.05)
"""Correlation of the worse half (upper, lower) with the simple face below: hidden, and seen well."""
_INSIDE: Final = (0.5, 0.9)
"""Share of the box inside the picture."""
_GREY: Final = 0.05
"""Colours of an infrared picture vary less than this part of its brightness (it may have a constant tint)."""
_HOPELESS: Final = 0.1
"""A single part below this is a reason by itself."""


def assess(crop: FaceCrop, config: QualityConfig) -> Quality:
    """Judge a face.

    Args:
        crop: as made by `align.make_crop`.
        config: what is too small, too far turned, and too poor altogether.

    Returns:
        Parts and their product, 0..1; `reason` tells what is wrong if the face is not good enough.
    """
    face = _face(crop)
    grey = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY).astype(np.float32)
    side_px = float(np.sqrt(max(0.0, float(crop.box[2] * crop.box[3])))) / max(crop.scale, 1e-6)
    yaw, pitch, roll = pose(crop.landmarks)
    light, light_word = _light(grey)
    cover, cover_word = _cover(crop)
    parts: Dict[str, float] = {
        "size": _ramp(side_px, 0, _GOOD_SIZE * config.min_face_px),
        "blur": _ramp(sharpness(grey), *_SHARPNESS),
        "light": light,
        "pose": _ramp(abs(yaw), 2 * config.max_yaw_deg, _FRONTAL_DEG) * _ramp(abs(roll), 2 * _ROLL_MAX_DEG, 20),
        "occlusion": cover,
    }
    words = {
        "size": "too small",
        "blur": "blurred",
        "light": light_word,
        "pose": "turned away",
        "occlusion": cover_word,
    }
    score = float(np.prod(list(parts.values())))
    wrong: List[str] = []
    if side_px < config.min_face_px:
        wrong.append(f"too small ({side_px:.0f} px, need {config.min_face_px})")
    if abs(yaw) > config.max_yaw_deg:
        wrong.append("turned away")
    if abs(pitch) > _PITCH_MAX_DEG:
        wrong.append("looking down" if pitch > 0 else "looking up")
    if abs(roll) > _ROLL_MAX_DEG:
        wrong.append("head tilted too far")
    worst = min(parts, key=lambda name: parts[name])
    if not wrong and (score < config.min_score or parts[worst] < _HOPELESS):
        wrong.append(words[worst])
    return Quality(score, parts, yaw, pitch, roll, _is_grey(face), wrong[0] if wrong else None)


def pose(landmarks: Floats) -> Tuple[float, float, float]:
    """Return yaw, pitch and roll in degrees of (5, 2) landmarks, by fitting a face in weak perspective.

    Yaw is positive to the image's right, pitch downwards, roll clockwise; 0, 0, 0 if the points coincide.
    """
    points = np.asarray(landmarks, np.float64)
    across, down = (_FIT @ (points - points.mean(axis=0))).T
    roll = np.arctan2(down[0] - across[1], across[0] + down[1])
    cos, sin = np.cos(roll), np.sin(roll)
    across, down = across * cos + down * sin, down * cos - across * sin
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if min(lengths) < 1e-6:
        return 0.0, 0.0, 0.0
    yaw, pitch = np.degrees(np.arcsin([across[2] / lengths[0], down[2] / lengths[1]]))
    return float(yaw), float(pitch), float(np.degrees(roll))


def sharpness(grey: Floats) -> float:
    """Return the strength of fine structure relative to the contrast, what noise adds taken off.

    Args:
        grey: (96, 96) float32 0..255, a face.
    """
    inner = grey[_FACE_PX // 8 : -_FACE_PX // 8, _FACE_PX // 8 : -_FACE_PX // 8]
    # Immerkaer's estimate: this filter answers to noise and hardly to edges.
    noise = float(np.abs(cv2.filter2D(inner, -1, _NOISE_FILTER)).mean()) * np.sqrt(np.pi / 2) / 6
    fine = cv2.Laplacian(cv2.GaussianBlur(inner, (0, 0), 1), cv2.CV_32F)
    return float(np.sqrt(max(float(fine.var()) - 0.3 * noise**2, 0.0)) / (float(inner.std()) + 4))


def _face(crop: FaceCrop) -> Image:
    """Return (96, 96, 3): the box, the picture's border going on outside it."""
    x, y, w, h = crop.box.tolist()
    image, step = crop.image, np.maximum([w, h], 1.0) / _FACE_PX
    if step.min() >= 2:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
        x, y, step = x / 2, y / 2, step / 2
    matrix = np.array([[step[0], 0, x + step[0] / 2 - 0.5], [0, step[1], y + step[1] / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result: Image = cv2.warpAffine(image, matrix, (_FACE_PX, _FACE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return result


def _light(grey: Floats) -> Tuple[float, str]:
    inner = grey[_FACE_PX // 8 : -_FACE_PX // 8, _FACE_PX // 6 : -_FACE_PX // 6]
    low, middle, high = np.percentile(inner[::2, ::2], [5, 50, 95])
    bright = _ramp(float(middle), *_BRIGHTNESS)
    contrast = _ramp(float(high - low), *_CONTRAST)
    burnt = _ramp(float((inner > _BURNT_FROM).mean()), *_BURNT)
    if burnt <= min(bright, contrast):
        word = "overexposed"
    elif bright <= contrast or middle < _BRIGHTNESS[1]:
        word = "too dark"
    else:
        word = "too little contrast"
    return bright * contrast * burnt, word


def _cover(crop: FaceCrop) -> Tuple[float, str]:
    """Return how much of the face is to be seen."""
    height, width = crop.image.shape[:2]
    x, y, w, h = crop.box.tolist()
    seen_w = min(x + w, width) - max(x, 0.0)
    seen_h = min(y + h, height) - max(y, 0.0)
    inside = _ramp(max(seen_w, 0.0) * max(seen_h, 0.0) / max(w * h, 1e-6), *_INSIDE)
    out = ((crop.landmarks < 0) | (crop.landmarks > [width, height])).any(axis=1).mean()
    inside *= 1 - float(out)
    aligned = cv2.cvtColor(arcface_input(crop), cv2.COLOR_BGR2GRAY)
    aligned = cv2.GaussianBlur(aligned, (9, 9), 2).astype(np.float32)
    like = min(_correlation(aligned[rows, columns], half) for rows, columns, half in _HALVES)
    seen = _ramp(like, *_FACE_LIKE)
    return inside * seen, "cut off by the border" if inside < seen else "half hidden"


def _is_grey(face: Image) -> bool:
    blue, green, red = cv2.split(face[::2, ::2].astype(np.float32))
    variation = max(float((blue - green).std()), float((red - green).std()))
    return variation < _GREY * (float(green.std()) + 10)


def _ramp(value: float, none: float, full: float) -> float:
    """Return 0 at `none`, 1 at `full`, and straight between (`none` may be the larger)."""
    return float(np.clip((value - none) / (full - none), 0, 1))


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt(float((a * a).sum() * (b * b).sum()) + 1e-3))


def _simple_face() -> Floats:
    """Return (112, 112) a drawing in Gaussians: dark eyes, brows, mouth and nostrils, light nose and cheeks."""
    y, x = np.mgrid[:112, :112]
    spots = [
        (-1.0, 38.3, 51.6, 8, 4.5),
        (-1.0, 73.6, 51.6, 8, 4.5),
        (-0.5, 37, 42, 11, 3.5),
        (-0.5, 75, 42, 11, 3.5),
        (-0.8, 56, 92.3, 13, 4),
        (-0.3, 50, 77, 4, 3),
        (-0.3, 62, 77, 4, 3),
        (0.5, 56, 64, 5, 14),
        (0.4, 36, 72, 9, 8),
        (0.4, 76, 72, 9, 8),
    ]
    drawing = sum(
        weight * np.exp(-(((x - cx) / sx) ** 2) / 2 - ((y - cy) / sy) ** 2 / 2) for weight, cx, cy, sx, sy in spots
    )
    return np.asarray(drawing, np.float32)


def _fit() -> NDArray[Any]:
    """Return (3, 5): landmarks to the two visible rows of a scaled rotation, least squares."""
    # Nose and mouth stand out from the eyes, in the template's pixels; its eyes are 35 px (63 mm) apart.
    depth = np.array([[0.0], [0.0], [20.0], [4.0], [4.0]])
    solid = np.concatenate([ARCFACE_TEMPLATE, depth], axis=1)
    result: NDArray[Any] = np.linalg.pinv(solid - solid.mean(axis=0))
    return result


_FIT: Final = _fit()
_UPPER: Final = (slice(30, 66), slice(18, 94))
_LOWER: Final = (slice(66, 106), slice(26, 86))
_HALVES: Final = tuple((*half, _simple_face()[half]) for half in (_UPPER, _LOWER))
_NOISE_FILTER: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
