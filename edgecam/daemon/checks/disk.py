"""The disk under the state: room, and whether it keeps what is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Tuple

from edgecam.daemon.checks.base import Finding, Subject

_MIN_FREE_MB = 200
_MIN_FILES = 100
_IN_MEMORY = ("tmpfs", "ramfs")


def check(subject: Subject, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Finding]:
    """Look at the file system; `mounts` is the kernel's table of them."""
    folder = subject.state if subject.state.is_dir() else subject.state.parent
    if not folder.is_dir():
        return
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize // 1_000_000
    if disk.f_flag & os.ST_RDONLY:
        text = f"{folder} is on a read-only file system: the kernel does that to a failing card"
        yield Finding("disk", "broken", text, "dmesg says why; replace the card, restore a backup")
    if free < _MIN_FREE_MB:
        yield Finding("disk", "broken", f"{free} MB free for {folder}", f"free {_MIN_FREE_MB} MB at least")
    elif disk.f_files and disk.f_favail < _MIN_FILES:
        text = f"no more files can be made in {folder} (out of inodes)"
        yield Finding(
            "disk", "broken", text, f"find what has so many: du --inodes -x -d2 {mount_of(folder, mounts)[0]}"
        )
    else:
        yield Finding("disk", "ok", f"{free} MB free")
    if mount_of(folder, mounts)[1] in _IN_MEMORY:
        text = f"{folder} lies in memory: a restart of the box loses everybody"
        yield Finding("disk", "broken", text, "choose another folder: --state DIR, or EDGECAM_STATE")


def mount_of(folder: Path, mounts: Path) -> Tuple[str, str]:
    """Return mount point and kind of the file system that a folder is on; kind "" if the table cannot be read."""
    found = ("/", "")
    real = str(folder.resolve())
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(found[0]):
            found = (point, kind)
    return found
