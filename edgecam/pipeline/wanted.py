"""What speaks for a night by day: somebody new, a new camera, another season, or faces named less than before."""

from __future__ import annotations

import datetime as dt
from math import comb
from typing import Any, List, Mapping, Sequence

from edgecam.clock import Clock
from edgecam.pipeline.wire import Record
from edgecam.store import KeptTrack, Store

NIGHT_KEY = "night"
"""Setting: what the last night knew, as `outlook` has it, and `level` ([named, of]) when its head came into service."""

_SEASONS = ("winter", "spring", "summer", "autumn")
_FEWEST = 20
"""Faces since the last night and before it, below which nothing is concluded."""
_LEVEL = 0.001
"""Looked at again and again as faces come, hence so low."""


def outlook(store: Store, clock: Clock) -> Record:
    """Return what a night that begins now knows: ids, a season and counts, nothing of a face."""
    return _known(store, clock, store.kept_tracks())


def _known(store: Store, clock: Clock, tracks: Sequence[KeptTrack]) -> Record:
    return {
        "wall_s": clock.wall_s(),
        "people": sorted(person.id for person in store.people() if person.faces),
        "cameras": sorted({track.camera for track in tracks}),
        "season": season_of(dt.datetime.fromtimestamp(clock.wall_s()).date()),  # noqa: DTZ006 - the user's own day
        "named": _named(tracks, 0.0),
    }


def remember(store: Store, knew: Mapping[str, Any], *, promoted: bool) -> None:
    """Note that a night which knew this is over; its level is the measure until the next head comes into service."""
    before = store.get(NIGHT_KEY) or {}
    level = knew["named"] if promoted or "level" not in before else before["level"]
    store.put(NIGHT_KEY, {**knew, "level": level})


def wanted(store: Store, clock: Clock) -> List[str]:
    """Return what is new since the last night, in words without names; nothing before the first night."""
    before = store.get(NIGHT_KEY)
    if not before or not clock.wall_trusted():
        return []
    tracks = store.kept_tracks()
    found = news(before, _known(store, clock, tracks))
    (named, of), (named_then, of_then) = _named(tracks, before["wall_s"]), before["level"]
    if min(of, of_then) >= _FEWEST and fewer(named, of, named_then, of_then) < _LEVEL:
        found.append(f"{named} of the last {of} faces were given a name, {named_then} of {of_then} before")
    return found


def news(before: Mapping[str, Any], now: Mapping[str, Any]) -> List[str]:
    """Return who and what is new, in words without names, by `people`, `cameras` and `season` then and now."""
    found = []
    for what, one in (("people", "person"), ("cameras", "camera")):
        new = len(set(now[what]) - set(before.get(what, ())))
        if new:
            found.append(f"{new} new {one if new == 1 else what}")
    if before.get("season") not in (None, now["season"]):
        found.append(f"it is {now['season']} now")
    return found


def season_of(day: dt.date) -> str:
    """Return the season that begins with its month (December: winter), north of the equator."""
    return _SEASONS[day.month % 12 // 3]


def fewer(named: int, of: int, named_then: int, of_then: int) -> float:
    """Return the chance of so few named ones or fewer among `of`, were all alike (Fisher's exact test, one-sided)."""
    every, all_named = of + of_then, named + named_then
    ways = sum(comb(all_named, k) * comb(every - all_named, of - k) for k in range(named + 1))
    return ways / comb(every, of)


def _named(kept: Sequence[KeptTrack], since_wall_s: float) -> List[int]:
    """Return how many kept faces were given a name, and of how many; without those who are known to be nobody."""
    tracks = [one for one in kept if one.opened_wall_s > since_wall_s and not one.nobody]
    return [sum(one.taken_for is not None for one in tracks), len(tracks)]
