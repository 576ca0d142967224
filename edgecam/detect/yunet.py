"""YuNet (OpenCV Zoo, 2023 March): one small net, a fifth of MTCNN's time at the same smallest face."""

from __future__ import annotations

from typing import Final, Optional

import cv2
import numpy as np

from edgecam.config import DetectConfig
from edgecam.detect.base import Net
from edgecam.detect.boxes import nms, search_areas
from edgecam.types import Faces, Floats, Image

_STRIDES: Final = (8, 16, 32)
_SEEN_PX: Final = 20.0
"""The smallest face is brought to this width: the net was trained on faces from 10 px ..."""
_SEEN_MAX_PX: Final = 256.0
"""... and misses faces much larger than this, so pictures are searched again at a quarter of the size."""
_COARSER: Final = 0.25
_LEVEL_MAX_PX: Final = 2_000_000
"""A larger picture is shrunk to this; faces below `min_face_px` are none."""
_NMS: Final = 0.3
_ODDS: Final = (0.9 / 0.1) / (0.7 / 0.3)
"""YuNet's own .7 lets pass what MTCNN's .9 does; its odds are raised so that one threshold fits both."""


class YuNet:
    """YuNet; see `Detector`.

    Args:
        config: smallest face; the last threshold counts.
        net: (N, 3, H, W) BGR 0..255, sides multiples of 32 -> `cls`, `obj` (N, hw, 1), `bbox` (N, hw, 4),
            `kps` (N, hw, 10), each for strides 8, 16 and 32.
    """

    def __init__(self, config: DetectConfig, net: Net) -> None:
        self._config = config
        self._net = net

    def __call__(self, image: Image, regions: Optional[Floats] = None) -> Faces:
        """Return the faces of a picture, best score first."""
        height, width = image.shape[:2]
        if regions is None:
            areas = np.array([[0, 0, width, height]])
        else:
            areas = search_areas(regions, width, height, self._config.min_face_px)
        found = [_NOTHING]
        for x1, y1, x2, y2 in areas.tolist():
            rows = self._search(image[y1:y2, x1:x2])
            rows[:, 1:] += np.tile(np.array([x1, y1], np.float32), 7)
            found.append(rows)
        rows = np.concatenate(found)
        rows = rows[(rows[:, 3:5] - rows[:, 1:3]).min(axis=1) > 0]
        rows = rows[nms(rows[:, 1:5], rows[:, 0], _NMS)]
        boxes = np.concatenate([rows[:, 1:3], rows[:, 3:5] - rows[:, 1:3]], axis=1)
        # The net's order, the person's right eye first, is image-left first already.
        return Faces(boxes, rows[:, 0].copy(), rows[:, 5:].reshape(-1, 5, 2))

    def _search(self, area: Image) -> Floats:
        """Return (N, 15) float32 score, x1, y1, x2, y2, five points, in pixels of this area."""
        height, width = area.shape[:2]
        scale = min(1.0, _SEEN_PX / self._config.min_face_px, (_LEVEL_MAX_PX / (height * width)) ** 0.5)
        found = []
        while True:
            found.append(self._search_level(area, scale))
            if max(height, width) * scale <= _SEEN_MAX_PX:
                break
            scale *= _COARSER
        return np.concatenate(found)

    def _search_level(self, area: Image, scale: float) -> Floats:
        height, width = (max(1, round(side * scale)) for side in area.shape[:2])
        level = cv2.resize(area, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else area
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        blob = np.zeros((1, 3, rows, columns), np.float32)
        blob[0, :, :height, :width] = level.transpose(2, 0, 1)
        outputs = self._net.run({"input": blob})
        found = [
            _decode([outputs[kind * len(_STRIDES) + i][0] for kind in range(4)], stride, columns // stride)
            for i, stride in enumerate(_STRIDES)
        ]
        faces = np.concatenate(found)
        faces = faces[faces[:, 0] > self._config.thresholds[-1]]
        faces[:, 1:] *= np.tile(np.array([area.shape[1] / width, area.shape[0] / height], np.float32), 7)
        return faces


_NOTHING: Final = np.zeros((0, 15), np.float32)


def _decode(outputs: list[Floats], stride: int, columns: int) -> Floats:
    """Return one stride's cells as (hw, 15) rows: score, corners, points, in pixels of the level."""
    cls, obj, bbox, kps = outputs
    cells = np.arange(len(cls))
    at = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    own = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))
    score = _ODDS * own / (_ODDS * own + 1 - own)
    centre = (at + bbox[:, :2]) * stride
    half = np.exp(np.minimum(bbox[:, 2:], 10)) * stride / 2
    points = (kps.reshape(-1, 5, 2) + at[:, None]) * stride
    result: Floats = np.concatenate([score, centre - half, centre + half, points.reshape(-1, 10)], axis=1)
    return result
