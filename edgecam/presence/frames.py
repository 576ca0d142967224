"""802.11 frames as captures and monitor interfaces give them: who sent it, how strong, on which channel.

Standard library only, for the helper; a frame whose sender nobody asked for is not looked at beyond its address.
Radiotap: https://www.radiotap.org (fields of `_FIELDS`); PPI: version 1.0.10; Prism and AVS: linux-wlan-ng.
"""

from __future__ import annotations

import struct
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

RADIOTAP, PLAIN, PRISM, AVS, PPI = 127, 105, 119, 163, 192
"""Link types of captures (LINKTYPE_*)."""

WITH_RSSI = frozenset({RADIOTAP, PPI})
"""Their signal is in dBm by definition; that of Prism and AVS may be."""

NAMES = {
    RADIOTAP: "radiotap",
    PLAIN: "plain 802.11",
    PRISM: "Prism",
    AVS: "AVS",
    PPI: "PPI",
    0: "BSD loopback",
    1: "Ethernet",
    101: "raw IP",
    113: "Linux cooked",
    187: "Bluetooth",
    201: "Bluetooth",
    251: "Bluetooth LE",
    256: "Bluetooth LE",
}


class Meta(NamedTuple):
    """What the receiver said of a frame."""

    rssi_dbm: Optional[int]
    """The strongest antenna's; None if it is not told."""
    freq_mhz: int
    """0: not told."""
    damaged: bool
    """The check sum was wrong: the address may be anything."""


class Frame(NamedTuple):
    """A frame's sender, and what tells two of them apart."""

    address: bytes
    """6 bytes, who transmitted it (not whose frame an access point passed on)."""
    kind: int
    """First byte of the frame control: type and subtype."""
    sequence: Optional[int]
    """0..4095; None for control frames."""


NOTHING = Meta(None, 0, damaged=False)

# Bit -> (alignment, bytes), counted from the header's start.
_FIELDS: Dict[int, Tuple[int, int]] = {
    0: (8, 8),  # TSFT
    1: (1, 1),  # flags
    2: (1, 1),  # rate
    3: (2, 4),  # channel
    4: (2, 2),  # FHSS
    5: (1, 1),  # antenna signal, dBm
    6: (1, 1),  # antenna noise, dBm
    7: (2, 2),  # lock quality
    8: (2, 2),  # TX attenuation
    9: (2, 2),  # TX attenuation, dB
    10: (1, 1),  # TX power
    11: (1, 1),  # antenna
    12: (1, 1),  # antenna signal, dB
    13: (1, 1),  # antenna noise, dB
    14: (2, 2),  # RX flags
    15: (2, 2),  # TX flags
    16: (1, 1),  # RTS retries
    17: (1, 1),  # data retries
    18: (4, 8),  # XChannel
    19: (1, 3),  # MCS
    20: (4, 8),  # A-MPDU
    21: (2, 12),  # VHT
    22: (8, 12),  # timestamp
    23: (2, 12),  # HE
    24: (2, 12),  # HE-MU
    25: (2, 6),  # HE-MU, other user
    26: (1, 1),  # zero-length PSDU
    27: (2, 4),  # L-SIG
}
_FLAGS, _CHANNEL, _SIGNAL = 1, 3, 5
_BAD_FCS = 0x40
_RADIOTAP_NEXT, _VENDOR_NEXT, _MORE = 1 << 29, 1 << 30, 1 << 31
_MAX_WORDS = 32
_NO_SIGNAL_FROM = 0
"""No receiver sees 1 mW: drivers write 0 and more for an antenna that heard nothing."""

_PRISM = struct.Struct("<II16s")
_PRISM_LENGTH = 144
_PRISM_RSSI, _PRISM_SIGNAL = (0x00041044, 0x41), (0x00061044, 0x61)
_AVS_VERSION = 0x80211001
_AVS_DBM = 2
_PPI_COMMON = 2


def radiotap(data: bytes) -> Optional[Tuple[int, Meta]]:
    """Return a radiotap header's length and what it says; None if it is broken.

    Of several antennas (a namespace for each) the strongest counts, as in AutoTune 6.1.
    """
    if len(data) < 8 or data[0] != 0:
        return None
    length = data[2] | data[3] << 8
    words: List[int] = []
    at = 4
    while True:
        if at + 4 > min(length, len(data)) or len(words) == _MAX_WORDS:
            return None
        (word,) = struct.unpack_from("<I", data, at)
        words.append(word)
        at += 4
        if not word & _MORE:
            break
    if length > len(data):
        return None
    return length, _radiotap_fields(data, words, at, length)


def _radiotap_fields(data: bytes, words: List[int], at: int, end: int) -> Meta:
    rssi: Optional[int] = None
    freq, damaged = 0, False
    for field, place in _places(data, words, at, end):
        if field == _SIGNAL:
            value = data[place] - 256 if data[place] > 127 else data[place]
            if value < _NO_SIGNAL_FROM and (rssi is None or value > rssi):
                rssi = value
        elif field == _CHANNEL:
            freq = data[place] | data[place + 1] << 8
        elif field == _FLAGS:
            damaged = bool(data[place] & _BAD_FCS)
    return Meta(rssi, freq, damaged)


