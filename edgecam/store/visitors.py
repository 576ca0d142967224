"""Unknown visitors who came again: which kept tracks are one person, by ids alone."""

from __future__ import annotations

from typing import Dict, List, Mapping, Sequence, Tuple

from edgecam.errors import ConfigError
from edgecam.store.devices import Devices
from edgecam.store.records import KeptTrack, NotStoredError, Purged, Visitor
from edgecam.types import Person, Role

TAKEN_FOR = (
    "(SELECT d.person_id FROM decisions d WHERE d.visit = t.visit AND d.track = t.track ORDER BY seq DESC LIMIT 1)"
)
"""Whom the last word about a track `t` named."""


class Visitors(Devices):
    """Groups that the night found; a visitor lasts as long as an unnamed track of theirs is kept."""

    def put_visitors(self, groups: Sequence[Sequence[str]]) -> List[int]:
        """Put these groups of kept tracks in the place of all earlier ones; return their numbers, 0 if none is left.

        A group goes on under the number of the visitor with whom it shares most tracks; the others get new ones, in
        order. Tracks that are gone, or that somebody has named meanwhile, are passed over.

        Raises:
            ConfigError: a track is in two groups.
        """
        if len({track for group in groups for track in group}) < sum(map(len, groups)):
            raise ConfigError("a face is in two groups of visitors")
        with self.transaction():
            unnamed = {
                row[0]
                for row in self._db.rows(
                    "SELECT id FROM tracklets LEFT JOIN labels USING (visit, track) "
                    "WHERE person_id IS NULL AND NOT nobody"
                )
            }
            kept = [[track for track in group if track in unnamed] for group in groups]
            numbers = _inherited(kept, dict(self._db.rows("SELECT tracklet, visitor FROM visitor_tracks")))
            self._db.run("DELETE FROM visitor_tracks")
            for i, group in enumerate(kept):
                if group and not numbers[i]:
                    self._db.run("INSERT INTO visitors DEFAULT VALUES")
                    numbers[i] = int(self._db.rows("SELECT max(number) FROM visitors")[0][0])
                self._db.run_many("INSERT INTO visitor_tracks VALUES (?, ?)", [(track, numbers[i]) for track in group])
            self._drop_empty()
        return numbers

    def visitors(self) -> List[Visitor]:
        """Return all visitors by number, their unnamed tracks oldest first."""
        rows = self._db.rows(
            f"SELECT n.number, n.ignored, t.id, t.visit, t.track, v.place, v.opened_wall_s, t.camera, {TAKEN_FOR} "  # noqa: S608 - constants
            "FROM visitors n JOIN visitor_tracks ON visitor = n.number JOIN tracklets t ON t.id = tracklet "
            "JOIN visits v ON v.id = t.visit LEFT JOIN labels l ON l.visit = t.visit AND l.track = t.track "
            "WHERE l.person_id IS NULL AND NOT t.nobody ORDER BY n.number, v.opened_wall_s, t.id"
        )
        found: Dict[Tuple[int, bool], List[KeptTrack]] = {}
        for number, ignored, row_id, visit, track, place, opened_s, camera, taken_for in rows:
            kept = KeptTrack(row_id, visit, track, place, opened_s, None, False, camera, taken_for)
            found.setdefault((number, bool(ignored)), []).append(kept)
        return [Visitor(number, ignored, tuple(tracks)) for (number, ignored), tracks in found.items()]

    def visitor(self, number: int) -> Visitor:
        """Return one visitor.

        Raises:
            NotStoredError: there is none of this number (any more).
        """
        found = next((one for one in self.visitors() if one.number == number), None)
        if found is None:
            raise NotStoredError(f"there is no visitor {number} (any more): see `edgecam visits list`")
        return found

    def ignore_visitor(self, number: int, *, ignored: bool = True) -> None:
        """Leave a visitor unmentioned, or mention them again.

        Raises:
            NotStoredError: there is none of this number (any more).
        """
        self.visitor(number)
        self._db.run("UPDATE visitors SET ignored = ? WHERE number = ?", (ignored, number))

    def name_visitor(self, number: int, name: str, role: Role = Role.KNOWN) -> Tuple[Person, List[str]]:
        """Say who a visitor is: each of their tracks of which a picture is kept is named; the visitor is no more.

        Returns:
            As `name_visit`.

        Raises:
            NotStoredError: no such visitor (any more), or no picture of them is kept.
        """
        with self.transaction():
            pictured = [
                track
                for track in self.visitor(number).tracks
                if self._db.rows("SELECT 1 FROM pictures WHERE visit = ? AND track = ?", (track.visit, track.track))
            ]
            if not pictured:
                raise NotStoredError(f"no picture of visitor {number} is kept (any more)")
            named = [self.name_visit(track.visit, track.track, name, role, grouped=True) for track in pictured]
            self._db.run("DELETE FROM visitors WHERE number = ?", (number,))
        return named[-1][0], [face_id for _, face_ids in named for face_id in face_ids]

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """See `Erase.purge`; visitors go with the last of their tracks."""
        purged = super().purge(now_wall_s, trusted)
        self._drop_empty()
        return purged

    def _drop_history(self, until_s: float) -> None:
        super()._drop_history(until_s)
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._db.run("DELETE FROM visitors WHERE number NOT IN (SELECT visitor FROM visitor_tracks)")


def _inherited(groups: Sequence[Sequence[str]], old: Mapping[str, int]) -> List[int]:
    """Return the earlier number of each group, 0 for a new one; the greatest share of tracks decides."""
    shared: Dict[Tuple[int, int], int] = {}
    for i, group in enumerate(groups):
        for track in group:
            if track in old:
                shared[i, old[track]] = shared.get((i, old[track]), 0) + 1
    numbers = [0] * len(groups)
    for (i, number), _ in sorted(shared.items(), key=lambda one: (-one[1], one[0])):
        if not numbers[i] and number not in numbers:
            numbers[i] = number
    return numbers
