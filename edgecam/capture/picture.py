"""What every source does to a picture before anybody looks at it: upright, then privacy zones."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from edgecam.clock import Clock
from edgecam.config import CameraConfig, Polygon
from edgecam.types import Frame, Image, Ints

MAX_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded: no camera of this kind sends it."""

_ROTATE = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def polygon_px(polygon: Polygon, width: int, height: int) -> Ints:
    """Return the corners, (N, 2) int64 px, of a polygon given in shares of the picture."""
    corners = np.asarray(polygon, np.float64) * (width, height)
    result: Ints = np.rint(corners).astype(np.int64)
    return result


class Upright:
    """Rotate, mirror, blacken: in this order.

    Args:
        config: rotation, flip and privacy zones of the camera.
    """

    def __init__(self, config: CameraConfig) -> None:
        self._rotate_deg = config.rotate_deg
        self._flip = config.flip
        self._zones = config.privacy_zones
        self._zones_px: Dict[Tuple[int, int], List[Ints]] = {}

    def __call__(self, image: Image, own_rotation_deg: int = 0) -> Image:
        """Return the upright picture; the argument may be changed.

        Args:
            image: (H, W, 3) uint8 BGR.
            own_rotation_deg: clockwise turn that the recording itself asks for.
        """
        turn = (self._rotate_deg + own_rotation_deg) % 360
        if turn in _ROTATE:
            image = cv2.rotate(image, _ROTATE[turn])
        if self._flip:
            image = cv2.flip(image, 1)
        if self._zones:
            image = self._blacken(image)
        return image

    def _blacken(self, image: Image) -> Image:
        height, width = image.shape[:2]
        zones = self._zones_px.get((width, height))
        if zones is None:
            zones = [polygon_px(zone, width, height) for zone in self._zones]
            self._zones_px = {(width, height): zones}
        if not (image.flags.writeable and image.flags.c_contiguous):
            image = np.array(image, np.uint8, order="C")
        for zone in zones:
            cv2.fillPoly(image, [zone.astype(np.int32)], (0, 0, 0))
        return image


class Recording:
    """What a file and a folder of photos have in common as sources.

    Args:
        path: the file or folder.
        config: fps (the most that is shown), loop, rotation, flip, zones.
        camera_id: put into every frame.
        clock: paces; not asked otherwise.
        paced: play in real time, else as fast as it is read.
    """

    live = False

    def __init__(self, path: Path, config: CameraConfig, camera_id: str, clock: Clock, *, paced: bool = False) -> None:
        self._path, self._config, self._camera, self._clock, self._paced = path, config, camera_id, clock, paced
        self._upright = Upright(config)
        self._started_s: Optional[float] = None

    def describe(self) -> str:
        """Return the path."""
        return str(self._path)

    def read(self) -> Optional[Frame]:
        """Return the next frame; None at the end."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        """Yield the rest of the frames."""
        return iter(self.read, None)

    def _wait_until(self, at_s: float) -> None:
        """Where paced, wait until a frame is due."""
        if not self._paced:
            return
        if self._started_s is None:
            self._started_s = self._clock.monotonic_s() - at_s
        self._clock.sleep(max(0.0, self._started_s + at_s - self._clock.monotonic_s()))
