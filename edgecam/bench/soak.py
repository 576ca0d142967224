"""Memory, files and threads over a long recording: the real stages on a door scene again and again, as a process.

`python -m edgecam.bench.soak --state DIR --film FILE --seconds N` prints a JSON object a sample.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Tuple

from edgecam.bench.report import Figure, Row
from edgecam.errors import EdgecamError

if TYPE_CHECKING:
    from edgecam.bench.lab import Lab

_SAMPLE_S = 10.0
"""Of footage."""
_PERIOD_S = 30.0
_STEP_S = 0.095
_TIMEOUT_S = 6 * 3600.0
_GROWTH_MB = 5.0
"""Less than this over the measured footage is flat."""


def memory(lab: Lab) -> Iterator[Row]:
    """Yield how the memory grows over footage in which people come and go, at full speed."""
    import numpy as np

    from edgecam.bench.scene import Scene, Visitor

    seconds = lab.of_extent(120, 900, 3600)
    lab.tell(f"memory over {seconds / 60:g} minutes of footage at full speed")
    one, two = lab.faces(1)[0], lab.faces(4)[1]
    visitors = [Visitor(one.looks, 4.0, 7.0, 480), Visitor(two.looks, 17.0, 7.0, 480)]
    film = Scene(visitors).write(lab.folder / "soak.mp4", _PERIOD_S)
    rows, steps = _measure(lab.state, film, seconds)
    for name, megabytes in steps.items():
        yield Figure(f"rss_after_{name}", megabytes, "MB", detail={"what": "steps of one process"})
    hours, used = np.array([r["footage_s"] for r in rows]) / 3600, np.array([r["rss_mb"] for r in rows])
    late = slice(len(rows) // 4, None)
    slope, low, high = slope_with_ci(hours[late], used[late])
    quarter = len(rows) // 4
    growth = float(np.median(used[-quarter:]) - np.median(used[quarter : 2 * quarter]))
    yield Figure(
        "memory_growth",
        growth,
        "MB",
        _GROWTH_MB,
        detail={
            "what": "median of the last quarter less that of the second",
            "footage_min": seconds / 60,
            "slope_mb_per_h": slope,
            "ci95": f"{low:.1f}..{high:.1f}",
            "last_mb": float(used[-1]),
            "peak_mb": float(used.max()),
            "visits": rows[-1]["visits"],
            "n": len(rows),
        },
    )
    for name in ("files", "threads"):
        counts = [int(row[name]) for row in rows]
        yield Figure(
            f"{name}_growth",
            counts[-1] - counts[len(rows) // 4],
            name,
            0,
            detail={"what": "open at the end less after a quarter", "last": counts[-1], "most": max(counts)},
        )


def slope_with_ci(x: Any, y: Any) -> Tuple[float, float, float]:
    """Return the slope of a straight line through N > 2 points and its 95 % interval."""
    import numpy as np

    dx, dy = np.asarray(x, np.float64) - np.mean(x), np.asarray(y, np.float64) - np.mean(y)
    slope = float(dx @ dy / (dx @ dx))
    freedom = len(dx) - 2
    error = float(np.sqrt(np.sum((dy - slope * dx) ** 2) / freedom / (dx @ dx)))
    reach = error * (1.96 + 2.5 / freedom)  # Student's t for more than about ten points
    return slope, slope - reach, slope + reach


def _measure(state: Path, film: Path, seconds: int) -> Tuple[List[Dict[str, float]], Dict[str, float]]:
    command = [sys.executable, "-m", "edgecam.bench.soak"]
    options = ["--state", str(state), "--film", str(film), "--seconds", str(seconds)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise EdgecamError(f"the soak failed: {' '.join(done.stderr.split()[-40:])}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    steps = {row["step"]: row["rss_mb"] for row in rows if "step" in row}
    return [row for row in rows if "footage_s" in row], steps


def rss_mb() -> float:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(prog="python -m edgecam.bench.soak")
    for option in ("--state", "--film"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    _step("python")
    import cv2
    import numpy  # noqa: ICN001, F401

    cv2.setNumThreads(1)
    _step("numpy_and_cv2")
    import onnxruntime  # noqa: F401

    _step("onnxruntime")
    from edgecam.bench.lab import stages_of
    from edgecam.capture.base import make_source
    from edgecam.capture.motion import MotionGate
    from edgecam.capture.preroll import PreRoll
    from edgecam.clock import SystemClock
    from edgecam.config import CameraConfig, Config
    from edgecam.nn.registry import ModelRegistry, default_folder
    from edgecam.pipeline.build import IdentifierFactory, make_liveness, make_stages
    from edgecam.pipeline.camera import CameraPath
    from edgecam.pipeline.visits import VisitBook

    _step("imports")
    config, clock = Config(), SystemClock()
    registry = ModelRegistry(default_folder())
    detector, encoder = make_stages(config, registry)
    _step("nets")
    factory = IdentifierFactory(encoder, config.embed, config.identify)
    _step("virtual_strangers")
    stages, _ = stages_of(args.state, detector, encoder, factory, make_liveness(config, registry))
    _step("household")
    camera = CameraConfig(url=str(args.film), loop=True)
    words: List[str] = []
    path = CameraPath("soak", camera, config, stages, VisitBook(), clock, lambda said: words.append(said.decision.id))
    gate, ring = MotionGate(config.motion), PreRoll(config.motion.pre_roll_s)
    source = make_source(camera, "soak", clock)
    source.open()
    visits, looked_s, sampled_s = 0, -1.0, 0.0
    for frame in source:
        at_s = frame.captured_at_s
        path.glimpse(frame)
        motion = gate(frame)
        if motion.closed and path.close() is not None:
            visits += 1
        if motion.opened:
            for early in ring.take(at_s):
                path.perceive(early, None, active=False)
        if not gate.is_open:
            ring.add(frame)
        elif at_s - looked_s >= _STEP_S:
            looked_s = at_s
            if path.perceive(frame, motion.boxes, active=motion.active):
                gate.extend()
        if at_s - sampled_s >= _SAMPLE_S:
            sampled_s = at_s
            words.clear()
            sample = {"footage_s": round(at_s, 1), "rss_mb": round(rss_mb(), 2), "visits": visits, **_held()}
            print(json.dumps(sample), flush=True)
        if at_s >= args.seconds:
            break
    source.close()
    return 0


def _held() -> Dict[str, int]:
    """Return how many files and threads this process has."""
    return {"files": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def _step(name: str) -> None:
    print(json.dumps({"step": name, "rss_mb": round(rss_mb(), 1)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
