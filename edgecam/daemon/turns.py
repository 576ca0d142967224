"""The nets, shared by all cameras: a session runs for one thread at a time, so cameras take turns."""

from __future__ import annotations

import threading
from typing import Optional, Sequence

from edgecam.detect import Detector
from edgecam.embed import Encoder
from edgecam.types import FaceCrop, Faces, Floats, Image


class DetectingInTurn:
    """A detector behind a lock.

    Args:
        detector: the real one.
        lock: held while a net runs; one for all nets, for together they have no more cores than one has.
    """

    def __init__(self, detector: Detector, lock: threading.Lock) -> None:
        self._detector, self._lock = detector, lock

    def __call__(self, image: Image, regions: Optional[Floats] = None) -> Faces:
        """See `Detector`."""
        with self._lock:
            return self._detector(image, regions)


class EncodingInTurn:
    """An encoder behind a lock.

    Args:
        encoder: the real one.
        lock: see `DetectingInTurn`.
    """

    def __init__(self, encoder: Encoder, lock: threading.Lock) -> None:
        self._encoder, self._lock = encoder, lock

    @property
    def version(self) -> str:
        """See `Encoder`."""
        return self._encoder.version

    @property
    def dim(self) -> int:
        """See `Encoder`."""
        return self._encoder.dim

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """See `Encoder`."""
        with self._lock:
            return self._encoder.features(crops)

    def project(self, features: Floats) -> Floats:
        """See `Encoder`."""
        with self._lock:
            return self._encoder.project(features)
