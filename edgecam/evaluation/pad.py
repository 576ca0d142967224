"""`edgecam eval pad`: pictures and screens held to the camera, counted; never a general rate.

The data folder holds clips NAME_real.*, NAME_fake.* or NAME_fake-SPECIES.*, or pictures in `real/` and `fake/` (or
`fake/SPECIES/`), and perhaps `glasses.txt` (`presented.worn`). A clip is counted by tracks, as the live path judges
them; a picture is one look.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, DefaultDict, Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from edgecam import align, detect, quality
from edgecam.config import Config, LivenessConfig
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.evaluation.presented import CONDITIONS, exact_interval, follow, frames_of, worn
from edgecam.liveness import LivenessNets, make
from edgecam.liveness.passive import unfit
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Image, Liveness

_QUICK_S = 6.0
"""So much of each clip is looked at without --full."""
_REAL, _FAKE = "real", "fake"
CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_LOOKED_AT = ("as is", "night colour", "grey", "dark", "blur")
"""Conditions that mean something for a single picture."""


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: Path
    full: bool = False


@dataclass(frozen=True)
class _Case:
    path: Path
    source: str
    species: str
    """`real`, or what kind of attack."""


@dataclass
class Count:
    """Answers by kind."""

    live: int = 0
    spoof: int = 0
    unproven: int = 0

    def add(self, verdict: Liveness) -> None:
        """Count one."""
        self.live += verdict is Liveness.LIVE
        self.spoof += verdict is Liveness.SPOOF
        self.unproven += verdict is Liveness.UNPROVEN


def run(options: Options) -> Iterator[Dict[str, Any]]:
    """Yield a row a source, species and condition, then sums: all, and with and without glasses where that is known.

    Raises:
        InputError: nothing to measure on.
        ModelError: no anti-spoof nets.
    """
    clips, pictures = _cases(options.data)
    if not clips and not pictures:
        raise InputError(f"{options.data}: no clips NAME_real.* / NAME_fake.*, and no folders real/ and fake/")
    glasses = worn(options.data)
    registry, config = ModelRegistry(default_folder()), Config()
    for name in ("minifasnet_v2", "minifasnet_v1se"):
        registry.path(name)
    detector = detect.make(config.detect, registry)
    nets = make(LivenessConfig(eyes="none"), registry)
    sums: DefaultDict[Tuple[str, str, str, str], Count] = defaultdict(Count)

    def judged(unit: str, cases: List[_Case], condition: str) -> Iterator[Dict[str, Any]]:
        counts: DefaultDict[Tuple[str, str], Count] = defaultdict(Count)
        for case in cases:
            until_s = None if options.full else _QUICK_S
            count = counts[case.source, case.species]
            for verdict in _verdicts(unit, case.path, condition, until_s, detector, nets):
                for slice_ in ("all", *glasses.slice_of(case.path)):
                    sums[unit, slice_, case.species, condition].add(verdict)
                count.add(verdict)
        for (source, species), count in counts.items():
            yield row_of(unit, source, species, condition, count)

    for condition in CONDITIONS:
        for clip in clips:
            yield from judged("track", [clip], condition)
    for condition in _LOOKED_AT:
        yield from judged("look", pictures, condition)
    for (unit, slice_, species, condition), count in sums.items():
        yield row_of(unit, slice_, species, condition, count)


def _verdicts(
    unit: str, path: Path, condition: str, until_s: Optional[float], detector: Detector, nets: LivenessNets
) -> List[Liveness]:
    """Return what is said of the tracks of a clip, or of one look at a picture; nothing if it is none."""
    if unit == "track":
        return [one.standing.verdict for one in follow(frames_of(path, condition, until_s), detector, nets)]
    image = cv2.imread(str(path))
    if image is None:
        return []
    return [_glance(CONDITIONS[condition][0](np.asarray(image, np.uint8)), detector, nets)]


def row_of(
    unit: str, source: str, species: str, condition: str, count: Count, *, real: Optional[bool] = None
) -> Dict[str, Any]:
    """Return one row: of attacks those accepted as live, of living people those rejected as spoof."""
    n = count.live + count.spoof + count.unproven
    real = species == _REAL if real is None else real
    return {
        "source": source,
        "species": species,
        "condition": condition,
        "attacks": 0 if real else n,
        "accepted": 0 if real else count.live,
        "bona_fide": n if real else 0,
        "rejected": count.spoof if real else 0,
        "no_answer": count.unproven,
        "unit": unit,
        "error_ci95": exact_interval(count.spoof if real else count.live, n),
    }


def _glance(image: Image, detector: Detector, nets: LivenessNets) -> Liveness:
    """Return what one look at the largest face says; unproven where there is none or it cannot be judged."""
    faces = detector(image)
    if not len(faces) or nets.passive is None:
        return Liveness.UNPROVEN
    best = int(np.argmax(faces.boxes[:, 2]))
    box = faces.boxes[best]
    rated = quality.assess(align.make_crop(image, box, faces.landmarks[best]), Config().quality)
    if unfit(image, box, rated) is not None:
        return Liveness.UNPROVEN
    return Liveness.LIVE if nets.passive(image, box) > 0.5 else Liveness.SPOOF


def _cases(data: Path) -> Tuple[List[_Case], List[_Case]]:
    clips, pictures = [], []
    for path in sorted(data.iterdir()) if data.is_dir() else []:
        name, _, kind = path.stem.rpartition("_")
        if path.suffix.lower() in CLIPS and name and kind.split("-")[0] in (_REAL, _FAKE):
            clips.append(_Case(path, name, kind.partition("-")[2] or kind))
    for kind in (_REAL, _FAKE):
        for path in sorted((data / kind).rglob("*")):
            if path.suffix.lower() in _PICTURES:
                species = path.parent.name
                pictures.append(_Case(path, path.name.split("_")[0].split(".")[0], species))
    return clips, pictures
