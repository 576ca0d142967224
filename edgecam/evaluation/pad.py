"""`edgecam eval pad`: pictures and screens held to the camera, counted; never a general rate.

The data folder holds clips NAME_real.*, NAME_fake.* or NAME_fake-SPECIES.*, or pictures in `real/` and `fake/` (or
`fake/SPECIES/`). A clip is counted by tracks, as the live path judges them; a picture is one look.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, DefaultDict, Dict, Iterator, List, Tuple

import cv2
import numpy as np

from edgecam import align, detect, quality
from edgecam.config import Config, LivenessConfig
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.evaluation.presented import CONDITIONS, exact_interval, follow, frames_of
from edgecam.liveness import LivenessNets, make
from edgecam.liveness.passive import unfit
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Image, Liveness

_QUICK_S = 6.0
"""So much of each clip is looked at without --full."""
_REAL, _FAKE = "real", "fake"
_CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
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
class _Count:
    live: int = 0
    spoof: int = 0
    unproven: int = 0

    def add(self, verdict: Liveness) -> None:
        self.live += verdict is Liveness.LIVE
        self.spoof += verdict is Liveness.SPOOF
        self.unproven += verdict is Liveness.UNPROVEN


def run(options: Options) -> Iterator[Dict[str, Any]]:
    """Yield a row a source, species and condition, then sums.

    Raises:
        InputError: nothing to measure on.
        ModelError: no anti-spoof nets.
    """
    clips, pictures = _cases(options.data)
    if not clips and not pictures:
        raise InputError(f"{options.data}: no clips NAME_real.* / NAME_fake.*, and no folders real/ and fake/")
    registry, config = ModelRegistry(default_folder()), Config()
    for name in ("minifasnet_v2", "minifasnet_v1se"):
        registry.path(name)
    detector = detect.make(config.detect, registry)
    nets = make(LivenessConfig(eyes="none"), registry)
    sums: DefaultDict[Tuple[str, str, str], _Count] = defaultdict(_Count)
    for condition in CONDITIONS:
        for clip in clips:
            count = _Count()
            frames = frames_of(clip.path, condition, None if options.full else _QUICK_S)
            for one in follow(frames, detector, nets):
                count.add(one.standing.verdict)
                sums["track", clip.species, condition].add(one.standing.verdict)
            yield _row("track", clip.source, clip.species, condition, count)
    for condition in _LOOKED_AT:
        by_source: DefaultDict[Tuple[str, str], _Count] = defaultdict(_Count)
        for picture in pictures:
            image = cv2.imread(str(picture.path))
            if image is None:
                continue
            verdict = _glance(CONDITIONS[condition][0](np.asarray(image, np.uint8)), detector, nets)
            by_source[picture.source, picture.species].add(verdict)
            sums["look", picture.species, condition].add(verdict)
        for (source, species), count in by_source.items():
            yield _row("look", source, species, condition, count)
    for (unit, species, condition), count in sums.items():
        yield _row(unit, "all", species, condition, count)


def _row(unit: str, source: str, species: str, condition: str, count: _Count) -> Dict[str, Any]:
    """Return one row: of attacks those accepted as live, of living people those rejected as spoof."""
    n = count.live + count.spoof + count.unproven
    real = species == _REAL
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
        if path.suffix.lower() in _CLIPS and name and kind.split("-")[0] in (_REAL, _FAKE):
            clips.append(_Case(path, name, kind.partition("-")[2] or kind))
    for kind in (_REAL, _FAKE):
        for path in sorted((data / kind).rglob("*")):
            if path.suffix.lower() in _PICTURES:
                species = path.parent.name
                pictures.append(_Case(path, path.name.split("_")[0].split(".")[0], species))
    return clips, pictures
