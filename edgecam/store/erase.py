"""Ends: what expires, who is merged, who is forgotten."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import asdict, replace
from math import inf
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.errors import ConfigError, DamagedError, StoreError
from edgecam.store.base import caller
from edgecam.store.records import Purged, crop_png, pack_decision, pack_json, unpack_crop, unpack_floats
from edgecam.store.settings import Settings
from edgecam.store.visits import Visits
from edgecam.types import Decision, Person, Phase

_HOUR_S = 3600.0
_DAY_S = 86400.0
_CLUSTERED_H = 168.0
_STRANGERS_S = 30 * _DAY_S
_LAST_WORDS = (Phase.FINAL.value, Phase.CORRECTED.value)

NIGHT = "night"
"""Folder of the state in which an unfinished training waits, sealed with a key made from the master key."""

HISTORY = "history"
"""Tombstone of every visit before it."""

OF_THE_BOX = ("pause", "last_backup_wall_s", "night_asked")
"""Settings that say how the box is now: no backup and no erased history changes them."""

FORGOTTEN = "forgotten"
"""Reason of a decision about somebody who was forgotten since."""


class Erase(Visits, Settings):
    """Deleting for good: keys destroyed, pages zeroed and given back, the log emptied."""

    def merge(self, into: str, other: str) -> Person:
        """Make two entries of one person one: `other`'s faces and visits become `into`'s, `other` disappears.

        Raises:
            NotStoredError: one of them is not stored.
            ConfigError: they are the same.
        """
        if into == other:
            raise ConfigError("a person cannot be merged with itself: name two")
        with self.transaction():
            self.person(into), self.person(other)
            self._give_faces(other, into)
            self._db.run("UPDATE labels SET person_id = ? WHERE person_id = ?", (into, other))
            self._rewrite_decisions({other}, into)
            self._db.run("DELETE FROM people WHERE id = ?", (other,))
            self._destroy_keys([other])
            self._db.run("INSERT INTO tombstones VALUES (?, ?, ?, 1)", (other, into, self._clock.wall_s()))
            self.audit(caller(), f"merge into {into}", other)
            self._bump()
        self._db.truncate_wal()
        return self.person(into)

    def export(self, person_id: str, actor: Optional[str] = None) -> Dict[str, Any]:
        """Return everything stored about a person; pictures are PNG bytes, vectors float32 arrays.

        What is damaged is left out; a face without its `png` is.

        Raises:
            NotStoredError: nobody has this id.
        """
        with self.transaction():
            person = self.person(person_id)
            self.audit(actor or caller(), "export", person_id)
            tracks = self._tracks_of({person_id})
            decisions = [d for d in self._all_decisions() if person_id in (d.person_id, *d.candidates)]
            audit = self._db.rows(
                "SELECT wall_s, actor, action, target FROM audit WHERE target = ? ORDER BY rowid", (person_id,)
            )
            return {
                "person": {**asdict(person), "role": person.role.value, "consent": dict(person.consent)},
                "faces": [self._export_face(face.id, asdict(face)) for face in self.faces(person_id)],
                "decisions": [json.loads(pack_decision(decision)) for decision in decisions],
                "visit_pictures": [picture for track in tracks for picture in self._export_pictures(*track)],
                "audit": [dict(zip(("wall_s", "actor", "action", "target"), row)) for row in audit],
            }

    def forget(self, person_id: str, actor: Optional[str] = None) -> None:
        """Erase a person: key, faces, pictures, names in alerts and history, here and in the configured backups.

        Raises:
            NotStoredError: nobody has this id.
            StoreError: erased here, but a backup could not be rewritten (`purge` tries again).
        """
        with self.transaction():
            self.person(person_id)
            self._erase([person_id])
            self.audit(actor or caller(), "delete", person_id)
            self._bump()
        self._finish_erasing()

    def erase_history(self, actor: Optional[str] = None) -> int:
        """Erase all visits and what was learnt from them, here and in the configured backups; return how many.

        People with their enrolled faces and devices stay, as they are.

        Raises:
            StoreError: erased here, but a backup could not be rewritten (`purge` tries again).
        """
        with self.transaction():
            visits = int(self._db.rows("SELECT count(*) FROM visits")[0][0])
            until_s = self._clock.wall_s()
            if not self._clock.wall_trusted():  # what backups hold is not from 1970
                newest = "SELECT max(wall_s) FROM (SELECT wall_s FROM audit UNION SELECT opened_wall_s FROM visits)"
                until_s = max(until_s, self._db.rows(newest)[0][0] or 0.0)
            self._drop_history(inf)
            self._db.run("DELETE FROM outbox")
            self._db.run("INSERT OR REPLACE INTO tombstones VALUES (?, NULL, ?, 0)", (HISTORY, until_s))
            self.audit(actor or caller(), "delete", "visits")
            self._bump()
        self._finish_erasing()
        return visits

    def remove_faces(self, face_ids: Iterable[str]) -> None:
        """Delete faces for good, here and in the configured backups.

        Raises:
            NotStoredError: one of these is not stored; nothing has changed then.
            StoreError: erased here, but a backup could not be rewritten (`purge` tries again).
        """
        with self.transaction():
            for face_id in face_ids:
                self.remove_face(face_id)
        self._finish_erasing()

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """Delete what has expired; nothing does while the wall clock is not trusted.

        Raises:
            StoreError: a backup that still holds a forgotten person could not be rewritten.
        """
        if not trusted:
            return Purged(0, 0, 0)
        with self.transaction():
            self._restamp(now_wall_s)
            hours = _CLUSTERED_H if self._config.cluster_unknown else self._config.unknown_visitors_h
            pictures = self._db.run("DELETE FROM pictures WHERE kept_from_s <= ?", (now_wall_s - hours * _HOUR_S,))
            until_s = now_wall_s - self._config.visits_d * _DAY_S
            visits = self._db.run("DELETE FROM visits WHERE kept_from_s <= ?", (until_s,))
            strangers = self._db.run("DELETE FROM strangers WHERE kept_from_s <= ?", (now_wall_s - _STRANGERS_S,))
            self._destroy_keys(self._idle_keys())
        try:
            self.scrub_backups()
        finally:
            self._db.shrink(full=False)
        return Purged(pictures, visits, strangers)

    def scrub_backups(self) -> None:
        """Erase the forgotten in every backup of the configured folder (`Backups` knows how)."""
        raise NotImplementedError

    def _finish_erasing(self) -> None:
        """Follow what was erased into the backups, the pages it left and an unfinished training."""
        self._drop_night()
        try:
            self.scrub_backups()
        finally:
            emptied = self._db.shrink(full=True)
        if not emptied:
            raise StoreError(
                f"{self._db.path}: it is erased, but another program still reads the log of old pages: "
                f"close it; the next purge empties the log"
            )

    def _drop_night(self) -> None:
        """Delete an unfinished training: the next night begins it anew, with what is there then."""
        shutil.rmtree(self._db.path.with_name(NIGHT), ignore_errors=True)

    def _erase(self, ids: Iterable[str]) -> None:
        """Delete what is to have these tombstones, with everybody merged into them, and leave the tombstones.

        Args:
            ids: of people, faces and devices; `VISIT/TRACK`, of which the pictures go.
        """
        gone = {dead for one in ids if one != HISTORY for dead in self._with_merged(one)}
        if not gone:
            return
        now = self._clock.wall_s()
        tracks = {(visit_id, int(track)) for visit_id, _, track in (one.rpartition("/") for one in gone) if visit_id}
        names = {person.name for person in self.people() if person.id in gone}
        told = re.compile("|".join([*gone, *(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names)]))
        # A copy from before somebody said who it was does not know: the tracks have tombstones of their own.
        tracks.update(self._tracks_of(gone))
        for visit_id, track in sorted(tracks):
            self._drop_pictures(visit_id, track)
        self._drop_outbox(gone, told)
        self._rewrite_decisions(gone, None)
        self._drop_texts(told)
        if names:
            self._db.run("DELETE FROM strangers")  # some may be the person, not recognised
        for table in ("faces", "people"):
            self._db.run_many(f"DELETE FROM {table} WHERE id = ?", [(dead,) for dead in gone])  # noqa: S608 - constants
        self._destroy_keys(gone)
        dead = [*gone, *(f"{visit_id}/{track}" for visit_id, track in tracks)]
        self._db.run_many("INSERT OR REPLACE INTO tombstones VALUES (?, NULL, ?, 0)", [(one, now) for one in dead])

    def _drop_history(self, until_s: float) -> None:
        """Delete the visits that began before this, with all that depends on them, and what strangers looked like."""
        for table, column in (("visits", "opened_wall_s"), ("strangers", "kept_from_s")):
            self._db.run(f"DELETE FROM {table} WHERE {column} <= ?", (until_s,))  # noqa: S608 - constants
        for (key,) in self._db.rows("SELECT key FROM settings"):
            if key not in OF_THE_BOX:
                self._db.run("DELETE FROM settings WHERE key = ?", (key,))
        self._destroy_keys(self._idle_keys())

    def _with_merged(self, person_id: str) -> Set[str]:
        rows = self._db.rows(
            "WITH RECURSIVE gone (id) AS (VALUES (?) UNION SELECT t.id FROM tombstones t JOIN gone ON "
            "merged_into = gone.id) SELECT id FROM gone",
            (person_id,),
        )
        return {row[0] for row in rows}

    def _all_decisions(self) -> List[Decision]:
        return self._decisions(self._db.rows("SELECT id, body FROM decisions ORDER BY seq"))

    def _tracks_of(self, person_ids: Set[str]) -> List[Tuple[str, int]]:
        """Return the (visit, track) that may show one of these people."""
        tracks = {
            (decision.visit, decision.track)
            for decision in self._all_decisions()
            if person_ids & {decision.person_id, *decision.candidates}
        }
        labels = self._db.rows("SELECT visit, track, person_id FROM labels")
        tracks |= {(visit_id, track) for visit_id, track, owner in labels if owner in person_ids}
        return sorted(tracks)

    def _drop_pictures(self, visit_id: str, track: int) -> None:
        """Delete a track's pictures and give the visit's other pictures a new key."""
        if not self._db.run("DELETE FROM pictures WHERE visit = ? AND track = ?", (visit_id, track)):
            return
        rows = self._db.rows("SELECT id, crop FROM pictures WHERE visit = ?", (visit_id,))
        places = [f"pictures:{picture_id}:crop" for picture_id, _ in rows]
        opened = [self._readable(visit_id, place, blob) for place, (_, blob) in zip(places, rows)]
        self._destroy_keys([visit_id])
        if not rows:
            return
        new = self._new_key(visit_id)
        for place, (picture_id, _), data in zip(places, rows, opened):
            if data is not None:  # what is damaged stays, and `doctor` goes on telling
                self._db.run("UPDATE pictures SET crop = ? WHERE id = ?", (new.seal(place, data), picture_id))

    def _drop_outbox(self, gone: Set[str], told: re.Pattern[str]) -> None:
        """Delete waiting alerts about these people; last words, for which somebody may wait, go out without them."""
        about = {d.id for d in self._all_decisions() if gone & {d.person_id, *d.candidates}}
        for seq, row_id, decision, payload in self._db.rows("SELECT seq, id, decision, payload FROM outbox"):
            text = self._readable(None, f"outbox:{row_id}:payload", payload)
            if decision not in about and not _tells(text, told):
                continue
            if (rest := _untold(text, told)) is None:
                self._db.run("DELETE FROM outbox WHERE seq = ?", (seq,))
            else:
                sealed = self._master.seal(f"outbox:{row_id}:payload", rest)
                self._db.run("UPDATE outbox SET payload = ? WHERE seq = ?", (sealed, seq))

    def _rewrite_decisions(self, gone: Set[str], heir: Optional[str]) -> None:
        """Put the heir, or nobody, in the place of these people."""
        for decision in self._all_decisions():
            if not gone & {decision.person_id, *decision.candidates}:
                continue
            person_id = heir if decision.person_id in gone else decision.person_id
            names = (heir if candidate in gone else candidate for candidate in decision.candidates)
            candidates = tuple(dict.fromkeys(name for name in names if name is not None))
            reason = decision.reason if heir else FORGOTTEN
            changed = replace(decision, person_id=person_id, candidates=candidates, reason=reason)
            sealed = self._master.seal(f"decisions:{decision.id}:body", pack_decision(changed))
            self._db.run("UPDATE decisions SET person_id = ?, body = ? WHERE id = ?", (person_id, sealed, decision.id))

    def _drop_texts(self, told: re.Pattern[str]) -> None:
        """Delete settings, summaries and unreadable decisions that tell, or may tell, of a person."""
        for decision_id, body in self._db.rows("SELECT id, body FROM decisions"):
            if self._readable(None, f"decisions:{decision_id}:body", body) is None:
                self._db.run("DELETE FROM decisions WHERE id = ?", (decision_id,))
        for key, value in self._db.rows("SELECT key, value FROM settings"):
            if _tells(self._readable(None, f"settings:{key}:value", value), told):
                self._db.run("DELETE FROM settings WHERE key = ?", (key,))
        for visit_id, summary in self._db.rows("SELECT id, summary FROM visits WHERE summary IS NOT NULL"):
            if _tells(self._readable(None, f"visits:{visit_id}:summary", summary), told):
                self._db.run("UPDATE visits SET summary = NULL WHERE id = ?", (visit_id,))

    def _restamp(self, now_wall_s: float) -> None:
        """Count from now what was stored while the clock was not set, or ran ahead."""
        for table in ("visits", "pictures", "strangers"):
            self._db.run(
                f"UPDATE {table} SET kept_from_s = ?1 WHERE kept_from_s < ?2 OR kept_from_s > ?1",  # noqa: S608 - constants
                (now_wall_s, WALL_TRUSTED_AFTER_S),
            )

    def _idle_keys(self) -> List[str]:
        rows = self._db.rows(
            "SELECT owner FROM keys WHERE owner NOT IN (SELECT id FROM people) "
            "AND owner NOT IN (SELECT visit FROM pictures)"
        )
        return [row[0] for row in rows]

    def _export_face(self, face_id: str, about: Dict[str, Any]) -> Dict[str, Any]:
        picture: Dict[str, Any] = {}
        with contextlib.suppress(DamagedError):
            data = self._crop_bytes(face_id)
            crop = unpack_crop(data)
            picture = {"png": crop_png(data), "box": crop.box.tolist(), "landmarks": crop.landmarks.tolist()}
        return {
            **about,
            **picture,
            "vectors": self._export_vectors(about["person_id"], "vectors", "vector", face_id),
            "features": self._export_vectors(about["person_id"], "features", "features", face_id),
        }

    def _export_vectors(self, owner: str, table: str, column: str, face_id: str) -> Dict[str, Any]:
        rows = self._db.rows(f"SELECT model, {column} FROM {table} WHERE face_id = ?", (face_id,))  # noqa: S608 - constants
        opened = {model: self._readable(owner, f"{table}:{face_id}/{model}:{column}", blob) for model, blob in rows}
        return {model: unpack_floats(data) for model, data in opened.items() if data is not None}

    def _export_pictures(self, visit_id: str, track: int) -> Sequence[Dict[str, Any]]:
        rows = self._db.rows("SELECT id, crop FROM pictures WHERE visit = ? AND track = ?", (visit_id, track))
        opened = [self._readable(visit_id, f"pictures:{picture_id}:crop", blob) for picture_id, blob in rows]
        return [{"visit": visit_id, "track": track, "png": crop_png(data)} for data in opened if data is not None]


def _tells(data: Optional[bytes], told: re.Pattern[str]) -> bool:
    """Whether a JSON or plain text names one of the people searched for, or is too damaged to know."""
    if data is None:
        return True
    try:
        value = json.loads(data)
    except ValueError:
        value = data.decode("utf-8", "replace")
    return any(told.search(text) for text in _texts(value))


def _untold(data: Optional[bytes], told: re.Pattern[str]) -> Optional[bytes]:
    """Return the last word about a track without the people searched for; None if it is none."""
    try:
        message = json.loads(data or b"")
    except ValueError:
        return None
    if not isinstance(message, dict) or message.get("phase") not in _LAST_WORDS:
        return None
    for key in ("person", "person_id"):
        message[key] = None if told.search(str(message.get(key))) else message.get(key)
    message["candidates"] = [one for one in message.get("candidates", ()) if not told.search(str(one))]
    return pack_json({**message, "reason": FORGOTTEN})


def _texts(value: Any) -> List[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return []
