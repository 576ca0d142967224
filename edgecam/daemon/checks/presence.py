"""Presence: whether anything is heard of the phones."""

from __future__ import annotations

from typing import Dict, Iterator

from edgecam.daemon.checks.base import Finding, Subject, live_status

_OTHERWISE = "docs/presence.md"
_FIX: Dict[str, str] = {
    "presence_helper": "systemctl enable --now edgecam-presence",
    "presence_radio_lost": "docs/presence.md says which adapters can listen",
    "presence_access_point_log": "make it readable for the daemon's user",
    "presence_leases": "make them readable for the daemon's user",
}
_SOURCES = ("radio", "access_point_log", "leases", "neighbours", "mdns", "ble")


def check(subject: Subject) -> Iterator[Finding]:
    """Ask the daemon what it hears."""
    sources = [name for name in _SOURCES if getattr(subject.config.presence, name)]
    if not sources:
        return
    if not subject.live:
        yield Finding("presence", "skipped", "the daemon does not run: nobody's phone is noticed", "start it first")
        return
    status = live_status(subject)
    wrong = {code: text for code, text in status["problems"].items() if code.startswith(("presence_", "doubled_"))}
    for code, text in wrong.items():
        yield Finding("presence", "broken", f"{code}: {text}", _FIX.get(code, _OTHERWISE))
    devices = status["presence"]["devices"]
    if not devices:
        yield Finding("presence", "hint", "no device is bound", "edgecam devices add PERSON ADDRESS")
    elif not wrong:
        yield Finding("presence", "ok", f"{devices} devices; listens to {', '.join(sources)}")
