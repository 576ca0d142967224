"""Copies of the database, and bringing them back."""
# ruff: noqa: SLF001 - copies are opened as the same class

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Literal, Mapping, NamedTuple, Optional, Sequence

from edgecam.errors import ConfigError, KeyMissingError, StoreError
from edgecam.store.base import caller
from edgecam.store.db import Database, hand_over, translated
from edgecam.store.erase import HISTORY, OF_THE_BOX
from edgecam.store.keys import KeyPlace
from edgecam.store.records import Restored
from edgecam.store.rekey import Recovery, Rekey, unpack_recovery
from edgecam.store.vault import Sealer, make_folder, new_key, sync_folder

BACKUP_NOTE = "The master key is not in the backup: keep a copy of it elsewhere, or the backup cannot be read."
RECOVERY_NOTE = "It opens on any box with the recovery passphrase: whoever finds both reads it."

_OF_THE_BOX = "('" + "', '".join(OF_THE_BOX) + "')"
_PREFIX = "edgecam-"
_SUFFIX = ".db"
_PART = ".part"


class Grave(NamedTuple):
    """What a tombstone says."""

    id: str
    heir: Optional[str]
    """With whom it was made one; None: it was deleted."""
    wall_s: float


class Look(NamedTuple):
    """What opens a backup."""

    opens: bool
    """This box's key does."""
    bridged: bool
    """So does the former key."""
    recovery: Optional[Mapping[str, Any]]
    """See `Rekey.recovery`."""


def want_backup(path: Path) -> None:
    """Refuse what cannot be a backup.

    Raises:
        StoreError: there is no such file, or it is empty or a folder.
    """
    with translated(path):
        if path.is_dir():
            raise StoreError(f"{path} is a folder: name one of the backups in it ({_PREFIX}*{_SUFFIX})")
        if path.stat().st_size == 0:
            raise StoreError(f"{path} is empty: take another backup")


