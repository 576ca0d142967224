"""USB cameras (V4L2)."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, Optional

import cv2

from edgecam.capture.picture import Upright
from edgecam.capture.timeline import Thinner
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import SourceError
from edgecam.types import Frame

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")


def _open_v4l2(path: str) -> Any:
    # OpenCV 5 and 4 have it in different places; 0 is silent in both.
    (cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2).setLogLevel(0)
    return cv2.VideoCapture(path, cv2.CAP_V4L2)


class DeviceSource:
    """A camera at /dev/videoN, or at a name below /dev/v4l that stays when another camera is plugged in.

    Args:
        config: url (the device), size and rate to ask for, rotation, flip, zones.
        camera_id: put into every frame.
        clock: monotonic times of arrival.
        opener: returns a cv2.VideoCapture or what behaves like one.
    """

    live = True

    def __init__(
        self, config: CameraConfig, camera_id: str, clock: Clock, opener: Callable[[str], Any] = _open_v4l2
    ) -> None:
        self._config = config
        self._camera = camera_id
        self._clock = clock
        self._opener = opener
        self._upright = Upright(config)
        self._thinner = Thinner(config.fps)
        self._device: Any = None

    def describe(self) -> str:
        """Return the device's path."""
        return self._config.url

    def open(self) -> None:
        """Open the device and ask for size, rate and MJPEG (most USB 2 cameras need it for 720p).

        Raises:
            SourceError: no such device, no right to it, or it is no camera.
        """
        self.close()
        device = self._opener(os.path.realpath(self._config.url))
        if not device.isOpened():
            device.release()
            raise SourceError(f"{self._config.url}: cannot be opened; check the cable and the group `video`")
        device.set(cv2.CAP_PROP_FOURCC, _MJPG)
        device.set(cv2.CAP_PROP_FRAME_WIDTH, self._config.width_px)
        device.set(cv2.CAP_PROP_FRAME_HEIGHT, self._config.height_px)
        device.set(cv2.CAP_PROP_FPS, self._config.fps)
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._device = device

    def read(self) -> Optional[Frame]:
        """Return the next wanted frame; never None.

        Raises:
            SourceError: unplugged, stalled, or an empty picture.
        """
        if self._device is None:
            raise SourceError(f"{self._config.url}: not open")
        while True:
            if not self._device.grab():
                raise SourceError(f"{self._config.url}: no picture; is the cable in?")
            at_s = self._clock.monotonic_s()
            if not self._thinner.keep(at_s):
                continue
            good, image = self._device.retrieve()
            if not good or image is None or image.ndim != 3 or 0 in image.shape:
                raise SourceError(f"{self._config.url}: sends an empty picture; unplug it and plug it in again")
            return Frame(self._upright(image), at_s, self._camera)

    def close(self) -> None:
        """Release the device."""
        device, self._device = self._device, None
        if device is not None:
            device.release()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until an error."""
        return iter(self.read, None)
