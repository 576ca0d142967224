"""802.11 frames for tests, byte by byte as a driver would give them."""

from __future__ import annotations

import struct
from typing import Sequence

PROBE, BEACON, DATA, ACK = 0x40, 0x80, 0x08, 0xD4


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def dot11(
    sender: str, kind: int = PROBE, sequence: int = 0, flags: int = 0, receiver: str = "ff:ff:ff:ff:ff:ff"
) -> bytes:
    """Return a frame's header and an empty SSID."""
    return (
        struct.pack("<BBH", kind, flags, 0)
        + mac(receiver)
        + mac(sender)
        + mac(receiver)
        + struct.pack("<H", sequence << 4)
        + b"\0\0"
    )


def tapped(frame: bytes, rssi: int = -48, freq: int = 2437, antennas: Sequence[int] = (), flags: int = 0) -> bytes:
    """Return a frame after a radiotap header: flags, channel, signal; then signal and number of each antenna."""
    own = 1 << 1 | 1 << 3 | 1 << 5
    words = [own]
    if antennas:
        words = [own | 1 << 29 | 1 << 31, *([1 << 5 | 1 << 11 | 1 << 29 | 1 << 31] * len(antennas))]
        words[-1] = 1 << 5 | 1 << 11
    start = 4 + 4 * len(words)
    body = struct.pack("<BxHHb" if start % 2 == 0 else "<BHHb", flags, freq, 0x00A0, rssi)
    body += b"".join(struct.pack("<bB", value, number) for number, value in enumerate(antennas))
    return struct.pack("<BBH", 0, 0, start + len(body)) + struct.pack(f"<{len(words)}I", *words) + body + frame
