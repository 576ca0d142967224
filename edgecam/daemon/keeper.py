"""Housekeeping: words that wait, what expires, backups, commands that touch the store."""

from __future__ import annotations

import logging
import math
import threading
from typing import Callable, Optional

from edgecam.clock import Clock
from edgecam.config import StoreConfig
from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.daemon.recorder import Recorder
from edgecam.errors import StoreError
from edgecam.store import Store

_LOGGER = logging.getLogger(__name__)

_LOOP = "keeper"
_EVERY_S = 5.0
_PURGE_EVERY_S = 600.0
_BACKUP_EVERY_S = 86_400.0
_BACKUP_RETRY_S = 3600.0
_BACKUPS_KEPT = 14
_JUMP_S, _SETTLED_S = 3600.0, 6 * 3600.0
"""A clock that was set ahead by more than the first may have been set wrongly: nothing expires before the second."""
_LATE_S = 900.0
"""A backup to a slow card takes minutes."""

BACKUP_KEY = "last_backup_wall_s"


class Keeper:
    """A thread that looks after the store.

    Args:
        store: open.
        config: retention and the folder of backups.
        clock: both clocks; while the wall clock is not trusted nothing expires.
        problems: told what fails.
        beats: the thread's heartbeat.
        recorder: its waiting words are tried again.
        on_turn: called with every turn and after `wake`.
    """

    def __init__(
        self,
        store: Store,
        config: StoreConfig,
        clock: Clock,
        problems: Problems,
        beats: Beats,
        recorder: Recorder,
        on_turn: Callable[[], None],
    ) -> None:
        self._store, self._config, self._clock = store, config, clock
        self._problems, self._beats, self._recorder, self._on_turn = problems, beats, recorder, on_turn
        self._wake, self._stop = threading.Event(), threading.Event()
        self._purge_due_s = self._backup_due_s = 0.0
        self._ahead_s: Optional[float] = None
        self._settles_s = -math.inf
        self._thread = threading.Thread(target=self._run, name=_LOOP, daemon=True)

    def settled(self) -> bool:
        """Whether the wall clock is set, and was not set ahead within the last hours: only then anything expires."""
        if not self._clock.wall_trusted():
            return False
        now_s = self._clock.monotonic_s()
        ahead_s = self._clock.wall_s() - now_s
        before_s, self._ahead_s = self._ahead_s, ahead_s
        jump_s = 0.0 if before_s is None else ahead_s - before_s
        if jump_s < -_JUMP_S:
            self._settles_s = -math.inf  # that was wrong, and was mended
        if jump_s > _JUMP_S:
            self._settles_s, hours = now_s + _SETTLED_S, jump_s / 3600.0
            told = f"set ahead by {hours:.0f} h: nothing expires for {_SETTLED_S / 3600.0:.0f} h, should that be wrong"
            self._problems.begin(BOX, "clock_jumped", told)
        if now_s < self._settles_s:
            return False
        self._problems.end(BOX, "clock_jumped")
        return True

    def start(self) -> None:
        """Begin; the first purge comes at once."""
        self._beats.expect(_LOOP, _LATE_S)
        self._thread.start()

    def wake(self) -> None:
        """Take a turn now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the present turn."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beats.turn(_LOOP)
            try:
                self._turn()
            except StoreError as err:
                self._problems.begin(BOX, "store_failing", str(err))
            except Exception:
                # One failed turn must not end retention for good; a turn that always fails stays in the log.
                _LOGGER.exception("housekeeping failed")
            self._wake.wait(_EVERY_S)
            self._wake.clear()
        self._beats.ended(_LOOP)

    def _turn(self) -> None:
        self._on_turn()
        self._recorder.retry()
        self.settled()
        now_s = self._clock.monotonic_s()
        if now_s >= self._purge_due_s:
            self._purge_due_s = now_s + _PURGE_EVERY_S
            self._purge()
        if self._config.backup_dir is not None and now_s >= self._backup_due_s and self._clock.wall_trusted():
            self._backup_due_s = now_s + _BACKUP_RETRY_S
            self._backup()

    def _purge(self) -> None:
        if not self._clock.wall_trusted():
            self._problems.begin(BOX, "clock_not_set", "nothing expires and events are marked until the clock is set")
            return
        self._problems.end(BOX, "clock_not_set")
        if not self.settled():
            return
        purged = self._store.purge(self._clock.wall_s(), trusted=True)
        if any(purged):
            _LOGGER.info("expired: %d pictures, %d visits, %d strangers", *purged)

    def _backup(self) -> None:
        last_s = self._store.get(BACKUP_KEY)
        folder = self._config.backup_dir
        now_s = self._clock.wall_s()
        if folder is None or (isinstance(last_s, (int, float)) and 0 <= now_s - last_s < _BACKUP_EVERY_S):
            return
        try:
            path = self._store.backup()
        except StoreError as err:
            self._problems.begin(BOX, "backup_failing", str(err))
            return
        self._store.put(BACKUP_KEY, now_s)
        self._problems.end(BOX, "backup_failing")
        _LOGGER.info("backup written: %s", path.name)
        if problems := self._store.problems():
            told = f"{len(problems)} entries are damaged, older backups are kept: `edgecam doctor` says what helps"
            self._problems.begin(BOX, "store_damaged", told)
            return
        self._problems.end(BOX, "store_damaged")
        for old in sorted(folder.glob("edgecam-*.db"))[:-_BACKUPS_KEPT]:
            old.unlink(missing_ok=True)
