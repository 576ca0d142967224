"""A folder of photos, or a single one, as a source."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import List, Optional

from edgecam.capture.photo import is_photo, read_photo
from edgecam.capture.picture import Recording
from edgecam.clock import Clock
from edgecam.config import CameraConfig
from edgecam.errors import InputError
from edgecam.types import Frame

_LOGGER = logging.getLogger(__name__)


class ImagesSource(Recording):
    """Photos sorted by name, 1/fps apart.

    A broken photo in a folder is skipped with a warning; a folder without a usable one is an error.

    Args: see `Recording`; the path is a folder or a photo.
    """

    def __init__(self, path: Path, config: CameraConfig, camera_id: str, clock: Clock, *, paced: bool = False) -> None:
        super().__init__(path, config, camera_id, clock, paced=paced)
        self._photos: List[Path] = []
        self._next = 0
        self._shown = 0
        self._round = 0

    def open(self) -> None:
        """List the photos.

        Raises:
            InputError: missing, unreadable or without a photo.
        """
        try:
            found = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        except OSError as err:
            raise InputError(f"{self._path}: {(err.strerror or 'unreadable').lower()}; check its rights") from None
        self._photos = [path for path in found if not self._path.is_dir() or is_photo(path)]
        if not self._photos:
            raise InputError(f"{self._path}: no photo in this folder; put JPEG or PNG files there")
        self._next = self._shown = self._round = 0
        self._started_s = self._clock.monotonic_s()

    def read(self) -> Optional[Frame]:
        """Return the next photo; None at the end.

        Raises:
            InputError: not one photo can be read.
        """
        while True:
            if self._next >= len(self._photos):
                if self._photos and not self._round:
                    raise InputError(f"{self._path}: none of {len(self._photos)} photos can be read; export them again")
                if not self._config.loop or not self._photos:
                    return None
                self._next = self._round = 0
            path, self._next = self._photos[self._next], self._next + 1
            try:
                image = read_photo(path)
            except InputError as err:
                if not self._path.is_dir():
                    raise
                _LOGGER.warning("skipped: %s", err)
                continue
            at_s = self._shown / self._config.fps
            self._shown += 1
            self._round += 1
            self._wait_until(at_s)
            return Frame(self._upright(image), at_s, self._camera)

    def close(self) -> None:
        """Forget the list; `open` starts again."""
        self._photos = []
