"""Hard days: no broker, a camera that comes and goes, a wrong clock, a disk that refuses for a while."""

from __future__ import annotations

import datetime as dt
import errno
import os
import resource
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from box import Box, Door, events, until
from broker import Broker, Listener, mosquitto
from conftest import lacking
from writes import compiler, watched

from edgecam.alerts.client import AlertClient
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import Problems
from edgecam.daemon.recorder import Recorder
from edgecam.pipeline.camera import Said
from edgecam.store import Store, new_ulid
from edgecam.types import Decision, Liveness, Phase, Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

needs_broker = pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
SPARE_BYTES = 2 * 1024 * 1024
STRANGER = "videos/liveness/tranvan_real.mp4"
DAY_S = 86_400.0
EVERY_S = 120.0
ROOM = 1200
LOSSES = 15


class Earlier(SystemClock):
    """Both clocks, so many seconds ago."""

    back_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() - self.back_s

    def wall_s(self) -> float:
        return super().wall_s() - self.back_s


def word(clock: Earlier, verdict: Verdict, person_id: Any) -> Decision:
    return Decision(
        id=new_ulid(clock.wall_s()),
        visit=new_ulid(clock.wall_s()),
        track=1,
        verdict=verdict,
        phase=Phase.FINAL,
        person_id=person_id,
        candidates=(),
        similarity=0.5,
        liveness=Liveness.UNPROVEN,
        reason="",
        camera="front",
        place="door",
        model="m",
        t_first_s=0.0,
        t_named_s=None,
        wall_s=clock.wall_s(),
        clock_trusted=True,
    )


@pytest.mark.broker
@needs_broker
def test_a_day_without_the_broker(tmp_path: Path) -> None:
    """The oldest that is not critical is dropped, and counted; the rest arrives in order, and says how old it is."""
    clock, said = Earlier(), []
    with Broker(tmp_path / "broker", persistent=True) as broker:
        config = AlertsConfig(host="127.0.0.1", port=broker.port, tls=False, outbox_max=ROOM, discovery_prefix=None)
        with Store.open(tmp_path / "s", clock=clock, outbox_max=ROOM) as store:
            ann = store.add_person("Ann")
            recorder = Recorder(store, config, StoreConfig(), clock, Problems(), lambda: None)
            for number in range(int(DAY_S / EVERY_S)):
                clock.back_s = DAY_S - number * EVERY_S
                stranger = number % 3 == 0
                said.append(word(clock, *((Verdict.UNKNOWN, None) if stranger else (Verdict.KNOWN, ann.id))))
                recorder.say(Said(said[-1], None))
            sizes = store.outbox_size(), store.outbox_dropped()
            with Listener(broker, "edgecam/+/front/event", client_id="house") as listener:
                client = AlertClient(config, ("front",), _Outbox(store), SystemClock(), lambda _: None)
                client.start()
                assert client.drain(120.0)
                client.stop()
                critical = [one.id for one in said if one.verdict is Verdict.UNKNOWN]
                until(lambda: critical[-1] in str(listener.heard[-5:]), "the last one")
                heard = events(listener.heard)
    assert sizes[0] == ROOM
    assert sizes[1] > 0
    assert sizes[0] + sizes[1] == 2 * len(said), "an event and a trigger for each"
    ids = [event["id"] for event in heard]
    assert ids == sorted(ids), "in order"
    assert set(critical) <= set(ids), "every stranger of the day"
    known = [one.id for one in said if one.verdict is Verdict.KNOWN]
    kept = [one for one in known if one in set(ids)]
    assert 0 < len(kept) < len(known)
    assert kept == known[-len(kept) :], "the oldest went first"
    at = {one.id: one.wall_s for one in said}
    assert all(event["age_s"] == pytest.approx(time.time() - at[event["id"]], abs=120.0) for event in heard)
    print(f"{len(said)} words, {sizes[1]} of {2 * len(said)} messages dropped, {len(critical)} critical: all heard")


class _Outbox:
    def __init__(self, store: Store) -> None:
        self.peek, self.delete = store.outbox_peek, store.outbox_delete


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as started:
        yield started


def config(door: Door, more: str = "") -> str:
    return f'[cameras.front]\nurl = "{door.url}"\nstall_after_s = 0.5\n[motion]\nburst_s = 1.0\n{more}'


def seen(box: Box) -> bool:
    entry = box.status()["cameras"]["front"]
    return not entry["problems"] and (entry["last_frame_age_s"] or 9.0) < 1.0


def held(box: Box) -> Dict[str, int]:
    assert box.process is not None
    return {name: len(os.listdir(f"/proc/{box.process.pid}/{name}")) for name in ("fd", "task")}


