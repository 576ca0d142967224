"""When the box does not look: told by command line, MQTT and schedule; survives a restart."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from typing import Optional

from edgecam.alerts.policy import within
from edgecam.clock import Clock
from edgecam.config import PauseConfig
from edgecam.errors import StoreError
from edgecam.pipeline.operations import PAUSE_KEY
from edgecam.store import Store

_LOGGER = logging.getLogger(__name__)


class Pause:
    """Whether the box is paused; asked for every frame, from any thread.

    A pause runs on the monotonic clock, so a clock that is set meanwhile neither ends nor prolongs it. After a restart
    the stored end counts once the wall clock is trusted; until then nothing expires.

    Args:
        store: keeps the pause over a restart.
        config: the daily times.
        clock: both clocks.
    """

    def __init__(self, store: Store, config: PauseConfig, clock: Clock) -> None:
        self._store, self._config, self._clock = store, config, clock
        self._lock = threading.Lock()
        self._on = False
        self._until_wall_s: Optional[float] = None
        self._until_s: Optional[float] = None
        """Monotonic end; None: no end, or not known yet."""
        self._override = False
        """Resumed by hand within a scheduled pause: that one is over."""
        stored = store.get(PAUSE_KEY)
        if isinstance(stored, dict):
            self._on, self._until_wall_s = True, stored.get("until_wall_s")

    @property
    def until_wall_s(self) -> Optional[float]:
        """When the present pause ends; None: no end, or by schedule, or none."""
        return self._until_wall_s if self._on else None

    def active(self) -> bool:
        """Whether the box must not look now."""
        with self._lock:
            if self._on and self._over():
                self._on, self._until_s, self._until_wall_s = False, None, None
                self._keep()
                _LOGGER.info("the pause is over")
            return self._on or self._scheduled()

    def begin(self, seconds: Optional[float]) -> Optional[float]:
        """Pause for so long, or without an end; return when it ends.

        Raises:
            StoreError: it holds, but could not be stored: a restart would end it.
        """
        with self._lock:
            self._on, self._override = True, False
            self._until_s = None if seconds is None else self._clock.monotonic_s() + seconds
            self._until_wall_s = None if seconds is None else self._clock.wall_s() + seconds
            _LOGGER.info("paused %s", "until told otherwise" if seconds is None else f"for {seconds:.0f} s")
            self._store.put(PAUSE_KEY, {"until_wall_s": self._until_wall_s})
            return self._until_wall_s

    def end(self) -> None:
        """Look again, also within a scheduled pause.

        Raises:
            StoreError: it could not be stored: a restart would pause again.
        """
        with self._lock:
            self._on, self._until_s, self._until_wall_s = False, None, None
            self._override = True
            _LOGGER.info("resumed")
            self._store.put(PAUSE_KEY, None)

    def set_schedule(self, config: PauseConfig) -> None:
        """Go by other daily times from now on."""
        with self._lock:
            self._config, self._override = config, False

    def _over(self) -> bool:
        if self._until_wall_s is None:
            return False
        if self._until_s is None:
            if not self._clock.wall_trusted():
                return False
            self._until_s = self._clock.monotonic_s() + self._until_wall_s - self._clock.wall_s()
        return self._clock.monotonic_s() >= self._until_s

    def _keep(self) -> None:
        try:
            self._store.put(PAUSE_KEY, None)
        except StoreError as err:
            _LOGGER.debug("the end of the pause is not stored: %s", err)  # it ends by its time as well

    def _scheduled(self) -> bool:
        if not self._config.schedule or not self._clock.wall_trusted():
            return False
        local = dt.datetime.fromtimestamp(self._clock.wall_s()).time()  # noqa: DTZ006 - the house's own time
        inside = any(within(hours, local) for hours in self._config.schedule)
        self._override = self._override and inside
        return inside and not self._override
