"""Two network namespaces and the cable between them: a box with an edgecam, a house with broker, camera, name server.

The house is the box's only way out, also for what is meant for the internet. So whatever leaves the box passes the
house's end of the cable, and every packet there is recorded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

BOX, BROKER, CAMERA, RESOLVER = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"
BOX6, HOUSE6 = "fd00:9::1", "fd00:9::2"

_NEWNET = 0x40000000
_ETH_ALL = 3
_PACKET_STATISTICS, _SOL_PACKET = 6, 263
_BUFFER, _RCVBUFFORCE = 64 * 1024 * 1024, 33
_KEPT = 128
"""Of what the house sends (video) only the head is kept."""

_ARP, _IP, _IP6 = 0x0806, 0x0800, 0x86DD
_KINDS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_NEIGHBOURS = frozenset({133, 134, 135, 136, 143})
"""ICMPv6: who is a router, who has an address, which groups are listened to; the kernel's, without anybody's data."""

Place = Tuple[str, str, int]
"""Protocol, address, port."""


def missing() -> str:
    """Return why there can be no namespaces here, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "not installed: ip (apt install iproute2)"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return "" if made.returncode == 0 else f"no network namespaces: {made.stderr.strip()}"


@dataclass(frozen=True)
class Packet:
    """What passed the cable."""

    sent: bool
    """By the box."""
    kind: str
    """`tcp`, `udp`, `icmp`, `icmp6`, `arp`, or a number in hexadecimal (of the Ethernet type) or `ip N`."""
    source: str
    source_port: int
    target: str
    port: int
    """0 where there are none; of ICMPv6 the type."""
    size: int
    """Bytes of the frame."""
    seq: int
    syn: bool
    payload: bytes

    @property
    def noise(self) -> bool:
        """Whether it only asks who has an address on this cable."""
        return self.kind == "arp" or (self.kind == "icmp6" and self.port in _NEIGHBOURS)

    @property
    def place(self) -> Place:
        return self.kind, self.target, self.port


class HouseNet:
    """The cable, recorded from the beginning; use it in a `with`."""

    def __init__(self) -> None:
        tag = f"{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self._names = {"box": f"edgecam-box-{tag}", "house": f"edgecam-house-{tag}"}
        self._recorder: Optional[Recorder] = None

    @property
    def box_path(self) -> Path:
        """The box's namespace, for whoever takes a path."""
        return Path("/run/netns") / self._names["box"]

    def box(self) -> contextlib.AbstractContextManager[None]:
        """Be in the box: what this thread starts meanwhile (processes, threads, sockets) is and stays there."""
        return _inside(self.box_path)

    def house(self) -> contextlib.AbstractContextManager[None]:
        """Be in the house; see `box`."""
        return _inside(self.box_path.with_name(self._names["house"]))

    def packets(self) -> List[Packet]:
        """Return all that has passed so far."""
        assert self._recorder is not None
        return self._recorder.packets()

    def forget(self) -> None:
        """Begin anew with an empty record."""
        assert self._recorder is not None
        self._recorder.forget()

    def __enter__(self) -> HouseNet:
        box, house = self._names["box"], self._names["house"]
        _ip(
            f"netns add {box}", f"netns add {house}", f"-n {box} link add cable type veth peer name cable netns {house}"
        )
        # A camera, a broker and a name server are neighbours; all else is behind a router, which is the house, too.
        _ip(f"-n {house} address add {BROKER}/24 dev cable", f"-n {house} address add {CAMERA}/24 dev cable")
        _ip(f"-n {house} address add {RESOLVER}/24 dev cable", f"-n {house} address add {HOUSE6}/64 dev cable nodad")
        _ip(f"-n {box} address add {BOX}/24 dev cable", f"-n {box} address add {BOX6}/64 dev cable nodad")
        _ip(*(f"-n {name} link set {link} up" for name in (box, house) for link in ("lo", "cable")))
        _ip(f"-n {box} route add default via {BROKER}", f"-n {box} -6 route add default via {HOUSE6}")
        with self.house():
            self._recorder = Recorder("cable")
        return self

    def __exit__(self, *_: object) -> None:
        if self._recorder is not None:
            self._recorder.close()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Recorder:
    """Every frame on a link of this thread's namespace, both ways, read by a thread of its own."""

    def __init__(self, link: str) -> None:
        self._frames: List[Tuple[bool, int, bytes]] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        self._socket.bind((link, _ETH_ALL))
        self._socket.settimeout(0.1)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._rounds = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def packets(self) -> List[Packet]:
        """Return what has been recorded, after a tenth of a second in which nothing came or two seconds."""
        before, end = self._rounds, time.monotonic() + 2.0
        while self._rounds == before and time.monotonic() < end:
            time.sleep(0.02)
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert dropped == 0, f"the recorder missed {dropped} packets"
        with self._lock:
            return [_parsed(*frame) for frame in self._frames]

    def forget(self) -> None:
        with self._lock:
            self._frames.clear()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                data, (_, _, way, *_) = self._socket.recvfrom(1 << 17)
            except socket.timeout:
                self._rounds += 1
                continue
            sent = way != socket.PACKET_OUTGOING
            with self._lock:
                self._frames.append((sent, len(data), data if sent else data[:_KEPT]))


