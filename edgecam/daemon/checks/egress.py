"""Egress: whom the running daemon speaks to, and whether the kernel would let it speak to others.

A look at one moment, and no proof: that every packet of a run was recorded is the tests' work (docs/threat-model.md).
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import platform
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import urlsplit

from edgecam.config import Config
from edgecam.daemon import talk
from edgecam.daemon.checks.base import Finding, Subject

_PROC = Path("/proc")
_PEERCRED = struct.Struct("3i")
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_DNS = 53
_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
_REPORT = "look whose address that is (a camera's or the broker's old one goes by itself); else report it: SECURITY.md"
_HOLD = (
    "install -m 644 /opt/edgecam/private-only.conf /etc/systemd/system/edgecam.service.d/30-private-only.conf; "
    "systemctl daemon-reload; systemctl restart edgecam"
)
_RULE = "OUTPUT -m owner --uid-owner edgecam -j edgecam"

# bpf(2), BPF_PROG_QUERY of a control group's BPF_CGROUP_INET_EGRESS.
_BPF_CALL = {"x86_64": 321, "aarch64": 280, "armv7l": 386}
_PROG_QUERY, _INET_EGRESS = 16, 1
_QUERY = struct.Struct("=IIIIQI36x")

Place = Tuple[str, int]
"""Address and port."""


def check(subject: Subject) -> Iterator[Finding]:
    """Look at every socket of the daemon's, and at the filter of its unit."""
    if not subject.live:
        return
    pid = _daemon(subject)
    # What a pipeline of the owner's opens (RTP over UDP, for one) is the owner's business.
    alone = any(camera.url.startswith("gst:") for camera in subject.config.cameras.values())
    try:
        sockets = list(_sockets(pid, alone=alone, every_of_user=subject.as_service))
    except PermissionError:
        text = "whom the daemon speaks to is not shown to this user"
        yield Finding("egress", "skipped", text, "sudo edgecam doctor")
        return
    wanted, unknown = _wanted(subject.config)
    strange = 0
    for sock in sockets:
        if fault := _fault(sock, wanted):
            strange += 1
            yield Finding("egress", "broken", fault + _if_unknown(unknown), _REPORT)
    if not strange:
        peers = sorted({f"{sock.remote[0]}:{sock.remote[1]}" for sock in sockets if sock.remote[1]})
        text = f"speaks to {', '.join(peers) or 'nobody'} now, and listens on no port"
        yield Finding("egress", "ok", f"{text}; a gst: pipeline was not looked at" if alone else text)
    if subject.as_service:
        yield from _filter(pid)


@dataclass(frozen=True)
class _Socket:
    kind: str
    local: Place
    remote: Place
    """Port 0 if it is connected to nobody."""


def _daemon(subject: Subject) -> int:
    """Return the process that listens at the control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5.0)
        sock.connect(str(talk.socket_path(subject.state)))
        pid, _, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return int(pid)


def _sockets(pid: int, *, alone: bool, every_of_user: bool) -> Iterator[_Socket]:
    """Yield the network sockets of a process, and (unless alone) of what it has started and of all of its user's."""
    inodes = {inode for one in ([pid] if alone else _family(pid)) for inode in _inodes(one)}
    owner = (_PROC / str(pid)).stat().st_uid
    user = str(owner) if every_of_user and owner and not alone else None
    net = _PROC / str(pid) / "net"
    for kind in _TABLES:
        for line in _lines(net / kind):
            local, remote, uid, inode = line[1], line[2], line[7], line[9]
            if inode in inodes or (uid == user and inode != "0"):
                yield _Socket(kind, _place(local), _place(remote))
    if any(line[8] in inodes for line in _lines(net / "packet")):
        yield _Socket("packet", ("", 0), ("", 0))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in (_PROC / str(pid)).glob("task/*/children"):
        for child in children.read_text(encoding="ascii").split():
            yield from _family(int(child))


def _inodes(pid: int) -> Iterator[str]:
    for entry in (_PROC / str(pid) / "fd").iterdir():
        try:
            link = os.readlink(entry)
        except FileNotFoundError:  # closed meanwhile
            continue
        if link.startswith("socket:["):
            yield link[8:-1]


def _lines(table: Path) -> List[List[str]]:
    """Return the fields of a table's rows; none where the kernel has no such protocol."""
    try:
        return [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    except FileNotFoundError:
        return []


def _place(text: str) -> Place:
    """Return what the kernel wrote as 32-bit numbers of its own byte order and a port, all hexadecimal."""
    digits, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8))
    return _plain(str(ipaddress.ip_address(packed))), int(port, 16)


