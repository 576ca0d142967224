"""The package and the bundle on a fresh Debian without a network: to the first alert, and back off it.

`EDGECAM_DEB` and `EDGECAM_BUNDLE` name ones that are built.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import pytest
from booted import ROOT, Machine, debian, missing
from box import Door, cut, until
from broker import Broker, mosquitto
from cameras import rtsp_missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.machine,
    pytest.mark.broker,
    pytest.mark.rtsp,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=f"no machine can be booted: {missing()}"),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "-"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bundle is made for Debian 12's Python 3.11"),
]

KEPT = "cat /etc/edgecam/edgecam.toml; base64 /etc/edgecam/edgecam.key"
NOT_OURS = ("/srv", "/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/lib/dpkg", "/var/log", "/var/cache")
EVERY_FILE = f"find / -xdev \\( {' -o '.join(f'-path {path}' for path in NOT_OURS)} \\) -prune -o -print"
ENROLLED_S = 8.0
CONFIG = """
[cameras.front]
url = "rtsp://127.0.0.1:8554/cam"
[liveness]
# What this door shows is a picture in a picture, and told as that.
passive = false
[motion]
burst_s = 2.0
[alerts]
host = "127.0.0.1"
port = 1883
tls = false
username = "edgecam"
password_file = "/etc/edgecam/broker-password"
cooldown_s = 0.0
rules = { resident = "always", known = "always" }
"""


def built(*command: object, **env: str) -> Path:
    """Run what builds something, and return the path that it prints last."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=1500,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / next(word for word in done.stdout.splitlines()[-1].split() if word.startswith("build/"))


@pytest.fixture(scope="module")
def bundle() -> Path:
    if given := os.environ.get("EDGECAM_BUNDLE"):
        return Path(given).resolve()
    return built(ROOT / "deploy/bundle", Path(sys.executable).parent, BOARD="x86_64", ORT_WHEEL="")


@pytest.fixture(scope="module")
def package(bundle: Path) -> Path:
    if given := os.environ.get("EDGECAM_DEB"):
        return Path(given).resolve()
    return built(ROOT / "deploy/deb", WHEELS=str(bundle / "wheels"))


