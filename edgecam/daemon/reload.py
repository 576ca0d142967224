"""Another configuration while the daemon runs: what differs, without secrets, and what waits for a start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from edgecam.capture.redact import redact_pipeline, redact_url
from edgecam.config import AlertsConfig, Config

_NEXT_START = (
    "detect",
    "embed",
    "run",
    "store",
    "liveness.passive",
    "liveness.eyes",
    "alerts.outbox_max",
)
"""Sections and keys of which something is built that is never replaced: nets, the open store, the button."""

_PRIVATE = frozenset({"username"})
_LONGEST = 80
_MOST = 20


@dataclass(frozen=True)
class Read:
    """What became of the last reading of the file, for `edgecam status`."""

    wall_s: float
    changed: Tuple[str, ...] = ()
    """What took effect: `alerts.names: true -> false`."""
    next_start: Tuple[str, ...] = ()
    """What stands in the file and takes effect at the next start."""
    refused: str = ""
    """Why the file is not in use; the configuration before it is."""
    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def record(self) -> Dict[str, Any]:
        """Return it as JSON values."""
        changed, waiting = list(self.changed[:_MOST]), list(self.next_start[:_MOST])
        return {"read_wall_s": self.wall_s, "changed": changed, "next_start": waiting, "refused": self.refused}


def changes(old: Config, new: Config) -> List[str]:
    """Return each key that differs with both values, in the order of the file's sections; no secrets, no user names.

    >>> from edgecam.config import parse_config
    >>> changes(Config(), parse_config({"alerts": {"names": False}}, ""))
    ['alerts.names: true -> false']
    """
    return list(_differences("", old.model_dump(mode="json"), new.model_dump(mode="json")))


def held_back(old: Config, new: Config) -> Config:
    """Return the new configuration with what cannot change before the next start as it was."""
    for path in _NEXT_START:
        section, _, key = path.partition(".")
        kept = getattr(old, section)
        if key:
            kept = getattr(new, section).model_copy(update={key: getattr(kept, key)})
        new = new.model_copy(update={section: kept})
    return new


def fingerprints(alerts: AlertsConfig) -> Dict[str, str]:
    """Return hashes of the files that a connection rests on, by key: a new password is a change, too."""
    named = {"alerts.password_file": alerts.secret_file(), "alerts.ca_file": alerts.ca_file}
    found = {}
    for key, path in named.items():
        try:
            found[key] = "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:  # who needs it says so
            found[key] = "unreadable"
    return found


def renewed(old: Mapping[str, str], new: Mapping[str, str]) -> List[str]:
    """Return the keys whose files have other contents now."""
    return [f"{key}: another content" for key, value in new.items() if old.get(key) != value]


def _differences(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in [*old, *(key for key in new if key not in old)]:
        path = f"{where}.{key}" if where else key
        if key not in new or key not in old:
            yield f"{path}: {'removed' if key in old else 'added'}"
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _differences(path, old[key], new[key])
        elif old[key] != new[key]:
            was, now = _shown(key, old[key]), _shown(key, new[key])
            yield f"{path}: {was} -> {now}" if was != now else f"{path}: changed"


def _shown(key: str, value: Optional[Any]) -> str:
    if value is None:
        return "not set"
    if key in _PRIVATE:
        return "(hidden)"
    if key == "url":
        value = f"gst:{redact_pipeline(value[4:])}" if value.startswith("gst:") else redact_url(value)
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
