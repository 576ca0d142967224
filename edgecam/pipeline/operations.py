"""Every operation on the household's state, on JSON values: the daemon and the command line run the same ones.

A request is `{"op": NAME, ...}`; the answer is a stream of JSON objects, so that a gallery or an export of any size
passes through a socket line by line. Arrays travel as base64 of little-endian float32, pictures as base64 of PNG.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgecam.clock import MAX_LENGTH_S, Clock, SystemClock
from edgecam.errors import ConfigError, DamagedError
from edgecam.pipeline.devices import OPERATIONS as DEVICE_OPERATIONS
from edgecam.pipeline.devices import sighting_records
from edgecam.pipeline.tracklets import OPERATIONS as TRACKLET_OPERATIONS
from edgecam.pipeline.tracklets import proposal_records
from edgecam.pipeline.versions import OPERATIONS as VERSION_OPERATIONS
from edgecam.pipeline.visitors import OPERATIONS as VISITOR_OPERATIONS
from edgecam.pipeline.visitors import numbers_of
from edgecam.pipeline.wire import (
    Record,
    enrolled_face_of,
    floats_of,
    jsonable,
    mapping_of,
    pack_array,
    pack_face_crop,
    want,
)
from edgecam.store import BACKUP_NOTE, RECOVERY_NOTE, NotStoredError, Recovery, Store, Visit, recovery_of
from edgecam.store.vault import KEY_BYTES
from edgecam.types import Decision, Person, Role, Verdict

Request = Mapping[str, Any]

_IDS_A_LINE = 1000
PAUSE_KEY = "pause"
"""Setting: `{"until_wall_s": seconds since 1970, or null for no end}`; absent: not paused."""


class Call:
    """One request with what its operation needs."""

    def __init__(self, store: Store, request: Request, actor: str, clock: Clock) -> None:
        self.store, self.actor, self.clock = store, actor, clock
        self.request = request

    def get(self, key: str, default: Any = None) -> Any:
        """Return a parameter."""
        return self.request.get(key, default)

    def text(self, key: str) -> str:
        """Return a required text parameter."""
        value = self.request.get(key)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{self.request.get('op')}: {key} is missing or not a text")
        return value

    def number(self, key: str, default: int) -> int:
        """Return an integer parameter."""
        value: Any = self.request.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.request.get('op')}: {key} is not a whole number")
        return int(value)

    def list(self, key: str) -> List[Any]:
        """Return a required list parameter."""
        value = self.request.get(key)
        if not isinstance(value, list):
            raise ConfigError(f"{self.request.get('op')}: {key} is missing or not a list")
        return value

    def role(self, default: Optional[Role] = None) -> Role:
        """Return the role asked for."""
        value = self.request.get("role") or (default.value if default else None)
        try:
            return Role(value)
        except ValueError:
            raise ConfigError(f"no such role: {value}; there are {', '.join(r.value for r in Role)}") from None

    def person(self, key: str = "who") -> Person:
        """Return the person named by a name or an id."""
        return self.named(self.text(key))

    def named(self, who: str) -> Person:
        """Return the person of this name or id.

        Raises:
            NotStoredError: there is none.
        """
        person = self.store.find_person(who)
        if person is None:
            raise NotStoredError(f"nobody is called {who!r}: see `edgecam people list`")
        return person


Operation = Callable[[Call], Iterator[Record]]


def execute(store: Store, request: Request, actor: str = "", clock: Optional[Clock] = None) -> Iterator[Record]:
    """Run one operation and yield its answer.

    Args:
        store: open, owned by this process.
        request: `{"op": NAME, ...}`.
        actor: who asks, for the audit log (`uid:1000`); empty: this process.
        clock: for what expires.

    Raises:
        ConfigError: no such operation, or wrong parameters.
        StoreError: it cannot be done; nothing has changed then, unless the message says so.
    """
    name = request.get("op")
    operation = OPERATIONS.get(name) if isinstance(name, str) else None
    if operation is None:
        raise ConfigError(f"no such operation: {name!r}")
    return operation(Call(store, request, actor, clock or SystemClock()))


def changes_people(op: str) -> bool:
    """Whether an operation may change whom the box knows, or by which head (the identifier must be rebuilt)."""
    named = ("visits.name", "visits.erase", "visitors.name", "restore", "settings.put")
    return op.startswith(("people.", "faces.", "versions.")) or op in named


def changes_devices(op: str) -> bool:
    """Whether an operation may change which devices there are, or whose they are."""
    return op in ("devices.add", "devices.remove", "people.merge", "people.forget", "restore")


def _people_list(call: Call) -> Iterator[Record]:
    for person in call.store.people():
        yield person_record(person)


def _people_show(call: Call) -> Iterator[Record]:
    person = call.person()
    yield {**person_record(person), "items": [asdict(face) for face in call.store.faces(person.id)]}


def _people_rename(call: Call) -> Iterator[Record]:
    yield person_record(call.store.rename(call.person().id, call.text("name")))


def _people_merge(call: Call) -> Iterator[Record]:
    yield person_record(call.store.merge(call.person("into").id, call.person("other").id))


def _people_role(call: Call) -> Iterator[Record]:
    yield person_record(call.store.set_role(call.person().id, call.role()))


def _people_consent(call: Call) -> Iterator[Record]:
    yield person_record(call.store.set_consent(call.person().id, mapping_of(call.get("consent"), "consent")))


def _people_export(call: Call) -> Iterator[Record]:
    exported = call.store.export(call.person().id, call.actor or None)
    yield {"type": "person", **exported["person"]}
    kinds = {"face": "faces", "decision": "decisions", "picture": "visit_pictures", "device": "devices"}
    for kind, key in {**kinds, "sighting": "sightings", "tracklet": "tracklets", "audit": "audit"}.items():
        for item in exported[key]:
            yield {"type": kind, **jsonable(item)}


def _people_forget(call: Call) -> Iterator[Record]:
    person = call.person()
    call.store.forget(person.id, call.actor or None)
    yield {"id": person.id}


def _faces_add(call: Call) -> Iterator[Record]:
    name = call.text("name")
    faces = [enrolled_face_of(item, f"faces[{i}]") for i, item in enumerate(call.list("faces"))]
    store = call.store
    with store.transaction():
        person = store.find_person(name)
        created = person is None
        if person is None:
            consent = mapping_of(call.get("consent") or {}, "consent")
            person = store.add_person(name, call.role(Role.RESIDENT), consent)
        face_ids = []
        for crop, about, vectors in faces:
            face_id = store.add_face(person.id, crop, **about)
            for model, pair in vectors.items():
                store.put_vectors(model, {face_id: pair})
            face_ids.append(face_id)
    yield {"person": person_record(store.person(person.id)), "created": created, "face_ids": face_ids}


def _faces_crops(call: Call) -> Iterator[Record]:
    """One line a face; `damaged` in place of a picture that cannot be read any more."""
    for face_id in call.list("face_ids"):
        try:
            yield {"face_id": face_id, **pack_face_crop(call.store.crop(str(face_id)))}
        except DamagedError:
            yield {"face_id": face_id, "damaged": True}


def _faces_put_vectors(call: Call) -> Iterator[Record]:
    vectors = {
        str(want(item, "face_id")): (floats_of(want(item, "vector"), "vector"), floats_of(item.get("features", "")))
        for item in call.list("vectors")
    }
    call.store.put_vectors(call.text("model"), vectors)
    yield {"stored": len(vectors)}


def _faces_remove(call: Call) -> Iterator[Record]:
    face_ids = [str(face_id) for face_id in call.list("face_ids")]
    call.store.remove_faces(face_ids)
    for face_id in face_ids:
        yield {"face_id": face_id}


def _gallery(call: Call) -> Iterator[Record]:
    """One line a person (also one without a vector), then the faces that want a new one, then the end."""
    model = call.text("model")
    with call.store.transaction():
        gallery, people = call.store.gallery(model), call.store.people()
        damaged = {*gallery.damaged, *call.store.features(model).damaged}
        missing, generation = [*call.store.missing(model), *sorted(damaged)], call.store.generation()
        in_colour = {owner for owner, grey in zip(gallery.person_ids, gallery.infrared) if not grey}
        grey = set(gallery.person_ids) - in_colour
        by_night = {owner for owner in grey if all(face.seen_here for face in call.store.faces(owner))}
    rows: Dict[str, List[int]] = {person.id: [] for person in people}
    for row, owner in enumerate(gallery.person_ids):
        rows[owner].append(row)
    for person in people:
        mine = rows[person.id]
        yield {
            "person_id": person.id,
            "name": person.name,
            "role": person.role.value,
            "face_ids": [gallery.face_ids[row] for row in mine],
            "dim": int(gallery.vectors.shape[1]) if mine else 0,
            "vectors": pack_array(gallery.vectors[mine]) if mine else "",
            "qualities": [round(float(gallery.qualities[row]), 4) for row in mine],
            "infrared": [bool(gallery.infrared[row]) for row in mine],
            "by_night": person.id in by_night,
            "faces": person.faces,
        }
    for start in range(0, len(missing), _IDS_A_LINE):
        yield {"missing": missing[start : start + _IDS_A_LINE]}
    yield {"model": model, "generation": generation, "people": len(people), "faces": len(gallery.face_ids)}


def _settings_get(call: Call) -> Iterator[Record]:
    key = call.text("key")
    yield {"key": key, "value": call.store.get(key, call.get("default"))}


def _settings_put(call: Call) -> Iterator[Record]:
    key = call.text("key")
    call.store.put(key, call.get("value"))
    yield {"key": key}


def _strangers(call: Call) -> Iterator[Record]:
    model = call.text("model")
    features = call.store.stranger_features(model)
    yield {"model": model, "count": len(features), "dim": int(features.shape[1]), "features": pack_array(features)}


def _visits_list(call: Call) -> Iterator[Record]:
    wanted = call.get("verdict")
    try:
        verdict = Verdict(wanted) if wanted else None
    except ValueError:
        raise ConfigError(f"no such verdict: {wanted}; there are {', '.join(v.value for v in Verdict)}") from None
    names = {person.id: person.name for person in call.store.people()}
    since = call.get("since_wall_s")
    limit = call.number("limit", 50)
    visitors = numbers_of(call.store)
    for visit in call.store.visits(limit, since, verdict, ignored=bool(call.get("ignored", False))):
        yield visit_record(visit, names, visitors)


def _visits_show(call: Call) -> Iterator[Record]:
    names = {person.id: person.name for person in call.store.people()}
    visit = _visit(call)
    near, proposed = sighting_records(call.store, visit.id, names), proposal_records(call.store, visit.id, names)
    yield {**visit_record(visit, names, numbers_of(call.store)), **near, **proposed}


def _visits_picture(call: Call) -> Iterator[Record]:
    visit = _visit(call)
    track = _track(call, visit, visit.pictured, "no picture of this visit is kept (any more)")
    crop = call.store.picture(visit.id, track, call.actor or None)
    yield {"visit": visit.id, "track": track, **pack_face_crop(crop)}


def _visits_name(call: Call) -> Iterator[Record]:
    visit = _visit(call)
    track = _track(call, visit, visit.pictured, "no picture of this visit is kept (any more)")
    person, face_ids = call.store.name_visit(visit.id, track, call.text("name"), call.role(Role.KNOWN))
    yield {"visit": visit.id, "track": track, "person": person_record(person), "face_ids": face_ids}


def _visits_ignore(call: Call) -> Iterator[Record]:
    visit = _visit(call)
    ignored = bool(call.get("ignored", True))
    call.store.ignore_visit(visit.id, ignored=ignored)
    yield {"visit": visit.id, "ignored": ignored}


def _visits_erase(call: Call) -> Iterator[Record]:
    """Erase all visits and what was learnt from them, also in the configured backups; people stay."""
    yield {"visits": call.store.erase_history(call.actor or None)}


def _backup(call: Call) -> Iterator[Record]:
    """With `recovery`, a passphrase opens this backup and all later ones; with null none does."""
    folder = call.get("folder")
    if "recovery" in call.request:
        call.store.set_recovery(*_recovery(call))
    path = call.store.backup(Path(str(folder)) if folder else None)
    recoverable = call.store.recovery() is not None
    yield {"path": str(path), "recovery": recoverable, "note": RECOVERY_NOTE if recoverable else BACKUP_NOTE}


def _backup_look(call: Call) -> Iterator[Record]:
    """Whether this box's key opens a backup, and how a passphrase does."""
    look = call.store.look(Path(call.text("path")))
    yield {"opens": look.opens, "recovery": None if look.recovery is None else dict(look.recovery)}


