"""All measurements, part by part; one that fails is told and the others go on."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Sequence

from edgecam import __version__
from edgecam.bench.association import association
from edgecam.bench.lab import Extent, Lab, Tell
from edgecam.bench.motion import data_folder, motion
from edgecam.bench.naming import first_name
from edgecam.bench.night import night
from edgecam.bench.peers import peers
from edgecam.bench.process import resident, start
from edgecam.bench.report import Figure, Row, Skipped
from edgecam.bench.soak import memory
from edgecam.bench.speed import idle, perceived, stages
from edgecam.config import EmbedConfig
from edgecam.errors import ConfigError, EdgecamError

__all__ = ["PARTS", "Extent", "environment", "run"]

PARTS: Dict[str, Callable[[Lab], Iterator[Row]]] = {
    "idle": idle,
    "start": start,
    "stages": stages,
    "perceived": perceived,
    "daemon": resident,
    "naming": first_name,
    "memory": memory,
    "motion": motion,
    "peers": peers,
    "association": association,
    "night": night,
}


def environment() -> Dict[str, Any]:
    """Return what the figures depend on: machine, load, versions, command."""
    import av
    import cv2
    import numpy as np
    import onnxruntime

    return {
        "type": "environment",
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["edgecam", *sys.argv[1:]]),
        "load": load(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "edgecam": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
        "av": av.__version__,
        "encoder": EmbedConfig().kind,
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def run(extent: Extent, only: Sequence[str], tell: Tell) -> Iterator[Row]:
    """Yield every row of the wanted parts.

    Raises:
        ConfigError: there is no such part.
    """
    if wrong := [name for name in only if name not in PARTS]:
        raise ConfigError(f"bench --only: no part {', '.join(wrong)}; there are: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="edgecam-bench-") as folder:
        lab = Lab(Path(folder), extent, tell, data_folder(os.environ.get("EDGECAM_TEST_DATA")))
        for name, part in PARTS.items():
            if only and name not in only:
                continue
            before = load()
            tell(f"-- {name} (load {before})")
            try:
                for row in part(lab):
                    yield _with_load(row, before)
            except EdgecamError as err:
                yield Skipped(name, str(err))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return models[0] if models else platform.machine()


def _with_load(row: Row, before: float) -> Row:
    if isinstance(row, Skipped):
        return row
    detail = {**row.detail, "load": max(before, load())}
    return Figure(row.name, row.value, row.unit, row.target, row.sense, detail)
