"""When a night is wanted by day, and how the daemon asks for one."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
from test_store_samples import DAY, HOUR, NOW, Watch, crop, decision

from edgecam.cli.common import Backend
from edgecam.cli.tune import _expire
from edgecam.config import Config, StoreConfig, TuneConfig
from edgecam.daemon.nightfall import ASK_FILE, Nightfall
from edgecam.pipeline.operations import execute
from edgecam.pipeline.wanted import fewer, season_of, wanted
from edgecam.store import Store
from edgecam.types import Phase, Tracklet, Verdict

KEEP = Config(store=StoreConfig(cluster_unknown=True))
TOLD = {
    "state": "refused", "version": "installed", "reason": "", "people": 1, "faces": 0, "taken_out": 0, "questions": 0,
    "visitors": 0,
}  # fmt: skip


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", KEEP.store, clock=watch) as opened:
        yield opened


class Door:
    """A door with its nights."""

    def __init__(self, store: Store, watch: Watch) -> None:
        self.store, self.watch, self.visits = store, watch, 0
        self.enrol("Ann")

    def enrol(self, name: str) -> None:
        person = self.store.add_person(name)
        self.store.add_face(person.id, crop(), quality=0.8, source="a.jpg")

    def come(self, times: int, *, named: bool, camera: str = "front") -> None:
        (ann, *_) = self.store.people()
        for _ in range(times):
            self.visits += 1
            self.watch.now_s += 60.0
            visit = f"V{self.visits:03}"
            self.store.open_visit(visit, "door", camera, self.watch.now_s)
            said = decision(
                f"D{self.visits:03}", visit, phase=Phase.NAMED if named else Phase.FINAL,
                verdict=Verdict.KNOWN if named else Verdict.UNKNOWN, person_id=ann.id if named else None,
            )  # fmt: skip
            assert self.store.record(said)
            features = np.full((1, 4), self.visits, np.float32)
            seen = Tracklet(visit, 1, camera, "m1", 0.0, 4.0, features, np.array([0.9], np.float32))
            assert self.store.add_tracklet(seen)

    def ask(self, op: str, **params: Any) -> Dict[str, Any]:
        return next(iter(execute(self.store, {"op": op, **params}, clock=self.watch)))

    def night(self, state: str = "refused", *, trains: bool = True) -> None:
        knew = self.ask("night.outlook")
        self.ask("night.tell", box="home", told={**TOLD, "state": state}, knew=knew if trains else None)
        self.watch.now_s += 60.0

    def wanted(self) -> List[str]:
        return wanted(self.store, self.watch)


@pytest.fixture
def door(store: Store, watch: Watch) -> Door:
    return Door(store, watch)


def test_before_the_first_night_and_after_it_nothing_is_wanted(door: Door) -> None:
    assert door.wanted() == []
    door.night()
    assert door.wanted() == []


def test_somebody_new_and_a_new_camera_until_the_next_night_knows_them(door: Door) -> None:
    door.night()
    door.enrol("Ben")
    door.enrol("Cora")
    door.store.add_person("without a face")
    door.come(1, named=True, camera="garden")
    assert door.wanted() == ["2 new people", "1 new camera"]
    door.night(trains=False)
    assert len(door.wanted()) == 2
    door.night()
    assert door.wanted() == []


def test_who_is_enrolled_while_the_night_works_is_new_to_the_next(door: Door) -> None:
    knew = door.ask("night.outlook")
    door.enrol("Ben")
    door.ask("night.tell", box="home", told=TOLD, knew=knew)
    assert door.wanted() == ["1 new person"]


def test_another_season(door: Door) -> None:
    door.night()
    for _ in range(120):
        door.watch.now_s += DAY
        if door.wanted():
            break
    today = dt.datetime.fromtimestamp(door.watch.now_s).date()  # noqa: DTZ006 - the user's own day
    assert door.wanted() == [f"it is {season_of(today)} now"]
    assert (today.day, today.month % 3) == (1, 0)


def test_faces_named_less_than_when_the_head_came_into_service(door: Door) -> None:
    door.come(20, named=True)
    door.come(5, named=False)
    door.night("promoted")
    door.watch.now_s += DAY
    door.come(10, named=True)
    door.come(10, named=False)
    assert door.wanted() == []  # chance, as yet
    door.come(15, named=False)
    assert door.wanted() == ["10 of the last 35 faces were given a name, 20 of 25 before"]
    for row in door.store.kept_tracks()[-25:]:
        door.store.is_nobody(row.id)
    assert door.wanted() == []  # they were visitors


def test_a_refused_night_does_not_lower_the_measure(door: Door) -> None:
    door.come(20, named=True)
    door.night("promoted")
    door.watch.now_s += DAY + HOUR
    door.come(30, named=False)
    door.night("refused")
    door.come(25, named=False)
    assert door.wanted() == ["0 of the last 25 faces were given a name, 20 of 20 before"]


@pytest.mark.parametrize(("table", "chance"), [((0, 3, 3, 3), 1 / 20), ((3, 3, 0, 3), 1.0), ((1, 4, 3, 4), 17 / 70)])
def test_fishers_exact_test(table: Any, chance: float) -> None:
    """Fisher's tea: 17/70 is one cup or none of four right by the wrong hand."""
    assert fewer(*table) == pytest.approx(chance)


