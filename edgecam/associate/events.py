"""Events: who was seen, and whose device was heard, at one place in one stretch of time.

An office has fixed slots (12 of 2 h a day; AutoTune sec. 6.1). At a door the phones of the house are there all night,
so a visit is an event of its own, from 120 s before it to 180 s after, and what counts is who came or left just then.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Dict, Iterable, List, Literal, NamedTuple, Sequence, Set, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.associate.base import Numbers
from edgecam.types import Ints

SLOT_S = 7200.0
BEFORE_S, AFTER_S = 120.0, 180.0
Transition = Literal["join", "leave", "steady", "away"]
WEIGHT: Dict[str, float] = {"join": 1.0, "leave": 1.0, "steady": 0.2, "away": 1.0}
"""What a sighting says at a door; in an office, where people come and go by the slot, every one counts 1."""
_STEP_BACK_S = 5.0
"""A clock corrected by less is no jump."""


@dataclass(frozen=True)
class Event:
    """A place and a stretch of time, wall clock, seconds since 1970 UTC; the end is not part of it."""

    place: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Sighting:
    """A device, heard or (`away`) said by a tracker to be elsewhere."""

    device: str
    at_s: float
    transition: Transition = "steady"
    place: str = ""
    """Where it was heard; empty: anywhere in the house."""
    weight: float = 1.0
    """0..1, of the source."""


@dataclass(frozen=True)
class Seen:
    """A tracklet in time; in the order in which they were recorded."""

    tracklet: str
    place: str
    at_s: float
    clock_trusted: bool = True


class Gathered(NamedTuple):
    """Events with what was seen and heard in them; h of them, m persons."""

    events: Tuple[Event, ...]
    of_tracklet: Ints
    """(N,) event of each tracklet, -1 if its time cannot be trusted or no event has it."""
    heard: Numbers
    """(h, m) 0 or 1."""
    weight: Numbers
    """(h, m) 0..1."""
    barred: NDArray[np.bool_]
    """(h, m) a tracker said that the person was elsewhere, and nothing was heard."""
    unusable: Tuple[str, ...]
    """Devices bound to two people: they say nothing."""


def slots(seen: Iterable[Seen], sightings: Iterable[Sighting], places: Sequence[str]) -> Tuple[Event, ...]:
    """Return the two-hour slots, by place, in which somebody was seen or a device heard; the rest are discarded."""
    used: Set[Tuple[str, int]] = {(s.place, int(s.at_s // SLOT_S)) for s in seen if s.clock_trusted}
    for sighting in sightings:
        if sighting.transition != "away":
            used |= {(place, int(sighting.at_s // SLOT_S)) for place in places if sighting.place in ("", place)}
    return tuple(Event(place, n * SLOT_S, (n + 1) * SLOT_S) for place, n in sorted(used))


def window(place: str, start_s: float, end_s: float) -> Event:
    """Return the event of a visit, seconds of its first and last motion."""
    return Event(place, start_s - BEFORE_S, end_s + AFTER_S)


def owners(bindings: Iterable[Tuple[str, str]]) -> Tuple[Dict[str, str], Tuple[str, ...]]:
    """Return whose each device is, and the devices that two people claim.

    Args:
        bindings: (device, person).
    """
    people: Dict[str, Set[str]] = {}
    for device, person in bindings:
        people.setdefault(device, set()).add(person)
    clear = {device: next(iter(who)) for device, who in people.items() if len(who) == 1}
    return clear, tuple(sorted(set(people) - set(clear)))


def gather(
    events: Sequence[Event],
    seen: Sequence[Seen],
    sightings: Sequence[Sighting],
    bindings: Iterable[Tuple[str, str]],
    persons: Sequence[str],
    *,
    visits: bool,
) -> Gathered:
    """Put tracklets and sightings into their events; nothing is lost, what cannot be placed is marked.

    Args:
        events: of which no two overlap at one place, or the latest to start wins.
        seen: tracklets in the order in which they were recorded.
        sightings: in any order.
        bindings: (device, person).
        persons: the columns of the result.
        visits: whether the events are visits: then steady presence counts little.
    """
    clear, unusable = owners(bindings)
    column = {person: j for j, person in enumerate(persons)}
    h, m = len(events), len(persons)
    heard, weight, away = np.zeros((h, m)), np.ones((h, m)), np.zeros((h, m), np.bool_)
    doubtful = jumps(seen)
    placed = _Index(events)
    for sighting in sightings:
        person = clear.get(sighting.device)
        if person not in column or _within(sighting.at_s, doubtful):
            continue
        j = column[person]
        worth = sighting.weight * (WEIGHT[sighting.transition] if visits else 1.0)
        for k in placed.at(sighting.place, sighting.at_s):
            if sighting.transition == "away":
                away[k, j] = True
            else:
                weight[k, j] = max(weight[k, j], worth) if heard[k, j] else worth
                heard[k, j] = 1.0
    of_tracklet = np.full(len(seen), -1, np.int64)
    for i, one in enumerate(seen):
        found = placed.at(one.place, one.at_s)
        if one.clock_trusted and found and not _within(one.at_s, doubtful):
            of_tracklet[i] = found[-1]
    return Gathered(tuple(events), of_tracklet, heard, weight, away & (heard == 0), unusable)


def jumps(seen: Sequence[Seen]) -> Tuple[Tuple[float, float], ...]:
    """Return the stretches (from, to) that a clock set back ran through twice: what lies in them may be of either."""
    out: List[Tuple[float, float]] = []
    latest = -np.inf
    for one in seen:
        if not one.clock_trusted:
            continue
        if one.at_s < latest - _STEP_BACK_S:
            out.append((one.at_s, float(latest)))
        latest = max(latest, one.at_s) if one.at_s >= latest - _STEP_BACK_S else one.at_s
    return tuple(out)


def _within(at_s: float, stretches: Sequence[Tuple[float, float]]) -> bool:
    return any(start <= at_s <= end for start, end in stretches)


class _Index:
    """Finds the events of a moment."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._by_place: Dict[str, List[Tuple[float, int]]] = {}
        for k, event in enumerate(events):
            self._by_place.setdefault(event.place, []).append((event.start_s, k))
        self._events = events
        self._longest_s = max((e.end_s - e.start_s for e in events), default=0.0)
        for own in self._by_place.values():
            own.sort()

    def at(self, place: str, at_s: float) -> List[int]:
        """Return the events of this place, or of every place if it is empty, the latest to start last."""
        out: List[int] = []
        for name in self._by_place if place == "" else (place,):
            own = self._by_place.get(name, [])
            last = bisect_right(own, (at_s, len(self._events)))
            for start_s, k in reversed(own[:last]):
                if at_s - start_s > self._longest_s:
                    break
                if at_s < self._events[k].end_s:
                    out.insert(0, k)
        return out
