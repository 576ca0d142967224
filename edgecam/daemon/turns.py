"""The nets, shared by all cameras: a session runs for one thread at a time, so cameras take turns."""

from __future__ import annotations

import threading
from typing import Mapping, Optional, Sequence

from edgecam.detect import Detector
from edgecam.embed import Encoder
from edgecam.liveness import EyeEstimator, LivenessNets, Look
from edgecam.liveness.eyes import EyeView
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
    def installed(self) -> EncodingInTurn:
        """See `Encoder`."""
        return EncodingInTurn(self._encoder.installed, self._lock)

    @property
    def base(self) -> str:
        """See `Encoder`."""
        return self._encoder.base

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

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> EncodingInTurn:
        """See `Encoder`."""
        return EncodingInTurn(self._encoder.with_heads(heads, version), self._lock)


def liveness_in_turn(nets: LivenessNets, lock: threading.Lock) -> LivenessNets:
    """Return the liveness nets behind a lock; see `DetectingInTurn`."""
    passive = None if nets.passive is None else _LookingInTurn(nets.passive, lock)
    eyes = None if nets.eyes is None else _EyesInTurn(nets.eyes, lock)
    return LivenessNets(passive, eyes, nets.lacking)


class _LookingInTurn:
    def __init__(self, look: Look, lock: threading.Lock) -> None:
        self._look, self._lock = look, lock

    def __call__(self, image: Image, box: Floats) -> float:
        with self._lock:
            return self._look(image, box)


class _EyesInTurn:
    def __init__(self, eyes: EyeEstimator, lock: threading.Lock) -> None:
        self._eyes, self._lock = eyes, lock
        self.name, self.closed_below, self.least_open = eyes.name, eyes.closed_below, eyes.least_open

    def __call__(self, views: Sequence[EyeView]) -> Floats:
        with self._lock:
            return self._eyes(views)
