"""The service: started at boot, its timers and helper enabled, and what its sandbox hides from it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Iterator, List, Tuple

from edgecam.daemon.checks.base import Finding, Subject

STATE = Path("/var/lib/edgecam")
_HIDDEN = ("/home/", "/root/", "/media/", "/mnt/")
_RESTARTS = 3
_NIGHT = "edgecam-tune.service"


def check(subject: Subject) -> Iterator[Finding]:
    """Ask systemd, where it is the service that is examined."""
    if not subject.as_service:
        return
    for config in subject.config.cameras.values():
        if config.url.startswith(_HIDDEN):
            text = f"the service cannot see {config.url} (ProtectHome, InaccessiblePaths)"
            yield Finding("service", "broken", text, f"copy it to {STATE}")
    for unit, why in _wanted(subject):
        if _systemctl("is-enabled", unit) not in ("enabled", "static", "enabled-runtime"):
            yield Finding("service", "hint", f"{unit} is not enabled: {why}", f"systemctl enable --now {unit}")
        elif _systemctl("is-active", unit) == "failed":
            fix = f"journalctl -u {unit} -n 50 says why; then: systemctl restart {unit}"
            yield Finding("service", "broken", f"{unit} has failed", fix)
        else:
            yield Finding("service", "ok", f"{unit} is enabled")
    if subject.config.store.cluster_unknown and _systemctl("is-active", _NIGHT) == "failed":
        fix = f"journalctl -u {_NIGHT} -n 50 says why; then: systemctl start {_NIGHT}"
        yield Finding("service", "broken", "the last night failed", fix)
    restarts = _systemctl("show", "edgecam.service", "--property=NRestarts").partition("=")[2]
    if restarts.isdigit() and int(restarts) >= _RESTARTS:
        text = f"systemd had to restart it {restarts} times since it was started by hand or at boot"
        yield Finding("service", "hint", text, "journalctl -u edgecam -p warning says why; report it")
    if os.geteuid() != 0 or subject.state != STATE:
        fix = "sudo edgecam doctor"
        yield Finding("service", "hint", "run as root to examine the service's own state", fix)


def _wanted(subject: Subject) -> List[Tuple[str, str]]:
    """Return the units that this configuration needs, with what happens without each."""
    presence = subject.config.presence
    wanted = [("edgecam.service", "nobody watches after the next start of the box")]
    if presence.radio or presence.mdns or presence.ble or presence.neighbours:
        wanted.append(("edgecam-presence.service", "nobody's phone is noticed after the next start of the box"))
    if subject.config.store.cluster_unknown:
        wanted.append(("edgecam-tune.timer", "faces are kept to learn from, and no night comes"))
    return wanted


def _systemctl(*arguments: str) -> str:
    """Return what it prints, in one word; empty if it does not answer."""
    try:
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
