"""The seconds before the motion, kept in RAM."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, List

import cv2
import numpy as np

from edgecam.types import Frame, Image


@dataclass(frozen=True, eq=False)
class _Kept:
    data: Image
    halved: bool
    """I420 instead of BGR: half the bytes, for a tenth of a JPEG's work."""
    captured_at_s: float
    camera: str


class PreRoll:
    """A ring of the last frames: 1.5 s of 720p at 5 a second take 11 MB.

    Args:
        seconds: how far back it reaches; 0 keeps nothing.
        fps: at most so many frames a second are kept.
    """

    def __init__(self, seconds: float, fps: float = 5.0) -> None:
        self._seconds = seconds
        self._step_s = 1.0 / fps
        self._ring: Deque[_Kept] = deque()

    def add(self, frame: Frame) -> None:
        """Keep a frame, unless one was kept just before, and drop what is too old."""
        if self._seconds <= 0:
            return
        at_s = frame.captured_at_s
        if self._ring and self._ring[-1].captured_at_s > at_s:
            self._ring.clear()
        while self._ring and self._ring[0].captured_at_s < at_s - self._seconds:
            self._ring.popleft()
        if self._ring and at_s - self._ring[-1].captured_at_s < 0.9 * self._step_s:
            return
        height, width = frame.image.shape[:2]
        halved = height % 2 == 0 and width % 2 == 0
        data = cv2.cvtColor(frame.image, cv2.COLOR_BGR2YUV_I420) if halved else frame.image.copy()
        self._ring.append(_Kept(data, halved, at_s, frame.camera))

    def take(self, before_s: float) -> List[Frame]:
        """Return the kept frames of the `seconds` before `before_s`, oldest first, and empty the ring."""
        wanted = [kept for kept in self._ring if before_s - self._seconds <= kept.captured_at_s < before_s]
        self._ring.clear()
        return [Frame(_unpacked(kept), kept.captured_at_s, kept.camera) for kept in wanted]

    @property
    def size_bytes(self) -> int:
        """Memory that the ring holds."""
        return sum(kept.data.nbytes for kept in self._ring)


def _unpacked(kept: _Kept) -> Image:
    return np.asarray(cv2.cvtColor(kept.data, cv2.COLOR_YUV2BGR_I420) if kept.halved else kept.data, np.uint8)
