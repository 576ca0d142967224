"""Payloads: complete, of the right age, and nothing in them that must not leave the box."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecam.alerts.message import (
    MAX_PAYLOAD_BYTES,
    HealthState,
    MessageError,
    Moment,
    Topics,
    check,
    event_payload,
    finish,
    health_payload,
    moment,
    ring_alert,
    trigger_payload,
)
from edgecam.clock import SystemClock
from edgecam.types import Decision, Liveness, Phase, Verdict

NOW = Moment(wall_s=1_775_000_000.0, monotonic_s=500.0, boot="boot-a", trusted=True)
TOPICS = Topics("box")
EVENT = TOPICS.event("front")
MAC = "aa:bb:cc:dd:ee:ff"

KNOWN = Decision(
    id="01ID",
    visit="01VISIT",
    track=1,
    verdict=Verdict.KNOWN,
    phase=Phase.NAMED,
    person_id="p-1",
    candidates=(),
    similarity=0.71234567,
    liveness=Liveness.LIVE,
    reason="near",
    camera="front",
    place="door",
    model="fused-1",
    t_first_s=1.0,
    t_named_s=2.0,
    wall_s=NOW.wall_s,
    clock_trusted=True,
)
ALIKE = replace(KNOWN, verdict=Verdict.UNCERTAIN, person_id=None, candidates=("p-1", "p-2"), reason="Ann or Ben")


def sent(payload: bytes, topic: str = EVENT, now: Moment = NOW) -> Dict[str, Any]:
    message = json.loads(finish(topic, payload, now))
    assert isinstance(message, dict)
    return message


def event(decision: Decision = KNOWN, name: Any = "Ann", candidates: Any = (), *, names: bool = True) -> bytes:
    return event_payload(decision, name, candidates, names=names, now=NOW)


def test_an_event_says_what_was_decided() -> None:
    assert sent(event()) == {
        "schema": 1,
        "id": "01ID",
        "visit": "01VISIT",
        "track": 1,
        "event_type": "known",
        "phase": "named",
        "person": "Ann",
        "person_id": "p-1",
        "candidates": [],
        "reason": "near",
        "similarity": 0.7123,
        "liveness": "live",
        "ts": NOW.wall_s,
        "age_s": 0.0,
        "camera": "front",
        "place": "door",
        "model": "fused-1",
        "clock_trusted": True,
    }


def test_keys_are_sorted_and_bytes_are_stable() -> None:
    finished = finish(EVENT, event(), NOW)
    assert finished == finish(EVENT, event(), NOW)
    assert list(json.loads(finished)) == sorted(json.loads(finished))


@pytest.mark.parametrize(
    ("made", "now", "age_s"),
    [
        pytest.param(NOW, replace(NOW, monotonic_s=530.0), 30.0, id="same-boot"),
        pytest.param(NOW, replace(NOW, monotonic_s=530.0, wall_s=9e9), 30.0, id="clock-jumped-ahead"),
        pytest.param(NOW, replace(NOW, monotonic_s=530.0, wall_s=0.0), 30.0, id="clock-jumped-back"),
        pytest.param(replace(NOW, trusted=False), replace(NOW, monotonic_s=530.0), 30.0, id="clock-set-meanwhile"),
        pytest.param(NOW, replace(NOW, boot="b", wall_s=NOW.wall_s + 3600, monotonic_s=1.0), 3600.0, id="rebooted"),
        pytest.param(replace(NOW, trusted=False), replace(NOW, boot="b"), None, id="rebooted-unset-before"),
        pytest.param(NOW, replace(NOW, boot="b", trusted=False), None, id="rebooted-unset-now"),
        pytest.param(NOW, replace(NOW, boot="b", wall_s=NOW.wall_s - 1), None, id="rebooted-from-the-future"),
        pytest.param(NOW, replace(NOW, monotonic_s=1.0, trusted=False), None, id="monotonic-went-back"),
    ],
)
def test_age(made: Moment, now: Moment, age_s: Any) -> None:
    payload = event_payload(KNOWN, "Ann", (), names=True, now=made)
    assert sent(payload, now=now)["age_s"] == age_s


def test_without_names_no_name_leaves() -> None:
    assert "Ann" not in event(names=False).decode()
    text = finish(EVENT, event(ALIKE, None, ("Ann", "Ben"), names=False), NOW).decode()
    assert "Ann" not in text
    assert "Ben" not in text
    message = json.loads(text)
    assert (message["candidates"], message["reason"]) == (["p-1", "p-2"], "p-1 or p-2")


def test_candidates_are_names() -> None:
    assert sent(event(ALIKE, None, ("Ann", "Ben")))["candidates"] == ["Ann", "Ben"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("image", base64.b64encode(b"\xff\xd8" * 300).decode(), id="picture"),
        pytest.param("vector", [0.1] * 512, id="vector"),
        pytest.param("reason", base64.b64encode(bytes(600)).decode(), id="picture-in-the-reason"),
        pytest.param("candidates", [0.1] * 8, id="vector-in-the-candidates"),
        pytest.param("candidates", ["a"] * 9, id="too-many-candidates"),
        pytest.param("candidates", [["Ann"]], id="nested"),
        pytest.param("reason", f"phone {MAC} is near", id="mac"),
        pytest.param("person", MAC.upper().replace(":", "-"), id="mac-as-a-name"),
        pytest.param("person_id", MAC, id="mac-as-an-id"),
        pytest.param("visit", "x" * 81, id="long-id"),
        pytest.param("id", "", id="no-id"),
        pytest.param("similarity", 1.5, id="similarity"),
        pytest.param("similarity", True, id="no-number"),
        pytest.param("track", -1, id="track"),
        pytest.param("event_type", "ring", id="event-type"),
        pytest.param("schema", 2, id="other-schema"),
        pytest.param("age_s", -1.0, id="age"),
        pytest.param("person", {"name": "Ann"}, id="object"),
    ],
)
def test_what_must_not_leave_is_refused(key: str, value: Any) -> None:
    message = sent(event())
    check("event", message)
    with pytest.raises(MessageError) as caught:
        check("event", {**message, key: value})
    assert MAC not in str(caught.value)
    with pytest.raises(MessageError):
        finish(
            EVENT, json.dumps({**json.loads(event()), key: value if key != "age_s" else "x", "ts": "now"}).encode(), NOW
        )


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xd8\xff", b"[]", b"null", b"{}", b'{"a":', b"[" * 100_000, b'{"schema":NaN}', b"1e999"],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        finish(EVENT, payload, NOW)


def test_an_unknown_topic_is_refused() -> None:
    with pytest.raises(MessageError):
        finish("edgecam/box/front/picture", event(), NOW)
    with pytest.raises(MessageError):
        finish(TOPICS.trigger("front"), event(), NOW)


TEXT = st.text(st.characters(exclude_categories=()), max_size=400)


@given(name=TEXT, reason=TEXT, odd=TEXT, similarity=st.floats(), names=st.booleans())
def test_no_text_costs_an_alert(name: str, reason: str, odd: str, similarity: float, names: bool) -> None:
    """Whatever a name, a reason or an id is made of, the message is valid and the alert goes out."""
    decision = replace(
        ALIKE, id=odd or "x", person_id=odd, reason=reason, candidates=(odd,) * 12, similarity=similarity
    )
    finished = finish(EVENT, event(decision, name, (name,) * 12, names=names), NOW)
    assert len(finished) <= MAX_PAYLOAD_BYTES
    message = json.loads(finished)
    assert -1.0 <= message["similarity"] <= 1.0
    assert not math.isnan(message["similarity"])


def test_a_mac_in_a_text_is_taken_out() -> None:
    odd = replace(KNOWN, reason=f"phone {MAC} is near", person_id=MAC, visit=f"v-{MAC}")
    finished = finish(EVENT, event(odd, f"x {MAC}"), NOW).decode()
    assert MAC not in finished
    assert json.loads(finished)["person"] is None


def test_ring_trigger_and_health() -> None:
    alert = ring_alert(TOPICS, "front", "01RING", "gpio", now=NOW)
    assert (alert.topic, alert.critical) == ("edgecam/box/front/ring", True)
    assert sent(alert.payload, alert.topic)["event_type"] == "ring"
    topic = TOPICS.trigger("front")
    assert sent(trigger_payload(KNOWN, now=NOW), topic)["type"] == "known"
    with pytest.raises(MessageError):
        trigger_payload(replace(KNOWN, verdict=Verdict.POOR), now=NOW)
    health = json.loads(health_payload(HealthState.FAULT, problems=["camera_lost"], fps=math.nan, wall_s=1.0))
    assert (health["state"], health["problems"], health["fps"]) == ("fault", ["camera_lost"], 0.0)


def test_this_boot_is_one_boot() -> None:
    first, second = moment(SystemClock()), moment(SystemClock())
    assert first.boot == second.boot != ""
    assert second.monotonic_s >= first.monotonic_s