def _restore(call: Call) -> Iterator[Record]:
    """With `key`, of a backup that another box wrote; with `recovery`, its passphrase goes on opening backups here."""
    mode = call.get("mode", "merge")
    if mode not in ("merge", "replace"):
        raise ConfigError(f"no such mode: {mode}; merge or replace")
    key = _hex(call.text("key"), "key") if call.get("key") else None
    restored = call.store.restore(Path(call.text("path")), mode, key)
    if call.get("recovery") and call.store.recovery() is None:
        call.store.set_recovery(*_recovery(call))
    yield dict(restored._asdict())


def _key(call: Call) -> Iterator[Record]:
    yield {"unfinished": call.store.key_unfinished, "recovery": call.store.recovery() is not None}


def _recovery(call: Call) -> Tuple[Optional[Recovery], bytes]:
    packed = call.get("recovery")
    if packed is None:
        return None, b""
    packed = mapping_of(packed, "recovery")
    return recovery_of(packed), _hex(packed.get("key"), "recovery")


def _hex(text: object, what: str) -> bytes:
    """Return 32 bytes."""
    try:
        key = bytes.fromhex(str(text))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{what} is not {KEY_BYTES} bytes in hexadecimal")
    return key


def _purge(call: Call) -> Iterator[Record]:
    purged = call.store.purge(call.clock.wall_s(), call.clock.wall_trusted())
    yield {**purged._asdict(), "clock_trusted": call.clock.wall_trusted()}


