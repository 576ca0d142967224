"""From frames to `heard`: one record a second for each enrolled device, its strongest signal, nobody else's.

Standard library only, for the helper. Time is whatever clock the caller has: monotonic live, the capture's in a replay.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from edgecam.presence.frames import Meta, Reader, channel_of, sender

WINDOW_S = 1.0
"""As long as the radio stays on one channel: one record a stay."""

_STEP = 64
"""So many numbers may be missed between two frames of one sender."""
_SWAPS, _SWAPS_WITHIN_S = 4, 60.0


class Heard(NamedTuple):
    """A device was heard in a window."""

    device: str
    at_s: float
    """The first frame's."""
    rssi_dbm: Optional[int]
    """The strongest frame's, of its strongest antenna."""
    channel: Optional[int]
    """Of the strongest frame."""
    frames: int
    doubled: bool
    """Two transmitters use the address: one of them is a clone."""


@dataclass
class Counts:
    """What became of the frames."""

    frames: int = 0
    unreadable: int = 0
    """Broken headers."""
    damaged: int = 0
    """Wrong check sum."""
    anonymous: int = 0
    """Frames that name no sender (ACK, CTS)."""
    strangers: int = 0
    """Not of an enrolled device: dropped at once."""
    weak: int = 0
    """Below the threshold."""
    heard: int = 0


@dataclass
class _Window:
    start_s: float
    rssi_dbm: Optional[int]
    channel: Optional[int]
    frames: int


class Ear:
    """Listens for some addresses.

    Args:
        devices: address (6 bytes) -> device id.
        min_rssi_dbm: weaker frames are not counted; frames without a strength are.
    """

    def __init__(self, devices: Mapping[bytes, str], min_rssi_dbm: int) -> None:
        self._devices = devices
        self._min_rssi_dbm = min_rssi_dbm
        self._open: Dict[str, _Window] = {}
        self._twins: Dict[Tuple[str, int], _Sequence] = {}
        self.counts = Counts()

    def hear(self, at_s: float, data: bytes, reader: Reader, tuned: Optional[int] = None) -> Iterator[Heard]:
        """Take one captured frame; yield the device's window if this frame ends it.

        Args:
            at_s: when.
            data: link header and 802.11 frame.
            reader: of its link type (`frames.READERS`).
            tuned: the channel the radio is on, for link types that do not tell.
        """
        self.counts.frames += 1
        read = reader(data)
        if read is None:
            self.counts.unreadable += 1
            return
        at, meta = read
        frame = sender(data, at)
        if frame is None:
            self.counts.anonymous += 1
            return
        device = self._devices.get(frame.address)
        if device is None:
            self.counts.strangers += 1
            return
        if meta.damaged:
            self.counts.damaged += 1
            return
        if frame.sequence is not None and not frame.kind & 0x0C:
            # Numbers are compared within one kind of management frame: data is counted apart, by priority.
            self._twins.setdefault((device, frame.kind), _Sequence()).take(at_s, frame.sequence)
        if meta.rssi_dbm is not None and meta.rssi_dbm < self._min_rssi_dbm:
            self.counts.weak += 1
            return
        self.counts.heard += 1
        yield from self._note(device, at_s, meta, tuned)

    def _note(self, device: str, at_s: float, meta: Meta, tuned: Optional[int]) -> Iterator[Heard]:
        window = self._open.get(device)
        # A clock that was set back ends the window, too.
        if window is not None and not window.start_s <= at_s < window.start_s + WINDOW_S:
            yield self._close(device)
            window = None
        channel = channel_of(meta.freq_mhz) or tuned
        if window is None:
            self._open[device] = _Window(at_s, meta.rssi_dbm, channel, 1)
            return
        window.frames += 1
        if meta.rssi_dbm is not None and (window.rssi_dbm is None or meta.rssi_dbm > window.rssi_dbm):
            window.rssi_dbm, window.channel = meta.rssi_dbm, channel

    def due(self, now_s: float) -> Iterator[Heard]:
        """Yield the windows that are over."""
        for device in [d for d, window in self._open.items() if now_s >= window.start_s + WINDOW_S]:
            yield self._close(device)

    def end(self) -> List[Heard]:
        """Return the windows that are still open, and close them."""
        return [self._close(device) for device in list(self._open)]

    def _close(self, device: str) -> Heard:
        window = self._open.pop(device)
        doubled = any(twin.doubled(window.start_s) for (owner, _), twin in self._twins.items() if owner == device)
        return Heard(device, window.start_s, window.rssi_dbm, window.channel, window.frames, doubled)


class _Sequence:
    """The frame numbers of one address: a sender counts upwards, two senders jump between two counts."""

    def __init__(self) -> None:
        self._last: Optional[int] = None
        self._other: Optional[int] = None
        self._swaps: Deque[float] = deque(maxlen=_SWAPS)

    def take(self, at_s: float, number: int) -> None:
        if self._last is None or _follows(number, self._last):
            self._last = number
            return
        if self._other is not None and _follows(number, self._other):
            self._swaps.append(at_s)
        self._last, self._other = number, self._last

    def doubled(self, at_s: float) -> bool:
        return len(self._swaps) == _SWAPS and 0 <= at_s + WINDOW_S - self._swaps[0] <= _SWAPS_WITHIN_S


def _follows(number: int, last: int) -> bool:
    return (number - last) & 0xFFF <= _STEP
