"""The night: whether it can train, runs by itself, and whether the head in service is what was signed."""

from __future__ import annotations

import importlib.util
import time
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Record, Subject, asking

_DAY_S = 86_400.0


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the extra, and at the stored versions."""
    if not (subject.state / "edgecam.db").exists():
        return
    with asking(subject) as ask:
        for version in ask("versions.list"):
            if version["state"] == "active":
                used = ask("versions.heads", base=version["base"])[0].get("version", "the installed one")
                yield _serving(version, used)
    if subject.config.store.cluster_unknown and importlib.util.find_spec("torch") is None:
        text = "store.cluster_unknown is set, but PyTorch is missing: the night proposes and asks, and trains nothing"
        yield Finding("night", "hint", text, "EXTRAS=cpu,train make install (docs/operation.md, The night)")


def _serving(version: Record, used: str) -> Finding:
    """Tell of the version that should be in service; what is altered gives way to an older one."""
    name = version["version"]
    if used != name:
        text = f"{name} should be in service, but is damaged or altered: {used} is used"
        return Finding("night", "broken", text, "edgecam versions rollback, or: edgecam restore BACKUP")
    age_d = max(0.0, time.time() - version["created_wall_s"]) / _DAY_S
    return Finding("night", "ok", f"{name} is in service, {age_d:.0f} days old, rightly signed")
