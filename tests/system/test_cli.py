"""The command contract, from outside: real processes, real faces, exit codes and JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.data, pytest.mark.models]


class Box:
    """A state folder and the command line on it."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def run(self, *args: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command; the exit code is asserted and a traceback never appears."""
        env = {**os.environ, "EDGECAM_STATE": str(self.state)}
        env.pop("EDGECAM_CONFIG", None)
        command = [sys.executable, "-m", "edgecam", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, input=stdin, timeout=100, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *args: object, code: int = 0) -> List[Dict[str, Any]]:
        """Run a command with --json; every line of stdout must be an object."""
        return [json.loads(line) for line in self.run(*args, "--json", code=code).stdout.splitlines()]


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> Path:
    return data_dir / "lfw_colour_10x10"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, photos: Path, registry: object) -> Box:
    """A box with two people enrolled from seven photos each."""
    made = Box(tmp_path_factory.mktemp("box") / "state")
    for person in ("Colin_Powell", "Tony_Blair"):
        (answer,) = made.json("enroll", person, *sorted((photos / person).glob("*.jpg"))[:7])
        assert answer["person"] == person
        assert answer["created"]
        assert len(answer["kept"]) + len(answer["refused"]) == 7
        assert len(answer["kept"]) >= 5
    return made


def test_people_are_told_apart_and_strangers_are_unknown(box: Box, photos: Path) -> None:
    mates = [sorted((photos / p).glob("*.jpg"))[8] for p in ("Colin_Powell", "Tony_Blair")]
    strangers = [min((photos / p).glob("*.jpg")) for p in ("Jacques_Chirac", "Hugo_Chavez", "Vladimir_Putin")]
    rows = {Path(row["path"]).parent.name: row["faces"] for row in box.json("identify", *mates, *strangers)}
    largest = {name: max(faces, key=lambda f: f["box"][2] * f["box"][3]) for name, faces in rows.items()}
    assert {name: face["person"] for name, face in largest.items()} == {
        "Colin_Powell": "Colin_Powell",
        "Tony_Blair": "Tony_Blair",
        "Jacques_Chirac": None,
        "Hugo_Chavez": None,
        "Vladimir_Putin": None,
    }
    for face in largest.values():
        assert set(face) >= {"box", "verdict", "person", "nearest", "similarity", "quality", "reason"}
        assert face["nearest"] in ("Colin_Powell", "Tony_Blair")
        assert -1 <= face["similarity"] <= 1


