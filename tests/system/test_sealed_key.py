"""The service's key sealed by systemd-creds: moved there, used by the service, changed again, moved back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from booted import Machine, launcher, missing, program
from test_booted import CONFIG, INSTALL

pytestmark = [
    pytest.mark.machine,
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=f"no machine can be booted: {missing()}"),
]

EDGECAM = "/opt/edgecam/bin/edgecam"


def test_the_services_key_is_sealed_changed_and_brought_back(tmp_path: Path, models_dir: Path) -> None:
    try:
        booting = Machine(tmp_path, None, program(models_dir))
    except RuntimeError as err:
        pytest.skip(f"no machine boots here: {err}")
    with booting as machine:
        version = re.match(r"systemd (\d+)", machine.run("systemctl", "--version"))
        if version is None or int(version[1]) < 250:
            pytest.skip("this systemd has no systemd-creds")
        machine.write(EDGECAM, launcher())
        machine.sh(f"chmod 755 {EDGECAM}; ip link set lo up; ip address add 10.1.2.3/32 dev lo")
        machine.sh(INSTALL.format(""))
        machine.write(
            "/etc/edgecam/edgecam.toml", CONFIG.replace("[store]", '[store]\nbackup_dir = "/var/lib/edgecam/b"')
        )
        machine.sh("ln -s /srv/models/* /var/lib/edgecam/models/")
        machine.run("systemctl", "start", "edgecam.service")
        machine.sh(f"{EDGECAM} backup")
        said = machine.sh(f"{EDGECAM} key rotate --to systemd-creds 2>&1 || true")
        assert "the daemon is running: stop it first" in said
        machine.run("systemctl", "stop", "edgecam.service")
        (plain,) = machine.sh("base64 /etc/edgecam/edgecam.key").split()

        said = machine.sh(f"{EDGECAM} key rotate --to systemd-creds 2>&1")
        assert "/etc/edgecam/edgecam.key.cred (systemd-creds)" in said
        assert "not changed" not in said
        assert machine.sh("ls /etc/edgecam").split() == ["broker-password", "edgecam.key.cred", "edgecam.toml"]
        machine.sh(INSTALL.format(""))
        assert "[Service]" not in machine.sh("systemd-analyze verify edgecam.service edgecam-tune.service 2>&1 || true")
        machine.run("systemctl", "start", "edgecam.service")
        assert machine.show("edgecam.service", "ActiveState", "Result") == ["active", "success"]
        shown = machine.sh("base64 /run/credentials/edgecam.service/edgecam.key").split()
        assert shown != [plain]
        assert "systemd-creds" in machine.sh(f"{EDGECAM} key show")
        machine.run("systemctl", "stop", "edgecam.service")

        machine.sh(f"{EDGECAM} key rotate")
        machine.run("systemctl", "start", "edgecam.service")
        again = machine.sh("base64 /run/credentials/edgecam.service/edgecam.key").split()
        assert again not in (shown, [plain])
        machine.run("systemctl", "stop", "edgecam.service")
        machine.sh(f"{EDGECAM} restore $(ls /var/lib/edgecam/b/*.db | head -1)")

        machine.sh("rm /var/lib/systemd/credential.secret")  # as on another machine
        said = machine.sh(f"{EDGECAM} people list 2>&1 || true")
        assert "cannot be unsealed here" in said
        assert "edgecam restore BACKUP" in said
        assert "Traceback" not in said
        machine.sh(f"{EDGECAM} reset --yes")
        machine.run("systemctl", "start", "edgecam.service")
        assert machine.show("edgecam.service", "ActiveState") == ["active"], "with a new key, sealed here"
