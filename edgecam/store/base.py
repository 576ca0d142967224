"""What all parts of the store stand on: the database, the keys, the clock."""

from __future__ import annotations

import contextlib
import os
from contextlib import contextmanager
from typing import Dict, Iterable, Iterator, List, Optional, Set

from edgecam.clock import Clock
from edgecam.config import StoreConfig
from edgecam.errors import DamagedError, KeyMissingError, StoreError
from edgecam.store.db import Database
from edgecam.store.keys import LOST
from edgecam.store.records import AuditRow, NotStoredError
from edgecam.store.ulid import Ulids
from edgecam.store.vault import Sealer, new_key

_CHECK_PLACE = "meta:key_check:data"
_CHECK = b"edgecam"
BRIDGE_PLACE = "meta:bridge:data"
"""The new master key, sealed with the former one, as long as the key's place may hold either."""


class Base:
    """One open database with its keys."""

    def __init__(self, database: Database, master: Sealer, config: StoreConfig, clock: Clock, outbox_max: int) -> None:
        """Keep the parts; `check_key` must follow before anything is sealed."""
        self._db = database
        self._master = master
        self._config = config
        self._clock = clock
        self._outbox_max = outbox_max
        self._given: Optional[Sealer] = None
        """The former master key, if the key's place still holds that one: see `Rekey`."""
        self._keys: Dict[str, Sealer] = {}
        self._ulids = Ulids()

    def check_key(self, source: object) -> None:
        """Compare the master key with the one this database was written with; a new database is marked with it.

        Raises:
            KeyMissingError: it is another key (`source` says where it lies).
        """
        data = self._meta("key_check")
        if self._marked(data):
            if self._meta("bridge"):  # the change of the key was cut short of its last step
                with contextlib.suppress(StoreError):  # when only looking
                    self._drop_bridge()
            return
        if key := self._bridged(self._meta("bridge")):
            self._given, self._master = self._master, Sealer(key)
            return
        wrapped = self._db.rows("SELECT owner, wrapped FROM keys")
        # A damaged mark is no reason to lock everybody out: the key that opens others is the right one.
        if data and all(self._readable(None, f"keys:{owner}:wrapped", blob) is None for owner, blob in wrapped):
            raise KeyMissingError(f"the key in {source} is not the one that {self._db.path} was written with: {LOST}")
        self._mark()

    def _marked(self, mark: Optional[bytes]) -> bool:
        return mark is not None and self._readable(None, _CHECK_PLACE, mark) is not None

    def _bridged(self, bridge: Optional[bytes]) -> Optional[bytes]:
        """Return the new master key, if this one is the former."""
        return None if bridge is None else self._readable(None, BRIDGE_PLACE, bridge)

    def _mark(self) -> None:
        self._put_meta("key_check", self._master.seal(_CHECK_PLACE, _CHECK))

    def _drop_bridge(self) -> None:
        """The former key opens nothing any more."""
        self._put_meta("bridge", None)
        self._db.shrink(full=True)

    def _meta(self, key: str) -> Optional[bytes]:
        rows = self._db.rows("SELECT data FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def _put_meta(self, key: str, data: Optional[bytes]) -> None:
        if data is None:
            self._db.run("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._db.run("INSERT OR REPLACE INTO meta (key, data) VALUES (?, ?)", (key, data))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside are stored together or not at all; other threads wait, so compute before."""
        with self._db.transaction():
            try:
                yield
            except BaseException:
                self._keys.clear()
                raise

    def _key(self, owner: str) -> Sealer:
        """Return the data key of a person or visit."""
        sealer = self._keys.get(owner)
        if sealer is None:
            rows = self._db.rows("SELECT wrapped FROM keys WHERE owner = ?", (owner,))
            if not rows:
                raise NotStoredError(f"{owner} is not stored (any more)")
            sealer = Sealer(self._master.open(f"keys:{owner}:wrapped", rows[0][0]))
            self._keys[owner] = sealer
        return sealer

    def _readable(self, owner: Optional[str], place: str, blob: bytes) -> Optional[bytes]:
        """Return what was sealed for a person or visit (None: for the house); None if it is damaged."""
        try:
            return (self._master if owner is None else self._key(owner)).open(place, blob)
        except (DamagedError, NotStoredError):
            return None

    def _text(self, owner: Optional[str], place: str, blob: bytes, otherwise: str) -> str:
        data = self._readable(owner, place, blob)
        return otherwise if data is None else data.decode()

    def _new_key(self, owner: str) -> Sealer:
        key = new_key()
        wrapped = self._master.seal(f"keys:{owner}:wrapped", key)
        self._db.run("INSERT INTO keys (owner, wrapped) VALUES (?, ?)", (owner, wrapped))
        self._keys[owner] = Sealer(key)
        return self._keys[owner]

    def _destroy_keys(self, owners: Iterable[str]) -> None:
        """Overwrite and delete wrapped keys, so that no copy is left in the file."""
        gone: Set[str] = set(owners)
        if not gone:
            return
        for owner in gone:
            self._keys.pop(owner, None)
            self._db.run("UPDATE keys SET wrapped = randomblob(length(wrapped)) WHERE owner = ?", (owner,))
            self._db.run("DELETE FROM keys WHERE owner = ?", (owner,))
        self._rewrite_keys()

    def _rewrite_keys(self) -> None:
        """Empty the whole, small table, which makes SQLite zero all of its pages (secure_delete), and write it again.

        A row moved while its table was rebalanced may have left its old bytes in a page's gap.
        """
        kept = self._db.rows("SELECT owner, wrapped FROM keys")
        self._db.run("DELETE FROM keys")
        self._db.run_many("INSERT INTO keys (owner, wrapped) VALUES (?, ?)", kept)

    def _new_id(self) -> str:
        return self._ulids(self._clock.wall_s())

    def generation(self) -> int:
        """Return a number that rises with every change of people, faces or vectors."""
        return int(self._db.rows("SELECT number FROM meta WHERE key = 'generation'")[0][0])

    def _bump(self) -> None:
        self._db.run("UPDATE meta SET number = number + 1 WHERE key = 'generation'")

    def audit(self, actor: str, action: str, target: str) -> None:
        """Note for ever who did what (view, export, delete, consent, rename, ...) to which id; never a name."""
        self._db.run(
            "INSERT INTO audit (id, wall_s, actor, action, target) VALUES (?, ?, ?, ?, ?)",
            (self._new_id(), self._clock.wall_s(), actor, action, target),
        )

    def audit_log(self, limit: int = 100) -> List[AuditRow]:
        """Return the newest notes, newest first."""
        rows = self._db.rows("SELECT wall_s, actor, action, target FROM audit ORDER BY rowid DESC LIMIT ?", (limit,))
        return [AuditRow(*row) for row in rows]


def caller() -> str:
    """Return who acts, for the audit log: the user id of this process."""
    return f"uid:{os.getuid()}"
