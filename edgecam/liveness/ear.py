"""Eye state by dlib's 68 landmarks: the eye aspect ratio (Soukupova and Cech 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Sequence

import numpy as np

from edgecam.errors import ModelError
from edgecam.liveness.eyes import EyeView
from edgecam.types import Floats

_DOWN: Final = 0.08
_EYES: Final = (36, 42)
"""First of six points each."""


class EyeAspect:
    """See `EyeEstimator`; openness is the eye aspect ratio.

    Args:
        path: dlib's 68-point shape predictor.

    Raises:
        ModelError: dlib is not installed, or the file is not a predictor.
    """

    name: Final = "dlib"
    closed_below: Final = 0.7
    least_open: Final = 0.12
    """Narrow eyes reach .13 wide open."""

    def __init__(self, path: Path) -> None:
        try:
            import dlib
        except ImportError as err:
            raise ModelError("dlib is not installed: pip install 'edgecam[dlib]'") from err
        self._dlib: Any = dlib
        try:
            self._predict: Any = dlib.shape_predictor(str(path))
        except RuntimeError as err:
            raise ModelError(f"{path}: dlib cannot read it: {str(err).splitlines()[0]}") from err

    def __call__(self, views: Sequence[EyeView]) -> Floats:
        """Return (N,) aspect ratios, the mean of both eyes."""
        return np.array([self._ratio(view) for view in views], np.float32)

    def _ratio(self, view: EyeView) -> float:
        x, y, w, h = (float(v) for v in view.box)
        # The predictor was trained on dlib's own boxes: squares, lower on the face.
        half = (w + h) / 4
        left, top = round(x + w / 2 - half), round(y + h / 2 + _DOWN * h - half)
        side = round(2 * half)
        shape = self._predict(view.grey, self._dlib.rectangle(left, top, left + side, top + side))
        return float(np.mean([aspect(_points(shape, first)) for first in _EYES]))


def aspect(points: Floats) -> float:
    """Return the aspect ratio of (6, 2) points around an eye, corner first: height by width."""
    tall = np.linalg.norm(points[1] - points[5]) + np.linalg.norm(points[2] - points[4])
    return float(tall / max(1e-6, 2 * float(np.linalg.norm(points[0] - points[3]))))


def _points(shape: Any, first: int) -> Floats:
    return np.array([(shape.part(i).x, shape.part(i).y) for i in range(first, first + 6)], np.float32)
