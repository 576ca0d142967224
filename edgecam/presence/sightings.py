"""From signs of devices to sightings: coming and going, weights, and what a visit's sightings say of people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from edgecam.types import Device, Sighting, SightingSource, Transition

BEFORE_S, AFTER_S = 120.0, 180.0
"""A visit is joined with the sightings from so long before it opened until so long after it closed."""

TRANSITION_WEIGHT, STEADY_WEIGHT = 1.0, 0.2
"""Who has just come says more of who is at the door than a phone that is there all night."""

MIN_FRAMES = 3
"""A device that was sniffed counts with more than two frames (AutoTune, published code)."""

DOUBLED, AWAY = "doubled", "away"


class Comings:
    """Tells a first sign after a silence from one of many, for each device and source.

    Args:
        since_s: when listening began: what was there before is unknown, so a device is not said to have come
            unless it was silent for the whole of `away_after_s` meanwhile.
        away_after_s: so long a silence means away.
    """

    def __init__(self, since_s: float, away_after_s: float) -> None:
        self._since_s, self._away_after_s = since_s, away_after_s
        self._last: Dict[Tuple[str, SightingSource], float] = {}

    def note(self, device: str, source: SightingSource, at_s: float) -> Transition:
        """Take a sign that says no more than `here`; a clock set back makes nobody come."""
        silent_s = at_s - self._last.get((device, source), self._since_s)
        self._last[device, source] = at_s
        return Transition.JOIN if silent_s >= self._away_after_s else Transition.STEADY


def weight_of(transition: Transition, source: SightingSource, rssi_dbm: Optional[int]) -> float:
    """Return how much a sighting says, 0..1; a frame of unknown strength may come from anywhere in the street."""
    if transition is Transition.STEADY or (source is SightingSource.SNIFF and rssi_dbm is None):
        return STEADY_WEIGHT
    return TRANSITION_WEIGHT


@dataclass(frozen=True)
class Attendance:
    """What a visit's sightings say of one person."""

    person_ids: Tuple[str, ...]
    """One; several if the device is bound to several people, and then it cannot be told whose it was."""

    weight: float
    """0..1; 0: cannot tell."""

    reason: str
    """came, left, there; or why it cannot be told: doubled, away, shared, too few frames."""


def attendance(sightings: Sequence[Sighting], devices: Mapping[str, Device]) -> List[Attendance]:
    """Return who was near by their devices, surest first. It names nobody: a phone is not a face.

    Args:
        sightings: of one visit.
        devices: by id; sightings of others are passed over.
    """
    mine: Dict[str, List[Sighting]] = {}
    for sighting in sightings:
        if sighting.device_id in devices:
            mine.setdefault(sighting.device_id, []).append(sighting)
    found: Dict[Tuple[str, ...], Attendance] = {}
    for device_id, seen in mine.items():
        people = _owners(devices[device_id], devices)
        weight, reason = _judge(seen)
        if len(people) > 1:
            weight, reason = 0.0, "shared"
        known = found.get(people)
        if known is None or weight > known.weight:
            found[people] = Attendance(people, weight, reason)
    return sorted(found.values(), key=lambda one: (-one.weight, one.person_ids))


def _judge(seen: Sequence[Sighting]) -> Tuple[float, str]:
    """Return weight and reason of one device."""
    for sighting in seen:
        if sighting.reason:  # one contradiction spoils the rest: a clone is heard with its original
            return 0.0, sighting.reason
    sniffed = sum(s.frames for s in seen if s.source is SightingSource.SNIFF)
    counted = [s for s in seen if s.source is not SightingSource.SNIFF or sniffed >= MIN_FRAMES]
    if not counted:
        return 0.0, "too few frames"
    best = max(counted, key=lambda s: s.weight)
    words = {Transition.JOIN: "came", Transition.LEAVE: "left", Transition.STEADY: "there"}
    return best.weight, words[best.transition]


def _owners(device: Device, devices: Mapping[str, Device]) -> Tuple[str, ...]:
    same = {d.person_id for d in devices.values() if (d.kind, d.address) == (device.kind, device.address)}
    return tuple(sorted(same | {device.person_id}))
