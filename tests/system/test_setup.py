"""From nothing to a box that watches: `init`, then `doctor`, with a real camera and a real broker."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from box import COMMAND, Door
from broker import Broker, free_port, mosquitto

from edgecam.config import StoreConfig
from edgecam.store import Store

pytestmark = [
    pytest.mark.broker,
    pytest.mark.models,
    pytest.mark.timeout(120),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with Door() as started:
        yield started


class Home:
    """A state folder and a configuration that do not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.state, self.config = folder / "state", folder / "etc" / "edgecam.toml"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = ["--state", str(self.state), "--config", str(self.config)]
        done = subprocess.run(
            [*COMMAND, *arguments, *where],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr
        return done

    def findings(self) -> Dict[str, List[Dict[str, Any]]]:
        """Return what `doctor` found, by check."""
        found: Dict[str, List[Dict[str, Any]]] = {}
        done = self.run("doctor", "--json")
        assert "s3cret" not in done.stdout + done.stderr
        assert done.returncode == ('"broken"' in done.stdout)
        for line in done.stdout.splitlines():
            row = json.loads(line)
            found.setdefault(row.get("check", ""), []).append(row)
        return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_init_without_questions_makes_a_box_that_the_doctor_finds_sound(home: Home, door: Door, broker: Broker) -> None:
    address = f"mqtt://127.0.0.1:{broker.port}"
    done = home.run("init", "--yes", "--camera", f"front={door.url}", "--rotate", "180", "--broker", address)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "1280x720" in done.stderr
    if os.geteuid() != 0:
        assert stat.S_IMODE(home.config.stat().st_mode) == 0o600
    assert not stat.S_IMODE(home.config.stat().st_mode) & 0o007
    assert not stat.S_IMODE((home.state / "master.key").stat().st_mode) & 0o077

    found = home.findings()
    states = {check: {row["state"] for row in rows} for check, rows in found.items()}
    assert "ok" in states["camera"]
    assert states["broker"] == {"ok"}
    assert states["models"] == {"ok"}
    assert states["people"] == {"hint"}  # nobody is enrolled yet
    assert not any("broken" in state for state in states.values())


def test_init_replaces_nothing_unasked(home: Home, door: Door) -> None:
    home.config.parent.mkdir()
    home.config.write_text("# mine\n")
    refused = home.run("init", "--yes", "--camera", door.url, "--no-pull")
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert home.config.read_text() == "# mine\n"
    assert home.run("init", "--yes", "--camera", door.url, "--no-pull", "--force").returncode == 0
    assert home.config.with_name("edgecam.toml.old").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no camera given"),
        (("--camera", "/dev/video0", "--broker", "mqtt://a b"), "is not a broker"),
        (("--camera", "/dev/video0", "--broker", "b.lan:1883", "--user", "u", "--password-file", "/p"), "tls"),
    ],
)
def test_init_refuses_what_cannot_be(home: Home, arguments: List[str], says: str) -> None:
    done = home.run("init", "--yes", "--no-pull", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not home.config.exists()


def test_init_asks_and_says_so_when_nobody_answers(home: Home) -> None:
    done = home.run("init", "--no-pull")
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_the_doctor_names_what_is_broken_and_what_helps(home: Home) -> None:
    port = free_port()
    with Store.open(home.state, StoreConfig()):
        pass
    home.config.parent.mkdir()
    home.config.write_text(
        f'[cameras.front]\nurl = "http://ann:s3cret@127.0.0.1:{port}/stream.mjpg"\n'
        f'[alerts]\nhost = "127.0.0.1"\nport = {port}\ntls = false\n'
        f'[store]\nbackup_dir = "/proc/none/backups"\n[run]\nthreads = 16\n'
    )
    home.state.chmod(0o755)
    (home.state / "master.key").chmod(0o644)
    broken = {check: rows for check, rows in home.findings().items() if rows[0].get("state") == "broken"}
    assert {"permissions", "camera", "broker", "backup"} <= broken.keys()
    assert {row["fix"] for row in broken["permissions"]} == {
        f"chmod 700 {home.state}",
        f"chmod 600 {home.state / 'master.key'}",
        f"chmod o= {home.config}",
    }


@pytest.mark.data
def test_the_doctor_measures_the_face_before_the_camera(home: Home, door: Door, data_dir: Path) -> None:
    home.config.parent.mkdir()
    home.config.write_text(f'[cameras.front]\nurl = "{door.url}"\n')
    clip = data_dir / "videos" / "liveness" / "jomariya_real.mp4"
    door.visit(clip, 2.0, 12.0)
    faces = home.findings()["faces"]
    assert [row["state"] for row in faces] == ["ok"]
    assert "a face of" in faces[0]["text"]