def _plain(address: str) -> str:
    """Return an address without its scope, an IPv4 one in IPv6's clothes as itself."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _wanted(config: Config) -> Tuple[Set[Place], List[str]]:
    """Return the places that the configuration names, with the name servers, and the names that nobody knows."""
    hosts: List[Place] = [] if config.alerts.host is None else [(config.alerts.host, config.alerts.port)]
    for camera in config.cameras.values():
        parts = urlsplit(camera.url)
        if parts.scheme in _PORTS and parts.hostname:
            hosts.append((parts.hostname, parts.port or _PORTS[parts.scheme]))
    found = {(server, _DNS) for server in _name_servers()}
    unknown = []
    for host, port in hosts:
        try:
            found |= {(_plain(str(entry[4][0])), port) for entry in socket.getaddrinfo(host, port)}
        except (OSError, UnicodeError):  # the latter for what cannot be a name
            unknown.append(host)
    return found, unknown


def _name_servers() -> Iterator[str]:
    for line in _resolver().splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            yield _plain(words[1])


def _resolver() -> str:
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fault(sock: _Socket, wanted: Set[Place]) -> str:
    """Return what is wrong with a socket; empty if nothing is."""
    address, port = sock.remote
    if sock.kind == "packet" or sock.kind.startswith("raw"):
        return f"has a {sock.kind} socket: it could send anything"
    if port == 0:
        return f"listens on {sock.kind} port {sock.local[1]}" if sock.local[1] else ""
    if sock.remote in wanted or ipaddress.ip_address(address).is_loopback:
        return ""
    return f"speaks to {address} port {port} ({sock.kind}): neither broker nor camera nor name server"


def _if_unknown(names: List[str]) -> str:
    return f"; the address of {', '.join(names)} cannot be looked up" if names else ""


# What would hold it back.


def _filter(pid: int) -> Iterator[Finding]:
    """Look whether the kernel runs systemd's filter for the unit's control group, or iptables one for its user."""
    shown = _output("systemctl", "show", "edgecam.service", "--property=IPAddressDeny", "--property=IPAddressAllow")
    lists: Dict[str, List[str]] = {
        name: value.split() for name, _, value in (line.partition("=") for line in (shown or "").splitlines())
    }
    others = [text for text in lists.get("IPAddressAllow", []) if not _of_a_house(text)]
    besides = f", and to {', '.join(others)}" if others else ""
    if os.geteuid() != 0:
        yield Finding("egress", "skipped", "only root is told whether the kernel filters", "sudo edgecam doctor")
    elif lists.get("IPAddressDeny") and _programs(pid):
        text = f"the kernel lets it speak to private addresses{besides} alone (systemd's filter)"
        yield Finding("egress", "ok", text)
    elif _output("iptables", "-w", "-C", *_RULE.split()) is not None:
        yield Finding("egress", "ok", "the kernel lets it speak to private addresses alone (iptables, by user)")
    else:
        text = f"the kernel ({platform.release()}) would let it speak to anybody: IPAddressDeny is not in force"
        yield Finding("egress", "hint", text, _HOLD)


def _of_a_house(text: str) -> bool:
    network = ipaddress.ip_network(text, strict=False)
    return network.is_private or network.is_loopback or network.is_link_local


def _programs(pid: int) -> int:
    """Return how many filters hang on the control group of a process; 0 where the kernel knows none."""
    group, call = _control_group(pid), _BPF_CALL.get(platform.machine())
    if group is None or call is None:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        query = ctypes.create_string_buffer(_QUERY.pack(handle, _INET_EGRESS, 0, 0, 0, 0), _QUERY.size)
        if libc.syscall(call, _PROG_QUERY, query, _QUERY.size) != 0:
            code = ctypes.get_errno()
            if code in (errno.EINVAL, errno.ENOSYS):
                return 0
            raise OSError(code, os.strerror(code), "bpf")
        return int(_QUERY.unpack(query.raw)[5])
    finally:
        os.close(handle)


def _control_group(pid: int) -> Optional[Path]:
    """Return the folder of a process's group in the tree of version 2, if there is one."""
    mounts = (line.split() for line in (_PROC / "mounts").read_text(encoding="utf-8").splitlines())
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    lines = (_PROC / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    return None if root is None or path is None else root / path.lstrip("/")


def _output(*command: str) -> Optional[str]:
    """Return what a command prints; None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
