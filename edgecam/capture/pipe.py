"""CSI cameras and hand-written pipelines: GStreamer in a child process, raw frames through a pipe.

Independent of the Python version and of how OpenCV was built; a child that hangs can be killed.
"""

from __future__ import annotations

import logging
import os
import select
import shlex
import subprocess
from fractions import Fraction
from typing import Iterator, List, Optional

import numpy as np

from edgecam.capture.picture import Upright
from edgecam.capture.redact import redact_pipeline, redact_said
from edgecam.capture.timeline import Thinner
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import ConfigError, SourceAuthError, SourceError
from edgecam.types import Frame

_LOGGER = logging.getLogger(__name__)

_ERROR_TAIL = 4000
_KILL_AFTER_S = 0.5


class PipeSource:
    """`gst-launch-1.0` as a camera.

    Args:
        config: url (`csi://N` or `gst:PIPELINE`, the part up to raw video), size, fps, stall_after_s.
        camera_id: put into every frame.
        clock: monotonic times of arrival.

    Raises:
        ConfigError: the url is neither.
    """

    live = True

    def __init__(self, config: CameraConfig, camera_id: str, clock: Clock) -> None:
        self._config = config
        self._camera = camera_id
        self._clock = clock
        self._upright = Upright(config)
        self._thinner = Thinner(config.fps)
        self._source = _elements(config)
        self._given = shlex.split(config.url[4:]) if config.url.startswith("gst:") else []
        # GStreamer pads each row of raw video to 4 bytes.
        self._stride = (config.width_px * 3 + 3) // 4 * 4
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._frames_fd = -1
        self._errors = b""
        self._part = bytearray()

    def describe(self) -> str:
        """Return the address; of a pipeline only the elements' names."""
        if self._config.url.startswith("gst:"):
            return f"gst:{redact_pipeline(self._config.url[4:])}"
        return self._config.url

    def open(self) -> None:
        """Start the child.

        Raises:
            SourceError: GStreamer is not installed or cannot be started.
        """
        self.close()
        self._thinner = Thinner(self._config.fps)
        read_fd, write_fd = os.pipe()
        command = ["gst-launch-1.0", "-q", *self._source, "!", "fdsink", f"fd={write_fd}", "sync=false"]
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write_fd,),
                start_new_session=True,
            )
        except OSError as err:
            os.close(read_fd)
            raise SourceError(
                f"{self.describe()}: gst-launch-1.0 does not start ({err.strerror}); install gstreamer1.0-tools"
            ) from None
        finally:
            os.close(write_fd)
        self._frames_fd = read_fd
        os.set_blocking(read_fd, False)
        if self._child.stderr is not None:
            os.set_blocking(self._child.stderr.fileno(), False)

    def read(self) -> Optional[Frame]:
        """Return the next wanted frame; never None.

        Raises:
            SourceAuthError: the pipeline's camera refuses the credentials.
            SourceError: the pipeline ended, failed or stalled.
        """
        while True:
            data = self._next_raw()
            at_s = self._clock.monotonic_s()
            if not self._thinner.keep(at_s):
                continue
            rows = np.frombuffer(data, np.uint8).reshape(self._config.height_px, self._stride)
            image = rows[:, : self._config.width_px * 3].reshape(self._config.height_px, self._config.width_px, 3)
            return Frame(self._upright(image.copy()), at_s, self._camera)

    def close(self) -> None:
        """Stop the child."""
        child, self._child = self._child, None
        if self._frames_fd >= 0:
            os.close(self._frames_fd)
            self._frames_fd = -1
        self._errors, self._part = b"", bytearray()
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stderr is not None:
            child.stderr.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until an error."""
        return iter(self.read, None)

    def _next_raw(self) -> bytes:
        if self._child is None or self._child.stderr is None:
            raise SourceError(f"{self.describe()}: not open")
        size = self._stride * self._config.height_px
        errors_fd = self._child.stderr.fileno()
        waiting: List[int] = [self._frames_fd, errors_fd]
        deadline_s = self._clock.monotonic_s() + self._config.stall_after_s
        while len(self._part) < size:
            left_s = deadline_s - self._clock.monotonic_s()
            ready = select.select(waiting, [], [], max(0.0, left_s))[0] if left_s > 0 else []
            if not ready:
                raise SourceError(f"{self.describe()}: no picture for {self._config.stall_after_s:g} s")
            if errors_fd in ready:
                said = os.read(errors_fd, 65536)
                self._errors = (self._errors + said)[-_ERROR_TAIL:]
                if not said:
                    waiting.remove(errors_fd)
            if self._frames_fd in ready:
                got = os.read(self._frames_fd, size - len(self._part))
                if not got:
                    raise self._ended(errors_fd if errors_fd in waiting else -1)
                self._part += got
        data, self._part = bytes(self._part), bytearray()
        return data

    def _ended(self, errors_fd: int) -> SourceError:
        while errors_fd >= 0 and select.select([errors_fd], [], [], 0.5)[0]:
            said = os.read(errors_fd, 65536)
            if not said:
                break
            self._errors = (self._errors + said)[-_ERROR_TAIL:]
        lines = redact_said(self._errors.decode("utf-8", "replace"), self._given).splitlines()
        _LOGGER.debug("camera %s: pipeline said: %s", self._camera, " | ".join(lines))
        told = next((line for line in lines if "ERROR" in line or "erroneous" in line), "it said nothing")
        if any("401" in line or "nauthorized" in line for line in lines):
            return SourceAuthError(f"{self.describe()}: the camera refuses user or password; correct them")
        return SourceError(f"{self.describe()}: the pipeline ended ({told[:160]})")


def _elements(config: CameraConfig) -> List[str]:
    """Return the arguments of gst-launch-1.0 up to raw BGR of the configured size."""
    size = f"width={config.width_px},height={config.height_px}"
    raw = ["!", "videoconvert", "!", "videoscale", "!", f"video/x-raw,format=BGR,{size}"]
    # The newest picture counts: what the reader does not fetch in time is dropped, not queued.
    newest = ["!", "queue", "leaky=downstream", "max-size-buffers=2"]
    if config.url.startswith("gst:"):
        try:
            user = shlex.split(config.url[4:])
        except ValueError:
            user = []
        if not user:
            raise ConfigError("camera url gst: is not a pipeline; give e.g. gst:v4l2src device=/dev/video0")
        return [*user, *raw, *newest]
    number = config.url[len("csi://") :].strip("/") or "0"
    if not config.url.startswith("csi://") or not number.isdigit():
        raise ConfigError(f"camera url {config.url}: want csi:// or csi://N with a sensor number")
    rate = Fraction(config.fps).limit_denominator(1001)
    sensor = f"video/x-raw(memory:NVMM),{size},framerate={rate.numerator}/{rate.denominator}"
    camera = ["nvarguscamerasrc", f"sensor-id={number}", "!", sensor, "!", "nvvidconv", "!", "video/x-raw,format=BGRx"]
    return [*camera, *raw, *newest]
