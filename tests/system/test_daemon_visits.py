"""The whole daemon: real nets, real faces, a camera on the network, a real broker, an MQTT client that listens."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import numpy as np
import pytest
from box import Box, Door, cut, enrol, events, frames_of, until, write_clip
from broker import Broker, Listener, free_port, mosquitto
from cameras import RtspCamera, rtsp_missing

from edgecam.liveness import PASSIVE_NETS
from edgecam.nn.registry import ModelRegistry

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
[liveness]
# What the doors of these tests show are pictures in a picture, and told as that.
passive = false
[motion]
burst_s = 2.0
[alerts]
host = "127.0.0.1"
port = {port}
tls = false
cooldown_s = 0.0
rules = {{ resident = "always", known = "always" }}
"""


@pytest.fixture(scope="module")
def clips(data_dir: Path) -> Path:
    return data_dir / "videos" / "liveness"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, clips: Path, models_dir: Path) -> Path:
    return enrol(tmp_path_factory.mktemp("enrolled"), clips / ANN, ENROLLED_S)


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


def names(heard: List[Dict[str, Any]]) -> Set[str]:
    """Return who was named; a busy machine sees a visit in pieces, and some of them end without a name."""
    return {event["person"] for event in heard if event["person"] is not None}


def visits(heard: List[Dict[str, Any]]) -> Set[str]:
    return {event["visit"] for event in heard}


def last(listener: Listener, topic: str) -> bytes:
    """Return what was last heard on a topic."""
    return next((payload for name, payload, _ in reversed(listener.heard) if name.endswith(topic)), b"")


def over(box: Box, listener: Listener, count: int) -> None:
    """Wait until both doors have had so many visits with a last word, and nobody is there any more."""

    def reached() -> bool:
        return all(len(visits(finals(listener, camera))) >= count for camera in ("front", "back"))

    until(reached, f"word {count} at both doors")
    until(lambda: not any(c["visit_open"] for c in box.status()["cameras"].values()), "visits over")


def test_names_strangers_and_people_who_change(tmp_path: Path, enrolled: Path, clips: Path, broker: Broker) -> None:
    with Door() as front, Door() as back, make_box(tmp_path, enrolled, broker, front, back) as box:
        with Listener(broker, "edgecam/#") as listener:
            began = time.monotonic()
            box.start()
            until(lambda: pictures_arrive(box, "front") and pictures_arrive(box, "back"), "pictures")
            front.visit(clips / ANN, ENROLLED_S + 2, ENROLLED_S + 9)
            back.visit(clips / STRANGER, 2, 9)
            over(box, listener, 1)
            first = list(listener.heard)
            # People change while it runs, and with the next face the cameras know.
            stranger = next(visit["visit"] for visit in box.ask("visits.list") if visit["camera"] == "back")
            track = next(event["track"] for event in finals(listener, "back") if event["event_type"] == "unknown")
            box.run("visits", "name", stranger[-8:], "Ben", "--track", str(track))
            box.run("people", "forget", "Ann Example", "--yes")
            front.visit(clips / ANN, ENROLLED_S + 10, ENROLLED_S + 17)
            back.visit(clips / STRANGER, 11, 18)
            over(box, listener, 2)
            status, metrics = box.status(), box.metrics()
            box.signal(signal.SIGTERM)
            asked = time.monotonic()
            assert box.wait() == 0
            assert time.monotonic() - asked < 5.0
            until(lambda: ("edgecam/edgecam/available", b"offline", False) in listener.heard, "offline")
            heard = list(listener.heard)
        front_events, back_events = events(first, "front"), events(first, "back")
        assert {"named", "final"} <= {event["phase"] for event in front_events if event["person"] == "Ann Example"}
        assert names(front_events) == {"Ann Example"}
        assert "unknown" in {event["event_type"] for event in back_events}
        assert names(back_events) == set()
        assert all(event["age_s"] < 10 for event in events(heard))
        later = [event for event in events(heard) if event not in events(first)]
        ann = [event for event in later if event["camera"] == "front"]
        assert "unknown" in {event["event_type"] for event in ann}
        assert {event["person_id"] for event in ann} == {None}
        ben = [event for event in later if event["camera"] == "back"]
        assert names(ben) == {"Ben"}
        motion = [payload for topic, payload, _ in heard if topic == "edgecam/edgecam/front/motion"]
        assert b"ON" in motion
        assert motion[-1] == b"OFF"
        assert status["state"] == "ok"
        assert status["outbox"] == 0
        assert status["words_stored"] == len({event["id"] for event in events(heard)})
        assert status["people"] == 1
        # What Prometheus reads: each word counted, how soon the names came, and nobody's name.
        told = [(event["event_type"], event["phase"]) for event in {e["id"]: e for e in events(heard)}.values()]
        for verdict, phase in set(told):
            count = told.count((verdict, phase))
            assert f'edgecam_decisions_total{{verdict="{verdict}",phase="{phase}"}} {count}\n' in metrics
        named = sum(phase == "named" for _, phase in told)
        assert f"edgecam_time_to_name_seconds_count {named}\n" in metrics
        assert 'edgecam_camera_state{camera="front",state="ok"} 1\n' in metrics
        assert 'edgecam_broker_link{state="connected"} 1\n' in metrics
        people = {event["person_id"] for event in events(heard)} - {None}
        assert not any(secret in metrics for secret in ("Ann", "Ben", "127.0.0.1", "s3cret", *people))
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
        assert len(listed) == 4
        assert all(visit["closed_wall_s"] for visit in listed)
        box.run("visits", "show", stranger, "--image", str(tmp_path / "who.png"))
        assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")


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


