"""When the box does not look: by hand, by schedule, over a restart, with a clock that is not set."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Iterator

import pytest

from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.config import PauseConfig, QuietHours, StoreConfig
from edgecam.daemon.pause import Pause
from edgecam.store import Store

NOON = dt.datetime(2026, 11, 22, 12, 0).timestamp()  # noqa: DTZ001 - the house's own time
NIGHTS = PauseConfig(schedule=(QuietHours(start="22:00", end="06:30"),))
NEVER = PauseConfig()
HOUR = 3600.0


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self, wall_s: float) -> None:
        self.wall, self.monotonic = wall_s, 100.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def monotonic_s(self) -> float:
        return self.monotonic

    def wall_s(self) -> float:
        return self.wall

    def wall_trusted(self) -> bool:
        return self.wall >= WALL_TRUSTED_AFTER_S

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s", StoreConfig()) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


def test_the_schedule_runs_over_midnight(store: Store, clock: Clock) -> None:
    pause = Pause(store, NIGHTS, clock)
    paused = []
    for _ in range(48):
        paused.append(pause.active())
        clock.pass_by(HOUR / 2)
    assert paused == [half in range(20, 37) for half in range(48)]  # from 22:00 to before 06:30


def test_resumed_by_hand_the_rest_of_that_night_is_watched_and_the_next_is_not(store: Store, clock: Clock) -> None:
    pause = Pause(store, NIGHTS, clock)
    clock.pass_by(11 * HOUR)
    assert pause.active()
    pause.end()
    assert not pause.active()
    clock.pass_by(4 * HOUR)
    assert not pause.active()
    clock.pass_by(8 * HOUR)
    assert not pause.active()
    clock.pass_by(11.5 * HOUR)
    assert pause.active()


def test_without_a_clock_there_is_no_schedule(store: Store) -> None:
    unset = Clock(23 * HOUR)
    pause = Pause(store, PauseConfig(schedule=(QuietHours(start="00:00", end="23:59"),)), unset)
    assert not pause.active()
    unset.wall = NOON
    assert pause.active()


def test_a_new_schedule_holds_at_once(store: Store, clock: Clock) -> None:
    pause = Pause(store, NEVER, clock)
    pause.set_schedule(PauseConfig(schedule=(QuietHours(start="11:00", end="13:00"),)))
    assert pause.active()
    pause.set_schedule(NEVER)
    assert not pause.active()


def test_a_pause_ends_by_the_time_that_passed_whatever_the_clock_says(store: Store, clock: Clock) -> None:
    pause = Pause(store, NEVER, clock)
    assert pause.begin(HOUR) == clock.wall + HOUR
    clock.wall += 24 * HOUR  # set forward
    assert pause.active()
    clock.wall -= 72 * HOUR  # and back
    clock.monotonic += HOUR - 1
    assert pause.active()
    clock.monotonic += 1
    assert not pause.active()
    assert not Pause(store, NEVER, clock).active()


def test_it_lasts_over_a_restart_and_until_the_clock_is_set(store: Store, clock: Clock) -> None:
    Pause(store, NEVER, clock).begin(2 * HOUR)
    clock.pass_by(HOUR)
    early = Clock(0.0)
    again = Pause(store, NEVER, early)
    early.pass_by(5 * HOUR)
    assert again.active()
    early.wall = clock.wall
    assert again.active()
    early.pass_by(HOUR)
    assert not again.active()


def test_without_an_end_it_lasts(store: Store, clock: Clock) -> None:
    assert Pause(store, NEVER, clock).begin(None) is None
    again = Pause(store, NEVER, clock)
    clock.pass_by(1000 * HOUR)
    assert again.active()
    again.end()
    assert not Pause(store, NEVER, clock).active()
