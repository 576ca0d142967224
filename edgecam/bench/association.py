"""What one association takes by the number of tracklets, all cuts, without training.

As a program (`python -m edgecam.bench.association TRACKLETS`) it is one association in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Iterator

import numpy as np

from edgecam.associate import Scene, associate
from edgecam.bench.lab import Lab
from edgecam.bench.report import Figure, Row
from edgecam.errors import EdgecamError

_PEOPLE, _EVENTS, _DIM = 24, 83, 512
"""AutoTune's larger site (table 1)."""
_THERE, _HEARD = 0.38, 0.8
"""Chance of a person at an event (9.14 of 24), and of the device being heard then."""
_OWN = 0.6
"""Cosine of a face to its person."""
_TARGET_S, _TARGET_MB = 60.0, 3000.0


def association(lab: Lab) -> Iterator[Row]:
    """Yield time and memory of an association by its number of tracklets."""
    for count in (3000, 7500, 15_000)[: lab.of_extent(1, 2, 3)]:
        command = [sys.executable, "-m", "edgecam.bench.association", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise EdgecamError(f"the association of {count} tracklets failed: {last}")
        found = json.loads(done.stdout)
        yield Figure(f"association_{count}_s", found["seconds"], "s", _TARGET_S, detail={"cpu_s": found["cpu_s"]})
        yield Figure(f"association_{count}_mb", found["mb"], "MB", _TARGET_MB)


def compose(count: int) -> Scene:
    """Return `count` tracklets of people who do not exist, at events at which they were."""
    rng = np.random.default_rng(0)
    there = rng.random((_EVENTS, _PEOPLE)) < _THERE
    there[np.arange(_PEOPLE), np.arange(_PEOPLE)] = True
    person = rng.integers(0, _PEOPLE, count)
    events = np.array([rng.choice(np.flatnonzero(there[:, j])) for j in person], np.int64)
    centres = rng.normal(size=(_PEOPLE, _DIM)) / np.sqrt(_DIM)
    noise = rng.normal(size=(count, _DIM)) / np.sqrt(_DIM)
    vectors = _OWN * centres[person] + np.sqrt(1.0 - _OWN**2) * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    heard = there & (rng.random(there.shape) < _HEARD)
    return Scene(vectors.astype(np.float32), events, heard.astype(np.float64))


def main() -> int:
    """Associate once and print what it took."""
    scene = compose(int(sys.argv[1]))
    start = time.monotonic()
    found = associate(scene)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "mb": round(used.ru_maxrss * 1024 / 1e6),
        "coverage": round(found.coverage, 3),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
