"""The running daemon: whether there is one, of which version, and what ails it that no other check tells."""

from __future__ import annotations

from typing import Dict, Iterator

from edgecam import __version__
from edgecam.daemon.checks.base import Finding, Subject, live_status

_RESTART = "systemctl restart edgecam"
_FIX: Dict[str, str] = {
    "store_failing": "free some space; check the disk",
    "button_unusable": "what the text says; docs/operation.md, The button",
    "config_invalid": "correct the named key, then: systemctl reload edgecam",
    "health_unwritten": "free some space; check the rights of the state folder",
    "loop_stuck": f"{_RESTART}; report it with its log (journalctl -u edgecam)",
}


def check(subject: Subject) -> Iterator[Finding]:
    """Ask the daemon how it is."""
    if not subject.live:
        yield Finding("daemon", "hint", "not running", "systemctl start edgecam, or: edgecam run")
        return
    status = live_status(subject)
    wrong = {code: text for code, text in status["problems"].items() if code in _FIX}
    for code, text in wrong.items():
        yield Finding("daemon", "broken", f"{code}: {text}", _FIX[code])
    if status["version"] != __version__:
        text = f"version {status['version']} still runs, {__version__} is installed"
        yield Finding("daemon", "hint", text, _RESTART)
    if status["words_lost"]:
        text = f"{status['words_lost']} decisions were lost: the store took nothing for too long"
        yield Finding("daemon", "broken", text, f"free some space; {_RESTART} begins the count anew")
    if status["outbox_dropped"]:
        text = f"{status['outbox_dropped']} alerts were given up while the broker was away"
        yield Finding("daemon", "hint", text, "raise alerts.outbox_max")
    if status["paused"]:
        yield Finding("daemon", "hint", "paused: nobody is noticed", "edgecam resume")
    elif not wrong:
        yield Finding("daemon", "ok", f"running, {status['memory_mb']:.0f} MB")
