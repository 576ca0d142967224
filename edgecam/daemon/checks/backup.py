"""The backups: whether there are any, how old the newest is, and what they would survive."""

from __future__ import annotations

import os
import time
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject

_DAY_S = 86_400.0
_OLD_S = 3 * _DAY_S


def check(subject: Subject) -> Iterator[Finding]:
    """Look into the configured folder."""
    folder = subject.config.store.backup_dir
    if folder is None:
        yield Finding("backup", "hint", "no backups are written", "set store.backup_dir")
        return
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        fix = "correct its rights, or store.backup_dir"
        yield Finding("backup", "broken", f"{folder} cannot be written", fix)
        return
    written = [path.stat().st_mtime for path in folder.glob("edgecam-*.db")]
    if not written:
        yield Finding("backup", "hint", f"none yet in {folder}", "edgecam backup; the running daemon writes one a day")
        return
    age_s = time.time() - max(written)
    if age_s > _OLD_S:
        text = f"the newest is {age_s / _DAY_S:.0f} days old"
        yield Finding("backup", "broken", text, "edgecam backup says what hinders it")
    elif subject.state.is_dir() and folder.stat().st_dev == subject.state.stat().st_dev:
        text = f"{len(written)}, the newest {_age(age_s)} old, on the same disk as what they copy"
        yield Finding("backup", "hint", text, "copy them to another machine now and then")
    else:
        yield Finding("backup", "ok", f"{len(written)}, the newest {_age(age_s)} old")


def _age(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.0f} days"
