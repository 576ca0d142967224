"""Requests of any size to the daemon: what is longer than a line of the control socket comes in parts."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

from edgecam.daemon import control
from edgecam.errors import ConfigError, ControlError

PART = "part"
"""Operation: `{"op": "part", "upload", "text"}`, answered by nothing; the last one has `"last": true` and is answered
by the answer to the whole request."""

_PART_CHARS = 40_000
_MAX_CHARS = 96 * 1024 * 1024
"""Some 500 faces with their pictures."""
_MAX_UPLOADS = 4
_STALE_S = 60.0

_PATIENCE_S = 60.0
_LONG = frozenset({
    "backup", "restore", "purge", "check", "people.forget", "people.merge", "people.export", "faces.add",
    "faces.remove", "devices.remove", "visits.erase",
})  # fmt: skip
_LONG_PATIENCE_S = 900.0
"""They rewrite or read whole files."""

_SERVICE_STATE, _SERVICE_RUNTIME = Path("/var/lib/edgecam"), Path("/run/edgecam")


def socket_path(state: Path) -> Path:
    """Return where the daemon of a state folder listens; the service: its runtime folder, which its group may enter."""
    if state == _SERVICE_STATE and _SERVICE_RUNTIME.is_dir():
        return _SERVICE_RUNTIME / "control.sock"
    return state / "control.sock"


def ask(path: Path, request: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    """Ask the running daemon; yield the items of its answer.

    Raises:
        ControlError: no daemon, no permission, or what the daemon itself says, with its exit code.
    """
    patience_s = _LONG_PATIENCE_S if request.get("op") in _LONG else _PATIENCE_S
    text = json.dumps(request, separators=(",", ":"))
    if len(text) + 1 <= control.MAX_REQUEST:
        yield from control.call(path, dict(request), patience_s)
        return
    upload = os.urandom(8).hex()
    parts = [text[start : start + _PART_CHARS] for start in range(0, len(text), _PART_CHARS)]
    for part in parts[:-1]:
        for _ in control.call(path, {"op": PART, "upload": upload, "text": part}, _PATIENCE_S):
            raise ControlError("the daemon did not take the request")
    yield from control.call(path, {"op": PART, "upload": upload, "text": parts[-1], "last": True}, patience_s)


@dataclass
class _Upload:
    owner: int
    parts: List[str] = field(default_factory=list)
    chars: int = 0
    touched_s: float = 0.0


class Uploads:
    """Requests that are still coming in, in RAM."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Dict[str, _Upload] = {}

    def add(self, request: Mapping[str, Any], peer: control.Peer) -> Dict[str, Any]:
        """Take a part; return the whole request with its last one, else an empty object.

        Raises:
            ConfigError: not a part, too much, or not a request in the end.
        """
        name, text = request.get("upload"), request.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise ConfigError("part: upload or text is missing")
        now_s = time.monotonic()
        with self._lock:
            for stale in [key for key, up in self._open.items() if now_s - up.touched_s > _STALE_S]:
                del self._open[stale]
            if name not in self._open and len(self._open) >= _MAX_UPLOADS:
                raise ControlError("too many large requests at once: try again")
            upload = self._open.setdefault(name, _Upload(peer.uid))
            upload.touched_s, upload.chars = now_s, upload.chars + len(text)
            if upload.owner != peer.uid or upload.chars > _MAX_CHARS:
                del self._open[name]
                raise ControlError("the request is too large: enrol fewer photos at a time")
            upload.parts.append(text)
            if request.get("last") is not True:
                return {}
            del self._open[name]
        try:
            whole = json.loads("".join(upload.parts))
        except (ValueError, RecursionError) as err:
            raise ConfigError("the request is not JSON") from err
        if not isinstance(whole, dict) or whole.get("op") == PART:
            raise ConfigError("the request is not a JSON object")
        return whole