def _places(data: bytes, words: List[int], at: int, end: int) -> Iterator[Tuple[int, int]]:
    """Yield (field, where) until a field of unknown length (a TLV, a vendor's) or the header's end."""
    first, vendor = 0, False
    for word in words:
        for bit in range(29):
            if vendor or not word >> bit & 1:
                continue
            if first + bit not in _FIELDS:
                return
            align, size = _FIELDS[first + bit]
            at = -(-at // align) * align
            if at + size > end:
                return
            yield first + bit, at
            at += size
        first = 0 if word & (_RADIOTAP_NEXT | _VENDOR_NEXT) else first + 32
        if word & _RADIOTAP_NEXT:
            vendor = False
        elif word & _VENDOR_NEXT:
            at = -(-at // 2) * 2
            if at + 6 > end:
                return
            at += 6 + (data[at + 4] | data[at + 5] << 8)
            vendor = True


def plain(data: bytes) -> Optional[Tuple[int, Meta]]:
    """Return no header: the 802.11 frame begins at once."""
    return (0, NOTHING) if data else None


def prism(data: bytes) -> Optional[Tuple[int, Meta]]:
    """Return a Prism (or, under the same link type, AVS) header's length and what it says; None if it is broken."""
    if len(data) >= 4 and struct.unpack_from(">I", data)[0] == _AVS_VERSION:
        return avs(data)
    if len(data) < _PRISM_LENGTH:
        return None
    _, length, _ = _PRISM.unpack_from(data)
    if not _PRISM_LENGTH <= length <= len(data):
        return None
    return length, Meta(_prism_rssi(data), 0, damaged=False)


def _prism_rssi(data: bytes) -> Optional[int]:
    """Return the signal if it can be dBm: drivers also write numbers of their own scale, all positive."""
    for at in range(24, _PRISM_LENGTH, 12):
        did, missing, length, value = struct.unpack_from("<IHHi", data, at)
        if did in (*_PRISM_RSSI, *_PRISM_SIGNAL) and not missing and length == 4 and -128 <= value < _NO_SIGNAL_FROM:
            return int(value)
    return None


def avs(data: bytes) -> Optional[Tuple[int, Meta]]:
    """Return an AVS header's length and what it says; None if it is broken."""
    if len(data) < 64:
        return None
    version, length = struct.unpack_from(">II", data)
    if version != _AVS_VERSION or not 64 <= length <= len(data):
        return None
    ssi_type, signal = struct.unpack_from(">Ii", data, 44)
    in_dbm = ssi_type == _AVS_DBM and -128 <= signal < _NO_SIGNAL_FROM
    return length, Meta(signal if in_dbm else None, 0, damaged=False)


def ppi(data: bytes) -> Optional[Tuple[int, Meta]]:
    """Return a PPI header's length and what its 802.11-Common field says; None if it is broken or of other contents."""
    if len(data) < 8:
        return None
    length, dlt = struct.unpack_from("<HI", data, 2)
    if dlt != PLAIN or not 8 <= length <= len(data):
        return None
    at, meta = 8, NOTHING
    while at + 4 <= length:
        kind, size = struct.unpack_from("<HH", data, at)
        at += 4
        if kind == _PPI_COMMON and size >= 20 and at + 20 <= length:
            flags, _rate, freq = struct.unpack_from("<HHH", data, at + 8)
            signal = struct.unpack_from("b", data, at + 18)[0]
            meta = Meta(signal if -128 < signal < _NO_SIGNAL_FROM else None, freq, damaged=bool(flags & 4))
        at += size
    return length, meta


Reader = Callable[[bytes], Optional[Tuple[int, Meta]]]
READERS: Dict[int, Reader] = {RADIOTAP: radiotap, PLAIN: plain, PRISM: prism, AVS: avs, PPI: ppi}
"""By link type: what comes before the 802.11 frame."""


def sender(data: bytes, at: int) -> Optional[Frame]:
    """Return who transmitted the 802.11 frame at `at`; None if the frame does not say (ACK, CTS) or is cut."""
    kind = data[at] if at < len(data) else 0x0C
    family = kind >> 2 & 3
    if family == 3 or kind & 3 or len(data) < at + 16:  # an extension, another version, cut
        return None
    if family == 1 and kind >> 4 not in (8, 9, 10, 11):  # of the control frames BAR, BA, PS-Poll and RTS say
        return None
    sequence = None
    if family != 1 and len(data) >= at + 24:
        sequence = (data[at + 22] | data[at + 23] << 8) >> 4
    return Frame(bytes(data[at + 10 : at + 16]), kind, sequence)


def channel_of(freq_mhz: int) -> Optional[int]:
    """Return the channel of a frequency in MHz; None if it is none.

    >>> [channel_of(f) for f in (2412, 2472, 2484, 5180, 5955, 0)]
    [1, 13, 14, 36, 1, None]
    """
    if freq_mhz == 2484:
        return 14
    if 2412 <= freq_mhz <= 2472:
        return (freq_mhz - 2407) // 5
    if 5160 <= freq_mhz <= 5885:
        return (freq_mhz - 5000) // 5
    if 5955 <= freq_mhz <= 7115:
        return (freq_mhz - 5950) // 5
    return None


def parse_address(text: str) -> Optional[bytes]:
    """Return the 6 bytes of `aa:bb:cc:dd:ee:ff` (or with `-`); None if it is no device's address.

    >>> parse_address("02:00:5E:10:00:01").hex(), parse_address("ff:ff:ff:ff:ff:ff"), parse_address("phone")
    ('02005e100001', None, None)
    """
    parts = text.strip().replace("-", ":").split(":")
    try:
        if len(parts) != 6 or any(len(part) not in (1, 2) for part in parts):
            return None
        address = bytes(int(part, 16) for part in parts)
    except ValueError:
        return None
    return None if address[0] & 1 or not any(address) else address


def is_random(address: bytes) -> bool:
    """Whether the address is locally administered: made up by the device, for one network or one scan."""
    return bool(address[0] & 2)
