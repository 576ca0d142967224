"""What routers write: hostapd's log lines, and the lease files of dnsmasq and ISC dhcpd."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from edgecam.presence.frames import parse_address
from edgecam.types import Transition

_MAC = r"((?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2})"
_WHERE = r"(?:(\S+) )?(?:daemon\.\w+ )?hostapd(?:\[\d+\])?: (\S+): "
_EVENT = re.compile(rf"(?:{_WHERE})?AP-STA-(CONNECTED|DISCONNECTED) {_MAC}")
_STATION = re.compile(rf"(?:{_WHERE})?STA {_MAC} IEEE 802\.11: (associated|disassociated|deauthenticated)")
_FIRST_LOOK = 1_000_000
_AT_ONCE = 4_000_000
_MAX_LEASES = 4_000_000
"""Bytes of a lease file that are read: 20,000 leases."""

_LONGEST = 2_000
"""Of a log line or of a lease so much is read: patterns take a time that grows with the square of it."""

_LEASE = re.compile(r"^lease \S+ \{", re.MULTILINE)
_FIELDS = {
    "address": re.compile(r"hardware ethernet ([0-9a-fA-F:]+);"),
    "hostname": re.compile(r'client-hostname "([^"]*)";'),
    "client_id": re.compile(r'uid "((?:[^"\\]|\\.)*)";'),
    "renewed": re.compile(r"^\s*(?:cltt|starts) (.*?);", re.MULTILINE),
    "state": re.compile(r"^\s*binding state (\w+);", re.MULTILINE),
}


class Association(NamedTuple):
    """A station came to, or left, an access point."""

    address: bytes
    transition: Transition
    where: str
    """Which access point and radio: who roams joins the next before leaving the last."""


class Lease(NamedTuple):
    """What a DHCP server has given."""

    address: bytes
    renewed: str
    """Changes with every renewal."""
    hostname: str
    client_id: str


def association(line: str) -> Optional[Association]:
    """Return what a log line tells; None if it is about something else."""
    line = line[:_LONGEST]
    if "AP-STA-" in line and (match := _EVENT.search(line)):
        host, radio, word, text = match.groups()
    elif "IEEE 802.11" in line and (match := _STATION.search(line)):
        host, radio, text, word = match.groups()
    else:
        return None
    address = parse_address(text)
    if address is None:
        return None
    came = word in ("CONNECTED", "associated")
    return Association(address, Transition.JOIN if came else Transition.LEAVE, f"{host or ''}/{radio or ''}")


class Tail:
    """The lines that are added to a log; also when it is rotated, emptied or comes later.

    Args:
        path: the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode: Optional[int] = None
        self._at = 0
        self._rest = b""
        self.looked = False
        """Whether the old lines are behind us: what comes now is news."""

    def old(self) -> List[str]:
        """Return the last lines of what is there already, and begin after them.

        Raises:
            OSError: not readable.
        """
        about = self.path.stat()
        self._inode, self._at = about.st_ino, max(0, about.st_size - _FIRST_LOOK)
        self.looked = True
        skip = self._at > 0
        lines = self._read()
        return lines[1:] if skip else lines

    def new(self) -> List[str]:
        """Return the lines since the last call.

        Raises:
            OSError: not readable.
        """
        about = self.path.stat()
        if about.st_ino != self._inode or about.st_size < self._at:
            self._inode, self._at, self._rest = about.st_ino, 0, b""
        return self._read()

    def _read(self) -> List[str]:
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read(_AT_ONCE)
        self._at += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-4096:]
        return [line.decode("utf-8", "replace") for line in lines]


def read_leases(path: Path) -> Dict[bytes, Lease]:
    """Return the present leases of a dnsmasq or ISC dhcpd file by address.

    Raises:
        OSError: not readable.
    """
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_LEASES))
        text = file.read(_MAX_LEASES).decode("utf-8", "replace")
    return _isc(text) if "lease " in text and "{" in text else _dnsmasq(text)


def _dnsmasq(text: str) -> Dict[bytes, Lease]:
    """`expiry mac ip hostname client-id`, a line a lease."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        address = parse_address(words[1]) if len(words) >= 4 else None
        if address is not None:
            client_id = words[4] if len(words) > 4 else ""
            found[address] = Lease(address, words[0], _told(words[3]), _own_id(_told(client_id), address))
    return found


def _isc(text: str) -> Dict[bytes, Lease]:
    """`lease IP { ... }`, appended with every change: the last of an address counts."""
    found: Dict[bytes, Lease] = {}
    for piece in _LEASE.split(text)[1:]:
        block, end, _ = piece.partition("\n}")
        if not end or len(block) > _LONGEST:
            continue
        fields = {name: match[1] if (match := pattern.search(block)) else "" for name, pattern in _FIELDS.items()}
        address = parse_address(fields["address"])
        if address is None:
            continue
        if fields["state"] not in ("", "active"):
            found.pop(address, None)
            continue
        client_id = _own_id(fields["client_id"], address)
        found[address] = Lease(address, fields["renewed"], fields["hostname"], client_id)
    return found


def _told(word: str) -> str:
    return "" if word == "*" else word


def _own_id(client_id: str, address: bytes) -> str:
    """Return a client id unless it is the address again, which changes together with it."""
    plain = client_id.lower().replace(":", "")
    if address.hex() in plain:
        return ""
    # ISC writes bytes that are no text as octal escapes.
    escaped = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), client_id).encode("latin-1", "replace")
    return "" if address in escaped else client_id
