"""The store: one encrypted file that holds everything the box remembers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Type

from edgecam.clock import Clock, SystemClock
from edgecam.config import StoreConfig
from edgecam.errors import StoreError
from edgecam.store.db import Database, Lock, hand_over
from edgecam.store.erase import NIGHT
from edgecam.store.keys import (
    OWN_KEY,
    SEALED_KEY,
    SERVICE_KEY,
    SERVICE_STATE,
    KeyFile,
    KeyPlace,
    SealedKey,
    key_place,
    load_master_key,
)
from edgecam.store.rekey import Recovery
from edgecam.store.vault import Sealer, make_folder, new_key, sync_folder
from edgecam.store.versions import Versions

DATABASE = "edgecam.db"
LOCK = "lock"
_DEFAULTS = StoreConfig()
_OUTBOX_MAX = 10_000
_SQLITE_TAIL = ("-wal", "-shm", "-journal")
_BESIDE = (NIGHT, "night.wanted", "health.json", "pad-selftest.jsonl")
"""What else tells of the household, in the state folder."""


class Store(Versions):
    """People, faces, settings, visits, decisions, outbox, audit; safe to use from several threads.

    See the classes it is made of: `People`, `Faces`, `Settings`, `Outbox`, `Visits`, `Erase`, `Backups`, `Devices`,
    `Tracklets`, `Versions`.
    """

    _file_lock: Optional[Lock] = None
    key_place: KeyPlace
    """Where its master key lies."""

    @classmethod
    def open(
        cls,
        state: Path,
        config: StoreConfig = _DEFAULTS,
        *,
        clock: Optional[Clock] = None,
        outbox_max: int = _OUTBOX_MAX,
        read_only: bool = False,
        wait_s: float = 1.0,
    ) -> Store:
        """Open the store of a state folder, making folder, key and database where they are missing.

        Args:
            state: the state folder; made private (0700) if new or empty.
            config: what is kept, and for how long.
            clock: tells the wall time.
            outbox_max: messages kept while the broker is away.
            read_only: look without the lock, beside the process that owns the store; makes nothing.
            wait_s: so long for another process to let go.

        Raises:
            StoreError: in use, not readable, damaged, or of a newer version.
            KeyMissingError: the master key is missing or wrong.
        """
        _prepare_folder(state, read_only=read_only)
        lock = None if read_only else Lock(state / LOCK, wait_s)
        try:
            path = state / DATABASE
            store = cls._opened(state, path, config, clock or SystemClock(), outbox_max, read_only=read_only)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        store._file_lock = lock  # noqa: SLF001 - our own
        return store

    @classmethod
    def _opened(
        cls, state: Path, path: Path, config: StoreConfig, clock: Clock, outbox_max: int, *, read_only: bool
    ) -> Store:
        new = not path.exists() or path.stat().st_size == 0
        if new and path.exists() and key_place(state).exists():
            raise StoreError(
                f"{path} is empty (0 bytes) although its key is there: what was stored is lost; move the file away, "
                f"then bring back a backup (`edgecam restore FILE`) or enrol again (`edgecam enroll NAME PHOTO`)"
            )
        if new and read_only:
            raise StoreError(f"{path} does not exist yet: enrol somebody first (`edgecam enroll NAME PHOTO`)")
        if not read_only:
            KeyFile(state / f"{OWN_KEY}.tmp").erase()
            for left in (*state.glob("*.part*"), *state.glob("*.tmp")):
                left.unlink()
        master, place = load_master_key(state, create=new)
        if new:
            # Under another name until it is whole: an empty database is never one that was only begun.
            part = state / f"{DATABASE}.part"
            Database(part, wal=False, shown=path).close()
            hand_over(part)
            os.replace(part, path)
            sync_folder(state)
        database = Database(path, read_only=read_only)
        try:
            store = cls(database, Sealer(master), config, clock, outbox_max)
            store.check_key(place.path)
            store.key_place = place
            if not read_only:
                store.clear_backups()
        except BaseException:
            database.close()
            raise
        return store

    @property
    def path(self) -> Path:
        """Return the database file."""
        return self._db.path

    def change_key(
        self, to: Optional[KeyPlace] = None, recovery: Optional[Recovery] = None, recovery_key: bytes = b""
    ) -> List[str]:
        """See `rotate`; the new key stays where the former one is, unless `to` says where else."""
        to, former = to or self.key_place, self.key_place
        left = self.rotate(to, former, recovery, recovery_key)
        self.key_place = to
        return left

    def want_room(self) -> None:
        """Raise StoreError unless something can be written: on a full disk the store opens for reading."""
        self._bump()

    def close(self) -> None:
        """Close the database and let the next process in."""
        self._db.close()
        if self._file_lock is not None:
            self._file_lock.close()
            self._file_lock = None

    def __enter__(self) -> Store:
        """Return itself."""
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Close."""
        self.close()


def destroy(state: Path, wait_s: float = 1.0) -> None:
    """Delete the store of a state folder: first the key, so that what is left of the rest is noise.

    The service gets a new key; any other key outside of the folder is its owner's to destroy.

    Raises:
        StoreError: in use, or not deletable.
    """
    lock = Lock(state / LOCK, wait_s)
    try:
        KeyFile(state / OWN_KEY).erase()
        if state == SERVICE_STATE:  # systemd starts the service only with a key
            service, sealed = KeyFile(SERVICE_KEY), SealedKey(SEALED_KEY)
            (sealed if sealed.exists() and not service.exists() else service).write(new_key())
        for left in (*(state / name for name in _BESIDE), *state.glob("*.part*")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        for tail in ("", *_SQLITE_TAIL):
            (state / (DATABASE + tail)).unlink(missing_ok=True)
    except OSError as err:
        raise StoreError(f"{state} cannot be emptied ({err.strerror}): run as the folder's owner") from err
    finally:
        lock.close()


def _prepare_folder(state: Path, *, read_only: bool) -> None:
    try:
        if not read_only:
            make_folder(state)
        if not read_only and _is_ours_alone(state) and state.stat().st_mode & 0o077:
            state.chmod(0o700)
    except FileExistsError as err:
        raise StoreError(f"{state} is a file: the state needs a folder (--state DIR)") from err
    except NotADirectoryError as err:
        raise StoreError(f"{state} lies under a file: the state needs a folder (--state DIR)") from err
    except OSError as err:
        raise StoreError(
            f"{state} cannot be used ({err.strerror}): run as its owner, or choose another folder (--state DIR)"
        ) from err
    if not state.is_dir():
        raise StoreError(f"{state} does not exist: choose the state folder with --state DIR")


def _is_ours_alone(folder: Path) -> bool:
    """Whether a folder may be made private; one that holds other things keeps its rights (our files are private)."""
    if folder.stat().st_uid != os.getuid():
        return False
    return (folder / DATABASE).exists() or not any(folder.iterdir())