@pytest.fixture(scope="module")
def older(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package as one of an older version, with a file that the newer one does not have."""
    folder = tmp_path_factory.mktemp("older")
    subprocess.run(["dpkg-deb", "-R", package, folder / "content"], check=True)
    (code,) = folder.glob("content/opt/edgecam/lib/python3.*/site-packages/edgecam/__init__.py")
    for file, old, new in (
        (folder / "content/DEBIAN/control", "\nVersion: 0.1.0\n", "\nVersion: 0.0.9\n"),
        (code, '__version__ = "0.1.0"', '__version__ = "0.0.9"'),
    ):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
    (folder / "content/opt/edgecam/gone-since").touch()
    made = folder / "edgecam_0.0.9.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", folder / "content", made], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder / "content")
    return made


def fresh(folder: Path, binds: Dict[Path, str]) -> Machine:
    try:
        return Machine(folder, debian(), binds)
    except RuntimeError as err:
        pytest.skip(f"no machine boots here: {err}")


class House:
    """A machine, and in its network a broker and a camera that are the host's processes."""

    def __init__(self, machine: Machine, folder: Path, recording: Path) -> None:
        self.machine = machine
        self._folder, self._recording = folder, recording
        self._processes: List[subprocess.Popen[bytes]] = []
        self.before: Set[str] = set(machine.sh(EVERY_FILE).splitlines())
        machine.sh("ip link set lo up")
        Broker(folder, users={"edgecam": "s3cret", "house": "s3cret"}, port=1883)
        self._start("broker", str(mosquitto()), "-c", str(folder / "mosquitto.conf"))
        until(lambda: ":1883" in machine.sh("ss -ltn"), "the broker")
        self._start("heard", "mosquitto_sub", "-u", "house", "-P", "s3cret", "-t", "edgecam/#", "-v")

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / name).open("ab") as out:
            inside = ["nsenter", "-t", self.machine.leader, "-n", "--", *command]
            process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._processes.append(process)
        return process

    def events(self) -> List[Dict[str, Any]]:
        """Return what the house was told of visitors."""
        lines = (self._folder / "heard").read_text().splitlines()
        return [json.loads(line.split(" ", 1)[1]) for line in lines if line.split(" ")[0].endswith("/event")]

    def ring(self) -> Dict[str, Any]:
        """Let Ann come to the door; return the first that is told of her at the end of her visit."""
        told = len(self.events())
        server = ROOT / "tests/system/rtsp_server.py"
        camera = self._start("camera", "/usr/bin/python3", str(server), "--port", "8554", str(self._recording))

        def final() -> List[Dict[str, Any]]:
            return [event for event in self.events()[told:] if event["phase"] == "final"]

        until(final, "a word about Ann", within_s=120.0)
        until(lambda: not self._status()["cameras"]["front"]["visit_open"], "the visit's end")
        camera.kill()
        camera.wait()
        return final()[0]

    def _status(self) -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(self.machine.run("edgecam", "status", "--json", ok=False) or "{}")
        return found

    def edgecam(self, *arguments: str) -> List[Any]:
        """Return the JSON lines of a command given in the machine."""
        return [json.loads(line) for line in self.machine.run("edgecam", *arguments, "--json").splitlines()]

    def running(self) -> str:
        """Wait until the service serves; return its version."""
        until(lambda: self.machine.show("edgecam.service", "ActiveState") == ["active"], "ready")
        return str(until(lambda: self._status().get("version"), "an answer"))

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, package: Path, older: Path, bundle: Path, data_dir: Path
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    clip = data_dir / "videos/liveness/jomariya_real.mp4"
    (folder / "clips").mkdir()
    cut(clip, 0.0, ENROLLED_S, folder / "clips/ann.mp4")
    recording = Door().record(clip, ENROLLED_S + 4, ENROLLED_S + 9, folder / "door.mp4")
    binds = {
        package.parent: "/srv/new",
        older.parent: "/srv/old",
        bundle: "/srv/bundle",
        folder / "clips": "/srv/clips",
    }
    with fresh(tmp_path_factory.mktemp("m"), binds) as machine:
        made = House(machine, folder, recording)
        yield made
        made.close()


def test_from_the_package_to_the_first_alert(house: House, older: Path) -> None:
    machine, began = house.machine, time.monotonic()
    said = machine.run("dpkg", "-i", f"/srv/old/{older.name}", timeout_s=600)
    assert "now name your camera" in said
    machine.write("/etc/edgecam/edgecam.toml", CONFIG)
    machine.sh("printf s3cret | install -m 0400 /dev/stdin /etc/edgecam/broker-password")
    pull = ["runuser", "-u", "edgecam", "--", "edgecam", "models", "pull", "--mirror", "/srv/bundle/models"]
    machine.run(*pull, timeout_s=600)
    machine.run("systemctl", "start", "edgecam.service", timeout_s=200)
    print(f"from dpkg -i to READY: {time.monotonic() - began:.0f} s")
    assert machine.show("edgecam.service", "UnitFileState", "ProtectProc") == ["enabled", "invisible"]
    house.edgecam("enroll", "Ann Example", "/srv/clips/ann.mp4")
    machine.run("umount", "/srv/clips")
    event = house.ring()
    print(f"from dpkg -i to the first alert: {time.monotonic() - began:.0f} s")
    assert (event["event_type"], event["person"]) == ("known", "Ann Example")


def test_no_trace_of_who_built_it(house: House) -> None:
    found = house.machine.sh(f"grep -rlI -e '{ROOT}' -e /tmp/tmp. /opt/edgecam --include=* | head || true")
    assert found == ""