class Backups(Rekey):
    """Backups hold everything but the master key and the outbox."""

    def backup(self, folder: Optional[Path] = None) -> Path:
        """Write a consistent copy into a folder; return its path (see `BACKUP_NOTE`).

        Args:
            folder: default: the configured one, in which `forget` reaches the copies.

        Raises:
            ConfigError: no folder given, none configured.
            StoreError: it cannot be written.
        """
        folder = folder or self._config.backup_dir
        if folder is None:
            raise ConfigError("no folder for backups: give one, or set store.backup_dir")
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall_s()))
        path = folder / f"{_PREFIX}{stamp}-{self._new_id()[-6:]}{_SUFFIX}"
        with translated(folder):
            make_folder(folder)
        with self._writing(path) as part:
            self._db.copy_to(part)
            copy = Database(part, wal=False)
            try:
                copy.run("DELETE FROM outbox")
            finally:
                copy.close()
        self.audit(caller(), "backup", path.name)
        return path

    def clear_backups(self) -> None:
        """Delete what a killed process has left of a copy that it was writing: nothing else would reach it any more."""
        folder = self._config.backup_dir
        for left in folder.glob(f"{_PREFIX}*{_SUFFIX}{_PART}*") if folder else ():
            with contextlib.suppress(OSError):
                left.unlink()

    def look(self, path: Path) -> Look:
        """Return what opens a backup.

        Raises:
            StoreError: not a backup of edgecam, or damaged.
        """
        want_backup(path)
        with translated(path, copy=True):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchall():
                    raise StoreError(f"{path} is no backup of edgecam: take another one")
                meta = dict(connection.execute("SELECT key, data FROM meta"))
            finally:
                connection.close()
        bridge, recovery = meta.get("bridge"), meta.get("recovery")
        opens = self._marked(meta.get("key_check")) or self._bridged(bridge) is not None
        return Look(opens, bridge is not None, None if recovery is None else unpack_recovery(recovery))

    def restore(self, path: Path, mode: Literal["merge", "replace"] = "merge", key: Optional[bytes] = None) -> Restored:
        """Bring a backup back; the forgotten stay forgotten, waiting alerts stay.

        Args:
            path: a file that `backup` wrote.
            mode: `merge` adds the people, faces and visits that are not here, and mends what is damaged here; `replace`
                returns to the backup's state.
            key: the master key that it was written with, if that is not this box's.

        Raises:
            KeyMissingError: it was written with another master key.
            StoreError: not a backup, damaged, or of a newer version; nothing has changed then.
        """
        part = self._db.path.with_name(f"restore{_PART}")
        try:
            with self._opened_copy(path, part, None if key is None else Sealer(key)) as copy:
                if key is not None:
                    copy._reseal(self._master)
                if found := copy.problems():
                    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                    raise StoreError(f"{path} is damaged ({found[0]}{more}): take another backup")
                copy._heed(self._graves(), merged=mode == "merge")
                if mode == "merge":
                    # What another house has erased of its history says nothing of this one's.
                    ours = bool(self._db.rows("SELECT 1 FROM visits LIMIT 1"))
                    self._heed([grave for grave in copy._graves() if not ours or grave.id != HISTORY], merged=False)
                restored = self._replace(copy) if mode == "replace" else self._merge(copy)
        finally:
            part.unlink(missing_ok=True)
        self._keys.clear()
        self.audit(caller(), "restore", mode)
        self.purge(self._clock.wall_s(), self._clock.wall_trusted())
        self._db.shrink(full=False)
        return restored

    def rotate(
        self, place: KeyPlace, former: KeyPlace, recovery: Optional[Recovery] = None, recovery_key: bytes = b""
    ) -> List[str]:
        """Change the master key, here and in the backups of the configured folder; the former one opens nothing more.

        Killed at any moment, the key that is then in the place opens all, and another call ends what was begun.

        Args:
            place: where the new key is put.
            former: where the key is now; erased if that is elsewhere.
            recovery: how the passphrase for backups becomes a key; None: no passphrase opens them any more.
            recovery_key: what it became.

        Returns:
            The backups that still want the former key or another one, each with the reason.

        Raises:
            StoreError: something cannot be written; either key opens all, and another call goes on.
        """
        if self._given is None:
            self._reseal(Sealer(new_key()), bridge=True)
            self.audit(caller(), "key changed", "")
        self.set_recovery(recovery, recovery_key)
        left = []
        for path in self._copies():
            try:
                self._rekey(path)
            except StoreError as err:
                left.append(f"{path.name}: {err}")
        self._drop_night()
        place.write(self._master.key)
        if place.path != former.path:
            former.erase()
        self._drop_bridge()
        self._given = None
        return left

    def _rekey(self, path: Path) -> None:
        look = self.look(path)
        if look.opens and not look.bridged and look.recovery == self.recovery():
            return
        with self._writing(path) as part, self._opened_copy(path, part, None if look.opens else self._given) as copy:
            with copy.transaction():
                if copy._master.key != self._master.key:
                    copy._reseal(self._master)
                copy._put_meta("recovery", self._meta("recovery"))
            copy._db.shrink(full=True)

    def _copies(self) -> List[Path]:
        folder = self._config.backup_dir
        return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")) if folder else []

    def scrub_backups(self) -> None:
        """Erase the forgotten in every backup of the configured folder.

        Raises:
            StoreError: a backup could not be rewritten; it is named, and tried again with the next purge.
        """
        gone = [row[0] for row in self._db.rows("SELECT id FROM tombstones WHERE scrubbed = 0 ORDER BY id")]
        if not gone:
            return
        failed: List[str] = []
        for path in self._copies():
            try:
                self._scrub(path, gone)
            except StoreError as err:
                failed.append(f"{path.name} ({err})")
        if failed:
            raise StoreError(
                f"what was erased may still be in {self._config.backup_dir}: delete what cannot be rewritten: "
                + "; ".join(failed)
            )
        self._db.run_many("UPDATE tombstones SET scrubbed = 1 WHERE id = ?", [(dead,) for dead in gone])

    def _scrub(self, path: Path, gone: List[str]) -> None:
        with self._writing(path) as part, self._opened_copy(path, part) as copy:
            copy._heed([grave for grave in self._graves() if grave.id in gone], merged=False)
            copy._db.shrink(full=True)

    @contextmanager
    def _opened_copy(self, path: Path, part: Path, master: Optional[Sealer] = None) -> Iterator[Backups]:
        """Open a private copy of a backup, brought to this version's schema; with its own master key, if given."""
        want_backup(path)
        with translated(path):
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            shutil.copyfile(path, part)
        database = Database(part, wal=False, shown=path)
        try:
            config = self._config.model_copy(update={"backup_dir": None})
            copy = type(self)(database, master or self._master, config, self._clock, self._outbox_max)
            try:
                copy.check_key("use")
            except KeyMissingError as err:
                raise KeyMissingError(
                    f"{path} was written with another master key: give that one (`edgecam restore FILE --key KEYFILE`)"
                ) from err
            if copy._meta("bridge"):
                copy._drop_bridge()
            if copy._programs() != self._programs():
                raise StoreError(f"{path} was altered (triggers or views that are not edgecam's): take another backup")
            yield copy
        finally:
            database.close()

    def _programs(self) -> List[Any]:
        """Return what runs by itself in the database: `restore` must not bring in any of it."""
        kinds = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY name"
        return self._db.rows(kinds)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Path]:
        """Hand out a name beside `path` that takes its place when all went well."""
        part = path.with_name(path.name + _PART)
        try:
            part.unlink(missing_ok=True)
            yield part
            with translated(path):
                handle = os.open(part, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                hand_over(part)
                os.replace(part, path)
                sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)

    def _graves(self) -> List[Grave]:
        return [Grave(*row) for row in self._db.rows("SELECT id, merged_into, wall_s FROM tombstones")]

    def _heed(self, graves: Sequence[Grave], *, merged: bool) -> None:
        """Delete here what was deleted elsewhere.

        Args:
            graves: what has tombstones there.
            merged: also make those one who are one there.
        """
        run = self._db.run
        heeded = {grave[:2]: grave.wall_s for grave in self._graves()}
        until_s = heeded.pop((HISTORY, None), 0.0)
        graves = [
            grave for grave in graves if grave[:2] not in heeded and (grave.id, grave.wall_s) != (HISTORY, until_s)
        ]
        with self.transaction():
            for grave in graves:
                if grave.id == HISTORY and grave.wall_s > until_s:
                    self._drop_history(grave.wall_s)
                    run("INSERT OR REPLACE INTO tombstones VALUES (?, NULL, ?, 0)", (HISTORY, grave.wall_s))
                elif merged and grave.heir is not None:
                    self._rewrite_decisions({grave.id}, grave.heir)
                    run(
                        "UPDATE labels SET person_id = ?1 WHERE person_id = ?2 AND EXISTS "
                        "(SELECT 1 FROM people WHERE id = ?1)",
                        (grave.heir, grave.id),
                    )
                    run("DELETE FROM people WHERE id = ?", (grave.id,))
                    self._destroy_keys([grave.id])
            self._erase([grave.id for grave in graves if grave.heir is None])
            # Who was a stranger then may be somebody who was forgotten since.
            if graves:
                run("DELETE FROM strangers WHERE kept_from_s <= ?", (max(grave.wall_s for grave in graves),))

    @contextmanager
    def _attached(self, copy: Backups) -> Iterator[None]:
        self._db.run("ATTACH ? AS old", (str(copy._db.path),))
        try:
            with self.transaction():
                yield
        finally:
            self._db.run("DETACH old")

    def _replace(self, copy: Backups) -> Restored:
        run = self._db.run
        with self._attached(copy):
            run("INSERT OR IGNORE INTO old.audit SELECT * FROM main.audit")
            run(
                "INSERT OR REPLACE INTO old.tombstones SELECT * FROM main.tombstones WHERE id NOT IN "
                "(SELECT id FROM old.people)"
            )
            run("DELETE FROM old.meta WHERE key IN ('recovery', 'bridge')")
            run("INSERT INTO old.meta SELECT * FROM main.meta WHERE key IN ('recovery', 'bridge')")
            run(f"DELETE FROM old.settings WHERE key IN {_OF_THE_BOX}")  # noqa: S608 - constants
            run(f"INSERT INTO old.settings SELECT * FROM main.settings WHERE key IN {_OF_THE_BOX}")  # noqa: S608 - constants
            run("DELETE FROM old.outbox")
            run("INSERT INTO old.outbox SELECT * FROM main.outbox")
            run(
                "UPDATE old.meta SET number = 1 + max(number, (SELECT number FROM main.meta WHERE key = 'generation')) "
                "WHERE key = 'generation'"
            )
        self._db.replace_with(copy._db)
        counts = self._db.rows(
            "SELECT (SELECT count(*) FROM people), (SELECT count(*) FROM faces), (SELECT count(*) FROM visits)"
        )
        return Restored(*counts[0])

    def _merge(self, copy: Backups) -> Restored:
        with self.transaction():
            mended = self._mend(copy)
        self._make_names_free(copy)
        run, rows = self._db.run, self._db.rows
        with self._attached(copy):
            people = [r[0] for r in rows("SELECT id FROM old.people EXCEPT SELECT id FROM main.people")]
            faces = [r[0] for r in rows("SELECT id FROM old.faces EXCEPT SELECT id FROM main.faces")]
            visits = [r[0] for r in rows("SELECT id FROM old.visits EXCEPT SELECT id FROM main.visits")]
            self._take("people", "id", people)
            self._take("keys", "owner", [*people, *visits])
            self._take("faces", "id", faces)
            for table in ("crops", "vectors", "features"):
                self._take(table, "face_id", faces)
            self._take("visits", "id", visits)
            self._take("pictures", "visit", visits)
            self._take("labels", "visit", visits)
            columns = "id, visit, track, verdict, person_id, body"
            self._db.run_many(
                f"INSERT OR IGNORE INTO decisions ({columns}) SELECT {columns} FROM old.decisions "  # noqa: S608 - constants
                "WHERE visit = ? ORDER BY seq",
                [(visit,) for visit in visits],
            )
            run(f"INSERT OR IGNORE INTO main.settings SELECT * FROM old.settings WHERE key NOT IN {_OF_THE_BOX}")  # noqa: S608 - constants
            alive = f"SELECT id FROM main.people UNION SELECT '{HISTORY}'"  # noqa: S608 - constants
            run(f"INSERT OR IGNORE INTO main.tombstones SELECT * FROM old.tombstones WHERE id NOT IN ({alive})")  # noqa: S608 - constants
            run("INSERT OR IGNORE INTO main.audit SELECT * FROM old.audit")
            self._bump()
        return Restored(len(people), len(faces), len(visits), mended)

    def _take(self, table: str, column: str, values: List[str]) -> None:
        self._db.run_many(
            f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE {column} = ?",  # noqa: S608 - constants
            [(value,) for value in values],
        )

    def _make_names_free(self, copy: Backups) -> None:
        """Rename in a copy whoever has the name of somebody else here."""
        here = {person.id for person in self.people()}
        for person in copy.people():
            if person.id in here:
                continue
            name, count = person.name, 1
            while (other := self.find_person(name)) is not None and other.id != person.id:
                count += 1
                name = f"{person.name[:70]} ({count})"
            if name != person.name:
                copy.rename(person.id, name)
