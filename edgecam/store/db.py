"""One SQLite file: opened, locked, migrated; every fault becomes one clear line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from edgecam.errors import StoreError

APPLICATION_ID = 0x45644361
"""`EdCa`: tells our database files from others."""

_SCHEMA = Path(__file__).parent / "schema"
_STRICT_SINCE = (3, 37)
_BUSY_S = 5.0
_POLL_S = 0.05
_LEAST_BYTES = 64 * 1024

Row = Tuple[Any, ...]


def migrations() -> Dict[int, str]:
    """Return the schema's steps by the version they lead to."""
    steps = {int(path.name[:3]): path.read_text(encoding="utf-8") for path in sorted(_SCHEMA.glob("[0-9]*.sql"))}
    if sqlite3.sqlite_version_info < _STRICT_SINCE:
        return {version: re.sub(r"\) STRICT;", ");", sql) for version, sql in steps.items()}
    return steps


def hand_over(path: Path) -> None:
    """Give what root has made to its folder's owner: `sudo edgecam enroll` must not lock the daemon out.

    SQLite does so with its own files beside the database.
    """
    if os.geteuid() == 0:
        folder = path.parent.stat()
        with contextlib.suppress(OSError):  # a file system without owners
            os.chown(path, folder.st_uid, folder.st_gid)