def film(clip: Path, start_s: float, end_s: float, path: Path) -> Path:
    """Write a recording of an empty wall, then a part of a clip that fills the picture, then the wall again."""
    people = list(frames_of(clip, start_s, end_s))
    rng = np.random.default_rng(3)
    empty = [np.full_like(people[0], 120) + rng.integers(0, 4, people[0].shape, dtype=np.uint8) for _ in range(30)]
    return write_clip([*empty, *people, *empty], path)


def test_a_living_resident_and_a_screen_that_shows_him(
    tmp_path: Path, clips: Path, broker: Broker, registry: ModelRegistry
) -> None:
    """The person is named, live; the same person on a screen is a spoof and never named; who is there can be asked."""
    if lacking := [name for name in PASSIVE_NETS if not registry.available(name)]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with Box(tmp_path, "") as box:
        box.run("enroll", "Ben", str(cut(clips / STRANGER, 0.0, ENROLLED_S, tmp_path / "ben.mp4")))
        films = [
            film(clips / STRANGER, ENROLLED_S, ENROLLED_S + 9, tmp_path / "front.mp4"),
            film(clips / "tranvan_fake.mp4", 0.0, 9.0, tmp_path / "back.mp4"),
        ]
        cameras = "".join(CAMERA.format(camera=name, url=url) for name, url in zip(("front", "back"), films))
        rest = REST.format(port=broker.port).replace("passive = false", 'challenge = "request"')
        box.config.write_text(cameras + rest)
        with Listener(broker, "edgecam/#") as listener:
            box.start("--once")
            until(lambda: names(events(listener.heard, "front")), "a name")
            listener.say("edgecam/edgecam/front/challenge/ask", "x")
            assert box.wait() == 0
            heard = list(listener.heard)
        front, back = events(heard, "front"), events(heard, "back")
        assert names(front) == {"Ben"}
        assert {event["liveness"] for event in front if event["phase"] == "final" and event["person"]} == {"live"}
        assert names(back) == set()
        assert "spoof" in {event["event_type"] for event in back}
        assert all(event["candidates"] == [] for event in back)
        prompts = [json.loads(p) for topic, p, retained in heard if topic == "edgecam/edgecam/front/prompt"]
        asked, last_word = prompts[0], prompts[-1]
        assert last_word["state"] != "asked"
        assert (last_word["id"], last_word["text"]) == (asked["id"], "Thank you.")
        if len(prompts) == 1:
            # A machine that has no time for three looks a second says so.
            assert (asked["state"], "times a second" in asked["reason"]) == ("cannot_tell", True)
        else:
            assert (asked["state"], asked["reason"]) == ("asked", "")
            assert asked["text"].startswith("Please ")
        assert asked["visit"] in visits(front)
        assert not any(retained for topic, _, retained in heard if topic.endswith("/prompt"))
        assert "Ben" not in box.log()
        assert "Traceback" not in box.log()


