"""Faces kept for the night: what they look like to the encoder, and whom the devices propose."""

from __future__ import annotations

from dataclasses import asdict
from math import ceil
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

import numpy as np

from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.errors import ShapeError
from edgecam.store.backup import Backups
from edgecam.store.db import Row
from edgecam.store.records import (
    KeptTrack,
    NotStoredError,
    Proposal,
    Purged,
    Restored,
    StoredTracklet,
    pack_faces,
    unpack_faces,
    unpack_floats,
)
from edgecam.store.visitors import TAKEN_FOR, Visitors
from edgecam.types import Liveness, Tracklet

FACES_A_TRACK = 8
TRACKS_A_DAY, PERSON_A_DAY, UNKNOWN_A_DAY = 200, 20, 60
"""So many tracks are written in 24 hours: in all, of whom one person was seen in, of faces that were given no name."""
_DAY_S = 86_400.0
_KEPT_S = 7 * _DAY_S
_EXPIRE_EVERY_S = 6 * 3600.0
"""All that expires within so long goes at once: each time the table of keys is written anew, for secrecy."""
_LABELLED = "tracklets t LEFT JOIN labels l ON l.visit = t.visit AND l.track = t.track"


class Tracklets(Visitors):
    """Tracks of visits as the encoder sees them, each under a key of its own."""

    def add_tracklet(self, tracklet: Tracklet) -> Optional[str]:
        """Keep a track's faces for seven days; return its id, None if enough was written today. Twice replaces.

        Raises:
            NotStoredError: there is no such visit.
        """
        with self.transaction():
            self._want_visit(tracklet.visit)
            self._drop_tracklets([(tracklet.visit, tracklet.track)])
            if not self._room_today(tracklet):
                return None
            row_id = self._new_id()
            sealed = self._new_key(row_id).seal(f"tracklets:{row_id}:features", pack_faces(tracklet))
            self._db.run(
                "INSERT INTO tracklets (id, visit, track, camera, model, first_s, last_s, quality, kept_from_s, "
                "features, faces, infrared, liveness) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row_id,
                    tracklet.visit,
                    tracklet.track,
                    tracklet.camera,
                    tracklet.model,
                    tracklet.first_s,
                    tracklet.last_s,
                    tracklet.quality,
                    self._clock.wall_s(),
                    sealed,
                    len(tracklet.qualities),
                    tracklet.infrared,
                    tracklet.liveness.value,
                ),
            )
        return row_id

    def _room_today(self, tracklet: Tracklet) -> bool:
        """Whether one more track of whom this was taken for may be written; memory cards wear out."""
        if len(tracklet.features) > FACES_A_TRACK:
            raise ShapeError(f"a track keeps at most {FACES_A_TRACK} faces, not {len(tracklet.features)}")
        this = (tracklet.visit, tracklet.track)
        who = self._db.rows(f"SELECT {TAKEN_FOR} FROM (SELECT ? AS visit, ? AS track) t", this)  # noqa: S608 - constants
        since_s = self._clock.wall_s() - _DAY_S
        today = self._db.rows(f"SELECT {TAKEN_FOR} FROM tracklets t WHERE kept_from_s > ?", (since_s,))  # noqa: S608 - constants
        most = UNKNOWN_A_DAY if who[0][0] is None else PERSON_A_DAY
        return len(today) < TRACKS_A_DAY and today.count(who[0]) < most

    def kept_tracks(self) -> List[KeptTrack]:
        """Return which tracks are kept, oldest first; also one whose features are damaged."""
        rows = self._db.rows(
            "SELECT t.id, t.visit, t.track, v.place, v.opened_wall_s, l.person_id, t.nobody, t.camera, "  # noqa: S608 - constants
            f"{TAKEN_FOR} FROM {_LABELLED} JOIN visits v ON v.id = t.visit ORDER BY t.id"
        )
        return [
            KeptTrack(row_id, visit, track, place, opened_wall_s, person_id, bool(nobody), camera, taken_for)
            for row_id, visit, track, place, opened_wall_s, person_id, nobody, camera, taken_for in rows
        ]

    def tracklets(self, visit_id: Optional[str] = None) -> List[StoredTracklet]:
        """Return what is kept (of one visit), oldest first; what is damaged is left out."""
        rows = self._db.rows(
            "SELECT t.id, t.visit, t.track, camera, model, first_s, last_s, quality, features, faces, infrared, "  # noqa: S608 - constants
            f"liveness, l.person_id, nobody, coalesce(l.grouped, 0), {TAKEN_FOR} FROM {_LABELLED} "
            f"{'' if visit_id is None else 'WHERE t.visit = ?'} ORDER BY t.id",
            () if visit_id is None else (visit_id,),
        )
        return [row for row in map(self._tracklet, rows) if row is not None]

    def _tracklet(self, row: Row) -> Optional[StoredTracklet]:
        row_id, visit, track, camera, model, first_s, last_s, quality, blob, faces, infrared, liveness, *said = row
        data = self._readable(row_id, f"tracklets:{row_id}:features", blob)
        if data is None:
            return None
        if faces:
            features, qualities, clothes = unpack_faces(data)
        else:  # schema 3: one mean
            features, qualities = unpack_floats(data)[None], np.array([quality], np.float32)
            clothes = np.zeros(0, np.float32)
        seen = Tracklet(
            visit,
            track,
            camera,
            model,
            first_s,
            last_s,
            features,
            qualities,
            bool(infrared),
            Liveness(liveness),
            clothes,
        )
        person_id, nobody, grouped, taken_for = said
        return StoredTracklet(row_id, seen, person_id, bool(nobody), bool(grouped), taken_for)

    def is_nobody(self, tracklet_id: str) -> None:
        """Note that the user knows this face to be none of the house's people.

        Raises:
            NotStoredError: it is not kept (any more).
        """
        if not self._db.run("UPDATE tracklets SET nobody = 1 WHERE id = ?", (tracklet_id,)):
            raise NotStoredError(f"the face {tracklet_id} is not kept (any more)")

    def is_person(self, tracklet_id: str, person_id: str) -> None:
        """Note that the user knows this face to be a person's.

        Raises:
            NotStoredError: it is not kept (any more), or nobody has this id.
        """
        with self.transaction():
            self.person(person_id)
            changed = self._db.run(
                "INSERT OR REPLACE INTO labels SELECT visit, track, ?, 0 FROM tracklets WHERE id = ?",
                (person_id, tracklet_id),
            )
            if not changed:
                raise NotStoredError(f"the face {tracklet_id} is not kept (any more)")

    def propose(self, proposals: Iterable[Proposal]) -> int:
        """Put these in the place of all earlier proposals; return how many still have their face and person."""
        with self.transaction():
            self._db.run("DELETE FROM proposals")
            self._db.run_many(
                "INSERT INTO proposals SELECT t.id, p.id, ?, ?, ? FROM tracklets t, people p "
                "WHERE t.id = ? AND p.id = ?",
                [(p.share, p.with_device, p.without_device, p.tracklet, p.person_id) for p in proposals],
            )
            return int(self._db.rows("SELECT count(*) FROM proposals")[0][0])

    def proposals(self, visit_id: str) -> List[Tuple[int, Proposal]]:
        """Return the (track, proposal) of a visit, the likeliest first; none where the user has said who it is."""
        rows = self._db.rows(
            "SELECT track, tracklet, proposals.person_id, share, with_device, without_device FROM proposals "
            "JOIN tracklets ON tracklet = id LEFT JOIN labels USING (visit, track) "
            "WHERE visit = ? AND NOT nobody AND labels.person_id IS NULL "
            "ORDER BY track, share DESC, proposals.person_id",
            (visit_id,),
        )
        return [(track, Proposal(*rest)) for track, *rest in rows]

    # What exporting, expiring, erasing and restoring mean for them.

    def export(self, person_id: str, actor: Optional[str] = None) -> Dict[str, Any]:
        """See `Erase.export`; with what is kept of the tracks that may show the person."""
        exported = super().export(person_id, actor)
        mine = self._tracks_of({person_id})
        kept = [row.seen for visit in sorted({visit for visit, _ in mine}) for row in self.tracklets(visit)]
        exported["tracklets"] = [asdict(seen) for seen in kept if (seen.visit, seen.track) in mine]
        return exported

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """See `Erase.purge`; faces are kept for seven days at most, and not at all where nobody asked for it."""
        if trusted:
            keep_s = _KEPT_S if self._config.cluster_unknown else 0.0
            with self.transaction():
                self._db.run(
                    "UPDATE tracklets SET kept_from_s = ?1 WHERE kept_from_s < ?2 OR kept_from_s > ?1",
                    (now_wall_s, WALL_TRUSTED_AFTER_S),
                )
                until_s = ceil((now_wall_s - keep_s) / _EXPIRE_EVERY_S) * _EXPIRE_EVERY_S
                self._db.run("DELETE FROM tracklets WHERE kept_from_s <= ?", (until_s,))
        return super().purge(now_wall_s, trusted)

    def _tracks_of(self, person_ids: Set[str]) -> List[Tuple[str, int]]:
        proposed = self._db.rows("SELECT visit, track, person_id FROM proposals JOIN tracklets ON tracklet = id")
        tracks = {(visit, track) for visit, track, who in proposed if who in person_ids}
        return sorted({*super()._tracks_of(person_ids), *tracks})

    def _drop_pictures(self, visit_id: str, track: int) -> None:
        self._drop_tracklets([(visit_id, track)])
        super()._drop_pictures(visit_id, track)

    def _drop_tracklets(self, tracks: Sequence[Tuple[str, int]]) -> None:
        gone = [
            row[0]
            for track in tracks
            for row in self._db.rows("SELECT id FROM tracklets WHERE visit = ? AND track = ?", track)
        ]
        self._db.run_many("DELETE FROM tracklets WHERE id = ?", [(row_id,) for row_id in gone])
        self._destroy_keys(gone)

    def _idle_keys(self) -> List[str]:
        kept = {row[0] for row in self._db.rows("SELECT id FROM tracklets")}
        return [owner for owner in super()._idle_keys() if owner not in kept]

    def _merge(self, copy: Backups) -> Restored:
        restored = super()._merge(copy)
        run, rows = self._db.run, self._db.rows
        with self._attached(copy):
            here = {row[0] for row in rows("SELECT id FROM main.tracklets")}
            run(
                "INSERT OR IGNORE INTO main.tracklets SELECT * FROM old.tracklets WHERE visit IN "
                "(SELECT id FROM main.visits)"
            )
            run("INSERT OR IGNORE INTO main.keys SELECT * FROM old.keys WHERE owner IN (SELECT id FROM main.tracklets)")
            taken = {row[0] for row in rows("SELECT id FROM main.tracklets")} - here
            self._db.run_many(
                "INSERT OR IGNORE INTO main.proposals SELECT * FROM old.proposals WHERE tracklet = ? AND person_id IN "
                "(SELECT id FROM main.people)",
                [(row_id,) for row_id in taken],
            )
            self._merge_visitors(taken)
        return restored

    def _merge_visitors(self, taken: Set[str]) -> None:
        """Group the tracks that came back as they were, under another number where theirs is somebody else's."""
        groups: Dict[int, List[str]] = {}
        for number, row_id in self._db.rows("SELECT visitor, tracklet FROM old.visitor_tracks ORDER BY visitor"):
            groups.setdefault(number, []).append(row_id)
        for number, group in groups.items():
            came = [row_id for row_id in group if row_id in taken]
            here = self._db.rows("SELECT tracklet FROM main.visitor_tracks WHERE visitor = ?", (number,))
            if not came:
                continue
            if not {row[0] for row in here} & set(group):
                free = not self._db.rows("SELECT 1 FROM main.visitors WHERE number = ?", (number,))
                self._db.run(
                    "INSERT INTO main.visitors SELECT ?, ignored FROM old.visitors WHERE number = ?",
                    (number if free else None, number),
                )
                number = number if free else int(self._db.rows("SELECT max(number) FROM main.visitors")[0][0])  # noqa: PLW2901
            self._db.run_many("INSERT INTO main.visitor_tracks VALUES (?, ?)", [(row_id, number) for row_id in came])
