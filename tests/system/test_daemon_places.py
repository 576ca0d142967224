"""Two cameras at one door, and a box whose clock is not set."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from box import Box, Door, enrol, events, until
from broker import Broker, Listener, mosquitto

pytestmark = [
    pytest.mark.broker,
    pytest.mark.models,
    pytest.mark.data,
    pytest.mark.timeout(170),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
]

ANN = "videos/liveness/jomariya_real.mp4"
CONFIG = """
[cameras.left]
url = "{left}"
place = "door"
[cameras.right]
url = "{right}"
place = "door"
[liveness]
# What the doors of these tests show are pictures in a picture, and told as that.
passive = false
[motion]
burst_s = 2.0
[alerts]
host = "127.0.0.1"
port = {port}
tls = false
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as started:
        yield started


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, models_dir: Path) -> Path:
    return enrol(tmp_path_factory.mktemp("enrolled"), data_dir / ANN, 8.0)


def words(listener: Listener) -> List[Dict[str, Any]]:
    return [event for camera in ("left", "right") for event in events(listener.heard, camera)]


def nobody_there(box: Box) -> bool:
    return not any(camera["visit_open"] for camera in box.status()["cameras"].values())


def test_two_cameras_at_one_door_make_one_visit_and_one_alert(
    tmp_path: Path, enrolled: Path, data_dir: Path, broker: Broker
) -> None:
    with Door() as left, Door() as right, Listener(broker, "edgecam/#") as listener:
        text = CONFIG.format(left=left.url, right=right.url, port=broker.port)
        box = Box(tmp_path, text + "[store]\ncluster_unknown = true\n")
        shutil.copytree(enrolled, box.state)
        with box:
            box.start()
            until(lambda: all(c["frames"] > 10 for c in box.status()["cameras"].values()), "pictures of both")
            for door in (left, right):
                door.visit(data_dir / ANN, 10.0, 17.0)
            until(lambda: words(listener), "a word")
            until(lambda: left.empty and right.empty and nobody_there(box), "the visit over")
            stored = box.ask("visits.list")
            kept = box.ask("tracklets.list")
            night = json.loads(box.run("tune", "--json").stdout.splitlines()[-1])
    assert len(stored) == 1
    assert {visit["place"] for visit in stored} == {"door"}
    assert [track["person"] for track in stored[0]["tracks"]].count("Ann Example") >= 2  # one a camera
    # What the night learns from: each of these faces as the encoder saw it, and too little of it to say anything.
    assert {(face["visit"], face["camera"]) for face in kept} == {(stored[0]["visit"], c) for c in ("left", "right")}
    assert night["faces"] == len(kept)
    assert night["proposals"] == 0
    assert "no device is bound" in night["reason"]
    heard = words(listener)
    assert {event["visit"] for event in heard} == {stored[0]["visit"]}
    assert [event["person"] for event in heard if event["phase"] == "named"] == ["Ann Example"]


def test_before_the_clock_is_set_nothing_expires_and_events_say_so(
    tmp_path: Path, enrolled: Path, data_dir: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A board without a battery wakes up in 1970: the same program with another wall clock.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() - {time.time() - 3600.0}\n"
    )
    with Door() as left, Door() as right, Listener(broker, "edgecam/#") as listener:
        text = CONFIG.format(left=left.url, right=right.url, port=broker.port)
        box = Box(tmp_path, text + "[store]\nunknown_visitors_h = 0.0\nvisits_d = 0.0\n")
        shutil.copytree(enrolled, box.state)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "early"))
        with box:
            box.start()
            until(lambda: box.status()["cameras"]["left"]["frames"] > 10, "pictures")
            left.visit(data_dir / ANN, 10.0, 15.0)
            until(lambda: any(event["phase"] == "final" for event in words(listener)), "a last word")
            assert len(box.ask("visits.list")) == 1
            assert not box.status()["clock_trusted"]
    assert {event["clock_trusted"] for event in words(listener)} == {False}
    assert all(event["ts"] < 86400.0 for event in words(listener))
