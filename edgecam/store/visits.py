"""Visits, the decisions about their tracks, the pictures kept for a while."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from edgecam.store.base import caller
from edgecam.store.db import Row
from edgecam.store.faces import Faces
from edgecam.store.outbox import Outbox
from edgecam.store.records import (
    OF_A_VISITOR,
    NotStoredError,
    Visit,
    pack_crop,
    pack_decision,
    pack_json,
    picture_source,
    unpack_crop,
    unpack_decision,
)
from edgecam.types import Decision, FaceCrop, Person, Role, Verdict

PICTURES_A_DAY = 400
"""So many pictures are written in 24 hours: some 100 kB each, twice, and memory cards wear out."""
_DAY_H = 24.0

_SELECT = "SELECT id, place, camera, opened_wall_s, closed_wall_s, ignored, summary FROM visits"


class Visits(Faces, Outbox):
    """What happened at the door."""

    def open_visit(self, visit_id: str, place: str, camera: str, wall_s: float) -> None:
        """Note that a visit began; a second time is a no-op."""
        self._db.run(
            "INSERT OR IGNORE INTO visits (id, place, camera, opened_wall_s, kept_from_s) VALUES (?, ?, ?, ?, ?)",
            (visit_id, place, camera, wall_s, wall_s),
        )

    def record(self, decision: Decision, messages: Sequence[Tuple[str, bytes, bool]] = ()) -> bool:
        """Store a decision together with its (topic, payload, critical) messages; the alert exists from here on.

        Returns:
            False if this decision id was recorded before: then nothing changes.
        """
        body = self._master.seal(f"decisions:{decision.id}:body", pack_decision(decision))
        with self.transaction():
            self.open_visit(decision.visit, decision.place, decision.camera, decision.wall_s)
            added = self._db.run(
                "INSERT OR IGNORE INTO decisions (id, visit, track, verdict, person_id, body) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (decision.id, decision.visit, decision.track, decision.verdict.value, decision.person_id, body),
            )
            if added:
                self._append(messages, decision.id)
        return added > 0

    def add_visit_picture(
        self,
        visit_id: str,
        track: int,
        crop: FaceCrop,
        *,
        quality: float = 0.0,
        infrared: bool = False,
        yaw_deg: float = 0.0,
    ) -> Optional[str]:
        """Keep a picture of a track under the visit's own key; return its id, None if enough were written today.

        Raises:
            NotStoredError: there is no such visit.
        """
        data = pack_crop(crop)
        with self.transaction():
            self._want_visit(visit_id)
            if not self._room_for_a_picture():
                return None
            if self._db.rows("SELECT 1 FROM keys WHERE owner = ?", (visit_id,)):
                key = self._key(visit_id)
            else:
                key = self._new_key(visit_id)
            picture_id = self._new_id()
            self._db.run(
                "INSERT INTO pictures (id, visit, track, quality, infrared, yaw_deg, kept_from_s, crop) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    picture_id,
                    visit_id,
                    track,
                    quality,
                    infrared,
                    yaw_deg,
                    self._clock.wall_s(),
                    key.seal(f"pictures:{picture_id}:crop", data),
                ),
            )
        return picture_id

    def _room_for_a_picture(self) -> bool:
        """Whether one more may be written, by what is kept of the last day; where less is kept, of that time."""
        hours = _DAY_H if self._config.cluster_unknown else min(self._config.unknown_visitors_h, _DAY_H)
        since_s = self._clock.wall_s() - hours * 3600.0
        ((today,),) = self._db.rows("SELECT count(*) FROM pictures WHERE kept_from_s > ?", (since_s,))
        return bool(today < PICTURES_A_DAY * hours / _DAY_H)

    def close_visit(self, visit_id: str, wall_s: float, summary: Optional[Mapping[str, Any]] = None) -> None:
        """Note that a visit ended, with a small JSON summary.

        Raises:
            NotStoredError: there is no such visit.
        """
        sealed = self._master.seal(f"visits:{visit_id}:summary", pack_json(dict(summary or {})))
        changed = self._db.run(
            "UPDATE visits SET closed_wall_s = ?, summary = ? WHERE id = ?", (wall_s, sealed, visit_id)
        )
        if not changed:
            raise NotStoredError(f"there is no visit {visit_id}")

    def interrupted_visits(self) -> List[Visit]:
        """Return the visits that were never closed, oldest first.

        At start these were cut by a kill: `latest` tells which of their `tracks` have a word, and of which phase.
        """
        return self._visits(self._db.rows(f"{_SELECT} WHERE closed_wall_s IS NULL ORDER BY opened_wall_s, id"))

    def visits(
        self,
        limit: int = 50,
        since_wall_s: Optional[float] = None,
        verdict: Optional[Verdict] = None,
        *,
        ignored: bool = False,
    ) -> List[Visit]:
        """Return visits, newest first.

        Args:
            limit: at most so many.
            since_wall_s: opened at or after this.
            verdict: only visits with a track that last got this verdict and that nobody has named since.
            ignored: with those the user said to ignore.
        """
        rows = self._db.rows(
            f"{_SELECT} WHERE opened_wall_s >= ? AND ignored <= ? AND (? IS NULL OR EXISTS ("  # noqa: S608 - constants
            "SELECT 1 FROM decisions d WHERE d.visit = visits.id AND d.verdict = ? AND seq = ("
            "SELECT max(seq) FROM decisions e WHERE e.visit = d.visit AND e.track = d.track) AND NOT EXISTS ("
            "SELECT 1 FROM labels l WHERE l.visit = d.visit AND l.track = d.track))) "
            "ORDER BY opened_wall_s DESC, id DESC LIMIT ?",
            (
                -1e18 if since_wall_s is None else since_wall_s,
                ignored,
                None if verdict is None else verdict.value,
                None if verdict is None else verdict.value,
                limit,
            ),
        )
        return self._visits(rows)

    def visit(self, visit_id: str) -> Visit:
        """Return one visit.

        Raises:
            NotStoredError: there is no such visit.
        """
        rows = self._db.rows(f"{_SELECT} WHERE id = ?", (visit_id,))
        if not rows:
            raise NotStoredError(f"there is no visit {visit_id}: see `edgecam visits list`")
        return self._visits(rows)[0]

    def name_visit(
        self, visit_id: str, track: int, name: str, role: Role = Role.KNOWN, *, grouped: bool = False
    ) -> Tuple[Person, List[str]]:
        """Say who a track was: its pictures become enrolment faces of this person, who is added if new.

        Args:
            visit_id: which visit.
            track: which track of it.
            name: whose.
            role: of somebody new.
            grouped: it was said of a whole visitor (`Visitors`), not of this very track.

        Returns:
            The person and the new face ids; they have no vectors yet (`missing`).

        Raises:
            NotStoredError: no such visit, or no picture of this track is kept (any more).
        """
        with self.transaction():
            key, pictures = self._pictures(visit_id, track)
            person = self.find_person(name) or self.add_person(name, role)
            known = {face.source.removeprefix(OF_A_VISITOR) for face in self.faces(person.id)}
            added = [
                self.add_face(
                    person.id,
                    unpack_crop(key.open(f"pictures:{picture_id}:crop", blob)),
                    quality=quality,
                    source=(OF_A_VISITOR if grouped else "") + picture_source(visit_id, picture_id),
                    infrared=bool(infrared),
                    yaw_deg=yaw_deg,
                )
                for picture_id, quality, infrared, yaw_deg, blob in pictures
                if picture_source(visit_id, picture_id) not in known
            ]
            self._db.run("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", (visit_id, track, person.id, grouped))
            self.audit(caller(), "name", f"{visit_id}/{track}")
        return self.person(person.id), added

    def ignore_visit(self, visit_id: str, *, ignored: bool = True) -> None:
        """Leave a visit out of lists and questions, or take it in again.

        Raises:
            NotStoredError: there is no such visit.
        """
        self._want_visit(visit_id)
        self._db.run("UPDATE visits SET ignored = ? WHERE id = ?", (ignored, visit_id))

    def picture(self, visit_id: str, track: int, actor: Optional[str] = None) -> FaceCrop:
        """Return the best picture of a track; the look is noted in the audit log.

        Raises:
            NotStoredError: no such visit, or no picture of this track is kept (any more).
        """
        with self.transaction():
            key, pictures = self._pictures(visit_id, track)
            self.audit(actor or caller(), "view", f"{visit_id}/{track}")
        picture_id, *_, blob = pictures[0]
        return unpack_crop(key.open(f"pictures:{picture_id}:crop", blob))

    def decisions(self, visit_ids: Iterable[str]) -> Dict[str, List[Decision]]:
        """Return the readable decisions of these visits, in order."""
        select = "SELECT id, body FROM decisions WHERE visit = ? ORDER BY seq"
        return {visit_id: self._decisions(self._db.rows(select, (visit_id,))) for visit_id in visit_ids}

    def _decisions(self, rows: Sequence[Row]) -> List[Decision]:
        bodies = (self._readable(None, f"decisions:{decision_id}:body", body) for decision_id, body in rows)
        return [unpack_decision(body) for body in bodies if body is not None]

    def _pictures(self, visit_id: str, track: int) -> Tuple[Any, List[Row]]:
        """Return the visit's key and (id, quality, infrared, yaw_deg, blob) of a track, best first."""
        self._want_visit(visit_id)
        rows = self._db.rows(
            "SELECT id, quality, infrared, yaw_deg, crop FROM pictures WHERE visit = ? AND track = ? "
            "ORDER BY quality DESC, id",
            (visit_id, track),
        )
        if not rows:
            raise NotStoredError(f"no picture of visit {visit_id}, track {track} is kept (any more)")
        return self._key(visit_id), rows

    def _want_visit(self, visit_id: str) -> None:
        if not self._db.rows("SELECT 1 FROM visits WHERE id = ?", (visit_id,)):
            raise NotStoredError(f"there is no visit {visit_id}: see `edgecam visits list`")

    def _visits(self, rows: Sequence[Row]) -> List[Visit]:
        decisions = self.decisions(row[0] for row in rows)
        return [self._visit(row, decisions[row[0]]) for row in rows]

    def _visit(self, row: Row, decisions: Sequence[Decision]) -> Visit:
        visit_id, place, camera, opened, closed, ignored, summary = row
        pictured = self._db.rows("SELECT DISTINCT track FROM pictures WHERE visit = ? ORDER BY track", (visit_id,))
        named = self._db.rows("SELECT track, person_id FROM labels WHERE visit = ?", (visit_id,))
        told = self._text(None, f"visits:{visit_id}:summary", summary, otherwise="{}") if summary else "{}"
        return Visit(
            visit_id,
            place,
            camera,
            opened,
            closed,
            bool(ignored),
            json.loads(told),
            tuple(decisions),
            tuple(track for (track,) in pictured),
            dict(named),
        )
