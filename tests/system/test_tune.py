"""The night by the command: real faces, real training, a real gate; killed, without PyTorch, with nothing new."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from box import until
from night_house import House, build

from edgecam.evaluation.faces import open_bench
from edgecam.store import Store

pytestmark = [pytest.mark.data, pytest.mark.models, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "edgecam"]
CONFIG = "[store]\ncluster_unknown = true\n"
WITHOUT_TORCH = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name == "torch" else find(name, path, target))
"""


class Built:
    """A household in a folder; each test works on a copy of it."""

    def __init__(self, folder: Path, data: Path, wild: int) -> None:
        self.state = folder / "state"
        self.house: House = build(self.state, data, open_bench(), wild)

    def copy(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        shutil.copytree(self.state, folder / "s")
        (folder / "edgecam.toml").write_text(CONFIG)
        return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, models_dir: Path) -> Built:
    return Built(tmp_path_factory.mktemp("small"), data_dir, wild=6)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, models_dir: Path) -> Built:
    return Built(tmp_path_factory.mktemp("big"), data_dir, wild=10)


def command(folder: Path, *arguments: str) -> List[str]:
    return [*COMMAND, *arguments, "--state", str(folder / "s"), "--config", str(folder / "edgecam.toml")]


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(folder, *arguments),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done


def told(done: subprocess.CompletedProcess[str], kind: str) -> List[Dict[str, Any]]:
    return [row for row in map(json.loads, done.stdout.splitlines()) if row.get("type") == kind]


def versions(folder: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in run(folder, "versions", "list", "--json").stdout.splitlines()]


def test_a_night_learns_is_judged_and_told_and_does_nothing_twice(small: Built, tmp_path: Path) -> None:
    folder = small.copy(tmp_path)
    plots = str(tmp_path / "plots")
    with subprocess.Popen(
        command(folder, "tune", "--json", "--plots", plots), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "faces may teach" in line)
        # Meanwhile the store is anybody's, but for a second night.
        assert len(run(folder, "people", "list", "--json").stdout.splitlines()) == len(small.house.people)
        second = subprocess.run(command(folder, "tune"), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"another night is at work here (process {process.pid})" in second.stderr
        output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    done = subprocess.CompletedProcess([], 0, output)
    (night,), (summary,) = told(done, "night"), told(done, "summary")
    assert summary["faces"] == small.house.tracks
    assert summary["proposals"] > small.house.tracks / 4
    assert night["why"] == ["no night has been judged yet"]
    assert sum(one["faces"] for one in night["learnt"].values()) > 20
    assert {check["name"] for check in night["gate"]["checks"]} >= {"verified faces lost", "strangers named", "gain"}
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == {
        "distances.png",
        "confusion.png",
        "versions.png",
        "map.png",
    }
    (version,) = versions(folder)
    assert (version["version"], version["state"]) == ("v1", "active" if night["promoted"] else "refused")
    assert version["reasons"] == night["reasons"]
    assert not (folder / "s/night").exists()
    names = small.house.people
    with Store.open(folder / "s") as store:
        (waiting,) = [json.loads(row.payload) for row in store.outbox_peek() if row.topic.endswith("/night")]
        assert not store.problems()
        confirmed = {row.id for row in store.tracklets() if row.person_id}
        assert not confirmed & {proposal.tracklet for v in store.visits(200) for _, proposal in store.proposals(v.id)}
    assert waiting["state"] == ("promoted" if night["promoted"] else "refused")
    assert not any(name in json.dumps([waiting, night]) for name in names)

    again = run(folder, "tune", "--json")
    assert "nothing is new since the last night" in again.stderr
    assert [row["version"] for row in versions(folder)] == ["v1"]
    assert told(again, "summary")[0]["proposals"] > small.house.tracks / 4


def test_without_pytorch_it_proposes_and_says_what_is_missing(small: Built, tmp_path: Path) -> None:
    folder = small.copy(tmp_path)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(WITHOUT_TORCH)
    done = run(folder, "tune", "--json", PYTHONPATH=str(tmp_path / "hidden"))
    assert "no training: PyTorch is not installed, which the night's training needs" in done.stderr
    assert told(done, "summary")[0]["proposals"] > small.house.tracks / 4
    assert versions(folder) == []


def test_what_cannot_be_is_said_before_the_work(small: Built, tmp_path: Path) -> None:
    folder = small.copy(tmp_path)
    done = subprocess.run(
        command(folder, "tune", "--plots", "/sys"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("edgecam: /sys: no plots can be written there")
    with sqlite3.connect(folder / "s/edgecam.db") as database:
        database.execute("DELETE FROM tracklets")
    assert "no training: no face of the last days is kept yet" in run(folder, "tune").stderr
    assert not (folder / "s/night").exists()


@pytest.mark.slow
def test_what_a_night_promotes_serves_and_is_rolled_back(big: Built, tmp_path: Path) -> None:
    folder = big.copy(tmp_path)
    assert "nothing was kept" in run(folder, "tune", "--dry-run").stdout
    assert versions(folder) == []
    night = told(run(folder, "tune", "--json"), "night")[0]
    assert night["promoted"], night["reasons"]
    tuned = json.loads(run(folder, "calibrate", "--json").stdout)
    assert tuned["model"].endswith(versions(folder)[0]["id"])
    shown = run(folder, "versions", "show", "v1").stdout
    assert "signed" in shown
    assert all(name in shown for name in big.house.people)
    run(folder, "versions", "rollback")
    assert json.loads(run(folder, "calibrate", "--json").stdout)["model"] == tuned["model"].split("/")[0]
    run(folder, "versions", "rollback", "v1")
    run(folder, "people", "forget", big.house.people[0], "--yes")
    assert [row["state"] for row in versions(folder)] == ["ended"]
    assert json.loads(run(folder, "calibrate", "--json").stdout)["model"] == tuned["model"].split("/")[0]


@pytest.mark.slow
def test_a_killed_night_changes_nothing_and_goes_on_with_its_training(big: Built, tmp_path: Path) -> None:
    folder = big.copy(tmp_path)
    with subprocess.Popen(command(folder, "tune"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: list((folder / "s/night").glob("*.training")), "the first training", within_s=300)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert versions(folder) == []
    sealed = b"".join(path.read_bytes() for path in (folder / "s/night").glob("*.training"))
    assert b"bottleneck" not in sealed
    whole = told(run(big.copy(tmp_path / "unbroken"), "tune", "--json"), "night")[0]
    broken = told(run(folder, "tune", "--json"), "night")[0]
    assert broken["promoted"]
    for night in (broken, whole):  # what a face takes is measured anew
        night["gate"]["checks"] = [check for check in night["gate"]["checks"] if check["name"] != "time"]
    assert {**broken, "memory": None} == {**whole, "memory": None}
    assert not (folder / "s/night").exists()
