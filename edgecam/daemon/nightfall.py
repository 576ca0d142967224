"""Asks by day for a night when something speaks for one: the daemon itself has no PyTorch, and never trains."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Callable, List, Sequence

from edgecam.adapt.supply import SYSFS, on_battery
from edgecam.alerts.message import Alert, Topics, moment, night_alert
from edgecam.clock import Clock
from edgecam.config import Config
from edgecam.pipeline.wanted import wanted
from edgecam.store import Store, new_ulid

_LOGGER = logging.getLogger(__name__)

ASK_FILE = "night.wanted"
"""In the state folder, with the reasons in it; `edgecam-tune.path` starts the night whenever it is written."""
_ASKED_KEY = "night_asked"
"""Setting: ordinal of the day of the last asking."""
_EVERY_S = 600.0


class Nightfall:
    """Looks every ten minutes, and asks at most once a day.

    Args:
        store: what is kept, and what the last night knew.
        state: where the asking is written.
        clock: both clocks; while the wall clock is not set nothing is asked.
        busy: whether somebody is at a door.
        send: puts a word into the outbox.
        sysfs: where the kernel tells of the supply.
    """

    def __init__(
        self,
        store: Store,
        state: Path,
        clock: Clock,
        busy: Callable[[], bool],
        send: Callable[[Sequence[Alert]], object],
        sysfs: Path = SYSFS,
    ) -> None:
        self._store, self._path, self._clock = store, state / ASK_FILE, clock
        self._busy, self._send, self._sysfs = busy, send, sysfs
        self._due_s = 0.0
        self.reasons: List[str] = []
        """What speaks for a night now."""

    def turn(self, config: Config) -> None:
        """Look, if it is time; ask, if there is a reason, nobody is at the door and the supply allows it.

        Raises:
            StoreError: the store cannot be read or written.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        self.reasons = wanted(self._store, self._clock) if config.store.cluster_unknown else []
        today = dt.datetime.fromtimestamp(self._clock.wall_s()).toordinal()  # noqa: DTZ006 - the user's own day
        if not self.reasons or self._store.get(_ASKED_KEY) == today or self._busy():
            return
        if on_battery(self._sysfs) and not config.tune.on_battery:
            return
        self._store.put(_ASKED_KEY, today)
        self._ask(config.alerts.box)

    def _ask(self, box: str) -> None:
        why = "; ".join(self.reasons)
        _LOGGER.info("a night is wanted: %s", why)
        told = {
            "state": "wanted",
            "version": next((one.name for one in self._store.versions() if one.state == "active"), "installed"),
            "reason": why,
            "people": len(self._store.people()),
            "faces": len(self._store.kept_tracks()),
            "taken_out": 0,
            "questions": 0,
            "visitors": 0,
        }
        night_id = new_ulid(self._clock.wall_s())
        self._send([night_alert(Topics(box), night_id, told, now=moment(self._clock))])
        try:
            self._path.write_text(f"{why}\n", encoding="utf-8")
        except OSError as err:
            _LOGGER.warning("%s: the night cannot be asked for: %s", self._path, err.strerror)
