"""What a night's training takes: eight rounds of association and training over faces of people who do not exist.

As a program (`python -m edgecam.bench.night SAMPLES`) it is one night in a process of its own, as `edgecam tune` is.
Memory is the largest sum, at one moment, of what parent and training have (PSS: what both have counts once).
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Iterator, List, Mapping

import numpy as np

from edgecam.adapt.apart import Job, Limits, Options, Trained, require_torch, train_apart
from edgecam.adapt.rounds import Material, adapt
from edgecam.adapt.samples import Samples
from edgecam.associate import Options as AssociationOptions
from edgecam.associate import Scene
from edgecam.bench.lab import Lab
from edgecam.bench.report import Figure, Row
from edgecam.config import EmbedConfig
from edgecam.embed import FACENET_SHARE, Encoder, FaceNet, SFace
from edgecam.embed.fused import Fused
from edgecam.errors import EdgecamError
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.nn.session import Session
from edgecam.pipeline.build import strangers_of
from edgecam.types import Floats, Ints

_PEOPLE, _FACES, _ENROLLED = 5, 4, 5
"""Residents, faces of a track, photos enrolled of each resident."""
_OWN = 0.7
"""Share of a face that is its person's; the rest changes from track to track."""
_MISSED, _WRONG = 0.2, 0.1
_ROUNDS = 8
_TARGET_S, _TARGET_MB = 600.0, 700.0
_STRANGERS = 1000
_LOOK_EVERY_S = 0.1
_SPARING = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "262144"}
"""What `edgecam tune` asks of glibc (`daemon.health.spare_memory`)."""


def night(lab: Lab) -> Iterator[Row]:
    """Yield time and memory of a night by its number of faces."""
    require_torch()
    for count in (500, 1500, 5000)[: lab.of_extent(1, 2, 3)]:
        done = subprocess.run(
            [sys.executable, "-m", "edgecam.bench.night", str(count)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_SPARING},
        )
        if done.returncode:
            raise EdgecamError(f"the night of {count} faces failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        found = json.loads(done.stdout)
        detail = {"samples": count, "rounds": found["rounds"], "cpu_s": found["cpu_s"], "trainings": found["trainings"]}
        yield Figure(f"night_{count}_s", found["seconds"], "s", _TARGET_S, detail=detail)
        detail = {"parent_mb": found["parent_mb"], "child_mb": found["child_mb"]}
        yield Figure(f"night_{count}_mb", found["together_mb"], "MB", _TARGET_MB, detail=detail)


def compose(count: int) -> Material:
    """Return `count` faces of five residents' visits, four a track, with their devices; and their enrolment."""
    rng = np.random.default_rng(0)
    model = strangers_of(EmbedConfig())
    tracks = max(1, count // _FACES)
    who = rng.integers(0, _PEOPLE, tracks)
    persons, looks = model.draw(_PEOPLE, 1), model.draw(tracks + _PEOPLE * _ENROLLED, 2)
    means = _OWN * persons[who] + (1.0 - _OWN) * looks[:tracks]
    photos = _OWN * np.repeat(persons, _ENROLLED, axis=0) + (1.0 - _OWN) * looks[tracks:]
    features = np.concatenate([photos, np.repeat(means, _FACES, axis=0)]).astype(np.float32)
    group = np.concatenate([np.repeat(np.arange(_PEOPLE), _ENROLLED), _PEOPLE + np.repeat(np.arange(tracks), _FACES)])
    shares = np.zeros((_PEOPLE + tracks, _PEOPLE), np.float32)
    shares[:_PEOPLE] = np.eye(_PEOPLE)
    enrolled = np.arange(len(features)) < len(photos)
    people = tuple(f"p{k}" for k in range(_PEOPLE))
    none = np.zeros((0, 2), np.int64)
    samples = Samples(features, group, shares, people, none, (~enrolled).astype(np.int64), enrolled)
    heard = rng.random((tracks, _PEOPLE)) < _WRONG
    heard[np.arange(tracks), who] = rng.random(tracks) >= _MISSED
    scene = Scene(np.zeros((tracks, 1), np.float32), np.arange(tracks), heard.astype(np.float64))
    days: Ints = np.arange(tracks) // 20  # so few visits a day that the daily quota leaves all of them in
    return Material(samples, scene, _PEOPLE + np.arange(tracks), means.astype(np.float32), people, days)


class _Memory:
    """Watches this process and its children while it is entered."""

    def __init__(self) -> None:
        self.most_mb = 0.0
        self._end = Event()
        self._thread = Thread(target=self._watch, daemon=True, name="memory")

    def _watch(self) -> None:
        while not self._end.wait(_LOOK_EVERY_S):
            children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
            self.most_mb = max(self.most_mb, sum(map(_pss_mb, ["self", *(pid for some in children for pid in some)])))

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def _pss_mb(pid: str) -> float:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:  # it has ended
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def main() -> int:
    """Do one night and print what it took."""
    material = compose(int(sys.argv[1]))
    registry = ModelRegistry(default_folder())
    file = registry.path("facenet_head").read_bytes()
    head = Session.of_bytes(file, "facenet_head")
    # The trunks are not run at night: every face is kept as features.
    installed: Encoder = Fused(FaceNet(head, head, "f"), SFace(head, "s"), FaceNet.width, FACENET_SHARE)
    strangers = strangers_of(EmbedConfig()).draw(_STRANGERS, 3)
    epochs: List[int] = []

    def train(last: bool, samples: Samples, _: Ints) -> Trained:
        options = Options(patience=Options().epochs).of(last=last)
        trained = train_apart(Job("fused", file, samples, strangers, options), Limits(niceness=0))
        epochs.append(trained.epochs)
        return trained

    def project(heads: Mapping[str, bytes], features: Floats) -> Floats:
        return (installed.with_heads(heads, "new") if heads else installed).project(features)

    never_calm = AssociationOptions(iterations=_ROUNDS, calm_churn=0.0, calm_rms=-1.0)
    start = time.monotonic()
    with _Memory() as memory:
        done = adapt(material, partial(train, True), project, never_calm, partial(train, False))
    own, child = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_s": round(own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime, 1),
        "rounds": len(done.found.rounds),
        "trainings": done.trainings,
        "epochs": sum(epochs),
        "taught": round(float(done.taught.mean()), 3),
        "together_mb": round(memory.most_mb),
        "parent_mb": round(own.ru_maxrss * 1024 / 1e6),
        "child_mb": round(child.ru_maxrss * 1024 / 1e6),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
