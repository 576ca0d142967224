"""What the motion gate lets through: the scenes of the tests, in which nobody, or somebody, comes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from edgecam.bench.lab import Extent, Lab
from edgecam.bench.report import Figure, Row, Skipped

_SCENES = Path(__file__).resolve().parent.parent.parent / "tests" / "motion_clips.py"


def motion(lab: Lab) -> Iterator[Row]:
    """Yield the detector's open seconds a minute by scene, and all visits lost."""
    if not _SCENES.is_file():
        yield Skipped("motion", "its scenes come with a checkout (tests/motion_clips.py)")
        return
    if lab.data is None:
        yield Skipped("motion", "its scenes are made of the test data; set EDGECAM_TEST_DATA")
        return
    scenes = _load()
    seconds = 30.0 if lab.extent is Extent.QUICK else 60.0
    rows: List[Dict[str, Any]] = []
    for scene in scenes.scenes("test", lab.data, seconds):
        lab.tell(f"motion: {scene.name}")
        row = scenes.judge(scene, lab.config.motion)
        rows.append(row)
        detail = {key: row[key] for key in ("visits", "lost", "false_opens_per_minute", "median_delay_s", "minutes")}
        yield Figure(f"motion_{row['clip']}", row["detector_s_per_minute"], "open s/min", detail=detail)
    yield Figure(
        "motion_visits_lost",
        sum(row["lost"] for row in rows),
        "visits",
        0.0,
        detail={"visits": sum(row["visits"] for row in rows), "scenes": len(rows)},
    )
    empty = [row for row in rows if not row["visits"]]
    if empty:
        worst = max(empty, key=lambda row: row["detector_s_per_minute"])
        yield Figure(
            "motion_empty_worst",
            worst["detector_s_per_minute"],
            "open s/min",
            detail={"scene": worst["clip"], "what": "the detector may run so long a minute with nobody there"},
        )


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("edgecam_motion_clips", _SCENES)
    if spec is None or spec.loader is None:
        raise ImportError(str(_SCENES))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def data_folder(chosen: Optional[str]) -> Optional[Path]:
    """Return the folder of the test data (`EDGECAM_TEST_DATA`, or beside the checkout), None without it."""
    folder = Path(chosen) if chosen else _SCENES.parent.parent / "../shared/data"
    return folder.resolve() if folder.is_dir() else None
