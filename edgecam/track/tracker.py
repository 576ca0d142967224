"""Link the faces of successive frames into tracks.

Two-threshold linking first (Zhang et al.): a face continues a track at once if it fits and fits much
better than every rival; what is left is shared out by the Hungarian method. All in seconds: frames may
come at 2 or 30 a second, and go missing.
"""

from __future__ import annotations

from typing import Any, Final, Iterable, List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.config import TrackConfig
from edgecam.errors import ShapeError
from edgecam.track.assignment import assign
from edgecam.track.still import Stillness, StillPlace
from edgecam.types import Faces, Floats, Tracks

_COAST_S: Final = 0.4
"""A speed is trusted for about so long: people stop and turn."""
_SPEED_OVER_S: Final = 0.25
"""Speeds are averaged over about so long."""
_REACH: Final = (0.45, 1.5)
"""Uncertainty of a prediction in face sizes: at once, and more per second ..."""
_REACH_NEW: Final = (0.6, 4.0)
"""... for a face of which the speed is not known yet."""
_GROWTH: Final = (0.2, 0.5)
"""Uncertainty of the size's logarithm: at once, and more per second."""
_GATE: Final = 3.0
"""Nothing is linked beyond so many uncertainties."""
_LOOKS: Final = (0.75, 0.95)
"""Similarity of appearance that is as good as none, and as good as the same."""
_LOOKS_OVER_S: Final = 1.0
_WEIGHTS: Final = (0.4, 0.2, 0.4)
"""Of position, size and appearance, as exponents."""


class Tracker:
    """Gives faces the ids of their tracks.

    Args:
        config: thresholds and times.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._next_id = 1
        self._tracks: List[_Track] = []
        self._places: List[StillPlace] = []

    def reset(self) -> None:
        """Forget all tracks (not the places of pictures); ids go on counting."""
        self._tracks.clear()

    def update(self, faces: Faces, captured_at_s: float, appearance: Optional[Floats] = None) -> Tracks:
        """Link the faces of one frame.

        Args:
            faces: of this frame, at most one a person.
            captured_at_s: of this frame; earlier than the last one counts as the last one's.
            appearance: (N, D) unit vectors from `appearance`; None links by position and size alone.

        Returns:
            The faces but those of pictures, with their tracks; which tracks ended; which are pictures.

        Raises:
            ShapeError: as many appearances as faces are needed.
        """
        if appearance is not None and len(appearance) != len(faces):
            raise ShapeError(f"appearance: want {len(faces)} rows, got {len(appearance)}")
        ended = self._end(captured_at_s)
        owners = self._link(faces, captured_at_s, appearance)
        ids = np.zeros(len(faces), np.int64)
        still = np.zeros(len(faces), bool)
        for i, owner in enumerate(owners):
            looks = None if appearance is None else appearance[i]
            track = self._begin() if owner is None else owner
            track.see(faces.boxes[i], captured_at_s, looks)
            ids[i] = track.id
            still[i] = track.stillness.see(faces.boxes[i], faces.landmarks[i], track.seen_s, self._places)
        suppressed = tuple(int(i) for i in ids[still])
        return Tracks(faces.take(~still), ids[~still], ended, suppressed)

    def predicted_boxes(self, at_s: float) -> Floats:
        """Return (N, 4) float32 boxes in which the tracked faces must lie at this time, uncertainty included."""
        rows = [track.search_box(at_s) for track in self._tracks if at_s - track.seen_s <= self._config.lost_after_s]
        return np.array(rows, np.float32).reshape(-1, 4)

    @property
    def still_places(self) -> Tuple[StillPlace, ...]:
        """Where pictures were found, to be kept and given to `remember` at the next visit."""
        return tuple(self._places)

    def remember(self, places: Iterable[StillPlace]) -> None:
        """Know these pictures at first sight; replaces what was known."""
        self._places = list(places)

    def _begin(self) -> _Track:
        track = _Track(self._next_id, Stillness(self._config.still_after_s))
        self._next_id += 1
        self._tracks.append(track)
        return track

    def _end(self, at_s: float) -> Tuple[int, ...]:
        lost = [track for track in self._tracks if at_s - track.seen_s > self._config.lost_after_s]
        self._tracks = [track for track in self._tracks if track not in lost]
        return tuple(track.id for track in lost)

    def _link(self, faces: Faces, at_s: float, appearance: Optional[Floats]) -> List[Optional[_Track]]:
        """Return each face's track, None for a new one."""
        owners: List[Optional[_Track]] = [None] * len(faces)
        if not self._tracks or not len(faces):
            return owners
        affinity = np.stack([track.affinity(faces, at_s, appearance) for track in self._tracks])
        affinity[affinity <= self._config.link_min] = 0
        for i, j in _clear(affinity, self._config.link_lead):
            owners[j] = self._tracks[i]
            affinity[i], affinity[:, j] = 0, 0
        for i, j in assign(affinity):
            if affinity[i, j] > 0:
                owners[j] = self._tracks[i]
        return owners