def _closed(visits: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    return visits if all(visit["closed_wall_s"] for visit in visits) else []


@pytest.mark.data
@pytest.mark.models
def test_a_camera_that_comes_and_goes(tmp_path: Path, models_dir: Path, data_dir: Path, door: Door) -> None:
    with Box(tmp_path, config(door)) as box:
        box.start()
        until(lambda: seen(box), "pictures")
        before, ready = held(box), box.manager.count("READY")
        for number in range(LOSSES):
            door.stop()
            until(lambda: "camera_lost" in box.status()["cameras"]["front"]["problems"], "the loss")
            if number % 5 == 4:  # in the middle of a visit
                door.visit(data_dir / STRANGER, 2, 4)
            door.start()
            until(lambda: seen(box), "pictures again")
        until(lambda: door.empty and not box.status()["cameras"]["front"]["visit_open"], "nobody there")
        after = held(box)
        told = box.log().count("camera_lost:")
        print(f"{LOSSES} losses, {told} of them in the log; {before} before, {after} after")
        assert 0 < told <= LOSSES + 1
        assert after["fd"] <= before["fd"] + 1
        assert after["task"] <= before["task"] + 1
        assert box.manager.count("READY") == ready
        # What the last frames showed may still be looked at.
        visits = until(lambda: _closed(box.ask("visits.list")), "every visit's end")
        assert visits
        assert "Traceback" not in box.log()


@pytest.mark.data
@pytest.mark.models
def test_without_memory_it_says_so_and_is_not_fed(tmp_path: Path, models_dir: Path, data_dir: Path, door: Door) -> None:
    with Box(tmp_path, config(door)) as box:
        box.start()
        until(lambda: seen(box), "pictures")
        assert box.process is not None
        pid = box.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        door.visit(data_dir / STRANGER, 2, 6)
        until(lambda: "the watchdog is not fed" in box.log(), "a loop that is missed")
        fed = box.manager.count("WATCHDOG")
        time.sleep(5.0)
        assert box.manager.count("WATCHDOG") == fed, "systemd starts it again"
        assert "loop_stuck" in box.status()["cameras"]["front"]["problems"]


def watch_from_now(monkeypatch: pytest.MonkeyPatch, box: Box, **files: Path) -> None:
    """Have the daemon started next (and nobody else) under writes.c."""
    if compiler() is None:
        lacking("machine", "no C compiler, which the watching of writes needs")
    box.state.mkdir(exist_ok=True)
    for name, value in watched(box.state, **files).items():
        if name.startswith("WRITES_") or name == "LD_PRELOAD":
            monkeypatch.setenv(name, value)


@pytest.mark.data
@pytest.mark.models
@pytest.mark.broker
@needs_broker
def test_no_clock_at_boot(
    tmp_path: Path, models_dir: Path, data_dir: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes in 1970 and says so; nothing expires; set right, then ten years ahead, then right again."""
    clock = tmp_path / "clock"
    clock.write_text(f"{-time.time():.0f}")
    with Broker(tmp_path / "broker", persistent=True) as broker:
        alerts = f'[alerts]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = false\n'
        with Box(tmp_path, config(door, alerts)) as box, Listener(broker, "edgecam/#") as listener:
            with monkeypatch.context() as only:
                watch_from_now(only, box, clock=clock)
                box.start()
            until(lambda: seen(box), "pictures")
            until(lambda: "clock_not_set" in box.status()["problems"], "said so")
            door.visit(data_dir / STRANGER, 2, 5)
            first = until(lambda: [e for e in events(listener.heard) if e["phase"] == "final"], "a word")[0]
            assert not first["clock_trusted"]
            assert first["age_s"] is None or first["age_s"] < 60
            assert dt.datetime.fromtimestamp(box.ask("visits.list")[0]["opened_wall_s"], dt.timezone.utc).year == 1970
            assert box.ask("purge")[0] == {"pictures": 0, "visits": 0, "strangers": 0, "clock_trusted": False}
            clock.write_text("0")
            assert box.ask("purge")[0]["clock_trusted"]
            assert len(box.ask("visits.list")) == 1, "counted from now on"
            clock.write_text(str(10 * 365 * DAY_S))
            assert box.ask("purge")[0] == {"pictures": 0, "visits": 0, "strangers": 0, "clock_trusted": False}
            until(lambda: "clock_jumped" in box.status()["problems"], "said so")
            clock.write_text("0")
            assert box.ask("purge")[0]["clock_trusted"]
            assert len(box.ask("visits.list")) == 1
            assert box.ask("visits.list")[0]["visit"] == first["visit"]
            fed = box.manager.count("WATCHDOG")
            until(lambda: box.manager.count("WATCHDOG") > fed, "alive")
            assert "Traceback" not in box.log()


@pytest.mark.data
@pytest.mark.models
@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_for_a_while(
    tmp_path: Path, models_dir: Path, data_dir: Path, door: Door, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse = tmp_path / "refuse"
    refuse.write_text("0")
    with Box(tmp_path, config(door)) as box:
        with monkeypatch.context() as only:
            watch_from_now(only, box, refuse=refuse)
            box.start()
        until(lambda: seen(box), "pictures")
        refuse.write_text(str(int(code)))
        door.visit(data_dir / STRANGER, 2, 5)
        until(lambda: box.status()["words_waiting"] > 1, "words that wait")
        assert "store_failing" in box.status()["problems"]
        fed = box.manager.count("WATCHDOG")
        until(lambda: box.manager.count("WATCHDOG") > fed, "alive and well otherwise")
        refuse.write_text("0")
        until(lambda: box.status()["words_waiting"] == 0, "everything stored")
        until(lambda: "store_failing" not in box.status()["problems"], "the problem's end")
        assert box.status()["words_lost"] == 0
        until(lambda: box.ask("visits.list")[0]["closed_wall_s"], "the visit's end")
        assert box.ask("check")[0] == {"problems": [], "damaged": []}
        assert "Traceback" not in box.log()
