"""Recordings as a camera would show them under other conditions, followed by the liveness stage alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterator, List, Optional, Tuple

import cv2
import numpy as np
from scipy.stats import beta

from edgecam import align, quality
from edgecam.capture.base import make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, QualityConfig, TrackConfig
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.liveness import LivenessNets, LivenessWatch
from edgecam.liveness.blink import Blinks
from edgecam.liveness.vote import Standing
from edgecam.track import Tracker, appearance
from edgecam.types import Frame, Image

PERCEIVED_EVERY_S = 0.095
"""Faces are looked for ten times a second at most; between them only the eyes are followed."""
_LEAST_FACES = 3
_LEAST_S = 0.4
"""A track shorter than both is noise, as in the live path."""
_SEED = 0


def _tinted(image: Image) -> Image:
    result: Image = np.clip(image * np.array([0.6, 1.0, 1.1]), 0, 255).astype(np.uint8)
    return result


def _grey(image: Image) -> Image:
    result: Image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return result


def _dark(image: Image) -> Image:
    noise = np.random.default_rng(_SEED).normal(0, 3, image.shape)
    result: Image = np.clip(image * 0.3 + noise, 0, 255).astype(np.uint8)
    return result


def _blurred(image: Image) -> Image:
    result: Image = cv2.GaussianBlur(image, (0, 0), 3)
    return result


def _same(image: Image) -> Image:
    return image


CONDITIONS: Dict[str, Tuple[Callable[[Image], Image], Optional[float]]] = {
    "as is": (_same, None),
    "night colour": (_tinted, None),
    "grey": (_grey, None),
    "dark": (_dark, None),
    "blur": (_blurred, None),
    "15 fps": (_same, 15.0),
    "5 fps": (_same, 5.0),
    "2 fps": (_same, 2.0),
}
"""Picture and frame rate. Night colour: blue x 0.6, red x 1.1; dark: x 0.3 and noise of sigma 3; blur: sigma 3 px."""


@dataclass(frozen=True)
class Presentation:
    """One track of a recording."""

    first_s: float
    last_s: float
    faces: int
    standing: Standing
    blinks: Blinks


def frames_of(path: Path, condition: str, until_s: Optional[float]) -> Iterator[Frame]:
    """Yield the frames of a recording under a condition.

    Raises:
        InputError: it cannot be played.
    """
    change, rate = CONDITIONS[condition]
    source = make_source(CameraConfig(url=str(path)), "recording", SystemClock())
    source.open()
    due_s = 0.0
    try:
        while (frame := source.read()) is not None:
            if until_s is not None and frame.captured_at_s > until_s:
                return
            if rate is not None:
                if frame.captured_at_s < due_s - 1e-3:
                    continue
                due_s += 1 / rate
            yield Frame(change(frame.image), frame.captured_at_s, frame.camera)
    finally:
        source.close()


def follow(frames: Iterator[Frame], detector: Detector, nets: LivenessNets) -> List[Presentation]:
    """Return the tracks that last, longest first, as the live path would judge them (without names)."""
    watch, tracker = LivenessWatch(nets), Tracker(TrackConfig())
    spans: Dict[int, Tuple[float, float, int]] = {}
    looked_s = -np.inf
    for frame in frames:
        watch.glimpse(frame)
        if frame.captured_at_s - looked_s < PERCEIVED_EVERY_S:
            continue
        looked_s = frame.captured_at_s
        faces = detector(frame.image)
        tracks = tracker.update(faces, frame.captured_at_s, appearance(frame.image, faces))
        for track_id, box, landmarks in zip(tracks.ids.tolist(), tracks.faces.boxes, tracks.faces.landmarks):
            rated = quality.assess(align.make_crop(frame.image, box, landmarks), QualityConfig())
            watch.see(frame, track_id, box, landmarks, rated)
            first_s, _, n = spans.get(track_id, (frame.captured_at_s, 0.0, 0))
            spans[track_id] = (first_s, frame.captured_at_s, n + 1)
        watch.watch(tracks.ids.tolist())
    found = [
        Presentation(first, last, n, watch.standing(track_id), watch.blinks(track_id))
        for track_id, (first, last, n) in spans.items()
        if n >= _LEAST_FACES or last - first >= _LEAST_S
    ]
    return sorted(found, key=lambda one: one.first_s - one.last_s)


@dataclass(frozen=True)
class Worn:
    """Who of a data folder wears glasses."""

    files: Optional[FrozenSet[Path]]
    """None: nobody wrote it down."""

    def slice_of(self, path: Path) -> Tuple[str, ...]:
        """Return the name of the slice that a file belongs to, if that is known."""
        if self.files is None:
            return ()
        return ("glasses",) if path in self.files else ("without glasses",)


def worn(data: Path) -> Worn:
    """Read `glasses.txt`: the files of a data folder that show somebody with glasses, one a line; `#` begins a remark.

    Raises:
        InputError: it names a file that is not there.
    """
    path = data / "glasses.txt"
    if not path.is_file():
        return Worn(None)
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    files = frozenset(data / line for line in lines if line)
    for file in sorted(files):
        if not file.is_file():
            raise InputError(f"{path}: no such file: {file.relative_to(data)}")
    return Worn(files)


def exact_interval(k: int, n: int) -> Optional[List[float]]:
    """Return the 95 % Clopper-Pearson interval of k of n; None of nothing."""
    if n == 0:
        return None
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return [round(low, 4), round(high, 4)]
