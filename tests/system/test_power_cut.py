"""The power fails between any two syncs: what was said to be done is there, what was begun is whole or not there."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Iterator, List, Optional

import pytest
from conftest import lacking
from ledger import Ledger
from writes import Disk, Step, compiler, lay_out, read_journal, watched

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

WORKER = Path(__file__).with_name("ledger.py")
DEEDS = (
    "enrol,enrol,visit,promote,send,backup,visit,merge,rotate,promote,rollback,enrol,promote,forget,"
    "visit,purge,backup,rotate,visit,forget"
)


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if compiler() is None:
        lacking("machine", "no C compiler, which the watching of writes needs")


def live(root: Path, deeds: str, seed: int) -> List[Step]:
    """Let a box live in `root`/s; return its steps."""
    journal = root.with_suffix(".journal")
    command = [sys.executable, str(WORKER), str(root / "s"), deeds, str(seed), "1", "0"]
    done = subprocess.run(command, env=watched(root, journal=journal), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(root / "s")  # the disk was empty before
    return read_journal(journal)


def cuts(steps: List[Step]) -> Iterator[int]:
    """Yield before which steps a cut tells most: at each sync, and after each word to the user."""
    for number, step in enumerate(steps):
        if step.what == "S":
            yield number
        if step.what == "A":
            yield number + 1
    yield len(steps)


def found_after_cuts(
    root: Path, place: Path, steps: List[Step], at: List[int], draws: int, *, lies: bool = False
) -> Counter[str]:
    """Cut the power at each of these steps; return what was wrong how often, and under `states` how many were tried."""
    rng, found = random.Random(1), Counter({"states": 0})
    disk, said = Disk(root, lies=lies), b""
    wanted = set(at)
    for number in range(len(steps) + 1):
        if number in wanted:
            for draw in range(draws + 2):
                picks: Optional[random.Random] = rng if draw > 1 else None
                lay_out(disk.after_a_cut(picks, everything=draw == 1), root, place)
                ledger = Ledger().read(said.decode().splitlines(keepends=True))
                found["states"] += 1
                for fault in ledger.faults(place / "s"):
                    found[f"before step {number}: {fault}"] += 1
        if number < len(steps):
            disk.apply(steps[number])
            said += steps[number].data if steps[number].what == "A" else b""
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_a_power_cut_tears_nothing(root: Path, tmp_path: Path) -> None:
    steps = live(root, DEEDS, 7)
    at = list(cuts(steps))
    found = found_after_cuts(root, tmp_path / "after", steps, at[:: len(at) // 12], 1)
    assert found.pop("states") >= 36
    assert not found


def test_a_disk_that_lies_is_noticed(root: Path, tmp_path: Path) -> None:
    steps = live(root, "enrol,visit", 7)
    found = found_after_cuts(root, tmp_path / "after", steps, [len(steps)], 0, lies=True)
    assert {fault.split(": ")[1] for fault in found if fault != "states"} >= {"7-1 is not there"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_power_cut_tears_anything(root: Path, tmp_path: Path) -> None:
    steps = live(root, DEEDS, 7)
    found = found_after_cuts(root, tmp_path / "after", steps, list(cuts(steps)), 3)
    states = found.pop("states")
    syncs = sum(step.what == "S" for step in steps)
    print(f"{states} states after a cut, {len(steps)} steps, {syncs} syncs")
    assert not found
    assert states > 1000
