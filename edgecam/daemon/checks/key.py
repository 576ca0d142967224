"""The master key: where it lies, and who may read it."""

from __future__ import annotations

import stat
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the file, not into it."""
    from edgecam.store.vault import key_path

    path, own = key_path(subject.state)
    if not path.exists():  # `state` has told
        return
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("permissions", "broken", f"others may read {path}", f"chmod 600 {path}")
    backups = subject.config.store.backup_dir
    if backups is not None and path.resolve().parent == backups.resolve():
        yield Finding("key", "broken", f"the key lies among the backups ({path}): who finds them reads them", "move it")
    elif own:
        text = f"the key lies beside the data ({path}): it protects backups, not a stolen card"
        fix = "keep a copy of it elsewhere; see docs/operation.md for a systemd credential"
        yield Finding("key", "hint", text, fix)
    else:
        yield Finding("key", "ok", f"the key is {path}")
