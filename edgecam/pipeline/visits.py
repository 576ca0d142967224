"""Visits: one motion-triggered appearance at a place; cameras of one place share it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Dict, Set

from edgecam.store import new_ulid


@dataclass
class Visit:
    """An open visit."""

    place: str
    id: str
    cameras: Set[str] = field(default_factory=set)
    """Cameras that still look at it."""
    tracks: int = 0
    """Track numbers given out."""
    decisions: int = 0
    faces_seen: int = 0
    motion_s: float = 0.0
    """Seconds of motion, over all cameras."""
    complaint: str = ""


class VisitBook:
    """The open visits by place; shared by the camera threads."""

    def __init__(self) -> None:
        self._open: Dict[str, Visit] = {}
        self._lock = threading.Lock()

    def join(self, place: str, camera: str, wall_s: float) -> Visit:
        """Return the place's open visit, or a new one, with this camera in it."""
        with self._lock:
            visit = self._open.setdefault(place, Visit(place, new_ulid(wall_s)))
            visit.cameras.add(camera)
            return visit

    def number(self, visit: Visit) -> int:
        """Return the next track number of a visit."""
        with self._lock:
            visit.tracks += 1
            return visit.tracks

    def leave(self, visit: Visit, camera: str) -> bool:
        """Take a camera out; return whether it was the last, which closes the visit."""
        with self._lock:
            visit.cameras.discard(camera)
            if visit.cameras:
                return False
            self._open.pop(visit.place, None)
            return True
