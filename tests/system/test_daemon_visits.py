"""The whole daemon: real nets, real faces, a camera on the network, a real broker, an MQTT client that listens."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from box import Box, Door, cut, events, until
from broker import Broker, Listener, mosquitto

pytestmark = [
    pytest.mark.broker,
    pytest.mark.models,
    pytest.mark.data,
    pytest.mark.timeout(170),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
]

ANN, STRANGER = "jomariya_real.mp4", "tranvan_real.mp4"
ENROLLED_S = 8.0
"""So much of Ann's clip is enrolled; what is played comes later in it."""

CAMERA = """
[cameras.{camera}]
url = "{url}"
place = "{camera}"
stall_after_s = 2.0
"""
REST = """
[motion]
burst_s = 2.0
[alerts]
host = "127.0.0.1"
port = {port}
tls = false
cooldown_s = 0.0
rules = {{ resident = "always" }}
"""


@pytest.fixture(scope="module")
def clips(data_dir: Path) -> Path:
    return data_dir / "videos" / "liveness"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, clips: Path, models_dir: Path) -> Path:
    """A state folder in which Ann is enrolled from the first seconds of her clip."""
    folder = tmp_path_factory.mktemp("enrolled")
    with Box(folder, "") as box:
        clip = cut(clips / ANN, 0.0, ENROLLED_S, folder / "ann.mp4")
        box.run("enroll", "Ann Example", str(clip))
    return box.state


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker", persistent=True) as started:
        yield started


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as started:
        yield started


def make_box(tmp_path: Path, enrolled: Path, broker: Broker, *doors: Door) -> Box:
    cameras = "".join(CAMERA.format(camera=name, url=door.url) for name, door in zip(("front", "back"), doors))
    box = Box(tmp_path, cameras + REST.format(port=broker.port))
    shutil.copytree(enrolled, box.state)
    return box


def pictures_arrive(box: Box, camera: str = "front") -> bool:
    entry = box.status()["cameras"].get(camera)
    return entry is not None and not entry["problems"] and entry["frames"] > 10


def finals(listener: Listener, camera: str) -> List[Dict[str, Any]]:
    return [event for event in events(listener.heard, camera) if event["phase"] in ("final", "corrected")]


def test_the_enrolled_by_name_a_stranger_as_unknown(
    tmp_path: Path, enrolled: Path, clips: Path, broker: Broker
) -> None:
    with Door() as front, Door() as back, make_box(tmp_path, enrolled, broker, front, back) as box:
        with Listener(broker, "edgecam/#") as listener:
            began = time.monotonic()
            box.start()
            until(lambda: pictures_arrive(box, "front") and pictures_arrive(box, "back"), "pictures")
            front.visit(clips / ANN, ENROLLED_S + 4, ENROLLED_S + 9)
            until(lambda: finals(listener, "front"), "a word about Ann")
            back.visit(clips / STRANGER, 2, 7)
            until(lambda: finals(listener, "back"), "a word about the stranger")
            until(lambda: not any(c["visit_open"] for c in box.status()["cameras"].values()), "visits over")
            status = box.status()
            box.signal(signal.SIGTERM)
            asked = time.monotonic()
            assert box.wait() == 0
            assert time.monotonic() - asked < 5.0
            until(lambda: ("edgecam/edgecam/available", b"offline", False) in listener.heard, "offline")
            heard = list(listener.heard)
        front_events, back_events = events(heard, "front"), events(heard, "back")
        assert {event["person"] for event in front_events} == {"Ann Example"}
        assert {"named", "final"} <= {event["phase"] for event in front_events}
        assert {event["event_type"] for event in back_events} == {"unknown"}
        assert all(event["age_s"] < 10 for event in front_events)
        motion = [payload for topic, payload, _ in heard if topic == "edgecam/edgecam/front/motion"]
        assert b"ON" in motion
        assert motion[-1] == b"OFF"
        assert status["state"] == "ok"
        assert status["outbox"] == 0
        assert status["words_stored"] >= len(front_events) + len(back_events)
        # What systemd heard.
        heard_by_manager = box.manager.heard
        assert box.manager.count("READY") == 1
        assert box.manager.count("WATCHDOG") >= (time.monotonic() - began) / 4
        assert "STOPPING" in {key for message in heard_by_manager[-4:] for key in message}
        # What nobody may hear: names and credentials in the log, names outside of the store.
        log = box.log()
        assert "Ann" not in log
        assert "s3cret" not in log
        assert "Traceback" not in log
        health = json.loads((box.state / "health.json").read_text())
        assert health["running"] is False
        assert "Ann" not in json.dumps(health)
        # The history, without a daemon.
        listed = [json.loads(line) for line in box.run("visits", "list", "--json").stdout.splitlines()]
        assert {track["verdict"] for visit in listed for track in visit["tracks"]} == {"known", "unknown"}
        assert all(visit["closed_wall_s"] for visit in listed)
        stranger = next(visit["visit"] for visit in listed if visit["camera"] == "back")
        box.run("visits", "show", stranger, "--image", str(tmp_path / "who.png"))
        assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
        # The box learns a name for the stranger and uses it without a restart.
        print(f"memory {status['memory_mb']} MB")


