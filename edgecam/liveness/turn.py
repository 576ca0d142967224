"""Did a head turn, or was a picture of one tilted? Five landmarks and the pixels between them.

Whatever is done to a flat picture moves its points by one affine map (nearly: up close the perspective adds a little),
and its pixels by one homography. The nose of a head that turns goes its own way, and no homography makes one view of
the face out of the other.
"""

from __future__ import annotations

from typing import Any, Final, Optional, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.liveness.eyes import Area
from edgecam.types import Floats, Image

_PLANE: Final = (0, 1, 3, 4)
"""Eyes and corners of the mouth lie nearly in one plane ..."""
_NOSE: Final = 2
"""... and the nose in front of it."""
_NOSE_OUT: Final = 0.49
"""By about so many eye distances: its way per sine of a turn, as landmarks show it."""
_SLACK: Final = 0.12
"""A turn squeezes the face by its cosine; a picture must be tilted by 50 degrees to look like a turn of 20."""
_SIDE_PX: Final = 64
_AROUND: Final = 1.8
"""The later view is cut so much wider, for the face has turned away from its middle."""
_WIDE: Final = 1.7
"""Side of what is compared, in eye distances: brows to chin."""
_STEPS: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)


def parallax(before: Floats, now: Floats) -> Tuple[float, bool]:
    """Return how far the nose went to the image's right on its own, and whether the rest fits to such a turn.

    Args:
        before: (5, 2) landmarks of the face from the front.
        now: (5, 2) landmarks of the same face.

    Returns:
        Eye distances (about 0.085 for 10 degrees of a real turn; 0 for a flat picture), and False if the face is
        narrower than the turn explains: a tilted picture.
    """
    start, there = np.asarray(before, np.float64), np.asarray(now, np.float64)
    apart = float(np.linalg.norm(start[1] - start[0]))
    if apart < 1e-6:
        return 0.0, False
    moved, *_ = np.linalg.lstsq(np.column_stack([start, np.ones(5)])[list(_PLANE)], there[list(_PLANE)], rcond=None)
    linear = moved[:2].T
    longest, shortest = np.linalg.svd(linear, compute_uv=False)
    across = linear @ (start[1] - start[0])
    if longest < 1e-6 or float(np.linalg.norm(across)) < 1e-6:
        return 0.0, False
    own = there[_NOSE] - np.append(start[_NOSE], 1.0) @ moved
    way = float(own @ across) / float(np.linalg.norm(across)) / (longest * apart)
    expected = float(np.sqrt(1 - min(abs(way) / _NOSE_OUT, 1.0) ** 2))
    return way, bool(shortest / longest >= expected - _SLACK)


def flatness(before: Area, start: Floats, after: Area, now: Floats) -> Optional[float]:
    """Return how well a homography makes the second view of a face out of the first: 1 for a flat picture.

    Enhanced correlation (Evangelidis and Psarakis 2008); None where none is found: blur, or another face.

    Args:
        before: surroundings of the face from the front.
        start: (5, 2) its landmarks, px of the frame.
        after: surroundings of the face turned.
        now: (5, 2) its landmarks, px of the frame.
    """
    first, at_first = _view(before, start, _SIDE_PX)
    second, at_second = _view(after, now, round(_SIDE_PX * _AROUND))
    moved, *_ = np.linalg.lstsq(np.column_stack([at_first, np.ones(5)]), at_second, rcond=None)
    warp = np.eye(3, dtype=np.float32)
    warp[:2] = moved.T
    try:
        found, _ = cv2.findTransformECC(first, second, warp, cv2.MOTION_HOMOGRAPHY, _STEPS, None, 5)
    except cv2.error:
        return None
    return float(found) if np.isfinite(found) else None


def _view(area: Area, landmarks: Floats, side_px: int) -> Tuple[Image, NDArray[Any]]:
    """Return a square of this side around the face, always at the same scale, and the (5, 2) landmarks in it."""
    points = (np.asarray(landmarks, np.float64) - area.origin) * area.scale
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    apart = max(float(np.linalg.norm(points[1] - points[0])), float(np.linalg.norm(mouth - eyes)), 1.0)
    step = apart * _WIDE / _SIDE_PX
    corner = (eyes + mouth) / 2 - step * (side_px - 1) / 2
    matrix = np.array([[step, 0, corner[0]], [0, step, corner[1]]])
    soft = cv2.GaussianBlur(area.grey, (0, 0), max(0.3, step / 2))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(soft, matrix, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8), (points - corner) / step
