"""Captures read frame by frame, of any size and in constant memory; a broken one is read as far as it goes.

Classic pcap (both byte orders, micro- and nanoseconds) and pcapng. Standard library only.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Dict, Iterator, NamedTuple, Optional, Tuple

from edgecam.errors import InputError

_CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_NG = b"\x0a\x0d\x0d\x0a"
_NG_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_MAX_FRAME = 262_144
"""tcpdump's own limit; a longer record is a broken one."""
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_TSRESOL = 9


class Packet(NamedTuple):
    """One captured frame."""

    wall_s: float
    """Seconds since 1970, as the capture has it."""
    link: int
    """LINKTYPE_* number."""
    data: bytes


class Capture:
    """Iterate over the frames of a capture.

    Raises:
        InputError: not a capture, or not readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: Optional[str] = None
        """Why reading ended before the file did; None if it did not."""
        try:
            self._file: IO[bytes] = path.open("rb")
            self._magic = self._file.read(4)
        except OSError as err:
            raise InputError(f"{path} cannot be read: {err.strerror}") from err
        if self._magic not in _CLASSIC and self._magic != _NG:
            self._file.close()
            raise InputError(f"{path} is not a capture (pcap or pcapng): record one with `tcpdump -w`")

    def __iter__(self) -> Iterator[Packet]:
        """Yield the frames in the file's order."""
        with self._file:
            yield from self._blocks() if self._magic == _NG else self._records()

    def _records(self) -> Iterator[Packet]:
        order, unit = _CLASSIC[self._magic]
        head = self._file.read(20)
        if len(head) < 20:
            self.broken = "it ends within its header"
            return
        link = struct.unpack_from(order + "I", head, 16)[0] & 0xFFFF  # above: the length of the check sum
        record = struct.Struct(order + "IIII")
        while head := self._file.read(16):
            if len(head) < 16:
                self.broken = "it ends within a frame's header"
                return
            seconds, fraction, length, _ = record.unpack(head)
            if length > _MAX_FRAME:
                self.broken = f"a frame claims {length} bytes"
                return
            data = self._file.read(length)
            if len(data) < length:
                self.broken = "it ends within a frame"
                return
            yield Packet(seconds + fraction * unit, link, data)

    def _blocks(self) -> Iterator[Packet]:
        order, head = "<", self._magic + self._file.read(4)
        links: Dict[int, Tuple[int, float]] = {}
        while head:
            if len(head) < 8:
                self.broken = "it ends within a block's header"
                return
            kind = struct.unpack_from(order + "I", head)[0]
            if kind == _SECTION:
                mark = self._file.read(4)
                if mark not in _NG_ORDER:
                    self.broken = "a section has no byte order"
                    return
                order, links = _NG_ORDER[mark], {}
            length = struct.unpack_from(order + "I", head, 4)[0]
            rest = length - (12 if kind == _SECTION else 8)
            if rest < 4 or length > 2 * _MAX_FRAME:
                self.broken = f"a block claims {length} bytes"
                return
            body = self._file.read(rest)
            if len(body) < rest:
                self.broken = "it ends within a block"
                return
            if kind == _INTERFACE and rest >= 12:
                links[len(links)] = struct.unpack_from(order + "H", body)[0], _unit(order, body[8:-4])
            elif kind in (_ENHANCED, _SIMPLE):
                packet = _packet(order, kind, body[:-4], links)
                if packet is None:
                    self.broken = "a block is not as long as it says"
                    return
                yield packet
            head = self._file.read(8)


def _packet(order: str, kind: int, body: bytes, links: Dict[int, Tuple[int, float]]) -> Optional[Packet]:
    if kind == _SIMPLE:
        if len(body) < 4 or 0 not in links:
            return None
        (length,) = struct.unpack_from(order + "I", body)
        return Packet(0.0, links[0][0], body[4 : 4 + length])
    if len(body) < 20:
        return None
    interface, high, low, length = struct.unpack_from(order + "IIII", body)
    if interface not in links or 20 + length > len(body):
        return None
    link, unit = links[interface]
    return Packet((high << 32 | low) * unit, link, body[20 : 20 + length])


def _unit(order: str, options: bytes) -> float:
    """Return the seconds that an interface's time stamps count in."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == _TSRESOL and length == 1 and at + 4 < len(options):
            value = options[at + 4]
            return float(2.0 ** -(value & 0x7F) if value & 0x80 else 10.0**-value)
        at += 4 + -(-length // 4) * 4
    return 1e-6