def test_people_change_while_it_runs(tmp_path: Path, enrolled: Path, clips: Path, broker: Broker, door: Door) -> None:
    with make_box(tmp_path, enrolled, broker, door) as box, Listener(broker, "edgecam/+/+/event") as listener:
        box.start()
        until(lambda: pictures_arrive(box), "pictures")
        door.visit(clips / STRANGER, 2, 6)
        first = until(lambda: finals(listener, "front"), "a word about the stranger")[0]
        assert first["event_type"] == "unknown"
        until(lambda: not box.status()["cameras"]["front"]["visit_open"], "the visit's end")
        box.run("visits", "name", "last", "Ben")
        box.run("people", "forget", "Ann Example", "--yes")
        assert box.status()["people"] == 1
        door.visit(clips / STRANGER, 8, 13)
        second = until(lambda: finals(listener, "front")[1:], "another word about him")[0]
        assert (second["event_type"], second["person"]) == ("known", "Ben")
        until(lambda: not box.status()["cameras"]["front"]["visit_open"], "the visit's end")
        door.visit(clips / ANN, 12, 16)
        third = until(lambda: finals(listener, "front")[2:], "a word about somebody forgotten")[0]
        assert (third["event_type"], third["person_id"]) == ("unknown", None)


def test_killed_in_mid_visit_and_the_broker_away(
    tmp_path: Path, enrolled: Path, clips: Path, broker: Broker, door: Door
) -> None:
    with make_box(tmp_path, enrolled, broker, door) as box:
        with Listener(broker, "edgecam/+/+/event", client_id="house") as listener:
            box.start()
            until(lambda: pictures_arrive(box), "pictures")
            until(lambda: box.status()["broker"]["link"] == "connected", "the broker")
            before = list(listener.heard)
        broker.kill()
        until(lambda: box.status()["broker"]["link"] != "connected", "the broker's absence")
        door.visit(clips / ANN, ENROLLED_S + 4, ENROLLED_S + 16)
        until(lambda: box.status()["outbox"] >= 1, "an alert in the outbox")
        visit = box.ask("visits.list")[0]
        assert visit["closed_wall_s"] is None
        named = [track for track in visit["tracks"] if track["phase"] == "named"]
        box.signal(signal.SIGKILL)
        box.wait()
        stored = box.run("status", "--json", ok=False)
        waiting = json.loads(stored.stdout)["outbox"]
        assert waiting >= 1
        door.stop()
        broker.start()
        with Listener(broker, "edgecam/+/+/event", client_id="house") as listener:
            box.start()
            until(lambda: box.status()["outbox"] == 0, "an empty outbox")
            until(lambda: [e for e in events(listener.heard) if e["reason"] == "interrupted"], "the visit's end")
            heard = events(before + listener.heard)
        ids = [event["id"] for event in heard]
        mine = {event["id"]: event for event in heard if event["visit"] == visit["visit"]}
        assert named, visit
        assert {event["phase"] for event in mine.values()} == {"named", "final"}
        last = [event for event in mine.values() if event["phase"] == "final"]
        assert [(e["event_type"], e["reason"], e["candidates"]) for e in last] == [
            ("uncertain", "interrupted", ["Ann Example"])
        ]
        assert len(set(ids)) == len(mine), "an alert of nothing"
        assert box.ask("visits.show", visit=visit["visit"])[0]["closed_wall_s"]
        # A second restart has nothing more to say.
        box.signal(signal.SIGTERM)
        box.wait()
        with Listener(broker, "edgecam/+/+/event") as listener:
            box.start()
            until(lambda: box.status()["broker"]["link"] == "connected", "the broker")
            assert box.status()["outbox"] == 0
            assert events(listener.heard) == []


