"""A capture instead of the air: the helper's ear on a file, with the sightings that the daemon would keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from edgecam.errors import InputError
from edgecam.presence.frames import NAMES, READERS, WITH_RSSI, is_random
from edgecam.presence.hearing import Ear, Heard
from edgecam.presence.pcap import Capture, Packet
from edgecam.presence.sightings import DOUBLED, Comings, weight_of
from edgecam.types import SightingSource, Transition

_SNIFF = SightingSource.SNIFF


class Everybody(Dict[bytes, str]):
    """Gives every address a pseudonym, by order of appearance: of no use beyond this run."""

    def get(self, address: bytes, default: Any = None) -> Any:  # noqa: ARG002 - as `dict.get`
        """Return the address's pseudonym."""
        return self.setdefault(address, f"p{len(self) + 1}")


def replay(
    path: Path, devices: Optional[Dict[bytes, str]], min_rssi_dbm: int, away_after_s: float
) -> Iterator[Dict[str, Any]]:
    """Yield a row for each second in which a device was heard, then a summary.

    Args:
        path: pcap or pcapng.
        devices: address -> device id; None: everybody, by pseudonyms.
        min_rssi_dbm: weaker frames count nothing.
        away_after_s: so long a silence means away.

    Raises:
        InputError: not a capture, or none of 802.11 frames.
    """
    everybody = Everybody()
    run = _Run(Ear(everybody if devices is None else devices, min_rssi_dbm), away_after_s)
    capture = Capture(path)
    for packet in capture:
        for heard in run.take(packet, path):
            yield run.row(heard)
    for heard in run.ear.end():
        yield run.row(heard)
    summary = run.summary()
    if capture.broken:
        summary["problems"].append(f"{path}: read as far as it goes: {capture.broken}")
    if devices is None:
        summary["random_addresses"] = sum(map(is_random, everybody))
    yield summary


class _Run:
    """One capture's state."""

    def __init__(self, ear: Ear, away_after_s: float) -> None:
        self.ear = ear
        self._away_after_s = away_after_s
        self._comings: Optional[Comings] = None
        self._first_s = self._last_s = 0.0
        self._devices: set[str] = set()
        self._links: set[int] = set()
        self._back = 0

    def take(self, packet: Packet, path: Path) -> Iterator[Heard]:
        """Take a frame; yield what was heard in windows that it ends."""
        reader = READERS.get(packet.link)
        if reader is None:
            name = NAMES.get(packet.link, "unknown")
            raise InputError(f"{path} has no 802.11 frames (link type {packet.link}, {name}): capture in monitor mode")
        if self._comings is None:
            self._comings, self._first_s, self._last_s = (
                Comings(packet.wall_s, self._away_after_s),
                packet.wall_s,
                packet.wall_s,
            )
        self._back += packet.wall_s < self._last_s - 1.0
        self._last_s = packet.wall_s
        self._links.add(packet.link)
        yield from self.ear.hear(packet.wall_s, packet.data, reader)

    def row(self, heard: Heard) -> Dict[str, Any]:
        """Return a sighting as JSON values; `t_s` counts from the capture's first frame."""
        self._devices.add(heard.device)
        comings = self._comings
        transition = Transition.STEADY if comings is None else comings.note(heard.device, _SNIFF, heard.at_s)
        return {
            "type": "sighting",
            "device": heard.device,
            "source": _SNIFF.value,
            "t_s": round(heard.at_s - self._first_s, 3),
            "wall_s": round(heard.at_s, 6),
            "rssi_dbm": heard.rssi_dbm,
            "channel": heard.channel,
            "frames": heard.frames,
            "transition": transition.value,
            "weight": 0.0 if heard.doubled else weight_of(transition, _SNIFF, heard.rssi_dbm),
            "reason": DOUBLED if heard.doubled else "",
        }

    def summary(self) -> Dict[str, Any]:
        """Return what became of all frames."""
        problems: List[str] = []
        without = self._links - WITH_RSSI
        if without:
            names = " and ".join(sorted(NAMES[link] for link in without))
            problems.append(f"{names} frames tell no signal strength in dBm: the threshold is not applied to them")
        if self._back:
            problems.append(f"the capture's clock was set back {self._back} times")
        return {
            "type": "summary",
            "duration_s": round(max(0.0, self._last_s - self._first_s), 3),
            "devices": len(self._devices),
            "link_types": sorted(NAMES[link] for link in self._links),
            "counts": vars(self.ear.counts),
            "problems": problems,
        }