@pytest.mark.slow
def test_a_recording_is_asked_too(tmp_path: Path, enrolled: Path, clips: Path) -> None:
    """`edgecam replay` needs no option for it: the configuration says so, and the prompts stand among its lines."""
    config = '[liveness]\npassive = false\nchallenge = "unproven"\nchallenge_s = 3.0\n'
    clip = cut(clips / ANN, ENROLLED_S, ENROLLED_S + 7, tmp_path / "ann.mp4")
    with Box(tmp_path, config) as box:
        shutil.copytree(enrolled, box.state)
        rows = [json.loads(line) for line in box.run("replay", str(clip), "--fast", "--json").stdout.splitlines()]
    asked, over_ = (row for row in rows if row["type"] == "prompt")
    (told,) = (row for row in rows if row["type"] == "decision")
    assert (asked["state"], asked["reason"], over_["text"]) == ("asked", "", "Thank you.")
    assert asked["action"] == over_["action"]
    assert over_["reason"] in told["reason"]
    assert (told["person"], told["liveness"] == "live") == ("Ann Example", over_["state"] == "passed")
    assert "Ann" not in json.dumps([asked, over_])
    assert rows[-1]["type"] == "summary"


@pytest.mark.rtsp
@pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "-")
def test_over_rtsp_and_back_after_a_power_cut(tmp_path: Path, enrolled: Path, clips: Path, broker: Broker) -> None:
    recording = Door().record(clips / ANN, ENROLLED_S + 4, ENROLLED_S + 9, tmp_path / "door.mp4")
    rtsp = RtspCamera(str(recording), port=free_port())
    config = CAMERA.format(camera="front", url=f"rtsp://127.0.0.1:{rtsp.port}/cam") + REST.format(port=broker.port)
    with Box(tmp_path, config) as box, Listener(broker, "edgecam/#") as listener:
        shutil.copytree(enrolled, box.state)
        box.start()
        until(lambda: "camera_lost" in box.status()["cameras"]["front"]["problems"], "nobody home")
        with rtsp:
            until(lambda: finals(listener, "front"), "a word about Ann")
            until(lambda: not box.status()["cameras"]["front"]["visit_open"], "the visit's end")
        until(lambda: "camera_lost" in box.status()["cameras"]["front"]["problems"], "the loss")
        until(lambda: last(listener, "front/available") == b"offline", "offline told")
        until(lambda: b'"fault"' in last(listener, "front/health"), "a fault told")
        assert box.run("status", ok=False).returncode == 1
        fed = box.manager.count("WATCHDOG")
        until(lambda: box.manager.count("WATCHDOG") > fed + 1, "the watchdog fed although the camera is away")
        first = finals(listener, "front")
        assert names(first) == {"Ann Example"}
        with rtsp:
            until(lambda: len(visits(events(listener.heard))) > 1, "another word about Ann, after the cut")
        # The camera is cut in mid-visit: the visit ends all the same.
        until(lambda: len(visits(finals(listener, "front"))) > 1, "the last word without a camera")
        assert "camera_lost" in box.status()["cameras"]["front"]["problems"]
        assert not box.status()["cameras"]["front"]["visit_open"]
        again = [event for event in finals(listener, "front") if event["visit"] != first[0]["visit"]]
        assert names(again) == {"Ann Example"}
        changes = re.findall(r"camera_lost(?:: | is over)", box.log())
        assert all(before != after for before, after in zip(changes, changes[1:])), "one line a state change"


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
        assert "nonsense: unknown key" in box.status()["config"]["refused"]
        changed = good.replace("[cameras.front]", "[cameras.side]").replace('place = "front"', "")
        box.config.write_text(f"{changed}\n[quality]\nbest_k = 6\n[detect]\nmin_face_px = 41\n")
        ready = box.manager.count("READY")
        box.signal(signal.SIGHUP)
        until(lambda: list(box.status()["cameras"]) == ["side"] and pictures_arrive(box, "side"), "the new camera")
        assert box.manager.count("READY") == ready + 1
        assert box.manager.count("RELOADING") == 2
        assert "config_invalid" not in box.status()["problems"]
        read = box.status()["config"]
        assert read["changed"] == ["cameras.front: removed", "cameras.side: added", "quality.best_k: 8 -> 6"]
        assert (read["next_start"], read["refused"]) == (["detect.min_face_px: 40 -> 41"], "")
        assert "  at the next start: detect.min_face_px: 40 -> 41" in box.run("status").stdout.splitlines()
        assert "configuration: quality.best_k: 8 -> 6" in box.log()
        until(lambda: ("edgecam/edgecam/side/available", b"online", False) in listener.heard, "the new camera told")