def _clear(affinity: Floats, lead: float) -> List[Tuple[int, int]]:
    """Return the (row, column) pairs that lead every rival in their row and column by more than `lead`."""
    pairs = []
    for i, j in zip(*np.nonzero(affinity)):
        rivals = np.concatenate([np.delete(affinity[i], j), np.delete(affinity[:, j], i)])
        if affinity[i, j] - rivals.max(initial=0) > lead:
            pairs.append((int(i), int(j)))
    return pairs


class _Track:
    """One face over time."""

    def __init__(self, track_id: int, stillness: Stillness) -> None:
        self.id = track_id
        self.stillness = stillness
        self.seen_s = 0.0
        self._seen = 0
        self._centre = np.zeros(2)
        self._sides = np.ones(2)
        self._speed = np.zeros(2)
        self._looks: Optional[Floats] = None

    @property
    def _size(self) -> float:
        return float(np.sqrt(self._sides.prod()))

    def _expect(self, at_s: float) -> Tuple[NDArray[Any], float]:
        """Return the expected centre and its uncertainty in px."""
        wait = max(0.0, at_s - self.seen_s)
        centre = self._centre + self._speed * _COAST_S * (1 - np.exp(-wait / _COAST_S))
        now, later = _REACH if self._seen > 1 else _REACH_NEW
        return centre, self._size * (now + later * wait)

    def search_box(self, at_s: float) -> Floats:
        """Return x, y, w, h: the expected face, larger by the uncertainty."""
        centre, reach = self._expect(at_s)
        sides = self._sides + reach
        box: Floats = np.concatenate([centre - sides / 2, sides]).astype(np.float32)
        return box

    def affinity(self, faces: Faces, at_s: float, appearance: Optional[Floats]) -> Floats:
        """Return (N,) 0..1: how well each face continues this track."""
        wait = max(0.0, at_s - self.seen_s)
        expected, reach = self._expect(at_s)
        centres, sides = _measure(faces.boxes)
        off = np.linalg.norm(centres - expected, axis=1) / reach
        growth = np.abs(np.log(np.sqrt(sides.prod(axis=1)) / self._size)) / (_GROWTH[0] + _GROWTH[1] * wait)
        result: Floats = np.exp(-(off**2) / 2 * _WEIGHTS[0] - growth**2 / 2 * _WEIGHTS[1]).astype(np.float32)
        if appearance is not None and self._looks is not None:
            alike = (appearance @ self._looks - _LOOKS[0]) / (_LOOKS[1] - _LOOKS[0])
            result *= np.clip(alike, 0.01, 1) ** _WEIGHTS[2]
        result[(off > _GATE) | (growth > _GATE)] = 0
        return result

    def see(self, box: Floats, at_s: float, looks: Optional[Floats]) -> None:
        """Take over what was measured at this time."""
        centres, sides = _measure(box[None])
        wait = max(0.0, at_s - self.seen_s) if self._seen else 0.0
        if wait > 0:
            share = 1 - np.exp(-wait / _SPEED_OVER_S) if self._seen > 1 else 1.0
            self._speed += share * ((centres[0] - self._centre) / wait - self._speed)
        if looks is not None:
            mixed = looks
            if self._looks is not None:
                mixed = self._looks + (1 - np.exp(-wait / _LOOKS_OVER_S)) * (looks - self._looks)
            self._looks = (mixed / max(float(np.linalg.norm(mixed)), 1e-9)).astype(np.float32)
        self._centre, self._sides = centres[0], sides[0]
        self.seen_s = max(at_s, self.seen_s) if self._seen else at_s
        self._seen += 1


def _measure(boxes: Floats) -> Tuple[NDArray[Any], NDArray[Any]]:
    """Return centres (N, 2) and sides (N, 2), at least 1 px, of x, y, w, h boxes."""
    sides = np.maximum(boxes[:, 2:], 1.0).astype(np.float64)
    return boxes[:, :2] + boxes[:, 2:] / 2.0, sides
