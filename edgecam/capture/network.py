"""Network cameras: RTSP over TCP, and MJPEG (or whatever FFmpeg recognises) over HTTP."""

from __future__ import annotations

import logging
from typing import Any, Dict, Iterator, Optional

import av

from edgecam.capture.clip import own_rotation_deg, prepare_decoder, reason
from edgecam.capture.picture import Upright
from edgecam.capture.redact import redact_url
from edgecam.capture.timeline import LiveTimeline, Thinner
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import SourceAuthError, SourceError
from edgecam.types import Frame

_LOGGER = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 10.0
_REFUSED = (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)
_TIMED_OUT = (av.error.ExitError, av.error.TimeoutError)


class NetworkSource:
    """A camera reached by an address; its end is always a fault.

    Args:
        config: url, fps (frames beyond it are skipped), stall_after_s, rotation, flip, zones.
        camera_id: put into every frame.
        clock: monotonic times of arrival.
    """

    live = True

    def __init__(self, config: CameraConfig, camera_id: str, clock: Clock) -> None:
        self._config = config
        self._camera = camera_id
        self._clock = clock
        self._upright = Upright(config)
        self._thinner = Thinner(config.fps)
        self._timeline = LiveTimeline()
        self._container: Any = None
        self._packets: Iterator[Any] = iter(())
        self._frames: Iterator[Any] = iter(())
        self._rtsp = config.url.lower().startswith("rtsp")

    def describe(self) -> str:
        """Return the address without its secrets."""
        return redact_url(self._config.url)

    def open(self) -> None:
        """Connect.

        Raises:
            SourceAuthError: the camera refuses the credentials.
            SourceError: the camera does not answer, or not with video.
        """
        self.close()
        self._timeline = LiveTimeline()
        self._thinner = Thinner(self._config.fps)
        patience_s = self._config.stall_after_s
        try:
            self._container = av.open(
                self._config.url,
                options=self._options(),
                timeout=(min(_OPEN_TIMEOUT_S, patience_s), patience_s),
                metadata_errors="ignore",
            )
            if not self._container.streams.video:
                raise SourceError(f"{self.describe()}: sends no video; check the path of the stream")
            stream = self._container.streams.video[0]
            prepare_decoder(stream)
            self._packets = self._container.demux(stream)
        except SourceError:
            self.close()
            raise
        except Exception as err:
            self.close()
            raise self._translated(err, "cannot be opened") from None

    def read(self) -> Optional[Frame]:
        """Return the next wanted frame; never None.

        Raises:
            SourceError: the stream ended, stalled, or carries nothing that can be decoded.
        """
        if self._container is None:
            raise SourceError(f"{self.describe()}: not open")
        waiting_since_s = self._clock.monotonic_s()
        while True:
            for decoded in self._frames:
                frame = self._wanted(decoded)
                if frame is not None:
                    return frame
            if self._clock.monotonic_s() - waiting_since_s > self._config.stall_after_s:
                raise SourceError(f"{self.describe()}: no picture for {self._config.stall_after_s:g} s")
            try:
                packet = next(self._packets, None)
                if packet is None or (packet.dts is None and packet.size == 0):
                    raise SourceError(f"{self.describe()}: the stream ended; a camera should not")
                self._frames = iter(packet.decode())
            except av.error.InvalidDataError as err:
                _LOGGER.debug("camera %s: damaged data skipped: %s", self._camera, reason(err))
            except SourceError:
                raise
            except Exception as err:
                raise self._translated(err, "broke off") from None

    def close(self) -> None:
        """Hang up."""
        container, self._container = self._container, None
        self._packets = self._frames = iter(())
        if container is not None:
            try:
                container.close()
            except av.error.FFmpegError as err:
                _LOGGER.debug("camera %s: closing: %s", self._camera, reason(err))

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until an error."""
        return iter(self.read, None)

    def _wanted(self, decoded: Any) -> Optional[Frame]:
        if decoded.width < 1 or decoded.height < 1:
            raise SourceError(f"{self.describe()}: sends pictures of {decoded.width}x{decoded.height}; restart it")
        # MJPEG over HTTP has no timestamps of its own; FFmpeg would count 25 a second.
        pts_s = decoded.time if self._rtsp else None
        at_s = self._timeline.next(pts_s, self._clock.monotonic_s())
        if not self._thinner.keep(at_s):
            return None
        return Frame(self._upright(decoded.to_ndarray(format="bgr24"), own_rotation_deg(decoded)), at_s, self._camera)

    def _options(self) -> Dict[str, str]:
        wait_us = str(int(self._config.stall_after_s * 1e6))
        options = {"timeout": wait_us, "fflags": "nobuffer", "analyzeduration": "2000000", "probesize": "1000000"}
        if self._rtsp:
            return {**options, "rtsp_transport": "tcp", "allowed_media_types": "video"}
        return {**options, "protocol_whitelist": "http,https,httpproxy,tcp,tls", "multiple_requests": "0"}

    def _translated(self, err: BaseException, what: str) -> SourceError:
        # FFmpeg appends the address, password and all: its own text is never passed on.
        where = self.describe()
        if isinstance(err, _REFUSED):
            return SourceAuthError(f"{where}: the camera refuses user or password; correct them in its url")
        if isinstance(err, _TIMED_OUT):
            return SourceError(f"{where}: {what}: no answer in time; check power, network and address")
        if isinstance(err, av.error.FFmpegError):
            return SourceError(f"{where}: {what} ({reason(err)})")
        return SourceError(f"{where}: {what} ({type(err).__name__})")