def test_upgraded_and_back_it_keeps_everything(house: House, package: Path, older: Path) -> None:
    machine = house.machine
    kept, people, visits = machine.sh(KEPT), house.edgecam("people", "list"), house.edgecam("visits", "list")
    assert people
    assert visits
    for file, version in ((package, "0.1.0"), (older, "0.0.9"), (package, "0.1.0")):
        pid = machine.show("edgecam.service", "MainPID")
        folder = "/srv/new" if file is package else "/srv/old"
        machine.run("dpkg", "-i", f"{folder}/{file.name}", timeout_s=600)
        assert house.running() == version
        assert machine.show("edgecam.service", "MainPID") != pid
        assert machine.sh(KEPT) == kept
        assert house.edgecam("people", "list") == people
        assert house.edgecam("visits", "list") == visits
        assert machine.sh("ls /opt/edgecam").split().count("gone-since") == (file is older)


def test_another_encoder_embeds_everybody_anew_from_what_is_kept(house: House) -> None:
    machine = house.machine
    assert machine.sh("ls /srv/clips") == ""
    before = house.ring()
    machine.write("/etc/edgecam/edgecam.toml", CONFIG + '[embed]\nkind = "sface"\n')
    machine.run("systemctl", "restart", "edgecam.service", timeout_s=200)
    assert "enrolled faces are embedded for sface-" in machine.journal("edgecam")
    event = house.ring()
    assert (event["event_type"], event["person"]) == ("known", "Ann Example")
    assert event["model"] != before["model"]


def test_removed_it_leaves_data_and_purged_nothing(house: House) -> None:
    machine = house.machine
    kept, state = machine.sh(KEPT), machine.sh("ls /var/lib/edgecam/edgecam.db /var/lib/edgecam/models")
    machine.run("dpkg", "-r", "edgecam", timeout_s=120)
    assert machine.sh(KEPT) == kept
    assert machine.sh("ls /var/lib/edgecam/edgecam.db /var/lib/edgecam/models") == state
    assert machine.sh("systemctl list-units 'edgecam*' --no-legend --state=active") == ""
    machine.run("dpkg", "-P", "edgecam", timeout_s=120)
    left = set(machine.sh(EVERY_FILE).splitlines()) - house.before
    # Made by whoever adds a user, and by systemd for its own journal and random numbers.
    known = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-"}
    assert {path for path in left if not path.startswith("/var/lib/systemd/")} <= known
    assert "edgecam" not in machine.sh("cat /etc/passwd /etc/group; systemctl list-unit-files; ls -R /var/lib/systemd")


def test_the_bundle_installs_where_there_is_no_network(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> None:
    with fresh(tmp_path_factory.mktemp("b"), {bundle: "/srv/bundle"}) as machine:
        assert machine.sh("ip route") == ""
        began = time.monotonic()
        said = machine.run("/srv/bundle/install", timeout_s=900)
        assert "with deploy/constraints/x86_64-py311.txt" in said
        machine.write("/etc/edgecam/edgecam.toml", CONFIG)
        machine.run("systemctl", "start", "edgecam.service", timeout_s=200)
        print(f"from the bundle's install to READY, models made: {time.monotonic() - began:.0f} s")
        assert machine.show("edgecam.service", "ActiveState") == ["active"]
        assert "sface" in machine.run("/usr/local/bin/edgecam", "models", "verify")
        said = machine.run("/srv/bundle/deploy/uninstall")
        assert "left: /etc/edgecam" in said
        left = machine.sh(
            "find / -xdev \\( -path /srv -o -path /proc -o -path /tmp \\) -prune -o -name '*edgecam*' -print"
        )
        assert {path for path in left.split() if not path.startswith("/var/lib/edgecam/")} == {
            "/etc/edgecam", "/etc/edgecam/edgecam.key", "/etc/edgecam/edgecam.toml", "/var/lib/edgecam",
        }  # fmt: skip


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stick"
    shutil.copytree(bundle, copy)
    (wheel,) = copy.glob("wheels/edgecam-*.whl")
    with wheel.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    done = subprocess.run(
        [copy / "install"], env={**os.environ, "DESTDIR": str(tmp_path / "root")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "this folder is damaged" in done.stderr
    assert not (tmp_path / "root").exists()
