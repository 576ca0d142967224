"""What a reload says: every key that differs, no secret, and what waits for the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from edgecam.cli.status import _configuration
from edgecam.config import Config, parse_config
from edgecam.daemon.reload import Read, changes, fingerprints, held_back, renewed


def config(**data: Any) -> Config:
    return parse_config(data, "here")


def door(**more: Any) -> Dict[str, Any]:
    return {"door": {"url": "rtsp://ann:pa:ss@10.0.0.7/live?token=one", **more}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({}, {}, []),
        ({}, {"alerts": {"names": False}}, ["alerts.names: true -> false"]),
        ({"alerts": {"host": "a"}}, {}, ['alerts.host: "a" -> not set']),
        ({}, {"alerts": {"rules": {"staff": "never"}}}, ['alerts.rules.staff: "cooldown" -> "never"']),
        ({}, {"cameras": door()}, ["cameras.door: added"]),
        ({"cameras": door()}, {}, ["cameras.door: removed"]),
        ({"cameras": door()}, {"cameras": door(fps=5)}, ["cameras.door.fps: 15.0 -> 5.0"]),
        (
            {"cameras": door()},
            {"cameras": door(url="rtsp://ann:new@10.0.0.8/live?token=two")},
            ['cameras.door.url: "rtsp://10.0.0.7/live?token=***" -> "rtsp://10.0.0.8/live?token=***"'],
        ),
        (
            {"cameras": door()},
            {"cameras": door(url="rtsp://ann:new@10.0.0.7/live?token=two")},
            ["cameras.door.url: changed"],
        ),
        (
            {"cameras": door()},
            {"cameras": door(url="gst:rtspsrc user-pw=secret ! decodebin")},
            ['cameras.door.url: "rtsp://10.0.0.7/live?token=***" -> "gst:rtspsrc ..."'],
        ),
        (
            {"alerts": {"username": "ann", "port": 1}},
            {"alerts": {"username": "ben"}},
            ["alerts.port: 1 -> 8883", "alerts.username: changed"],
        ),
    ],
)
def test_each_key_that_differs_is_told(old: Dict[str, Any], new: Dict[str, Any], said: List[str]) -> None:
    assert changes(config(**old), config(**new)) == said
    assert not any(secret in text for text in said for secret in ("pa:ss", "new", "secret", "ann", "ben", "two"))


def test_long_values_are_cut() -> None:
    zones = [[[i / 100, 0.0], [1.0, 0.0], [1.0, 0.5]] for i in range(50)]
    (said,) = changes(config(cameras=door()), config(cameras=door(ignore_zones=zones)))
    assert said.startswith("cameras.door.ignore_zones: [] -> [[[0.0, 0.0]")
    assert len(said) < 150


def test_what_waits_for_the_next_start_stays_as_it_is_now() -> None:
    old = config(liveness={"policy": "announce"})
    file = config(
        liveness={"policy": "sensitive", "passive": False},
        alerts={"names": False, "outbox_max": 99},
        store={"visits_d": 7},
        detect={"min_face_px": 50},
    )
    now = held_back(old, file)
    assert changes(old, now) == ['liveness.policy: "announce" -> "sensitive"', "alerts.names: true -> false"]
    assert changes(now, file) == [
        "detect.min_face_px: 40 -> 50",
        "liveness.passive: true -> false",
        "alerts.outbox_max: 10000 -> 99",
        "store.visits_d: 30.0 -> 7.0",
    ]
    assert held_back(now, old) == old


def test_a_new_password_in_the_old_file_is_a_change(tmp_path: Path) -> None:
    secret = tmp_path / "p"
    alerts = config(alerts={"password_file": str(secret), "username": "u"}).alerts
    missing = fingerprints(alerts)
    secret.write_text("one")
    first = fingerprints(alerts)
    assert renewed(missing, first) == ["alerts.password_file: another content"]
    assert renewed(first, fingerprints(alerts)) == []
    secret.write_text("two")
    assert renewed(first, fingerprints(alerts)) == ["alerts.password_file: another content"]
    assert "one" not in repr(first)


def test_status_tells_of_the_last_reading() -> None:
    read = Read(1.8e9, ("alerts.names: true -> false",), ("run.threads: 2 -> 4",))
    first, changed, waiting = "\n".join(_configuration(read.record())).splitlines()
    assert first.startswith("configuration read ")
    assert (changed, waiting) == ("  alerts.names: true -> false", "  at the next start: run.threads: 2 -> 4")
    (refused,) = _configuration(Read(1.8e9, refused="no camera").record())
    assert refused.endswith("the one before it is in use: no camera")
    assert list(_configuration(None)) == []
    assert len(Read(0.0, tuple(map(str, range(99)))).record()["changed"]) == 20
