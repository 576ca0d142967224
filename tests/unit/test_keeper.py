"""Retention while the wall clock is not to be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import pytest
from test_store_samples import DAY, HOUR, NOW, Watch, crop, decision

from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.daemon.keeper import Keeper
from edgecam.daemon.recorder import Recorder
from edgecam.store import Store


class Jumpy(Watch):
    """A clock whose two sides part when somebody sets it."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return self.now_s + self.ahead_s

    def wall_trusted(self) -> bool:
        return self.wall_s() >= NOW - 1.0


@pytest.fixture
def clock() -> Jumpy:
    return Jumpy()


@pytest.fixture
def store(tmp_path: Path, clock: Jumpy) -> Iterator[Store]:
    with Store.open(tmp_path / "state", clock=clock) as opened:
        yield opened


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def keeper(store: Store, clock: Jumpy, problems: Problems) -> Keeper:
    recorder = Recorder(store, AlertsConfig(), StoreConfig(), clock, problems, lambda: None)
    return Keeper(store, StoreConfig(), clock, problems, Beats(clock), recorder, lambda: None)


def visited(store: Store, clock: Jumpy, name: str) -> None:
    store.record(decision(name, name, wall_s=clock.wall_s()))
    store.add_visit_picture(name, 1, crop())
    store.close_visit(name, clock.wall_s())


def turns(keeper: Keeper, clock: Jumpy, hours: float) -> None:
    for _ in range(round(hours * 4)):
        clock.sleep(HOUR / 4)
        keeper._turn()


def kept(store: Store) -> List[str]:
    return sorted(visit.id for visit in store.visits() if visit.pictured)


def test_a_clock_set_far_ahead_by_mistake_deletes_nothing(
    store: Store, keeper: Keeper, clock: Jumpy, problems: Problems
) -> None:
    keeper._turn()
    visited(store, clock, "v1")
    clock.ahead_s = 10 * 365 * DAY
    turns(keeper, clock, 5.0)
    assert kept(store) == ["v1"]
    assert problems.of(BOX)["clock_jumped"].startswith("set ahead by 87600 h: nothing expires for 6 h")
    visited(store, clock, "v2")
    clock.ahead_s = 0.0
    keeper._turn()
    assert problems.of(BOX) == {}
    turns(keeper, clock, 1.0)
    assert kept(store) == ["v1", "v2"], "also what was stored meanwhile"
    turns(keeper, clock, 19.0)
    assert kept(store) == ["v2"], "a day after it was seen"
    turns(keeper, clock, 6.0)
    assert kept(store) == []


def test_a_clock_that_stays_ahead_is_believed_after_six_hours(store: Store, keeper: Keeper, clock: Jumpy) -> None:
    keeper._turn()
    visited(store, clock, "v1")
    clock.ahead_s = 3 * DAY  # off for three days, and woken with the time that it knew
    turns(keeper, clock, 5.5)
    assert kept(store) == ["v1"]
    turns(keeper, clock, 1.0)
    assert kept(store) == []


def test_a_clock_not_set_at_boot_deletes_nothing_and_is_believed_at_once(
    store: Store, keeper: Keeper, clock: Jumpy, problems: Problems
) -> None:
    clock.ahead_s = -NOW
    visited(store, clock, "v1")
    turns(keeper, clock, 50.0)
    assert kept(store) == ["v1"]
    assert "clock_not_set" in problems.of(BOX)
    clock.ahead_s = 0.0
    turns(keeper, clock, 1.0)
    assert kept(store) == ["v1"], "counted from when the clock was set"
    assert problems.of(BOX) == {}
    turns(keeper, clock, 24.0)
    assert kept(store) == []


def test_a_clock_set_back_keeps_what_is_there(store: Store, keeper: Keeper, clock: Jumpy) -> None:
    clock.sleep(2 * DAY)
    keeper._turn()
    visited(store, clock, "v1")
    clock.ahead_s = -DAY
    turns(keeper, clock, 23.0)
    assert kept(store) == ["v1"]
    turns(keeper, clock, 2.0)
    assert kept(store) == []
