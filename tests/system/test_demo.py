"""The demo does what it says, and does not say so when it did not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Dict, List

import pytest

from edgecam.alerts.message import check
from edgecam.bench.demo import as_it_should
from edgecam.bench.media import cache_folder, get_media
from edgecam.errors import EdgecamError
from edgecam.liveness import missing
from edgecam.nn.registry import ModelRegistry, default_folder


def _demo(*arguments: str) -> List[Dict[str, Any]]:
    try:
        media = get_media(cache_folder(), print, clips="--photos" not in arguments)
    except EdgecamError as err:
        pytest.skip(f"the demo's photos cannot be had: {err}")
    if media.missing and "--photos" not in arguments:
        pytest.skip(f"the demo's clips cannot be had: {media.missing}")
    command = [sys.executable, "-m", "edgecam.bench.demo", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _alerts(rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    return [row for row in rows if row["type"] == "alert"]


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_photos_alone() -> None:
    rows = _demo("--photos")
    shown = [row for row in rows if row["type"] == "visitor"]
    assert [(row["expected"], row["said"], row["right"]) for row in shown] == [
        ("Obama", "Obama", True),
        (None, "unknown", True),
    ]
    for row in _alerts(rows):
        message = {key: value for key, value in row.items() if key not in ("type", "topic", "at_s")}
        assert check("event", message) == message
    assert [a["phase"] for a in _alerts(rows) if a["person"] == "Obama"] == ["named", "final"]


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_demo() -> None:
    rows = _demo()
    shown = [row for row in rows if row["type"] == "visitor"]
    nets = not missing(ModelRegistry(default_folder()))
    assert [row["picture"] for row in shown] == [False] * 5 + [True] * nets
    assert all(row["right"] for row in shown)
    assert {word for row in shown for word in row["said"].split(", ")} == {"Franck", "Obama", "unknown"} | (
        {"spoof"} if nets else set()
    )
    # On a slow machine two visitors may share a visit, never a track.
    assert len({(alert["visit"], alert["track"]) for alert in _alerts(rows)}) >= 5


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ([{"event_type": "spoof"}], True),
        (
            [{"event_type": "known", "person": "Ann", "phase": "named"}, {"event_type": "spoof", "phase": "corrected"}],
            False,
        ),
        ([{"event_type": "uncertain"}], False),
        ([{"event_type": "unknown"}], False),
        ([{"event_type": "spoof"}, {"event_type": "unknown", "track": 2}], False),
        ([], False),
    ],
)
def test_a_picture_is_a_spoof_and_nobody_else(said: List[Dict[str, Any]], right: bool) -> None:
    events = [{**_event(one["event_type"]), **one, "candidates": []} for one in said]
    assert as_it_should(None, events, picture=True) is right


def _event(event_type: str, person: Any = None, track: int = 1, phase: str = "final") -> Dict[str, Any]:
    return {"event_type": event_type, "person": person, "visit": "v", "track": track, "phase": phase}


@pytest.mark.parametrize(
    ("expected", "said", "right"),
    [
        ("Ann", [_event("known", "Ann", phase="named"), _event("known", "Ann")], True),
        ("Ann", [_event("known", "Ann")], True),
        ("Ann", [], False),
        ("Ann", [_event("unknown")], False),
        ("Ann", [_event("known", "Ann", phase="named"), _event("unknown", phase="corrected")], False),
        ("Ann", [_event("known", "Ann"), _event("known", "Ben", track=2)], False),
        (None, [_event("unknown")], True),
        (None, [_event("poor")], False),
        (None, [], False),
        (None, [_event("known", "Ann", phase="named"), _event("unknown", phase="corrected")], False),
    ],
)
def test_what_counts_as_right(expected: Any, said: List[Dict[str, Any]], right: bool) -> None:
    assert as_it_should(expected, said) is right
