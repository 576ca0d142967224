"""Where frames come from: one interface, one place that chooses the implementation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator, Optional, Protocol

from edgecam.capture.clip import ClipSource
from edgecam.capture.device import DeviceSource
from edgecam.capture.images import ImagesSource
from edgecam.capture.network import NetworkSource
from edgecam.capture.photo import is_photo
from edgecam.capture.pipe import PipeSource
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import ConfigError
from edgecam.types import Frame


class FrameSource(Protocol):
    """A camera or a recording.

    `open` and `read` may block as long as the source's own timeouts; one thread uses a source at a time.
    No text of it (description, log, error) carries credentials.
    """

    @property
    def live(self) -> bool:
        """Whether it is a camera: its end is a fault, its times are monotonic seconds."""
        ...

    def describe(self) -> str:
        """Return the address, without secrets."""
        ...

    def open(self) -> None:
        """Start, or start again after `close` or an error.

        Raises:
            SourceError: the camera cannot be reached (SourceAuthError: refuses the credentials).
            InputError: the recording cannot be used.
        """
        ...

    def read(self) -> Optional[Frame]:
        """Return the next frame, upright and with its privacy zones black; None: the recording ended.

        Raises:
            SourceError: the camera stalled, ended or sends rubbish; open it again.
            InputError: the recording cannot be used.
        """
        ...

    def close(self) -> None:
        """Stop; may be called at any time, more than once."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until a recording ends."""
        ...


_NETWORK = re.compile(r"(?i)(rtsp|rtsps|http|https)://.")
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)")
_SCHEME = re.compile(r"(?i)([a-z][a-z0-9+.-]+)://")


def make_source(config: CameraConfig, camera_id: str, clock: Clock, *, paced: bool = False) -> FrameSource:
    """Return the source that `config.url` names, not yet open.

    Args:
        config: one camera.
        camera_id: put into every frame.
        clock: monotonic times of live sources; paces recordings.
        paced: play a recording in real time, as a camera; else as fast as it is read.

    Raises:
        ConfigError: no kind of source has such an address.
    """
    url = config.url.strip()
    if _NETWORK.match(url):
        return NetworkSource(config, camera_id, clock)
    if url.startswith(("csi://", "gst:")):
        return PipeSource(config, camera_id, clock)
    if _DEVICE.fullmatch(url):
        return DeviceSource(config, camera_id, clock)
    scheme = _SCHEME.match(url)
    if scheme and scheme.group(1).lower() != "file":
        raise ConfigError(
            f"camera {camera_id}: no source for {scheme.group(1)}://; want rtsp, http, a path, csi or gst:"
        )
    if not url:
        raise ConfigError(f"camera {camera_id}: the url is empty")
    try:
        path = Path(url[len("file://") :] if scheme else url).expanduser()
        of_photos = path.is_dir() or is_photo(path)
    except (OSError, ValueError, RuntimeError) as err:  # a name too long, a NUL, the home of nobody
        raise ConfigError(f"camera {camera_id}: the url is no path: {err}") from err
    if of_photos:
        return ImagesSource(path, config, camera_id, clock, paced=paced)
    return ClipSource(path, config, camera_id, clock, paced=paced)
