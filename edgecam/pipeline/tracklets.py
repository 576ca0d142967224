"""Operations on the faces kept for the night, what was proposed of them, and what the user is asked."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping

from edgecam.errors import ConfigError
from edgecam.pipeline.wire import Record, mapping_of, pack_array, want
from edgecam.presence.sightings import attendance
from edgecam.store import KeptTrack, NotStoredError, Proposal, Store

if TYPE_CHECKING:
    from edgecam.pipeline.operations import Call

ASKED_KEY = "asked"
"""Setting: `{"day": ordinal, "count": questions answered on it}`."""
QUESTIONS_A_DAY = 3
QUESTIONS_KEY = "questions"
"""Setting: the open questions, `[{"id", "people": [ids], "tracklets": [ids]}]`; only ids, never names."""


def _list(call: Call) -> Iterator[Record]:
    """Every kept track with the mean of its features; with `faces`, each of its faces besides."""
    each = bool(call.get("faces", False))
    for visit, first in _visits(call.store).items():  # not all at once: a week of them would be 80 MB
        for row in call.store.tracklets(visit):
            seen = row.seen
            record = {
                "tracklet": row.id,
                "visit": seen.visit,
                "track": seen.track,
                "camera": seen.camera,
                "place": first.place,
                "opened_wall_s": first.opened_wall_s,
                "model": seen.model,
                "first_s": seen.first_s,
                "last_s": seen.last_s,
                "quality": seen.quality,
                "infrared": seen.infrared,
                "liveness": seen.liveness.value,
                "taken_for": row.taken_for,
                "person_id": row.person_id,
                "nobody": row.nobody,
                "grouped": row.grouped,
                "features": pack_array(seen.mean()),
            }
            if each:
                record["faces"] = pack_array(seen.features)
                record["qualities"] = pack_array(seen.qualities)
                record["clothes"] = pack_array(seen.clothes)
            yield record


def _enrolled(call: Call) -> Iterator[Record]:
    """Every enrolled face with what the head is given, and where it came from, for the night."""
    features = call.store.features(call.text("model"))
    origins = {face.id: face.origin for who in sorted(set(features.person_ids)) for face in call.store.faces(who)}
    for i, face_id in enumerate(features.face_ids):
        yield {
            "face_id": face_id,
            "person_id": features.person_ids[i],
            "origin": origins[face_id],
            "infrared": bool(features.infrared[i]),
            "features": pack_array(features.vectors[i]),
        }


def _attendance(call: Call) -> Iterator[Record]:
    """Whose devices were near, for each visit of which a face is kept, oldest first."""
    devices = {device.id: device for device in call.store.devices()}
    yield {"people": sorted({device.person_id for device in devices.values()})}
    for visit in _visits(call.store).values():
        near = attendance([sighting for _, sighting in call.store.visit_sightings(visit.visit)], devices)
        present = [{"people": list(one.person_ids), "weight": one.weight, "reason": one.reason} for one in near]
        yield {"visit": visit.visit, "place": visit.place, "opened_wall_s": visit.opened_wall_s, "present": present}


def _propose(call: Call) -> Iterator[Record]:
    """Put new proposals and questions in the place of the old ones."""
    try:
        proposals = [
            Proposal(
                str(want(item, "tracklet")),
                str(want(item, "person_id")),
                float(want(item, "share")),
                int(want(item, "with_device")),
                int(want(item, "without_device")),
            )
            for item in call.list("proposals")
        ]
    except (TypeError, ValueError) as err:
        raise ConfigError(f"proposals.put: {err}") from err
    questions = [dict(mapping_of(item, "question")) for item in call.list("questions")]
    questions = questions[: QUESTIONS_A_DAY - _answered_today(call)]
    with call.store.transaction():
        kept = call.store.propose(proposals)
        call.store.put(QUESTIONS_KEY, questions)
    yield {"proposals": kept, "questions": len(questions)}


def _questions(call: Call) -> Iterator[Record]:
    """The open questions with names, and where the faces are to be seen."""
    names = {person.id: person.name for person in call.store.people()}
    rows = {row.id: row for row in call.store.kept_tracks()}
    for question in _open(call.store):
        seen = [rows[row_id] for row_id in question["tracklets"] if row_id in rows]
        open_rows = [row for row in seen if row.person_id is None and not row.nobody]
        if not open_rows:
            continue
        yield {
            "question": question["id"],
            "people": [names[person_id] for person_id in question["people"] if person_id in names],
            "faces": [{"visit": row.visit, "track": row.track} for row in open_rows],
        }


def _answer(call: Call) -> Iterator[Record]:
    """Take the user's word: somebody's name, or null for nobody of the house; the question is closed by either."""
    wanted = call.text("question")
    questions = _open(call.store)
    question = next((one for one in questions if one["id"] == wanted), None)
    if question is None:
        raise NotStoredError(f"there is no open question {wanted}: see `edgecam review`")
    name = call.get("name")
    here = {row.id for row in call.store.kept_tracks() if row.person_id is None and not row.nobody}
    rows = [row_id for row_id in question["tracklets"] if row_id in here]  # what was asked; a name given since holds
    with call.store.transaction():
        person = call.named(name) if name else None
        if person is not None and question["people"] and person.id not in question["people"] and not call.get("anyone"):
            raise ConfigError(f"{wanted}: {person.name} was not asked about; if it is so, say --anyone")
        for row_id in rows:
            if person is None:
                call.store.is_nobody(row_id)
            else:
                call.store.is_person(row_id, person.id)
        call.store.put(QUESTIONS_KEY, [one for one in questions if one is not question])
        call.store.put(ASKED_KEY, {"day": _today(call), "count": _answered_today(call) + 1})
    yield {"question": wanted, "person": person.name if person else None, "faces": len(rows)}


OPERATIONS: Mapping[str, Callable[[Call], Iterator[Record]]] = {
    "tracklets.list": _list,
    "tracklets.attendance": _attendance,
    "tracklets.enrolled": _enrolled,
    "proposals.put": _propose,
    "questions.list": _questions,
    "questions.answer": _answer,
}


def proposal_records(store: Store, visit: str, names: Mapping[str, str]) -> Dict[str, Any]:
    """Return what is proposed of a visit's tracks, as JSON values."""
    rows: List[Record] = [
        {
            "track": track,
            "person": names.get(one.person_id),
            "share": round(one.share, 3),
            "with_device": one.with_device,
            "without_device": one.without_device,
        }
        for track, one in store.proposals(visit)
    ]
    return {"proposed": rows}


def _today(call: Call) -> int:
    return dt.datetime.fromtimestamp(call.clock.wall_s()).toordinal()  # noqa: DTZ006 - the user's own day


def _answered_today(call: Call) -> int:
    found = call.store.get(ASKED_KEY)
    return int(found["count"]) if isinstance(found, dict) and found.get("day") == _today(call) else 0


def _visits(store: Store) -> Dict[str, KeptTrack]:
    """Return a kept track of each visit that has one, oldest first."""
    first: Dict[str, KeptTrack] = {}
    for row in store.kept_tracks():
        first.setdefault(row.visit, row)
    return first


def _open(store: Store) -> List[Dict[str, Any]]:
    found = store.get(QUESTIONS_KEY)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
