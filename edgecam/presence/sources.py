"""What the helper listens to: the air, mDNS on the cable, the kernel's neighbours. Standard library only.

Every source is opened again after it was lost, and says so once.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Dict, Iterator, List, Mapping, Optional, Protocol, Set

from edgecam.presence.frames import RADIOTAP, READERS
from edgecam.presence.hearing import Ear, Heard
from edgecam.presence.radio import ChannelRefusedError, Radio, RadioError
from edgecam.presence.sockets import SNAP, dropped, mdns_socket, packet_socket, wireless_filter
from edgecam.presence.wire import Sign

_AT_ONCE = 512
"""Frames taken before the loop looks at its other sockets."""
_DUMP_EVERY_S = 30.0

_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NLM_F_DUMP = 0x301
_RTMGRP_NEIGH = 4
_NDA_LLADDR = 2
_NUD_REACHABLE = 0x02
_NLMSG, _NDMSG, _RTATTR = struct.Struct("=IHHII"), struct.Struct("=BxxxiHBB"), struct.Struct("=HH")


class LostError(Exception):
    """A source cannot be listened to now."""


class Source(Protocol):
    """Something with a file descriptor that gives signs of devices."""

    problems: Dict[str, str]
    """What is wrong although it listens, by code."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Return what became of what was heard."""
        ...

    def fileno(self) -> int:
        """Return what to wait for."""
        ...

    def read(self, now_s: float) -> Iterator[Sign]:
        """Take what has come.

        Raises:
            LostError: it is gone.
        """
        ...

    def tick(self, now_s: float) -> Iterator[Sign]:
        """Do what is due; called several times a second.

        Raises:
            LostError: it is gone.
        """
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Air:
    """802.11 frames of enrolled devices, channel after channel.

    Args:
        radio: not open yet.
        devices: address -> device id.
        channels: in this order.
        hop_s: seconds on each.
        min_rssi_dbm: what is weaker counts nothing.

    Raises:
        LostError: the radio cannot be opened.
    """

    def __init__(
        self, radio: Radio, devices: Mapping[bytes, str], channels: tuple[int, ...], hop_s: float, min_rssi_dbm: int
    ) -> None:
        self._radio, self._hop_s = radio, hop_s
        self._ear = Ear(devices, min_rssi_dbm)
        self._channels = list(channels)
        self._at = 0
        self._tuned: Optional[int] = None
        self._hop_due_s = 0.0
        self.problems: Dict[str, str] = {}
        self._dropped = 0
        try:
            link = radio.open()
            self._hop()
            self._reader = READERS[link]
            self._sock = packet_socket(radio.name, wireless_filter(devices, radiotap=link == RADIOTAP))
        except LostError:
            radio.close()
            raise
        except (RadioError, OSError) as err:
            radio.close()
            raise LostError(
                str(err) if isinstance(err, RadioError) else f"{radio.name}: {err.strerror or err}"
            ) from err
        if link != RADIOTAP:
            self.problems["no_rssi"] = f"{radio.name} tells no signal strength: the threshold is not applied"

    @property
    def counts(self) -> Dict[str, int]:
        """Return what became of the frames; `dropped` by the kernel because this process was too slow."""
        self._dropped += dropped(self._sock)
        return {**vars(self._ear.counts), "dropped": self._dropped}

    def fileno(self) -> int:
        """See `Source`."""
        return self._sock.fileno()

    def read(self, now_s: float) -> Iterator[Sign]:
        """See `Source`."""
        for data in _frames(self._sock, self._radio.name):
            for heard in self._ear.hear(now_s, data, self._reader, self._tuned):
                yield _sign(heard)

    def tick(self, now_s: float) -> Iterator[Sign]:
        """See `Source`."""
        for heard in self._ear.due(now_s):
            yield _sign(heard)
        if self._hop_due_s == 0.0:
            self._hop_due_s = now_s + self._hop_s
        if now_s >= self._hop_due_s and len(self._channels) > 1:
            self._hop_due_s = now_s + self._hop_s
            self._hop()

    def close(self) -> None:
        """See `Source`."""
        self._sock.close()
        self._radio.close()

    def _hop(self) -> None:
        """Go to the next channel that is not refused."""
        while self._channels:
            self._at %= len(self._channels)
            try:
                self._tuned = self._radio.tune(self._channels[self._at])
            except ChannelRefusedError as err:
                del self._channels[self._at]
                self.problems["channel_refused"] = f"{err}; it is left out"
            except RadioError as err:
                raise LostError(str(err)) from err
            else:
                self._at += 1
                return
        raise LostError("every configured channel is refused: see `iw reg get`")


