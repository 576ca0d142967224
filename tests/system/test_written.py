"""What the daemon writes to its disk: at rest, and for each visit; what that makes of a busy day."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import List

import pytest
from box import Box, Door, enrol, until
from conftest import lacking
from writes import Step, compiler, read_journal, watched

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.models, pytest.mark.machine, pytest.mark.timeout(900)]

DAY_S = 86_400.0
VISITS_A_DAY = 200
CAP_MB = 250.0
REST_S = 90.0
VISITS = 8

CONFIG = """
[cameras.front]
url = "{url}"
[liveness]
passive = false
[motion]
burst_s = 2.0
[store]
cluster_unknown = true
[alerts]
cooldown_s = 0.0
rules = {{ resident = "always", known = "always" }}
"""


def written(steps: List[Step]) -> Counter[str]:
    """Return the bytes that were written, by file."""
    names, total = {}, Counter[str]()
    for step in steps:
        if step.what == "C":
            names[step.inode] = os.path.basename(step.paths[0])
        elif step.what == "W":
            total[names.get(step.inode, "edgecam.db")] += step.offset
    return total


def test_bytes_of_a_busy_day(tmp_path: Path, data_dir: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiler() is None:
        lacking("machine", "no C compiler, which the watching of writes needs")
    clip = data_dir / "videos/liveness/jomariya_real.mp4"
    (tmp_path / "e").mkdir()
    enrolled = enrol(tmp_path / "e", clip, 5.0)
    journal = tmp_path / "journal"
    with Door() as door, Box(tmp_path, CONFIG.format(url=door.url)) as box:
        shutil.copytree(enrolled, box.state)
        for name, value in watched(box.state, journal=journal, heads=1).items():
            monkeypatch.setenv(name, value)
        box.start()
        for name in ("LD_PRELOAD", "WRITES_ROOT", "WRITES_JOURNAL", "WRITES_HEADS"):
            monkeypatch.delenv(name)
        until(lambda: box.status()["cameras"]["front"]["frames"] > 10, "pictures")
        began, before = time.monotonic(), len(read_journal(journal))
        time.sleep(REST_S)
        rest_s, steps = time.monotonic() - began, read_journal(journal)
        rest = written(steps) - written(steps[:before])
        for number in range(VISITS):
            door.visit(clip, 6.0 + number % 4, 9.0 + number % 4)
            until(lambda: door.empty, "gone")
            until(lambda: not box.status()["cameras"]["front"]["visit_open"], "the visit's end")
            time.sleep(1.0)
        box.signal(15)
        assert box.wait() == 0
    come = written(read_journal(journal)) - written(steps)
    rest_mb = sum(rest.values()) / rest_s * DAY_S / 1e6
    visit_kb = sum(come.values()) / VISITS / 1e3
    day_mb = rest_mb + visit_kb * VISITS_A_DAY / 1e3
    print(f"at rest {rest_mb:.1f} MB a day {dict(rest)}; a visit {visit_kb:.0f} kB {dict(come)}; {day_mb:.0f} MB a day")
    assert 0 < day_mb < CAP_MB
