"""Operations on unknown visitors who came again: "visitor 3", to name or to ignore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, Iterator, Mapping, Tuple

from edgecam.errors import ConfigError
from edgecam.pipeline.wire import Record
from edgecam.store import Store, Visitor
from edgecam.types import Role

if TYPE_CHECKING:
    from edgecam.pipeline.operations import Call


def _put(call: Call) -> Iterator[Record]:
    """Put what the night linked in the place of the old: `[[tracklet ids], ...]`."""
    groups = call.list("visitors")
    if not all(isinstance(group, list) and all(isinstance(track, str) for track in group) for group in groups):
        raise ConfigError("visitors.put: visitors is not a list of lists of ids")
    yield {"visitors": call.store.put_visitors(groups)}


def _list(call: Call) -> Iterator[Record]:
    for visitor in call.store.visitors():
        if not visitor.ignored or call.get("ignored", False):
            yield visitor_record(call.store, visitor)


def _show(call: Call) -> Iterator[Record]:
    yield visitor_record(call.store, call.store.visitor(call.number("visitor", 0)))


def _name(call: Call) -> Iterator[Record]:
    number = call.number("visitor", 0)
    person, face_ids = call.store.name_visitor(number, call.text("name"), call.role(Role.KNOWN))
    about = {"id": person.id, "name": person.name, "role": person.role.value, "faces": person.faces}
    yield {"visitor": number, "person": about, "face_ids": face_ids}


def _ignore(call: Call) -> Iterator[Record]:
    number, ignored = call.number("visitor", 0), bool(call.get("ignored", True))
    call.store.ignore_visitor(number, ignored=ignored)
    yield {"visitor": number, "ignored": ignored}


OPERATIONS: Mapping[str, Callable[[Call], Iterator[Record]]] = {
    "visitors.put": _put,
    "visitors.list": _list,
    "visitors.show": _show,
    "visitors.name": _name,
    "visitors.ignore": _ignore,
}


def visitor_record(store: Store, visitor: Visitor) -> Record:
    """Return a visitor as JSON values, their visits newest first."""
    pictured = {visit: store.visit(visit).pictured for visit in {track.visit for track in visitor.tracks}}
    tracks = [
        {
            "visit": track.visit,
            "track": track.track,
            "place": track.place,
            "opened_wall_s": track.opened_wall_s,
            "picture": track.track in pictured[track.visit],
        }
        for track in reversed(visitor.tracks)
    ]
    return {"visitor": visitor.number, "ignored": visitor.ignored, "tracks": tracks}


def numbers_of(store: Store) -> Dict[Tuple[str, int], int]:
    """Return the visitor of each (visit, track) that has one and is not ignored."""
    return {(t.visit, t.track): one.number for one in store.visitors() if not one.ignored for t in one.tracks}