def _audit(call: Call) -> Iterator[Record]:
    for row in call.store.audit_log(call.number("limit", 100)):
        yield dict(row._asdict())


def _check(call: Call) -> Iterator[Record]:
    damaged = [{**damage._asdict(), "place": damage.place} for damage in call.store.damaged()]
    yield {"problems": [*call.store.file_problems(), *call.store.torn()], "damaged": damaged}


def _pause(call: Call) -> Iterator[Record]:
    """Pause for so many seconds, without an end (null), or not at all (0)."""
    seconds = pause_seconds(call.request)
    if seconds == 0:
        call.store.put(PAUSE_KEY, None)
        yield {"paused": False, "until_wall_s": None}
        return
    until = None if seconds is None else call.clock.wall_s() + seconds
    call.store.put(PAUSE_KEY, {"until_wall_s": until})
    yield {"paused": True, "until_wall_s": until}


def _status(call: Call) -> Iterator[Record]:
    store = call.store
    people = store.people()
    pause = store.get(PAUSE_KEY)
    last = store.visits(1)
    yield {
        "running": False,
        "people": len(people),
        "faces": sum(person.faces for person in people),
        "generation": store.generation(),
        "outbox": store.outbox_size(),
        "outbox_dropped": store.outbox_dropped(),
        "paused": is_paused(pause, call.clock),
        "paused_until_wall_s": (pause or {}).get("until_wall_s"),
        "last_visit_wall_s": last[0].opened_wall_s if last else None,
        "clock_trusted": call.clock.wall_trusted(),
    }