class Mdns:
    """mDNS that enrolled devices send on the local network; only listens.

    Raises:
        LostError: no such interface, or no right.
    """

    def __init__(self, interface: str, devices: Mapping[bytes, str]) -> None:
        self._interface, self._devices = interface, devices
        self.problems: Dict[str, str] = {}
        self.counts: Dict[str, int] = {}
        try:
            self._sock = mdns_socket(interface, devices)
        except OSError as err:
            raise LostError(f"mDNS on {interface}: {err.strerror or err}") from err

    def fileno(self) -> int:
        """See `Source`."""
        return self._sock.fileno()

    def read(self, now_s: float) -> Iterator[Sign]:
        """See `Source`."""
        for data in _frames(self._sock, self._interface):
            device = self._devices.get(data[6:12])
            if device is not None:
                yield Sign(device, "mdns", now_s)

    def tick(self, now_s: float) -> Iterator[Sign]:  # noqa: ARG002 - nothing is due here
        """See `Source`."""
        return iter(())

    def close(self) -> None:
        """See `Source`."""
        self._sock.close()


class Neighbours:
    """Devices with which this machine has just spoken, by the kernel's table; nobody is asked anything.

    Raises:
        LostError: netlink is not permitted.
    """

    def __init__(self, devices: Mapping[bytes, str]) -> None:
        self._devices = devices
        self._dump_due_s = 0.0
        self.problems: Dict[str, str] = {}
        self.counts: Dict[str, int] = {}
        try:
            self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._sock.setblocking(False)
            self._sock.bind((0, _RTMGRP_NEIGH))
        except OSError as err:
            raise LostError(f"the neighbour table: {err.strerror or err}") from err

    def fileno(self) -> int:
        """See `Source`."""
        return self._sock.fileno()

    def read(self, now_s: float) -> Iterator[Sign]:
        """See `Source`."""
        seen: Set[str] = set()
        while True:
            try:
                data = self._sock.recv(65_536)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno == errno.ENOBUFS:  # more news than room: the next dump has it all
                    self._dump_due_s = 0.0
                    return
                raise LostError(f"the neighbour table: {err.strerror}") from err
            for address in reachable(data):
                device = self._devices.get(address)
                if device is not None and device not in seen:
                    seen.add(device)
                    yield Sign(device, "arp", now_s)

    def tick(self, now_s: float) -> Iterator[Sign]:
        """See `Source`."""
        if now_s >= self._dump_due_s:
            self._dump_due_s = now_s + _DUMP_EVERY_S
            body = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            request = _NLMSG.pack(_NLMSG.size + len(body), _RTM_GETNEIGH, _NLM_F_DUMP, 1, 0) + body
            with contextlib.suppress(BlockingIOError):
                self._sock.send(request)
        return iter(())

    def close(self) -> None:
        """See `Source`."""
        self._sock.close()


def reachable(data: bytes) -> List[bytes]:
    """Return the addresses of netlink's neighbour messages that are confirmed now (NUD_REACHABLE)."""
    found, at = [], 0
    while at + _NLMSG.size <= len(data):
        length, kind, _, _, _ = _NLMSG.unpack_from(data, at)
        if length < _NLMSG.size:
            break
        end = min(at + length, len(data))
        if kind == _RTM_NEWNEIGH and at + _NLMSG.size + _NDMSG.size <= end:
            state = _NDMSG.unpack_from(data, at + _NLMSG.size)[2]
            address = _attribute(data[at + _NLMSG.size + _NDMSG.size : end], _NDA_LLADDR)
            if state & _NUD_REACHABLE and address is not None and len(address) == 6:
                found.append(address)
        at += -(-length // 4) * 4
    return found


def _attribute(data: bytes, wanted: int) -> Optional[bytes]:
    at = 0
    while at + _RTATTR.size <= len(data):
        length, kind = _RTATTR.unpack_from(data, at)
        if length < _RTATTR.size:
            return None
        if kind == wanted:
            return data[at + _RTATTR.size : at + length]
        at += -(-length // 4) * 4
    return None


def _frames(sock: socket.socket, interface: str) -> Iterator[bytes]:
    for _ in range(_AT_ONCE):
        try:
            yield sock.recv(SNAP)
        except BlockingIOError:
            return
        except OSError as err:
            raise LostError(f"{interface} is gone or down ({err.strerror})") from err


def _sign(heard: Heard) -> Sign:
    return Sign(heard.device, "sniff", heard.at_s, heard.rssi_dbm, heard.channel, heard.frames, heard.doubled)
