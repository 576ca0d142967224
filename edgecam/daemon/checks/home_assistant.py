"""Home Assistant: whether it is there to be told."""

from __future__ import annotations

from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject

_WAIT_S = 3.0


def check(subject: Subject) -> Iterator[Finding]:
    """Look for its birth message on the broker."""
    alerts = subject.config.alerts
    if alerts.host is None or alerts.discovery_prefix is None:
        return
    from edgecam.daemon.birth import birth_seen

    if birth_seen(alerts, _WAIT_S):
        yield Finding("home assistant", "ok", f"is there ({alerts.discovery_prefix}/status)")
    else:
        text = "has not said that it is there (it says so when it starts; not needed without it)"
        fix = "in Home Assistant: add the MQTT integration, retain its birth message"
        yield Finding("home assistant", "hint", text, fix)