OPERATIONS: Mapping[str, Operation] = {
    "people.list": _people_list,
    "people.show": _people_show,
    "people.rename": _people_rename,
    "people.merge": _people_merge,
    "people.role": _people_role,
    "people.consent": _people_consent,
    "people.export": _people_export,
    "people.forget": _people_forget,
    "faces.add": _faces_add,
    "faces.crops": _faces_crops,
    "faces.put_vectors": _faces_put_vectors,
    "faces.remove": _faces_remove,
    "gallery": _gallery,
    "settings.get": _settings_get,
    "settings.put": _settings_put,
    "strangers": _strangers,
    **DEVICE_OPERATIONS,
    **TRACKLET_OPERATIONS,
    **VISITOR_OPERATIONS,
    **VERSION_OPERATIONS,
    "visits.list": _visits_list,
    "visits.show": _visits_show,
    "visits.picture": _visits_picture,
    "visits.name": _visits_name,
    "visits.ignore": _visits_ignore,
    "visits.erase": _visits_erase,
    "backup": _backup,
    "backup.look": _backup_look,
    "key": _key,
    "restore": _restore,
    "purge": _purge,
    "audit": _audit,
    "check": _check,
    "pause": _pause,
    "status": _status,
}
"""Every operation by name."""


def pause_seconds(request: Request) -> Optional[float]:
    """Return the length asked for: 0 ends a pause, None is without an end.

    Raises:
        ConfigError: not a length.
    """
    seconds = request.get("seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_LENGTH_S:
        raise ConfigError("pause: seconds is not a length of time of at most a year")
    return float(seconds)


def is_paused(setting: Optional[Mapping[str, Any]], clock: Clock) -> bool:
    """Whether a stored pause still holds; while the clock is not trusted no pause expires."""
    if setting is None:
        return False
    until = setting.get("until_wall_s")
    return until is None or not clock.wall_trusted() or clock.wall_s() < float(until)


def person_record(person: Person) -> Record:
    """Return a person as JSON values."""
    return {**asdict(person), "role": person.role.value, "consent": dict(person.consent)}


def visit_record(
    visit: Visit, names: Mapping[str, str], visitors: Optional[Mapping[Tuple[str, int], int]] = None
) -> Record:
    """Return a visit as JSON values, the last word about each track with the names of now.

    Args:
        visit: which.
        names: by person id.
        visitors: (visit, track) -> number of the unknown visitor who came again.
    """
    return {
        "visit": visit.id,
        "place": visit.place,
        "camera": visit.camera,
        "opened_wall_s": visit.opened_wall_s,
        "closed_wall_s": visit.closed_wall_s,
        "ignored": visit.ignored,
        "tracks": [
            {**_track_record(visit, track, names), "visitor": (visitors or {}).get((visit.id, track))}
            for track in visit.tracks
        ],
        "words": len(visit.decisions),
    }


def _track_record(visit: Visit, track: int, names: Mapping[str, str]) -> Record:
    decision: Optional[Decision] = visit.latest.get(track)
    label = visit.named.get(track)
    record: Record = {
        "track": track,
        "picture": track in visit.pictured,
        "named": names.get(label, label) if label else None,
    }
    if decision is None:
        return {**record, "verdict": None}
    return {
        **record,
        "verdict": decision.verdict.value,
        "phase": decision.phase.value,
        "person": names.get(decision.person_id) if decision.person_id else None,
        "person_id": decision.person_id,
        "candidates": [names.get(candidate, candidate) for candidate in decision.candidates],
        "similarity": round(decision.similarity, 4),
        "liveness": decision.liveness.value,
        "reason": decision.reason,
        "wall_s": decision.wall_s,
        "clock_trusted": decision.clock_trusted,
        "model": decision.model,
    }


def _visit(call: Call) -> Visit:
    """Return the visit of an id, its last letters, or `last`."""
    wanted = call.text("visit").upper()
    if wanted == "LAST":
        newest = call.store.visits(1, ignored=True)
        if not newest:
            raise NotStoredError("there is no visit yet")
        return newest[0]
    if len(wanted) == len("01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        return call.store.visit(wanted)
    found = [v for v in call.store.visits(10_000, ignored=True) if len(wanted) >= 4 and v.id.endswith(wanted)]
    if len(found) != 1:
        which = "several visits end" if found else "no visit ends"
        raise NotStoredError(f"{which} in {wanted}: see `edgecam visits list`")
    return found[0]


def _track(call: Call, visit: Visit, among: Sequence[int], otherwise: str) -> int:
    """Return the track asked for, or the only one there is."""
    asked = call.get("track")
    if asked is not None:
        return call.number("track", 0)
    if len(among) == 1:
        return among[0]
    if not among:
        raise NotStoredError(f"visit {visit.id}: {otherwise}")
    raise ConfigError(f"visit {visit.id} has several tracks: say which of {', '.join(map(str, among))} (--track N)")
