"""Liveness: whether anything stands between a photo and a name."""

from __future__ import annotations

from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the setting and at the nets."""
    from edgecam.liveness import missing
    from edgecam.nn.registry import ModelRegistry

    if not subject.config.liveness.passive:
        text = "liveness.passive is off: a photo of somebody is announced by name"
        yield Finding("liveness", "hint", text, "set liveness.passive = true")
    elif absent := missing(ModelRegistry(subject.models)):
        text = f"{absent}: a photo of somebody is announced by name"
        yield Finding("liveness", "hint", text, "edgecam models pull, or --mirror DIR with the two files")
    else:
        yield Finding("liveness", "ok", "anti-spoof nets are installed; see docs/liveness.md for what beats them")
