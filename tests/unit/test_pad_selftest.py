"""Counting what is held to the owner's own camera: sessions, tables, and clips as cameras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edgecam.errors import InputError
from edgecam.evaluation.pad_selftest import Presentation, Session, recordings, table

ABOUT = {"camera": "door", "policy": "announce"}


def rows_of(done: List[Presentation], asked: Dict[str, int]) -> Dict[str, Dict[str, Any]]:
    return {str(row.get("species", "summary")): row for row in table(done, asked, "camera door")}


def shown(species: str, verdict: Any, n: int, *, named: bool = False) -> List[Presentation]:
    return [Presentation(species, verdict, named)] * n


def test_the_table_counts_each_kind_and_tells_the_worst_with_its_exact_interval() -> None:
    done = [
        *shown("live", "live", 8), *shown("live", "spoof", 1), *shown("live-glasses", "unproven", 1),
        *shown("print", "spoof", 20), *shown("print", None, 3),
        *shown("phone", "spoof", 18), *shown("phone", "live", 1, named=True),
        *shown("phone", "unproven", 1, named=True),
    ]  # fmt: skip
    rows = rows_of(done, {"live": 9, "print": 20, "phone": 20, "tablet": 20})
    assert (rows["live"]["bona_fide"], rows["live"]["rejected"], rows["live"]["attacks"]) == (9, 1, 0)
    assert (rows["live-glasses"]["bona_fide"], rows["live-glasses"]["no_answer"]) == (1, 1)
    assert (rows["print"]["attacks"], rows["print"]["accepted"], rows["print"]["unusable"]) == (20, 0, 3)
    assert rows["print"]["error_ci95"] == [0.0, 0.1684]
    assert (rows["phone"]["accepted"], rows["phone"]["no_answer"], rows["phone"]["named"]) == (1, 1, 2)
    assert rows["tablet"]["error_ci95"] is None
    summary = rows["summary"]
    assert (summary["worst_species"], summary["apcer"]) == ("phone", 0.05)
    assert summary["bpcer"] == 0.1
    assert summary["short"] == {"tablet": 20}
    assert "camera door only" in summary["scope"]


def test_of_two_kinds_never_accepted_the_less_shown_is_the_worst() -> None:
    rows = rows_of([*shown("print", "spoof", 20), *shown("phone", "spoof", 2)], {})
    assert rows["summary"]["worst_species"] == "phone"


def test_a_session_goes_on_where_it_was_and_keeps_no_reason(tmp_path: Path) -> None:
    path = tmp_path / "session"
    Session(path, ABOUT).add(Presentation("print", "spoof", False, "looks like Ann"))
    Session(path, ABOUT).add(Presentation("print", None, False, "no face"))
    again = Session(path, ABOUT)
    assert (again.count("print"), len(again.done)) == (1, 2)
    assert "Ann" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="begun with"):
        Session(path, {**ABOUT, "camera": "yard"})
    path.write_text("no session\n")
    with pytest.raises(InputError, match="not a self-test session"):
        Session(path, ABOUT)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "print").mkdir()
    with pytest.raises(InputError, match="folders live/, print/"):
        recordings(tmp_path)


def selftest(state: Path, *args: object, keys: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecam", "pad-selftest", "--json", *map(str, args)]
    env = {**os.environ, "EDGECAM_STATE": str(state)}
    env.pop("EDGECAM_CONFIG", None)
    return subprocess.run(command, capture_output=True, text=True, env=env, input=keys, timeout=100, check=False)


def by_species(done: subprocess.CompletedProcess[str]) -> Dict[str, Dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {str(row.get("species", "summary")): row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.data
@pytest.mark.models
def test_recordings_of_people_and_a_screen(data_dir: Path, registry: object, tmp_path: Path) -> None:
    for kind, clip in (("live", "wolf_real"), ("monitor", "wolf_fake"), ("phone", "wolf_real")):
        (tmp_path / "r" / kind).mkdir(parents=True)
        (tmp_path / "r" / kind / "1.mp4").symlink_to(data_dir / f"videos/liveness/{clip}.mp4")
    rows = by_species(selftest(tmp_path / "state", "--recordings", tmp_path / "r", "--seconds", 1.5))
    assert (rows["live"]["bona_fide"], rows["live"]["rejected"], rows["live"]["no_answer"]) == (1, 0, 0)
    assert (rows["monitor"]["attacks"], rows["monitor"]["accepted"]) == (1, 0)
    # A living face among the attacks is one that was accepted.
    assert (rows["phone"]["attacks"], rows["phone"]["accepted"]) == (1, 1)
    assert rows["summary"]["worst_species"] == "phone"
    assert rows["summary"]["short"] == {"live": 9, "monitor": 19, "phone": 19}


@pytest.mark.data
@pytest.mark.models
def test_a_camera_is_shown_one_thing_after_the_other_and_may_be_left_in_between(
    data_dir: Path, registry: object, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    asked = ("--camera", data_dir / "videos/liveness/wolf_fake.mp4", "--seconds", 1, "--species", "print,phone",
             "--attacks", 2, "--live", 1)  # fmt: skip
    first = selftest(state, *asked, keys="s\n\nq\n")
    assert "print 2 of 2" in first.stderr
    rows = by_species(first)
    assert (rows["live"]["bona_fide"], rows["print"]["attacks"]) == (0, 1)
    assert rows["summary"]["short"] == {"live": 1, "print": 1, "phone": 2}
    rows = by_species(selftest(state, *asked, keys="\n\n\n"))
    assert (rows["live"]["rejected"], rows["print"]["attacks"], rows["print"]["accepted"]) == (1, 2, 0)
    assert rows["phone"]["attacks"] == 1
    kept = (state / "pad-selftest.jsonl").read_text().splitlines()
    assert len(kept) == 1 + 4
    assert all(set(json.loads(line)) == {"species", "verdict", "named"} for line in kept[1:])


@pytest.mark.models
def test_a_camera_that_is_not_there_is_said_in_one_line(registry: object, tmp_path: Path) -> None:
    done = selftest(tmp_path / "state", "--camera", "nowhere")
    assert done.returncode == 2
    assert "no camera 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_kind_without_a_name_is_refused(tmp_path: Path) -> None:
    done = selftest(tmp_path / "state", "--recordings", tmp_path, "--species", "print, ")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--species 'print, ': a kind is empty" in done.stderr
    assert len(done.stderr.splitlines()) == 1