def test_a_picture_without_a_face_is_an_answer_and_a_broken_one_a_failure(box: Box, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.png", tmp_path / "broken.jpg"
    cv2.imwrite(str(empty), np.full((200, 300, 3), 120, np.uint8))
    broken.write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    assert box.json("identify", empty) == [{"path": str(empty), "faces": []}]
    done = box.run("identify", broken, empty, "--json", code=1)
    assert len(done.stdout.splitlines()) == 1
    assert str(broken) in done.stderr


def test_two_faces_are_refused_until_told_which(box: Box, photos: Path, tmp_path: Path) -> None:
    left, right = (cv2.imread(str(photos / p / f"{p}_0003.jpg")) for p in ("Gerhard_Schroeder", "Ariel_Sharon"))
    both = tmp_path / "both.png"
    cv2.imwrite(str(both), np.concatenate([left, right], axis=1))
    done = box.run("enroll", "Gerhard", both, code=1)
    assert "2 faces" in done.stderr
    box.run("enroll", "Gerhard", both, "--face", 1)
    probe = sorted((photos / "Gerhard_Schroeder").glob("*.jpg"))[5]
    (row,) = box.json("identify", probe)
    assert max(row["faces"], key=lambda f: f["box"][2])["nearest"] == "Gerhard"
    box.run("people", "forget", "Gerhard", "--yes")


def test_a_foreign_photo_among_the_others_is_left_out(box: Box, photos: Path, tmp_path: Path) -> None:
    for i, photo in enumerate(sorted((photos / "Jacques_Chirac").glob("*.jpg"))[:5]):
        shutil.copy(photo, tmp_path / f"{i}.jpg")
    shutil.copy(photos / "Hugo_Chavez/Hugo_Chavez_0001.jpg", tmp_path / "wrong.jpg")
    (answer,) = box.json("enroll", "Jacques", tmp_path)
    assert ["does not look like" in r["reason"] for r in answer["refused"] if "wrong" in r["source"]] == [True]
    box.run("people", "forget", "Jacques", "--yes")


def test_enrolling_somebody_under_another_name_warns(box: Box, photos: Path) -> None:
    (answer,) = box.json("enroll", "Doppelganger", *sorted((photos / "Tony_Blair").glob("*.jpg"))[7:10])
    assert any("looks much like Tony_Blair" in warning for warning in answer["warnings"])
    probe = sorted((photos / "Tony_Blair").glob("*.jpg"))[1]
    (row,) = box.json("identify", probe)
    (face,) = row["faces"][:1]
    assert face["verdict"] in ("uncertain", "known")
    if face["verdict"] == "uncertain":
        assert {"Tony_Blair", "Doppelganger"} <= set(face["candidates"])
    merged = box.json("people", "merge", "Tony_Blair", "Doppelganger")
    assert merged[0]["name"] == "Tony_Blair"
    assert "Doppelganger" not in box.run("people", "list").stdout


def test_forgetting_takes_effect_and_renaming_keeps_the_faces(box: Box, photos: Path) -> None:
    box.run("enroll", "Arnold", *sorted((photos / "Arnold_Schwarzenegger").glob("*.jpg"))[:4])
    box.run("people", "rename", "Arnold", "Arni")
    probe = sorted((photos / "Arnold_Schwarzenegger").glob("*.jpg"))[6]
    assert box.json("identify", probe)[0]["faces"][0]["person"] == "Arni"
    assert box.run("people", "forget", "Arni", code=1).stderr  # nobody said yes
    box.run("people", "forget", "Arni", "--yes")
    assert box.json("identify", probe)[0]["faces"][0]["person"] is None
    box.run("people", "show", "Arni", code=1)


def test_replay_tells_each_track_and_a_summary(box: Box, data_dir: Path, tmp_path: Path) -> None:
    clip = data_dir / "videos/liveness/lestari_real.mp4"
    box.run("enroll", "lestari", clip)
    *decisions, summary = box.json("replay", clip, "--fast")
    assert [d["person"] for d in decisions] == ["lestari"]
    wanted = {"type", "visit", "track", "verdict", "person", "t_first_s", "t_named_s", "similarity", "liveness"}
    assert set(decisions[0]) >= wanted | {"blinks", "reason"}
    assert decisions[0]["t_named_s"] - decisions[0]["t_first_s"] < 1.0
    assert summary["type"] == "summary"
    still = tmp_path / "still"
    still.mkdir()
    shutil.copy(data_dir / "lfw_colour_10x10/Tony_Blair/Tony_Blair_0001.jpg", still / "1.jpg")
    *decisions, _ = box.json("replay", still, "--fast")  # one frame, no motion, but a face: never silence
    assert len(decisions) == 1
    box.run("people", "forget", "lestari", "--yes")


def test_a_file_name_that_is_no_text_is_told_all_the_same(box: Box, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"bad\xff.jpg")
    shutil.copy(photos / "Hugo_Chavez/Hugo_Chavez_0001.jpg", odd)
    shutil.copy(photos / "Hugo_Chavez/Hugo_Chavez_0001.jpg", tmp_path / "again.jpg")
    rows = box.json("identify", tmp_path)
    assert len(rows) == 2
    assert len(rows[0]["faces"]) == len(rows[1]["faces"]) >= 1
    (answer,) = box.json("enroll", "Hugo", tmp_path)
    assert [r["reason"] for r in answer["refused"]] == ["the same photo once more"]
    box.run("people", "forget", "Hugo", "--yes")


def test_wrong_use_exits_2_and_says_what(box: Box, tmp_path: Path) -> None:
    bad = tmp_path / "edgecam.toml"
    bad.write_text("[detect]\nmin_face = 3\n")
    done = box.run("identify", tmp_path, "--config", bad, code=2)
    assert "detect.min_face" in done.stderr
    box.run("enroll", "Nobody", code=2)
    box.run("identify", code=2)
    box.run("no-such-command", code=2)


def test_an_empty_argument_or_variable_is_not_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Box(tmp_path)
    for arguments in (["identify", ""], ["people", "list", "--state="], ["backup", "--state", ""]):
        assert "an argument is empty" in mine.run(*arguments, code=2).stderr
    env = {**os.environ, "EDGECAM_STATE": "", "EDGECAM_CONFIG": "", "EDGECAM_MODELS": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "edgecam", "people", "list"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 1
    assert f"{tmp_path}/.local/state/edgecam: nothing is stored here yet" in done.stderr


def test_a_wrong_key_is_named(box: Box, tmp_path: Path) -> None:
    copy = tmp_path / "state"
    shutil.copytree(box.state, copy)
    (copy / "master.key").write_bytes(os.urandom(32))
    done = Box(copy).run("people", "list", code=1)
    assert "key" in done.stderr


def flip(box: Box, table: str, column: str, row: int = 0) -> None:
    """Flip one bit of an entry of Colin Powell's, who was enrolled first."""
    with contextlib.closing(sqlite3.connect(box.state / "edgecam.db")) as database:
        select = f"SELECT rowid, {column} FROM {table} ORDER BY face_id LIMIT 1 OFFSET ?"  # noqa: S608 - constants
        rowid, blob = database.execute(select, (row,)).fetchone()
        damaged = bytes([*blob[:-1], blob[-1] ^ 1])
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (damaged, rowid))  # noqa: S608
        database.commit()


def damage_of(box: Box) -> Dict[str, str]:
    findings = box.json("doctor", code=1)  # there is no camera
    return {finding["text"].split(": ")[-1]: finding["fix"] for finding in findings if finding["check"] == "damage"}


def test_one_damaged_face_stops_nobody(box: Box, photos: Path, tmp_path: Path) -> None:
    mine = Box(tmp_path / "state")
    shutil.copytree(box.state, mine.state)
    backup = mine.json("backup", tmp_path)[0]["path"]
    for table, column, row in (("vectors", "vector", 0), ("vectors", "vector", 1), ("crops", "crop", 1)):
        flip(mine, table, column, row)
    found = damage_of(mine)
    assert set(found) == {"vectors", "pictures of faces"}
    assert all(found.values())
    probes = [sorted((photos / person).glob("*.jpg"))[8] for person in ("Colin_Powell", "Tony_Blair")]
    done = mine.run("identify", *probes, "--json")
    people = [json.loads(line)["faces"][0]["person"] for line in done.stdout.splitlines()]
    assert people == ["Colin_Powell", "Tony_Blair"]
    assert done.stderr.count("\n") == 1
    assert "1 damaged faces are left out" in done.stderr
    assert "Colin" not in done.stderr
    assert mine.json("restore", backup)[0]["mended"] == 2, "one vector was made anew before"
    assert damage_of(mine) == {}


def test_on_a_full_disk_the_daemon_says_so_and_the_rest_reads(
    photos: Path, small_disk: Path, fill_disk: Callable[[], None]
) -> None:
    mine = Box(small_disk / "state")
    first, probe, *_ = sorted((photos / "Colin_Powell").glob("*.jpg"))
    mine.run("enroll", "Colin_Powell", first)
    fill_disk()
    done = mine.run("run", "--camera", "door=rtsp://127.0.0.1:9/x", code=1)
    assert f"{mine.state}/edgecam.db: disk full: free some space" in done.stderr.splitlines()[-1]
    done = mine.run("people", "rename", "Colin_Powell", "Colin", code=1)
    assert f"{mine.state}/edgecam.db: disk full: free some space" in done.stderr
    assert [row["name"] for row in mine.json("people", "list")] == ["Colin_Powell"]
    assert mine.json("identify", probe)[0]["faces"][0]["nearest"] == "Colin_Powell"
    assert mine.json("visits", "list") == []
    assert mine.json("status", code=1)[0]["people"] == 1
    found = {finding["check"]: finding["state"] for finding in mine.json("doctor", code=1)}
    assert (found["state"], found["disk"]) == ("ok", "broken")


INTERRUPTED = """
import os, signal, sys
from edgecam.__main__ import main
class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.exit(main(["people", "list", "--state", "/nowhere"]))
"""


@pytest.mark.parametrize("module", ["edgecam.errors", "argparse", "edgecam.cli.people", "edgecam.config", "pydantic"])
def test_an_interrupt_among_the_imports_is_no_traceback(module: str) -> None:
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{INTERRUPTED}", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "edgecam: interrupted\n")


def test_help_names_every_command(box: Box) -> None:
    done = box.run("--help")
    for command in ("enroll", "identify", "replay", "run", "people", "visits", "doctor", "models", "eval", "bench"):
        assert f"    {command} " in done.stdout
