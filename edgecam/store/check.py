"""What is not whole: every sealed entry tried (and mended from a backup), every row held against the others."""

from __future__ import annotations

from typing import Iterator, List, Tuple

from edgecam.store.erase import Erase
from edgecam.store.records import Damage, unpack_decision

_OF_FACE = "(SELECT person_id FROM faces WHERE id = face_id)"
SEALED: Tuple[Tuple[str, str, str, str], ...] = (
    ("keys", "wrapped", "owner", "NULL"),
    ("people", "name", "id", "id"),
    ("people", "consent", "id", "id"),
    ("faces", "source", "id", "person_id"),
    ("crops", "crop", "face_id", _OF_FACE),
    ("vectors", "vector", "face_id || '/' || model", _OF_FACE),
    ("features", "features", "face_id || '/' || model", _OF_FACE),
    ("visits", "summary", "id", "NULL"),
    ("decisions", "body", "id", "NULL"),
    ("pictures", "crop", "id", "visit"),
    ("devices", "body", "id", "person_id"),
    ("tracklets", "features", "id", "id"),
    ("versions", "record", "id", "id"),
    ("heads", "data", "version || '/' || name", "version"),
    ("outbox", "payload", "id", "NULL"),
    ("settings", "value", "key", "NULL"),
    ("strangers", "features", "id", "NULL"),
)
"""Table, sealed column, and in SQL: the id in its place, the owner of its key (NULL: the master key)."""

_TORN: Tuple[Tuple[str, str], ...] = (
    ("SELECT id FROM faces WHERE id NOT IN (SELECT face_id FROM crops)", "face {} has no picture"),
    (
        "SELECT model FROM vectors GROUP BY model HAVING min(length(vector)) < max(length(vector))",
        "the vectors of {} differ in length",
    ),
    (
        "SELECT t.id FROM tombstones t JOIN (SELECT id FROM people UNION SELECT id FROM faces) USING (id)",
        "{} was deleted, and is still there",
    ),
    ("SELECT id FROM tombstones JOIN keys ON owner = id", "the key of {}, who was deleted, is still there"),
    (
        "SELECT id FROM decisions WHERE person_id IS NOT NULL AND person_id NOT IN (SELECT id FROM people)",
        "decision {} names somebody who is not there",
    ),
    (
        "SELECT base FROM versions WHERE state = 'active' GROUP BY base HAVING count(*) > 1",
        "more than one head is in service for {}",
    ),
    (
        "SELECT DISTINCT id FROM versions JOIN heads ON version = id WHERE state IN ('refused', 'ended')",
        "a head of version {} is kept that nobody may use",
    ),
    (
        "SELECT DISTINCT version FROM version_people JOIN tombstones ON person_id = id WHERE merged_into IS NULL",
        "version {} has learnt from somebody who was forgotten",
    ),
)
"""Finds ids where there are none unless something was torn apart that one transaction writes; how it is told."""


class Check(Erase):
    """Finding damage that SQLite cannot see, because the pages around it are sound."""

    def problems(self) -> List[str]:
        """Return what is wrong with file and contents; nothing if all is sound. Reads and decrypts all of it."""
        damaged = (f"{damage.place} is damaged" for damage in self.damaged())
        return [*self.file_problems(), *damaged, *self.torn()]

    def torn(self) -> Iterator[str]:
        """Yield what does not fit together although each part of it can be read."""
        for select, told in _TORN:
            for (found,) in self._db.rows(select):
                yield told.format(found)
        for row_id, *columns, body in self._db.rows("SELECT id, visit, track, verdict, person_id, body FROM decisions"):
            said = self._readable(None, f"decisions:{row_id}:body", body)
            if said is None:
                continue
            word = unpack_decision(said)
            if [word.id, word.visit, word.track, word.verdict.value, word.person_id] != [row_id, *columns]:
                yield f"decision {row_id} says something else than its row"

    def file_problems(self) -> List[str]:
        """Return what SQLite finds wrong with the database file."""
        return self._db.problems()

    def damaged(self) -> Iterator[Damage]:
        """Yield every sealed entry that does not open; of an owner whose key is damaged, the key alone."""
        lost = set()
        for table, column, name, owner_of in SEALED:
            select = f"SELECT rowid, {name}, {owner_of} FROM {table} ORDER BY rowid"  # noqa: S608 - constants
            for rowid, row_id, owner in self._db.rows(select):
                # One by one: the pictures of a big household do not fit into a small box's memory.
                blobs = self._db.rows(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,))  # noqa: S608 - constants
                damage = Damage(table, row_id, column, row_id if table == "keys" else owner)
                if not blobs or blobs[0][0] is None or owner in lost or self._opens(damage, blobs[0][0]):
                    continue
                if table == "keys":
                    lost.add(row_id)
                yield damage

    def _opens(self, entry: Damage, blob: bytes) -> bool:
        sealed_by = None if entry.table == "keys" else entry.owner
        return self._readable(sealed_by, entry.place, blob) is not None

    def _mend(self, copy: Check) -> int:
        """Replace what is damaged here by what a copy has in its place; return how much."""
        mended = 0
        for damage in self.damaged():
            table, row_id, column, _ = damage
            where = next(name for sealed, _, name, _ in SEALED if sealed == table)
            select = f"SELECT {column} FROM {table} WHERE {where} = ?"  # noqa: S608 - constants
            for (blob,) in copy._db.rows(select, (row_id,)):
                if blob is not None and self._opens(damage, blob):
                    self._db.run(f"UPDATE {table} SET {column} = ? WHERE {where} = ?", (blob, row_id))  # noqa: S608 - constants
                    mended += 1
        return mended
