"""The configuration: there, valid, and read by nobody else."""

from __future__ import annotations

import stat
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the file."""
    path = subject.config_path
    if subject.config_fault:
        yield Finding("config", "broken", subject.config_fault, "correct it, or: edgecam init --force writes a new one")
    elif path is None or not path.exists():
        yield Finding("config", "hint", "there is none: the defaults hold", "edgecam init")
        return
    else:
        yield Finding("config", "ok", str(path))
    if path is not None and path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007:
        secret = any("@" in camera.url for camera in subject.config.cameras.values())
        text = f"everybody may read {path}, and an address of a camera in it holds its password"
        other = f"everybody may read {path}"
        yield Finding("permissions", "broken" if secret else "hint", text if secret else other, f"chmod o= {path}")
