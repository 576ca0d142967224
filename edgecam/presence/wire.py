"""What daemon and helper say to each other over the unix socket: a JSON object a line. Standard library only.

The daemon tells what to listen for: `{"watch": {...}}`, again with every change. The helper tells what it heard:
`{"heard": {...}}`, and how it is: `{"state": {"problems": {code: text}, "counts": {name: number}}}`.
Addresses go one way only, to the helper, which keeps them in RAM; it speaks of device ids.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

MAX_LINE = 262_144
USER = "edgecam-presence"
"""The helper's system user, whom the daemon serves besides root and its own."""

_SERVICE_STATE, _SERVICE_RUNTIME = Path("/var/lib/edgecam"), Path("/run/edgecam")
_PEERCRED = struct.Struct("3i")
_AT_ONCE = 65_536


class WireError(Exception):
    """The other side says what it should not."""


@dataclass(frozen=True)
class Watch:
    """What the helper is to listen for."""

    devices: Mapping[str, str] = field(default_factory=dict)
    """Address (12 hexadecimal digits) -> device id; Wi-Fi."""
    ble_devices: Mapping[str, str] = field(default_factory=dict)
    """The same for Bluetooth."""
    radio: Optional[str] = None
    """Interface for monitor mode."""
    channels: Tuple[int, ...] = (1, 6, 11)
    hop_s: float = 1.0
    min_rssi_dbm: int = -55
    neighbours: bool = False
    """Read the kernel's table of neighbours."""
    mdns: Optional[str] = None
    """Interface on which mDNS is listened for."""
    ble: bool = False


class Sign(NamedTuple):
    """The helper noticed a device."""

    device: str
    source: str
    """sniff, arp, mdns or ble."""
    at_s: float
    """CLOCK_MONOTONIC, which both processes share."""
    rssi_dbm: Optional[int] = None
    channel: Optional[int] = None
    frames: int = 1
    doubled: bool = False


class State(NamedTuple):
    """How the helper is."""

    problems: Mapping[str, str]
    counts: Mapping[str, int]


def socket_path(state: Optional[Path] = None) -> Path:
    """Return where the daemon of a state folder (default: the service's, else the user's) meets its helper."""
    if state is None and os.environ.get("EDGECAM_STATE"):
        state = Path(os.environ["EDGECAM_STATE"])
    if state in (None, _SERVICE_STATE) and _SERVICE_RUNTIME.is_dir():
        return _SERVICE_RUNTIME / "presence.sock"
    return (state or Path.home() / ".local/state/edgecam") / "presence.sock"


def pack_watch(watch: Watch) -> bytes:
    """Return the line that tells the helper what to listen for."""
    return _line({"watch": {**asdict(watch), "channels": list(watch.channels)}})


def unpack_watch(message: Mapping[str, Any]) -> Watch:
    """Return what the daemon asks for.

    Raises:
        WireError: not such a message.
    """
    told = message.get("watch")
    known = {f.name for f in fields(Watch)}
    if not isinstance(told, dict) or set(told) - known:
        raise WireError("not a list of what to listen for (another version of edgecam?)")
    try:
        watch = Watch(**{**told, "channels": tuple(int(channel) for channel in told.get("channels", ()))})
        addresses = [*watch.devices, *watch.ble_devices]
        if any(len(bytes.fromhex(address)) != 6 for address in addresses) or not watch.hop_s > 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as err:
        raise WireError("not a list of what to listen for") from err
    return watch


def pack_sign(sign: Sign) -> bytes:
    """Return the line that tells of a device."""
    return _line({"heard": sign._asdict()})


def pack_state(state: State) -> bytes:
    """Return the line that tells how the helper is."""
    return _line({"state": {"problems": dict(state.problems), "counts": dict(state.counts)}})


def unpack_sign(told: Any) -> Sign:
    """Return a sign as the helper told it; the helper parses what strangers send, so nothing is taken on trust.

    Raises:
        WireError: a value of the wrong kind or beyond its range.
    """
    try:
        sign = Sign(**told)
    except TypeError as err:
        raise WireError("not a sighting") from err
    fits = (
        isinstance(sign.device, str)
        and sign.source in ("sniff", "arp", "mdns", "ble")
        and isinstance(sign.at_s, float)
        and (sign.rssi_dbm is None or _between(sign.rssi_dbm, -128, 127))
        and (sign.channel is None or _between(sign.channel, 1, 255))
        and _between(sign.frames, 1, 1_000_000)
        and isinstance(sign.doubled, bool)
    )
    if not fits:
        raise WireError("a sighting is out of range")
    return sign


def unpack_state(told: Any) -> State:
    """Return how the helper says it is.

    Raises:
        WireError: not such a message.
    """
    problems, counts = (told.get(key) for key in ("problems", "counts")) if isinstance(told, dict) else (None, None)
    if not isinstance(problems, dict) or not isinstance(counts, dict):
        raise WireError("not a state")
    return State(
        {str(code)[:40]: str(text)[:200] for code, text in list(problems.items())[:20]},
        {str(name)[:40]: int(n) for name, n in list(counts.items())[:20] if _between(n, 0, 1 << 62)},
    )


class Lines:
    """Takes bytes as they come and gives messages."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[Dict[str, Any]]:
        """Yield the whole messages.

        Raises:
            WireError: a line too long, or no JSON object.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise WireError("a line has no end")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as err:
                raise WireError("a line is not JSON") from err
            if not isinstance(message, dict):
                raise WireError("a line is not a JSON object")
            yield message

    def read(self, sock: socket.socket) -> Optional[List[Dict[str, Any]]]:
        """Return the messages that have come; None at the end of the connection.

        Raises:
            WireError: see `take`.
            OSError: the connection broke.
        """
        data = sock.recv(_AT_ONCE)
        return list(self.take(data)) if data else None


def peer_uid(sock: socket.socket) -> int:
    """Return the user at the other end of a unix socket, as the kernel says."""
    return int(_PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[1])


def _between(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