def streams(packets: Iterable[Packet]) -> Dict[Place, List[bytes]]:
    """Return what the box sent over TCP, each connection whole and in order, by where to.

    Raises:
        AssertionError: a part of a connection is not in the record.
    """
    segments: Dict[Tuple[int, Place], Dict[int, bytes]] = {}
    first: Dict[Tuple[int, Place], int] = {}
    for packet in packets:
        if not packet.sent or packet.kind != "tcp":
            continue
        key = (packet.source_port, packet.place)
        if packet.syn:
            first[key] = packet.seq + 1
        assert key in first, f"no beginning of {key}"
        if packet.payload:
            at = (packet.seq - first[key]) % 2**32
            mine = segments.setdefault(key, {})
            mine[at] = max(mine.get(at, b""), packet.payload, key=len)
    found: Dict[Place, List[bytes]] = {}
    for (_, place), parts in segments.items():
        whole = b""
        for at, data in sorted(parts.items()):
            assert at <= len(whole), f"a hole of {at - len(whole)} bytes in what was sent to {place}"
            whole += data[len(whole) - at :]
        found.setdefault(place, []).append(whole)
    return found


def strays(packets: Iterable[Packet], allowed: Set[Place]) -> List[Packet]:
    """Return what the box sent to somewhere else; who has an address on the cable may be asked."""
    return [packet for packet in packets if packet.sent and not packet.noise and packet.place not in allowed]


def tally(packets: Iterable[Packet]) -> str:
    """Return in one line how many packets and bytes went where."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for packet in packets:
        if packet.sent:
            name = "neighbours (ARP, ICMPv6)" if packet.noise else f"{packet.target} {packet.kind} {packet.port}"
            count[name] += 1
            size[name] += packet.size
    return "; ".join(f"{name}: {count[name]} packets, {size[name]} bytes" for name in sorted(count))


class NameServer:
    """A DNS server of the house's on port 53, which knows a few IPv4 addresses; use it in a `with`."""

    def __init__(self, address: str, names: Dict[str, str]) -> None:
        self.asked: Set[str] = set()
        self._address, self._names = address, names

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, client = self._socket.recvfrom(512)
                if not question:  # shut down
                    return
                self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        name, end = question_of(question)
        self.asked.add(name)
        kind = int.from_bytes(question[end : end + 2], "big")
        known = self._names.get(name) if kind == 1 else None
        # No such name, or only without an address of this kind.
        code = 0 if name in self._names else 3
        record = b"" if known is None else b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(known)
        return question[:2] + bytes([0x84, code, 0, 1, 0, bool(record), 0, 0, 0, 0]) + question[12 : end + 4] + record

    def __enter__(self) -> NameServer:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self._address, 53))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def question_of(data: bytes) -> Tuple[str, int]:
    """Return the name that a DNS message asks for, and where it ends."""
    at, labels = 12, []
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii"))
        at += 1 + data[at]
    return ".".join(labels), at + 1


@contextlib.contextmanager
def _inside(path: Path) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, path.open("rb") as there:
        if libc.setns(there.fileno(), _NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"{path} cannot be entered")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), _NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the way back is closed")


def _ip(*commands: str) -> None:
    for command in commands:
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {command}: {done.stderr}"


def _parsed(sent: bool, size: int, data: bytes) -> Packet:
    (kind,) = struct.unpack_from("!H", data, 12)
    if kind == _ARP:
        return Packet(sent, "arp", "", 0, "", 0, size, 0, syn=False, payload=b"")
    if kind == _IP:
        head, end = 14 + (data[14] & 15) * 4, 14 + int.from_bytes(data[16:18], "big")
        protocol, pair = data[23], (socket.inet_ntoa(data[26:30]), socket.inet_ntoa(data[30:34]))
    elif kind == _IP6:
        head, end, protocol = 54, 54 + int.from_bytes(data[18:20], "big"), data[20]
        pair = (socket.inet_ntop(socket.AF_INET6, data[22:38]), socket.inet_ntop(socket.AF_INET6, data[38:54]))
        if protocol == 0:  # hop-by-hop options, as before MLD
            protocol, head = data[head], head + 8 + data[head + 1] * 8
    else:
        return Packet(sent, f"{kind:#06x}", "", 0, "", 0, size, 0, syn=False, payload=data[14:])
    # Frames longer than 64 KB, which the kernel cuts later, say 0.
    end = end if end > head else size
    name = _KINDS.get(protocol, f"ip {protocol}")
    ports, seq, syn, body = (0, 0), 0, False, head
    if name == "tcp":
        *ports_, seq = struct.unpack_from("!HHI", data, head)
        ports, syn, body = (ports_[0], ports_[1]), bool(data[head + 13] & 2), head + (data[head + 12] >> 4) * 4
    elif name == "udp":
        ports, body = struct.unpack_from("!HH", data, head), head + 8
    elif name == "icmp6":
        ports = (0, data[head])
    return Packet(sent, name, pair[0], ports[0], pair[1], ports[1], size, seq, syn=syn, payload=data[body:end])
