"""The models: there, unaltered (sha256), and computing what they should."""

from __future__ import annotations

from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Verify every installed file."""
    from edgecam.nn.registry import ModelRegistry

    faults = {name: fault for name, fault in ModelRegistry(subject.models).verify().items() if fault}
    for name, fault in faults.items():
        yield Finding("models", "broken", f"{name} {fault}", "edgecam models pull")
    if not faults:
        yield Finding("models", "ok", f"verified in {subject.models}")
