"""The state folder: its rights, whether all of it can be read, and whether anybody is enrolled."""

from __future__ import annotations

import os
import stat
from collections import Counter
from typing import Any, Dict, Iterator, List, Tuple

from edgecam.daemon.checks.base import Finding, Subject, asking

_SLACK = 0o077


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the folder's rights, at every sealed entry and at who is enrolled."""
    state = subject.state
    if not state.is_dir():
        yield Finding("state", "broken", f"{state} does not exist", "edgecam init")
        return
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & _SLACK:
        yield Finding("permissions", "broken", f"others may enter {state} ({mode:04o})", f"chmod 700 {state}")
    for path in sorted(state.glob("edgecam.db*")):
        if stat.S_IMODE(path.stat().st_mode) & _SLACK:
            yield Finding("permissions", "broken", f"others may read {path}", f"chmod 600 {path}")
    if not os.access(state, os.W_OK):
        yield Finding("permissions", "broken", f"no right to write to {state}", "run as its owner, or as root")
        return
    if not (state / "edgecam.db").exists():
        yield Finding("state", "hint", f"{state} is empty", "edgecam enroll NAME PHOTO...")
        return
    with asking(subject) as ask:
        found, status = ask("check")[0], ask("status")[0]
    people, waiting = status["people"], status["outbox"]
    if found["problems"]:
        fix = "edgecam restore FILE --mode replace"
        yield Finding("state", "broken", f"the database is damaged: {found['problems'][0]}", fix)
    yield from _damage(found["damaged"])
    if not (found["problems"] or found["damaged"]):
        yield Finding("state", "ok", f"key and database are sound; {people} people, {waiting} alerts wait")
    if not people:
        yield Finding("people", "hint", "nobody is enrolled: everybody is unknown", "edgecam enroll NAME PHOTO...")


_MENDED = "edgecam restore BACKUP (an undamaged one; what is sound here stays)"
_DAMAGE: List[Tuple[Tuple[str, ...], str, str]] = [
    (
        ("keys",),
        "keys, so that nothing under them can be read",
        f"{_MENDED}; or: edgecam people forget ID, and enrol again",
    ),
    (("people",), "names or consents", f"{_MENDED}; or: edgecam people rename ID NAME"),
    (("vectors", "features"), "vectors", "made anew from the pictures by the next start of `edgecam run`"),
    (("crops",), "pictures of faces", f"{_MENDED}; or: edgecam people forget ID, and enrol again"),
    (("faces",), "sources of faces", _MENDED),
    (("pictures", "decisions", "visits"), "parts of the history", f"{_MENDED}; it goes when it expires"),
    (("devices",), "devices", f"{_MENDED}; or: edgecam devices remove ID, and add it again"),
    (("outbox",), "waiting alerts", "dropped and counted by the next `edgecam run`"),
    (("settings",), "settings (their defaults hold)", f"{_MENDED}; or set them again"),
    (("strangers",), "features of strangers", "they expire within 30 days"),
    (("tracklets",), "faces kept for the night", "they expire within 7 days"),
    (("versions", "heads"), "versions of the head", f"edgecam versions rollback; or {_MENDED}"),
]
"""By table: what is damaged, and what helps."""

_COUNTED = ("tracklets", "versions")
"""Each is its own owner: one line for all of them."""


def _damage(found: List[Dict[str, Any]]) -> Iterator[Finding]:
    """One finding a kind and owner."""
    for tables, what, fix in _DAMAGE:
        counts = Counter(entry["owner"] for entry in found if entry["table"] in tables)
        if tables[0] in _COUNTED:
            counts = Counter({"": sum(counts.values())}) if counts else counts
        for owner, count in counts.items():
            whose = f" of {owner}" if owner else ""
            yield Finding("damage", "broken", f"{count} damaged{whose}: {what}", fix)