def test_a_clock_far_ahead_of_the_last_visit_expires_nothing(door: Door) -> None:
    def expire(*, live: bool = False) -> int:
        box = Backend(lambda request: execute(door.store, request, clock=door.watch), live=live)
        _expire(box, door.ask("night.outlook"))
        return len(door.store.kept_tracks())

    door.come(2, named=True)
    door.watch.now_s += 9 * DAY
    assert expire() == 2
    door.come(1, named=True)
    assert expire(live=True) == 3  # the daemon does it itself
    assert expire() == 1


# --- asking -----------------------------------------------------------------------------------------------------------


class Asking(Nightfall):
    def __init__(self, door: Door, folder: Path) -> None:
        self.file, self.at_the_door, self.supply = folder / ASK_FILE, False, folder / "power_supply/AC"
        super().__init__(
            door.store, folder, door.watch, lambda: self.at_the_door, door.store.outbox_put, sysfs=folder
        )  # fmt: skip

    def on_battery(self, battery: bool) -> None:
        self.supply.mkdir(parents=True, exist_ok=True)
        (self.supply / "type").write_text("Mains\n")
        (self.supply / "online").write_text(f"{int(not battery)}\n")


@pytest.fixture
def asking(door: Door, tmp_path: Path) -> Asking:
    door.night()
    door.enrol("Ben")
    return Asking(door, tmp_path)


def turn(asking: Asking, door: Door, config: Config = KEEP) -> bool:
    """Let ten minutes pass; return whether it asked."""
    asking.file.unlink(missing_ok=True)
    door.watch.now_s += 601.0
    asking.turn(config)
    return asking.file.exists()


def test_it_asks_once_a_day_by_file_and_word(asking: Asking, door: Door) -> None:
    assert turn(asking, door)
    assert asking.file.read_text() == "1 new person\n"
    *_, row = door.store.outbox_peek(99)
    word = json.loads(row.payload)
    assert (row.topic, word["state"], word["reason"]) == ("edgecam/edgecam/night", "wanted", "1 new person")
    assert "Ben" not in row.payload.decode()
    assert not any(turn(asking, door) for _ in range(3))
    assert asking.reasons == ["1 new person"]
    assert not turn(Asking(door, asking.file.parent), door)  # nor another daemon, the same day
    door.watch.now_s += DAY
    assert turn(asking, door)
    door.night()
    assert not turn(asking, door)
    assert asking.reasons == []


def test_not_while_somebody_is_there_nor_on_the_battery(asking: Asking, door: Door) -> None:
    asking.at_the_door = True
    assert not turn(asking, door)
    asking.at_the_door = False
    asking.on_battery(True)
    assert not turn(asking, door)
    assert turn(asking, door, KEEP.model_copy(update={"tune": TuneConfig(on_battery=True)}))
    door.watch.now_s += DAY
    asking.on_battery(False)
    assert turn(asking, door)


def test_not_without_a_clock_nor_where_nothing_is_kept(asking: Asking, door: Door) -> None:
    assert not turn(asking, door, Config())
    door.watch.trusted = False
    assert not turn(asking, door)
    door.watch.trusted = True
    assert turn(asking, door)


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(
    asking: Asking, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    asking.file.mkdir()
    door.watch.now_s += 601.0
    asking.turn(KEEP)
    assert "cannot be asked for: Is a directory" in caplog.text


def test_a_word_of_it_is_valid_and_its_time_is_now(asking: Asking, door: Door) -> None:
    turn(asking, door)
    *_, row = door.store.outbox_peek(99)
    assert json.loads(row.payload)["ts"] > NOW
