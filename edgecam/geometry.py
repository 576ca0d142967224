"""Pure geometry on boxes and landmarks (numpy only)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats

ARCFACE_TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2) px: where ArcFace-style nets want eye, eye, nose, mouth corners in 112x112."""


def iou(a: Floats, b: Floats) -> Floats:
    """Return (N, M) intersection over union of x, y, w, h boxes, 0..1.

    >>> iou(np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 2, 2], [5, 5, 1, 1]])).round(3).tolist()
    [[0.3330000042915344, 0.0]]
    """
    a, b = np.asarray(a, np.float32).reshape(-1, 4), np.asarray(b, np.float32).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    union = np.prod(a[:, 2:], axis=1)[:, None] + np.prod(b[:, 2:], axis=1)[None, :] - overlap
    result: Floats = np.where(union > 0, overlap / np.maximum(union, 1e-9), 0).astype(np.float32)
    return result


def similarity_transform(source: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]) -> Optional[Floats]:
    """Return the (2, 3) rotation + scale + shift that maps points onto points best (Umeyama 1991, eq. 40-43).

    Args:
        source: (N, 2) points.
        target: (N, 2) points.

    Returns:
        (2, 3) float32, or None if the source points coincide.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    cs, ct = source - mean_s, target - mean_t
    variance = float(np.mean(np.sum(cs**2, axis=1)))
    if variance < 1e-12:
        return None
    u, d, vt = np.linalg.svd(ct.T @ cs / len(source))
    sign = np.ones(2)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[1] = -1
    rotation = u @ np.diag(sign) @ vt
    scale = float(np.sum(d * sign)) / variance
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = mean_t - scale * rotation @ mean_s
    return matrix.astype(np.float32)
