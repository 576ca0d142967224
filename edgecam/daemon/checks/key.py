"""The master key: where it lies, and who may read it."""

from __future__ import annotations

import contextlib
import stat
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject, asking
from edgecam.errors import EdgecamError


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the file, not into it."""
    from edgecam.store import KeyFile, key_place

    place = key_place(subject.state)
    path = place.path
    if not path.exists():  # `state` has told
        return
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("permissions", "broken", f"others may read {path}", f"chmod 600 {path}")
    backups = subject.config.store.backup_dir
    if backups is not None and path.resolve().parent == backups.resolve():
        yield Finding("key", "broken", f"the key lies among the backups ({path}): who finds them reads them", "move it")
    elif isinstance(place, KeyFile) and place.beside:
        text = f"the key lies beside the data ({path}): it protects backups, not a stolen card"
        fix = "keep a copy of it elsewhere, or let a passphrase open backups: edgecam backup --passphrase"
        yield Finding("key", "hint", text, fix)
    else:
        yield Finding("key", "ok", f"the key is {path} ({place.kind})")
    with contextlib.suppress(EdgecamError), asking(subject) as ask:  # `state` tells of these
        if ask("key")[0]["unfinished"]:
            text = "a change of the key was cut short: the former one still opens everything"
            yield Finding("key", "broken", text, "with the daemon stopped: edgecam key rotate")
