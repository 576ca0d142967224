"""The Debian package on a fresh Debian: to READY, upgraded, removed, purged. `EDGECAM_DEB` names one that is built."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
from booted import ROOT, Machine, debian, missing
from box import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.machine,
    pytest.mark.models,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=f"no machine can be booted: {missing()}"),
]

KEPT = "cat /etc/edgecam/edgecam.toml; base64 /etc/edgecam/edgecam.key; ls /var/lib/edgecam"


@pytest.fixture(scope="module")
def package() -> Path:
    if built := os.environ.get("EDGECAM_DEB"):
        return Path(built).resolve()
    done = subprocess.run([ROOT / "deploy/deb"], capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr
    return ROOT / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, package: Path, models_dir: Path) -> Iterator[Machine]:
    binds = {package.parent: "/srv/build", models_dir: "/srv/models"}
    try:
        booting = Machine(tmp_path_factory.mktemp("deb"), debian(), binds)
    except RuntimeError as err:
        pytest.skip(f"no machine boots here: {err}")
    with booting as booted:
        yield booted


def test_from_the_package_to_ready(machine: Machine, package: Path) -> None:
    began = time.monotonic()
    said = machine.run("dpkg", "-i", f"/srv/build/{package.name}", timeout_s=600)
    assert "now name your camera" in said
    machine.sh("ln -s /srv/models/* /var/lib/edgecam/models/")
    machine.write("/etc/edgecam/edgecam.toml", '[cameras.front]\nurl = "http://127.0.0.1:9/x"\n')
    machine.run("systemctl", "start", "edgecam.service", timeout_s=200)
    print(f"from dpkg -i to READY: {time.monotonic() - began:.0f} s")
    assert machine.show("edgecam.service", "ActiveState", "UnitFileState") == ["active", "enabled"]
    assert machine.show("edgecam.service", "ProtectProc") == ["invisible"]
    status = machine.run("edgecam", "status", "--json", ok=False)
    assert '"ready": true' in status


def test_no_trace_of_who_built_it(machine: Machine) -> None:
    found = machine.sh(f"grep -rlI -e '{ROOT}' -e /tmp/tmp. /opt/edgecam --include=* | head || true")
    assert found == ""


def test_an_upgrade_keeps_everything_and_restarts(machine: Machine, package: Path) -> None:
    before, pid = machine.sh(KEPT), machine.show("edgecam.service", "MainPID")
    machine.run("dpkg", "-i", f"/srv/build/{package.name}", timeout_s=600)
    until(lambda: machine.show("edgecam.service", "ActiveState") == ["active"], "ready again")
    assert machine.show("edgecam.service", "MainPID") != pid
    assert machine.sh(KEPT).split() == before.split()


def test_removed_it_leaves_data_and_purged_nothing(machine: Machine) -> None:
    before = machine.sh("cat /etc/edgecam/edgecam.toml; base64 /etc/edgecam/edgecam.key")
    machine.run("dpkg", "-r", "edgecam", timeout_s=120)
    assert machine.sh("cat /etc/edgecam/edgecam.toml; base64 /etc/edgecam/edgecam.key") == before
    assert machine.sh("systemctl list-units 'edgecam*' --no-legend --state=active") == ""
    machine.run("dpkg", "-P", "edgecam", timeout_s=120)
    left = machine.sh("find / -xdev \\( -path /srv -o -path /proc -o -path /tmp \\) -prune -o -name '*edgecam*' -print")
    assert left == ""
    assert "edgecam" not in machine.sh("cat /etc/passwd /etc/group")
