"""Recordings: any container that FFmpeg reads."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import av

from edgecam.capture.picture import MAX_PIXELS, Recording
from edgecam.capture.timeline import ClipTimeline, Thinner
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import InputError
from edgecam.types import Frame

_LOGGER = logging.getLogger(__name__)

_DEFAULT_FPS = 25.0
_THREADS = 2
_OPEN_TIMEOUT_S = 20.0

# FFmpeg's chatter goes to standard error and may name an address.
av.logging.set_level(None)


def own_rotation_deg(decoded: Any) -> int:
    """Return the clockwise turn (0, 90, 180, 270) that a decoded frame's display matrix asks for."""
    counterclockwise = getattr(decoded, "rotation", 0) or 0
    return round(-float(counterclockwise) / 90.0) * 90 % 360


def prepare_decoder(stream: Any) -> None:
    """Set threads and the size limit of a video stream's decoder, before its first packet.

    Raises:
        ValueError: there is no decoder for it.
    """
    decoder = stream.codec_context
    if decoder is None:
        raise ValueError("its video is of a kind that is not known here")
    decoder.thread_count = _THREADS
    decoder.thread_type = "SLICE" if decoder.name in ("mjpeg", "gif") else "AUTO"
    decoder.options = {**dict(decoder.options or {}), "max_pixels": str(MAX_PIXELS)}


class ClipSource(Recording):
    """A recorded file, played as fast as it is read or, paced, like a camera.

    Args: see `Recording`.
    """

    def __init__(self, path: Path, config: CameraConfig, camera_id: str, clock: Clock, *, paced: bool = False) -> None:
        super().__init__(path, config, camera_id, clock, paced=paced)
        self._thinner = Thinner(config.fps)
        self._timeline: Optional[ClipTimeline] = None
        self._container: Any = None
        self._decoded: Iterator[Any] = iter(())
        self._first: Any = None

    def open(self) -> None:
        """Open the file and decode its first frame.

        Raises:
            InputError: missing, unreadable, without a video stream or without one decodable frame.
        """
        self.close()
        check_regular(self._path)
        try:
            self._container, rate = self._open_container()
            self._decoded = self._decode()
            self._first = next(self._decoded, None)
        except (av.error.FFmpegError, OSError, ValueError) as err:
            self.close()
            raise InputError(f"{self._path}: not a readable video ({reason(err)}); convert it to MP4") from None
        if self._first is None:
            self.close()
            raise InputError(f"{self._path}: no frame of this video can be decoded; record or export it again")
        if self._timeline is None:
            self._timeline = ClipTimeline(rate)

    def read(self) -> Optional[Frame]:
        """Return the next wanted frame; None at the end.

        Raises:
            InputError: the file was to be played again and is gone.
        """
        while True:
            decoded = self._next_decoded()
            if decoded is None:
                return None
            if self._timeline is None:
                raise InputError(f"{self._path}: read before open")
            at_s = self._timeline.next(decoded.time)
            if not self._thinner.keep(at_s):
                continue
            try:
                image = decoded.to_ndarray(format="bgr24")
            except (av.error.FFmpegError, ValueError) as err:
                _LOGGER.debug("%s: frame at %.3f s skipped: %s", self._path, at_s, reason(err))
                continue
            self._wait_until(at_s)
            return Frame(self._upright(image, own_rotation_deg(decoded)), at_s, self._camera)

    def close(self) -> None:
        """Close the file; `open` starts it again."""
        container, self._container = self._container, None
        self._decoded, self._first = iter(()), None
        if container is not None:
            container.close()

    def _open_container(self) -> Tuple[Any, float]:
        # Only local files: a playlist handed in as a clip must not make us fetch anything.
        container = av.open(
            str(self._path),
            options={"protocol_whitelist": "file"},
            timeout=_OPEN_TIMEOUT_S,
            metadata_errors="ignore",
        )
        if not container.streams.video:
            container.close()
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        prepare_decoder(stream)
        rate = float(stream.average_rate or stream.base_rate or _DEFAULT_FPS)
        return container, rate if 0.01 <= rate <= 1000 else _DEFAULT_FPS

    def _decode(self) -> Iterator[Any]:
        """Yield whatever can be decoded; damage is skipped, not raised."""
        container = self._container
        packets = container.demux(container.streams.video[0])
        broken = 0
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except (av.error.EOFError, StopIteration):
                break
            except av.error.InvalidDataError as err:
                broken += 1
                _LOGGER.debug("%s: damaged data skipped: %s", self._path, reason(err))
                if broken > 10_000:
                    break
                continue
            except (av.error.FFmpegError, ValueError) as err:
                _LOGGER.debug("%s: ends early: %s", self._path, reason(err))
                break
            if packet is None:
                break
            yield from (frame for frame in frames if frame.width > 0 and frame.height > 0)

    def _next_decoded(self) -> Any:
        decoded = self._first if self._first is not None else next(self._decoded, None)
        self._first = None
        if decoded is None and self._config.loop and self._container is not None:
            self.open()
            decoded, self._first = self._first, None
        return decoded


def reason(err: BaseException) -> str:
    """Return what FFmpeg says, without the address it appends."""
    text = getattr(err, "strerror", None) or str(err) or type(err).__name__
    return str(text).partition("\n")[0][:120]


def check_regular(path: Path) -> None:
    """Raise InputError unless the path is a readable, non-empty regular file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: not a regular file; give a photo, a clip or a folder of photos")
        with path.open("rb"):
            pass
    except OSError as err:
        raise InputError(f"{path}: {(err.strerror or 'unreadable').lower()}; check the path and its rights") from None
    if found.st_size == 0:
        raise InputError(f"{path}: the file is empty; copy it again")
