"""Faces kept for the night: what they look like to the encoder, and whom the devices propose."""

from __future__ import annotations

from typing import Iterable, List, Optional, Sequence, Set, Tuple

from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.store.backup import Backups
from edgecam.store.devices import Devices
from edgecam.store.records import (
    KeptTrack,
    NotStoredError,
    Proposal,
    Purged,
    Restored,
    StoredTracklet,
    pack_floats,
    unpack_floats,
)
from edgecam.types import Tracklet

_KEPT_S = 7 * 86_400.0
_LABELLED = "tracklets t LEFT JOIN labels l ON l.visit = t.visit AND l.track = t.track"


class Tracklets(Devices):
    """Tracks of visits as the encoder sees them, each under a key of its own."""

    def add_tracklet(self, tracklet: Tracklet) -> str:
        """Keep a track's features for seven days; return its id. A second time replaces the first.

        Raises:
            NotStoredError: there is no such visit.
        """
        with self.transaction():
            self._want_visit(tracklet.visit)
            self._drop_tracklets([(tracklet.visit, tracklet.track)])
            row_id = self._new_id()
            sealed = self._new_key(row_id).seal(f"tracklets:{row_id}:features", pack_floats(tracklet.features))
            self._db.run(
                "INSERT INTO tracklets (id, visit, track, camera, model, first_s, last_s, quality, kept_from_s, "
                "features) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                ),
            )
        return row_id

    def kept_tracks(self) -> List[KeptTrack]:
        """Return which tracks are kept, oldest first; also one whose features are damaged."""
        rows = self._db.rows(
            f"SELECT t.id, t.visit, t.track, v.place, v.opened_wall_s, l.person_id, t.nobody FROM {_LABELLED} "  # noqa: S608 - constants
            "JOIN visits v ON v.id = t.visit ORDER BY t.id"
        )
        return [
            KeptTrack(row_id, visit, track, place, opened_wall_s, person_id, bool(nobody))
            for row_id, visit, track, place, opened_wall_s, person_id, nobody in rows
        ]

    def tracklets(self, visit_id: Optional[str] = None) -> List[StoredTracklet]:
        """Return what is kept (of one visit), oldest first; what is damaged is left out."""
        rows = self._db.rows(
            "SELECT t.id, t.visit, t.track, camera, model, first_s, last_s, quality, l.person_id, nobody, features "  # noqa: S608 - constants
            f"FROM {_LABELLED} WHERE ? IS NULL OR t.visit = ? ORDER BY t.id",
            (visit_id, visit_id),
        )
        found = []
        for row_id, visit, track, camera, model, first_s, last_s, quality, person_id, nobody, blob in rows:
            data = self._readable(row_id, f"tracklets:{row_id}:features", blob)
            if data is not None:
                seen = Tracklet(visit, track, camera, model, first_s, last_s, quality, unpack_floats(data))
                found.append(StoredTracklet(row_id, seen, person_id, bool(nobody)))
        return found

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
                "INSERT OR REPLACE INTO labels SELECT visit, track, ? FROM tracklets WHERE id = ?",
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

    # What expiring, erasing and restoring mean for them.

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """See `Erase.purge`; faces are kept for seven days, and not at all where nobody asked for it."""
        if trusted:
            keep_s = _KEPT_S if self._config.cluster_unknown else 0.0
            with self.transaction():
                self._db.run(
                    "UPDATE tracklets SET kept_from_s = ?1 WHERE kept_from_s < ?2 OR kept_from_s > ?1",
                    (now_wall_s, WALL_TRUSTED_AFTER_S),
                )
                self._db.run("DELETE FROM tracklets WHERE kept_from_s <= ?", (now_wall_s - keep_s,))
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
        with self._attached(copy):
            self._db.run(
                "INSERT OR IGNORE INTO main.tracklets SELECT * FROM old.tracklets WHERE visit IN "
                "(SELECT id FROM main.visits)"
            )
            self._db.run(
                "INSERT OR IGNORE INTO main.keys SELECT * FROM old.keys WHERE owner IN (SELECT id FROM main.tracklets)"
            )
        return restored