class Lock:
    """A file locked as long as this is open: one process, one store."""

    def __init__(self, path: Path, wait_s: float, held: str = "") -> None:
        """Take the lock.

        Args:
            path: the file.
            wait_s: so long at most for who holds it.
            held: what is said then; `{pid}` is the process.

        Raises:
            StoreError: somebody else holds it (names the process), or the file cannot be opened.
        """
        self._held = held or (
            f"{path.parent} is in use by process {{pid}}: if that is the daemon, ask it (`edgecam status`) "
            f"or stop it first (`systemctl stop edgecam`)"
        )
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise StoreError(f"{path} cannot be opened ({err.strerror}): run as the folder's owner") from err
        hand_over(path)
        try:
            self._take(wait_s)
        except StoreError:
            os.close(self._handle)
            raise
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its owner's number
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, b"%d\n" % os.getpid(), 0)

    def _take(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as err:
                if time.monotonic() >= until:
                    pid = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise StoreError(self._held.replace("{pid}", pid)) from err
                time.sleep(_POLL_S)

    def close(self) -> None:
        """Let go."""
        os.close(self._handle)


class Database:
    """A connection used by all threads of the process, one at a time."""

    def __init__(self, path: Path, *, wal: bool = True, read_only: bool = False, shown: Optional[Path] = None) -> None:
        """Open the file, creating it unless `read_only`, and bring its schema up to date.

        Args:
            path: the file.
            wal: keep a write-ahead log beside it.
            read_only: never write.
            shown: the name for messages, if the file is a passing copy of another.

        Raises:
            StoreError: not ours, of a newer version, damaged, or not readable.
        """
        self.path = path
        self._shown = shown or path
        self._faults = partial(translated, self._shown, copy=shown is not None)
        self._lock = threading.RLock()
        self._depth = 0
        with self._faults():
            if not read_only:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = self._connect("ro" if read_only else "rw")
            try:
                try:
                    self._prepare(wal=wal, read_only=read_only)
                except sqlite3.OperationalError:
                    if read_only or not _is_full(path):
                        raise
                    # No room for the index of the log: this one connection keeps it in memory, and can at least read.
                    self._connection.close()
                    self._connection = self._connect("rw")
                    self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                    self._prepare(wal=wal, read_only=read_only)
            except BaseException:
                self._connection.close()
                raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_S,
        )

    def _prepare(self, *, wal: bool, read_only: bool) -> None:
        execute = self._connection.execute
        steps = migrations()
        version = execute("PRAGMA user_version").fetchone()[0]
        if version > max(steps):
            raise StoreError(
                f"{self._shown} was written by a newer edgecam (schema {version}, this one knows {max(steps)}): "
                f"install that version again, or restore an older backup"
            )
        filled = execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
        if filled and execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError(f"{self._shown} is not a database of edgecam: use another folder")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA secure_delete = ON")
        if read_only:
            return
        if not filled:
            execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        execute("PRAGMA synchronous = FULL")
        for step in sorted(steps):
            if step > version:
                self._migrate(step, steps[step])

    def _migrate(self, version: int, sql: str) -> None:
        try:
            self._connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {version};\nCOMMIT;"
            )
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> List[Row]:
        """Return all rows of a query."""
        with self._lock, self._faults():
            return self._connection.execute(sql, values).fetchall()

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement; return how many rows it changed."""
        with self._lock, self._faults():
            cursor = self._connection.execute(sql, values)
            cursor.fetchall()
            return cursor.rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Execute a statement for each of many rows."""
        with self._lock, self._faults():
            self._connection.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a transaction inside another is a part of it that can fail alone."""
        with self._lock:
            name = f"part{self._depth}"
            with self._faults():
                self._connection.execute(f"SAVEPOINT {name}" if self._depth else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                with self._faults():
                    self._connection.execute(f"RELEASE {name}" if self._depth > 1 else "COMMIT")
            except BaseException:
                self._roll_back(name)
                raise
            finally:
                self._depth -= 1

    def _roll_back(self, name: str) -> None:
        # A full disk may have ended the whole transaction already.
        if not self._connection.in_transaction:
            return
        with self._faults():
            if self._depth > 1:
                self._connection.execute(f"ROLLBACK TO {name}")
                self._connection.execute(f"RELEASE {name}")
            else:
                self._connection.execute("ROLLBACK")

    def shrink(self, *, full: bool) -> bool:
        """Give freed pages back and empty the write-ahead log.

        Args:
            full: write every page anew as well; without room for a second copy, only the freed ones go.

        Returns:
            False if a reader or a transaction keeps the log from being emptied.
        """
        with self._lock:
            if self._depth:
                return False
            with self._faults():
                try:
                    if full:
                        self._connection.execute("VACUUM")
                except sqlite3.OperationalError:
                    # No room: freed space is zeroed already (secure_delete).
                    pass
                # A script, because `execute` stops after the first page.
                self._connection.executescript("PRAGMA incremental_vacuum")
            return self.truncate_wal()

    def truncate_wal(self) -> bool:
        """Move the write-ahead log into the file and empty it; False if a reader or a transaction prevents it."""
        if self._depth:
            return False
        return bool(self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0)

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to a new file, without holding up writers."""
        with translated(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            source = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            target = sqlite3.connect(str(path))
            try:
                source.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            finally:
                target.close()
                source.close()

    def replace_with(self, other: Database) -> None:
        """Take over all contents of another database of the same schema, in one step."""
        with self._lock, self._faults():
            other._connection.backup(self._connection)

    def problems(self) -> List[str]:
        """Return what SQLite's integrity check finds; nothing if the file is sound."""
        with self._lock:
            found = [str(row[0]) for row in self.rows("PRAGMA integrity_check(20)")]
            found += [f"a row of {row[0]} belongs to nothing" for row in self.rows("PRAGMA foreign_key_check")]
        return [line for line in found if line != "ok"]

    def close(self) -> None:
        """Close the connection; SQLite then merges and removes the write-ahead log."""
        with self._lock:
            self._connection.close()


@contextmanager
def translated(path: Path, *, copy: bool = False) -> Iterator[None]:
    """Turn faults of SQLite and of the system into StoreError; a damaged `copy` is a backup itself."""
    try:
        yield
    except sqlite3.Error as err:
        raise StoreError(f"{path}: {_explain(str(err), path, copy=copy)}") from err
    except UnicodeDecodeError as err:  # SQLite quotes what is damaged in its message
        raise StoreError(f"{path}: {_explain(_DAMAGED[0], path, copy=copy)}") from err
    except OSError as err:
        raise StoreError(f"{path}: {explain_os(err)}") from err


def explain_os(err: OSError) -> str:
    """Return why a file cannot be used, and what to do."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return _FULL
    if err.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file or folder"
    return f"{err.strerror or err}; check the folder's rights"


_DAMAGED = ("malformed", "not a database")
_FULL = "disk full: free some space and try again; what was stored is safe"
_FAULTS = (
    (("full",), _FULL),
    (("readonly", "read-only"), "the disk or the file is read-only: run as the folder's owner, or make it writable"),
    (
        _DAMAGED,
        "the database is damaged: move it away and restore a backup (`edgecam restore FILE`), or `edgecam reset` all",
    ),
    (("unable to open",), "the database cannot be opened: run as the folder's owner"),
    (("locked", "busy"), "the database is locked by another program: close it"),
    (("I/O",), "the disk cannot be read or written: check it, its space and its limits; what was stored is safe"),
)
"""Words of SQLite's messages (error codes come with Python 3.11), and what to tell the user."""


def _is_full(path: Path) -> bool:
    """Whether a file's disk has no room for the least that SQLite writes beside it."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        return disk.f_bavail * disk.f_frsize < _LEAST_BYTES
    return False


def _explain(fault: str, path: Path, *, copy: bool) -> str:
    if ("unable to open" in fault or "I/O" in fault) and _is_full(path):
        return _FULL
    if copy and any(word in fault for word in _DAMAGED):
        return "damaged, or no backup of edgecam: take another one"
    return next((told for words, told in _FAULTS if any(word in fault for word in words)), fault)
