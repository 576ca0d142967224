"""A head put into service, and taken back, while the daemon runs and somebody stands at the door."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from box import Box, Door, enrol, events, until
from broker import Broker, Listener, mosquitto
from heads import turned

from edgecam.nn.registry import ModelRegistry

pytestmark = [
    pytest.mark.broker,
    pytest.mark.models,
    pytest.mark.data,
    pytest.mark.timeout(170),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
]

ANN = "jomariya_real.mp4"
ENROLLED_S = 8.0
CONFIG = """
[cameras.front]
url = "{url}"
[liveness]
# What the door of this test shows is a picture in a picture, and told as that.
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


def packed(heads: Dict[str, bytes]) -> Dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in heads.items()}


@pytest.fixture
def box(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, data_dir: Path, models_dir: Path
) -> Iterator[List[Any]]:
    clip = data_dir / "videos/liveness" / ANN
    enrolled = enrol(tmp_path_factory.mktemp("enrolled"), clip, ENROLLED_S)
    with Broker(tmp_path / "broker", persistent=True) as broker, Door() as door:
        made = Box(tmp_path, CONFIG.format(url=door.url, port=broker.port))
        shutil.copytree(enrolled, made.state)
        with made.start() as running, Listener(broker, "edgecam/#") as listener:
            yield [running, door, listener, clip]


def test_a_head_comes_into_service_and_goes_back_without_a_visit_missed(
    box: List[Any], registry: ModelRegistry
) -> None:
    daemon, door, listener, clip = box
    base = daemon.status()["model"]

    def named() -> List[Dict[str, Any]]:
        return [event for event in events(listener.heard, "front") if event["person"] is not None]

    def over(count: int) -> bool:
        finals = [event for event in named() if event["phase"] in ("final", "corrected")]
        return len(finals) >= count and not daemon.status()["cameras"]["front"]["visit_open"]

    until(lambda: daemon.status()["cameras"]["front"]["frames"] > 10, "pictures")
    door.visit(clip, ENROLLED_S, ENROLLED_S + 6.0)
    until(lambda: any(event["phase"] == "named" for event in named()), "Ann is named")
    (put,) = daemon.ask("versions.put", base=base, heads=packed(turned(registry)), people=[], report={}, accepted=True)
    until(lambda: over(1), "the visit's last word")
    tuned = f"{base}/{put['id']}"
    assert daemon.status()["model"] == tuned
    assert {event["person"] for event in named()} == {"Ann Example"}
    assert [event["model"] for event in named()][:1] == [base]

    seen = len(named())
    door.visit(clip, ENROLLED_S, ENROLLED_S + 3.0)
    until(lambda: over(2) and len(named()) > seen, "the second visit's last word")
    assert {(event["person"], event["model"]) for event in named()[seen:]} == {("Ann Example", tuned)}

    assert "the installed head is in service" in daemon.run("versions", "rollback").stdout
    assert daemon.status()["model"] == base
    seen = len(named())
    door.visit(clip, ENROLLED_S, ENROLLED_S + 3.0)
    until(lambda: over(3) and len(named()) > seen, "the third visit's last word")
    assert {(event["person"], event["model"]) for event in named()[seen:]} == {("Ann Example", base)}


def test_a_head_that_does_not_load_leaves_the_installed_one_in_service(box: List[Any], registry: ModelRegistry) -> None:
    daemon, door, listener, clip = box
    base = daemon.status()["model"]
    broken = packed({**turned(registry), "sface_head": b"no net"})
    daemon.ask("versions.put", base=base, heads=broken, people=[], report={}, accepted=True)
    until(lambda: "does not load" in daemon.log(), "it is said")
    assert daemon.status()["model"] == base
    until(lambda: daemon.status()["cameras"]["front"]["frames"] > 10, "pictures")
    door.visit(clip, ENROLLED_S, ENROLLED_S + 3.0)
    until(lambda: [e for e in events(listener.heard, "front") if e["person"] == "Ann Example"], "Ann is named")
