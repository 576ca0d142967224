"""What `edgecam doctor` looks at: one file a check, each finding with what to do about it.

A check is a module with `check(subject)`, which yields findings and may raise EdgecamError or OSError; a new one gets a
line in `CHECKS`, behind what it rests on.
"""

from __future__ import annotations

from typing import Iterator, Tuple

from edgecam.daemon.checks import (
    backup,
    board,
    broker,
    camera,
    clock,
    config,
    daemon,
    disk,
    egress,
    home_assistant,
    key,
    liveness,
    models,
    night,
    presence,
    providers,
    service,
    state,
)
from edgecam.daemon.checks.base import Check, Finding, Subject, failed
from edgecam.errors import EdgecamError

__all__ = ["CHECKS", "Check", "Finding", "Subject", "examine"]

CHECKS: Tuple[Tuple[str, Check], ...] = (
    ("config", config.check),
    ("daemon", daemon.check),
    ("state", state.check),
    ("key", key.check),
    ("disk", disk.check),
    ("backup", backup.check),
    ("models", models.check),
    ("liveness", liveness.check),
    ("providers", providers.check),
    ("camera", camera.check),
    ("broker", broker.check),
    ("home assistant", home_assistant.check),
    ("presence", presence.check),
    ("night", night.check),
    ("clock", clock.check),
    ("board", board.check),
    ("egress", egress.check),
    ("service", service.check),
)
"""In the order in which they are told."""


def examine(subject: Subject) -> Iterator[Finding]:
    """Run every check; one that fails by itself is a finding, too."""
    for name, check in CHECKS:
        try:
            yield from check(subject)
        except EdgecamError as err:
            yield failed(name, err)
        except OSError as err:
            text = f"{err.filename or ''}: {err.strerror or err}"
            yield Finding(name, "broken", text, "check the rights; run as root: sudo edgecam doctor")
