"""Passive anti-spoofing: two small nets (MiniFASNet) look at a face and its surroundings in one picture."""

from __future__ import annotations

from typing import Callable, Final, Mapping, Optional, Protocol, Sequence, Tuple

import cv2
import numpy as np

from edgecam.types import Floats, Image, Quality

_SIDE_PX: Final = 80
_REAL: Final = 1
"""Class of a living face; 0 and 2 are kinds of attacks."""
SCALES: Final = {"minifasnet_v2": 2.7, "minifasnet_v1se": 4.0}
"""What each net sees, in sides of the face's box."""
_LEAST_SCALE: Final = 0.9
"""A face that fills the picture so far shows nothing of what is around it."""
_LEAST_PX: Final = 50.0
_DARK: Final = 60.0
"""A darker face (median) is brought to this brightness: in the dark a replay scores higher, a person in noise lower."""
_GAIN_MAX: Final = 8.0


Look = Callable[[Image, Floats], float]
"""Picture and (4,) box -> 0..1, high for a living face."""


class Net(Protocol):
    """A loaded net (an `edgecam.nn` session)."""

    def run(self, feeds: Mapping[str, Floats], /) -> Sequence[Floats]:
        """Return the outputs in the file's order."""
        ...


class Passive:
    """Rates how alive a face looks.

    Args:
        nets: (net, scale of its crop), at least one; `input` (N, 3, 80, 80) BGR 0..255 -> (N, 3) softmax.
    """

    def __init__(self, nets: Sequence[Tuple[Net, float]]) -> None:
        self._nets = tuple(nets)

    def __call__(self, image: Image, box: Floats) -> float:
        """Return 0..1, high for a living face.

        Args:
            image: (H, W, 3) uint8 BGR, the whole frame.
            box: (4,) x, y, w, h of the face.
        """
        gain = _gain(image, box)
        scores = []
        for net, scale in self._nets:
            blob = _crop(image, box, scale, gain).transpose(2, 0, 1)[None].astype(np.float32)
            scores.append(float(net.run({"input": blob})[0][0, _REAL]))
        return float(np.mean(scores))


def unfit(image: Image, box: Floats, quality: Quality) -> Optional[str]:
    """Return why the nets cannot judge this face, None if they can."""
    if quality.infrared:
        return "no colour: the anti-spoof nets do not know grey or infrared pictures"
    if not quality.ok:
        return f"picture too poor ({str(quality.reason).split(' (')[0]})"
    side = float(np.sqrt(max(0.0, float(box[2] * box[3]))))
    if side < _LEAST_PX:
        return "too small"
    if _fitting(image, box, max(SCALES.values())) < _LEAST_SCALE:
        return "too close: nothing is to be seen around the face"
    return None


def _fitting(image: Image, box: Floats, scale: float) -> float:
    """Return the scale, at most this one, at which the crop is not larger than the picture."""
    height, width = image.shape[:2]
    return min(scale, (height - 1) / max(1.0, float(box[3])), (width - 1) / max(1.0, float(box[2])))


def _crop(image: Image, box: Floats, scale: float, gain: float) -> Image:
    """Return (80, 80, 3): the enlarged box, moved and shrunk so that it lies inside the picture.

    Pixels are averaged, not picked as at the nets' source: picked noise looks like a screen to them.
    """
    height, width = image.shape[:2]
    x, y, w, h = (float(v) for v in box)
    scale = _fitting(image, box, scale)
    sides = max(1.0, w * scale), max(1.0, h * scale)
    left = int(np.clip(x + w / 2 - sides[0] / 2, 0, max(0.0, width - 1 - sides[0])))
    top = int(np.clip(y + h / 2 - sides[1] / 2, 0, max(0.0, height - 1 - sides[1])))
    part = image[top : top + int(sides[1]) + 1, left : left + int(sides[0]) + 1]
    result: Image = cv2.resize(part, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return result if gain == 1.0 else cv2.convertScaleAbs(result, alpha=gain)


def _gain(image: Image, box: Floats) -> float:
    x, y, w, h = (int(v) for v in box)
    face = image[max(0, y) : max(0, y) + max(1, h) : 4, max(0, x) : max(0, x) + max(1, w) : 4]
    if not face.size:
        return 1.0
    return float(np.clip(_DARK / max(1.0, float(np.median(face))), 1.0, _GAIN_MAX))