def test_camera_gone_and_back(tmp_path: Path, enrolled: Path, clips: Path, broker: Broker, door: Door) -> None:
    with make_box(tmp_path, enrolled, broker, door) as box, Listener(broker, "edgecam/#") as listener:
        box.start()
        until(lambda: pictures_arrive(box), "pictures")
        door.stop()
        until(lambda: "camera_lost" in box.status()["cameras"]["front"]["problems"], "the loss")
        until(lambda: ("edgecam/edgecam/front/available", b"offline", False) in listener.heard, "offline")
        until(lambda: any(b'"fault"' in p for t, p, _ in listener.heard if t.endswith("front/health")), "a fault told")
        assert box.run("status", ok=False).returncode == 1
        watchdog = box.manager.count("WATCHDOG")
        until(lambda: box.manager.count("WATCHDOG") > watchdog + 2, "the watchdog fed although the camera is away")
        door.start()
        until(lambda: pictures_arrive(box), "pictures again")
        door.visit(clips / ANN, ENROLLED_S + 4, ENROLLED_S + 8)
        until(lambda: [e for e in finals(listener, "front") if e["person"] == "Ann Example"], "Ann, after the cut")
        assert len(re.findall("camera_lost", box.log())) <= 3, "one line a state change"


def test_pause_reload_and_ring(tmp_path: Path, enrolled: Path, clips: Path, broker: Broker, door: Door) -> None:
    with make_box(tmp_path, enrolled, broker, door) as box, Listener(broker, "edgecam/#") as listener:
        box.start()
        until(lambda: pictures_arrive(box), "pictures")
        # By MQTT; nothing is looked at, the camera is not even open.
        listener.say("edgecam/edgecam/pause/set", "4h")
        until(lambda: ("edgecam/edgecam/pause/state", b"ON", False) in listener.heard, "the pause told")
        until(lambda: box.status()["cameras"]["front"]["last_frame_age_s"] > 1.0, "no more frames")
        before = box.status()
        assert before["paused"]
        assert before["paused_until_wall_s"] == pytest.approx(time.time() + 4 * 3600, abs=60)
        box.signal(signal.SIGKILL)
        box.wait()
        box.start()
        assert box.status()["paused"], "a pause survives a restart"
        door.visit(clips / ANN, ENROLLED_S + 4, ENROLLED_S + 5)
        listener.say("edgecam/edgecam/front/ring/press", "x")
        ring = until(lambda: [p for t, p, _ in listener.heard if t == "edgecam/edgecam/front/ring"], "a ring")
        assert json.loads(ring[0])["source"] == "mqtt"
        assert box.status()["cameras"]["front"]["frames"] == 0
        while not door.empty:
            door._next()
        assert "looking again" in box.run("resume").stdout
        until(lambda: pictures_arrive(box), "pictures after the pause")
        assert events(listener.heard) == []
        # A ring opens a visit before a still door.
        perceived = box.status()["cameras"]["front"]["perceived"]
        listener.say("edgecam/edgecam/front/ring/press", "x")
        until(lambda: box.status()["cameras"]["front"]["perceived"] > perceived, "a look at who rang")
        # SIGHUP: a broken file changes nothing, a good one takes effect.
        good = box.config.read_text()
        box.config.write_text(good + "[nonsense]\nx = 1\n")
        box.signal(signal.SIGHUP)
        until(lambda: "config_invalid" in box.status()["problems"], "the refusal")
        assert list(box.status()["cameras"]) == ["front"]
        box.config.write_text(good.replace("[cameras.front]", "[cameras.side]").replace('place = "front"', ""))
        ready = box.manager.count("READY")
        box.signal(signal.SIGHUP)
        until(lambda: list(box.status()["cameras"]) == ["side"] and pictures_arrive(box, "side"), "the new camera")
        assert box.manager.count("READY") == ready + 1
        assert box.manager.count("RELOADING") == 2
        assert "config_invalid" not in box.status()["problems"]
        until(lambda: ("edgecam/edgecam/side/available", b"online", False) in listener.heard, "the new camera told")
