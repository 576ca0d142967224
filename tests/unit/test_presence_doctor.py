"""What `edgecam doctor` says of presence, asked of a control socket that answers like the daemon's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from edgecam.config import Config, PresenceConfig
from edgecam.daemon.checks import CHECKS, Subject
from edgecam.daemon.control import ControlServer, Peer

STATUS: Dict[str, Any] = {"problems": {}, "presence": {"devices": 2}}


def told(folder: Path, status: Dict[str, Any], *, live: bool = True, **config: Any) -> List[Tuple[str, str, str]]:
    def answer(_request: Dict[str, Any], _peer: Peer) -> Iterator[Dict[str, Any]]:
        yield status

    subject = Subject(folder, Config(presence=PresenceConfig(**config)), None, folder, live)
    server = ControlServer(folder / "control.sock", answer)
    server.start()
    try:
        return [(one.state, one.text, one.fix) for one in dict(CHECKS)["presence"](subject)]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("problems", "devices", "state", "said"),
    [
        ({}, 2, "ok", "2 devices; listens to radio, neighbours"),
        ({}, 0, "hint", "edgecam devices add"),
        ({"presence_helper": "nobody there"}, 2, "broken", "enable --now edgecam-presence"),
        ({"presence_channel_refused": "channel 13"}, 2, "broken", "channel 13"),
        ({"doubled_D1": "two transmitters"}, 2, "broken", "two transmitters"),
        ({"broker_refused": "of no concern"}, 2, "ok", "2 devices"),
    ],
)
def test_presence_is_examined(tmp_path: Path, problems: Any, devices: int, state: str, said: str) -> None:
    status = {"problems": problems, "presence": {"devices": devices}}
    ((found, text, fix),) = told(tmp_path, status, radio="wlan1", neighbours=True)
    assert found == state
    assert said in text + fix


def test_without_sources_nothing_is_said(tmp_path: Path) -> None:
    assert told(tmp_path, STATUS) == []


def test_without_a_daemon_it_is_skipped(tmp_path: Path) -> None:
    ((state, _, _),) = told(tmp_path, STATUS, live=False, ble=True)
    assert state == "skipped"
