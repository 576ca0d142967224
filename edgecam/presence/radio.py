"""A Wi-Fi interface that listens to everybody: monitor mode, one channel after the other. Standard library and `iw`."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Optional, Protocol, Set

from edgecam.presence.frames import PLAIN, RADIOTAP

KNOWN_TO_WORK = {
    "ath9k_htc": "Atheros AR9271, AR7010",
    "carl9170": "Atheros AR9170",
    "mt7601u": "MediaTek MT7601U",
    "mt76x0u": "MediaTek MT7610U",
    "mt76x2u": "MediaTek MT7612U",
    "mt7921u": "MediaTek MT7921U",
    "rt2800usb": "Ralink RT3070, RT3572, RT5370, RT5572",
    "rtl88XXau": "Realtek RTL8812AU, RTL8821AU (out-of-tree driver)",
}
"""Kernel driver -> chips whose monitor mode reports the signal in dBm (aircrack-ng's and Kismet's lists)."""

_LINKS = {803: RADIOTAP, 801: PLAIN}
"""ARPHRD_* of an interface -> link type."""
_ETHERNET, _PRISM = 1, 802
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8914, 0x8927
_UP = 1
_IW_TIMEOUT_S = 5.0
_ROUTES = Path("/proc/net/route")
_ROUTES6 = Path("/proc/net/ipv6_route")


class RadioError(Exception):
    """The interface cannot be used as it is; the message says what to do."""


class ChannelRefusedError(RadioError):
    """The regulator, or the chip, does not allow a channel."""


class Radio(Protocol):
    """What the helper needs of a Wi-Fi interface."""

    name: str

    def open(self) -> int:
        """Begin to listen; return the link type of what will be heard.

        Raises:
            RadioError: no such interface, the only uplink, or no monitor mode.
        """
        ...

    def tune(self, channel: int) -> Optional[int]:
        """Go to a channel; return where the radio is now, None if nobody knows.

        Raises:
            ChannelRefusedError: not allowed here.
            RadioError: the interface is gone.
        """
        ...

    def close(self) -> None:
        """Leave the interface as it was found."""
        ...


class MonitorRadio:
    """An interface of this machine; one that is in monitor mode already (or cannot be tuned) is taken as it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tunable = False
        self._restore = False

    def open(self) -> int:
        """See `Radio`."""
        kind = _hardware(self.name)
        self._tunable = _sys(self.name, "phy80211").exists()
        if kind == _ETHERNET and not self._tunable:
            raise RadioError(f"{self.name} is no Wi-Fi interface: `iw dev` lists them")
        if kind == _ETHERNET:
            if only_uplink(self.name):
                raise RadioError(
                    f"{self.name} is this machine's only way to the network and stays as it is: "
                    f"plug in a second Wi-Fi adapter for listening"
                )
            self._monitor()
            kind = _hardware(self.name)
        elif not _flags(self.name) & _UP:
            _set_up(self.name, up=True)
        if kind not in _LINKS:
            what = "with Prism headers" if kind == _PRISM else f"of type {kind}"
            raise RadioError(f"{self.name} gives frames {what}: set its driver to radiotap headers")
        return _LINKS[kind]

    def tune(self, channel: int) -> Optional[int]:
        """See `Radio`."""
        if not self._tunable:
            return None
        self._iw("dev", self.name, "set", "channel", str(channel))
        return channel

    def close(self) -> None:
        """See `Radio`."""
        if self._restore:
            self._restore = False
            with contextlib.suppress(RadioError):
                _set_up(self.name, up=False)
                self._iw("dev", self.name, "set", "type", "managed")
                _set_up(self.name, up=True)

    def _monitor(self) -> None:
        self._restore = True
        try:
            _set_up(self.name, up=False)
            self._iw("dev", self.name, "set", "type", "monitor")
            _set_up(self.name, up=True)
        except RadioError as err:
            self.close()
            driver = driver_of(self.name)
            chips = ", ".join(KNOWN_TO_WORK)
            raise RadioError(
                f"{self.name} (driver {driver}) has no monitor mode ({err}); known to work: {chips}"
            ) from err

    def _iw(self, *args: str) -> None:
        iw = shutil.which("iw", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if iw is None:
            raise RadioError("the program `iw` is missing: apt install iw")
        try:
            done = subprocess.run(
                [iw, *args],
                capture_output=True,
                text=True,
                timeout=_IW_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            raise RadioError(f"iw does not answer: {err}") from err
        if done.returncode == 0:
            return
        said = (done.stderr.strip().splitlines() or ["iw failed"])[0]
        if "(-19)" in said or "No such device" in said:
            raise RadioError(f"{self.name} is gone")
        if args[-2] == "channel":
            raise ChannelRefusedError(f"channel {args[-1]} is refused ({said}): see `iw phy` and `iw reg get`")
        raise RadioError(said)


def only_uplink(name: str, routes: Path = _ROUTES, routes6: Path = _ROUTES6) -> bool:
    """Whether an interface carries routes and no other does (the loopback aside)."""
    carrying = _routed(routes, column=0, skip=1) | _routed(routes6, column=-1, skip=0)
    return carrying - {"lo"} == {name}


def driver_of(name: str) -> str:
    """Return the kernel driver of an interface, `unknown` if it has none."""
    path = _sys(name, "device/driver")
    return path.resolve().name if path.exists() else "unknown"


def _routed(path: Path, *, column: int, skip: int) -> Set[str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()[skip:]
    except OSError:
        return set()
    found = set()
    for line in lines:
        words = line.split()
        # Link-local and multicast routes of IPv6 are there with any cable.
        if words and not (column == -1 and words[0].startswith(("fe80", "ff"))):
            found.add(words[column])
    return found


def _sys(name: str, what: str) -> Path:
    return Path("/sys/class/net") / name / what


def _ioctl(request: int, name: str, flags: int = 0) -> bytes:
    # Any socket will do, and the unit allows none of IP.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            return fcntl.ioctl(sock, request, struct.pack("16sH14x", name.encode()[:15], flags))
        except OSError as err:
            raise RadioError(f"{name}: {err.strerror}") from err


def _hardware(name: str) -> int:
    """Return an interface's ARPHRD_* number.

    Raises:
        RadioError: there is no such interface.
    """
    try:
        return int(struct.unpack_from("H", _ioctl(_SIOCGIFHWADDR, name), 16)[0])
    except RadioError as err:
        raise RadioError(f"there is no interface {name}: `iw dev` lists them") from err


def _flags(name: str) -> int:
    return int(struct.unpack_from("H", _ioctl(_SIOCGIFFLAGS, name), 16)[0])


def _set_up(name: str, *, up: bool) -> None:
    flags = _flags(name)
    _ioctl(_SIOCSIFFLAGS, name, flags | _UP if up else flags & ~_UP)


def channel_list(text: str) -> Optional[tuple[int, ...]]:
    """Return the channels of `1,6,11`; None if it is not such a list.

    >>> channel_list("1,6,36"), channel_list("1,x"), channel_list("0")
    ((1, 6, 36), None, None)
    """
    try:
        channels = tuple(int(part) for part in text.split(","))
    except ValueError:
        return None
    return channels if all(1 <= channel <= 233 for channel in channels) else None
