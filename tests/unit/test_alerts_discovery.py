"""Home Assistant's discovery rules, written down, and our configurations held against them.

Source of the rules: home-assistant.io `mqtt.markdown` and core's `mqtt/schemas.py`, `mqtt/event.py` as of early 2026.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, FrozenSet, List, Set, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecam.alerts import discovery
from edgecam.alerts.message import RULES, Topics
from edgecam.types import Verdict

PREFIX = "homeassistant"
TOPICS = Topics("box")

SHARED = frozenset({"availability", "availability_mode", "availability_topic", "qos", "encoding", "state_topic"})
ENTITY = SHARED | {
    "platform", "unique_id", "default_entity_id", "name", "icon", "device_class", "entity_category",
    "enabled_by_default", "json_attributes_topic", "json_attributes_template", "value_template",
}  # fmt: skip
PLATFORM: Dict[str, FrozenSet[str]] = {
    "event": ENTITY | {"event_types"},
    "sensor": ENTITY | {"expire_after", "force_update", "options", "state_class", "unit_of_measurement"},
    "binary_sensor": ENTITY | {"expire_after", "force_update", "off_delay", "payload_on", "payload_off"},
    "switch": ENTITY | {"command_topic", "payload_on", "payload_off", "state_on", "state_off", "optimistic", "retain"},
    "device_automation": frozenset(
        {"platform", "automation_type", "topic", "payload", "type", "subtype", "value_template", "qos"}
    ),
}
REQUIRED: Dict[str, FrozenSet[str]] = {
    "event": frozenset({"state_topic", "event_types", "unique_id"}),
    "sensor": frozenset({"state_topic", "unique_id"}),
    "binary_sensor": frozenset({"state_topic", "unique_id"}),
    "switch": frozenset({"command_topic", "unique_id"}),
    "device_automation": frozenset({"automation_type", "topic", "type", "subtype"}),
}
DEVICE_CLASSES = {
    "event": {"doorbell", "button", "motion"},
    "sensor": {"enum"},
    "binary_sensor": {"motion", "connectivity", "occupancy", "problem"},
    "switch": {"switch", "outlet"},
}
DEVICE = frozenset(
    {
        "identifiers", "connections", "manufacturer", "model", "model_id", "name", "hw_version", "sw_version",
        "serial_number", "via_device", "suggested_area", "configuration_url",
    }
)  # fmt: skip


def faults(topic: str, config: Dict[str, Any]) -> List[str]:
    """Return what Home Assistant would not like about a device configuration."""
    found: List[str] = []

    def rule(holds: bool, text: str) -> None:
        if not holds:
            found.append(text)

    rule(re.fullmatch(r"[^/]+/device/[a-zA-Z0-9_-]+/config", topic) is not None, "topic")
    rule(set(config) <= SHARED | {"device", "origin", "components", "command_topic"}, "unknown key at the top")
    device = config.get("device", {})
    rule(set(device) <= DEVICE, "unknown key in device")
    rule(bool(device.get("identifiers") or device.get("connections")), "device without identifiers")
    rule(bool(config.get("origin", {}).get("name")), "origin without name")
    rule(set(config.get("origin", {})) <= {"name", "sw_version", "support_url"}, "unknown key in origin")
    check_availability(config, rule)
    unique: Set[str] = set()
    for key, part in config.get("components", {}).items():
        check_component(key, part, rule)
        check_availability(part, rule)
        if "unique_id" in part:
            rule(part["unique_id"] not in unique, f"{key}: unique_id used twice")
            unique.add(part["unique_id"])
    rule(bool(config.get("components")), "no components")
    return found


def check_availability(config: Dict[str, Any], rule: Any) -> None:
    rule(not ("availability" in config and "availability_topic" in config), "two kinds of availability")
    rule(config.get("availability_mode", "latest") in {"all", "any", "latest"}, "availability_mode")
    for entry in config.get("availability", []):
        rule("topic" in entry, "availability without topic")
        rule(
            set(entry) <= {"topic", "payload_available", "payload_not_available", "value_template"},
            "unknown key in availability",
        )


def check_component(key: str, part: Dict[str, Any], rule: Any) -> None:
    platform = part.get("platform", "")
    rule(platform in PLATFORM, f"{key}: platform")
    rule(set(part) <= PLATFORM.get(platform, frozenset()), f"{key}: unknown key")
    rule(REQUIRED.get(platform, frozenset()) <= set(part), f"{key}: key missing")
    rule("object_id" not in part, f"{key}: object_id is dead since 2026.4")
    device_class = part.get("device_class")
    rule(device_class is None or device_class in DEVICE_CLASSES.get(platform, set()), f"{key}: device_class")
    if "default_entity_id" in part:
        rule(
            re.fullmatch(rf"{platform}\.[a-z0-9_]+", part["default_entity_id"]) is not None, f"{key}: default_entity_id"
        )
    if platform == "event":
        kinds = part.get("event_types", [])
        rule(bool(kinds) and len(set(kinds)) == len(kinds), f"{key}: event_types")
        rule(device_class != "doorbell" or "ring" in kinds, f"{key}: doorbell without ring")
    if device_class == "enum":
        rule(bool(part.get("options")), f"{key}: enum without options")
        rule("state_class" not in part and "unit_of_measurement" not in part, f"{key}: enum with a unit")
    if platform == "device_automation":
        rule(part.get("automation_type") == "trigger", f"{key}: automation_type")
    for name in ("off_delay", "expire_after"):
        rule(isinstance(part.get(name, 1), int) and part.get(name, 1) > 0, f"{key}: {name}")
    for topic in (part.get(name, "x") for name in ("state_topic", "topic", "command_topic", "json_attributes_topic")):
        rule(bool(topic) and not set(topic) & set("+#"), f"{key}: topic with a wildcard")


def camera(box: str = "box", name: str = "front") -> Dict[str, Any]:
    config = json.loads(discovery.camera_config(PREFIX, box, name, "1.0").payload)
    assert isinstance(config, dict)
    return config


def box_() -> Dict[str, Any]:
    config = json.loads(discovery.box_config(PREFIX, "box", "1.0").payload)
    assert isinstance(config, dict)
    return config


SLUGS = st.text("abcXYZ019_-", min_size=1, max_size=40)


@given(SLUGS, SLUGS)
def test_every_configuration_keeps_the_rules(box: str, name: str) -> None:
    for config in (discovery.camera_config(PREFIX, box, name, "1.0"), discovery.box_config(PREFIX, box, "1.0")):
        assert faults(config.topic, json.loads(config.payload)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(lambda c: c["components"]["ring"].update(event_types=["press"]), "ring: doorbell", id="doorbell"),
        pytest.param(lambda c: c["components"]["visit"].update(object_id="x"), "visit: object_id", id="object_id"),
        pytest.param(lambda c: c["components"]["last"].pop("unique_id"), "last: key missing", id="unique_id"),
        pytest.param(lambda c: c["components"]["visit"].update(unique_id=c["components"]["ring"]["unique_id"]),
                     "unique_id used twice", id="twice"),
        pytest.param(lambda c: c["components"]["on_ring"].pop("topic"), "on_ring: key missing", id="trigger"),
        pytest.param(lambda c: c["components"]["health"].pop("options"), "enum without options", id="enum"),
        pytest.param(lambda c: c["components"]["unknown"].update(off_delay=0), "off_delay", id="off_delay"),
        pytest.param(lambda c: c["components"]["visit"].update(device_class="person"), "device_class", id="class"),
        pytest.param(lambda c: c.update(availability_mode="every"), "availability_mode", id="mode"),
        pytest.param(lambda c: c["device"].pop("identifiers"), "identifiers", id="identifiers"),
        pytest.param(lambda c: c["origin"].clear(), "origin without name", id="origin"),
        pytest.param(lambda c: c["components"]["visit"].update(typo=1), "visit: unknown key", id="typo"),
    ],
)  # fmt: skip
def test_the_rules_find_what_is_wrong(change: Any, fault: str) -> None:
    config = camera()
    change(config)
    assert any(fault in text for text in faults("homeassistant/device/x/config", config))


def test_a_visit_is_no_doorbell_and_lists_every_verdict() -> None:
    visit = camera()["components"]["visit"]
    assert "device_class" not in visit
    assert visit["event_types"] == [verdict.value for verdict in Verdict]
    assert visit["state_topic"] == TOPICS.event("front")


def test_nothing_that_acts_hangs_on_a_retained_topic() -> None:
    retained = {TOPICS.available, TOPICS.motion("front"), TOPICS.health("front"), TOPICS.camera_available("front")}
    for key, part in camera()["components"].items():
        if part["platform"] in ("event", "device_automation") or key in ("unknown", "last"):
            assert part.get("state_topic", part.get("topic")) not in retained, key


def test_what_was_seen_does_not_go_with_the_camera() -> None:
    config = camera()
    assert config["availability"] == [{"topic": TOPICS.available}]
    own = {key: part["availability"] for key, part in config["components"].items() if "availability" in part}
    assert own == {"motion": [{"topic": TOPICS.available}, {"topic": TOPICS.camera_available("front")}]}
    assert config["components"]["motion"]["availability_mode"] == "all"


def test_the_box_can_be_paused_and_says_whether_it_is_there() -> None:
    parts = box_()["components"]
    assert (parts["pause"]["command_topic"], parts["pause"]["state_topic"]) == (TOPICS.pause_set, TOPICS.pause_state)
    assert parts["pause"]["retain"] is False
    assert "availability" not in box_(), "else `connected` could never say no"
    assert camera()["device"]["via_device"] in box_()["device"]["identifiers"]


def test_triggers() -> None:
    parts = {k: v for k, v in camera()["components"].items() if v["platform"] == "device_automation"}
    assert set(parts) == {"on_known", "on_unknown", "on_spoof", "on_ring"}
    for part in parts.values():
        kind = part["topic"].rpartition("/")[2]
        key = "type" if kind == "trigger" else "event_type"
        assert RULES[kind][key](part["payload"])
        assert f"value_json.{key}" in part["value_template"]
        assert str(discovery.FRESH_S) in part["value_template"]


def render(template: str, message: Dict[str, Any]) -> str:
    """Render as Home Assistant does (its `float` filter takes a default for what is no number)."""
    jinja2 = pytest.importorskip("jinja2")

    def to_float(value: Any, default: float) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return default

    environment = jinja2.Environment(autoescape=True)
    environment.filters["float"] = to_float
    text = environment.from_string(template).render(value=jinja2.utils.markupsafe.Markup("raw"), value_json=message)
    return str(text)


@pytest.mark.parametrize(("age_s", "fresh"), [(0.0, True), (59.9, True), (60.0, False), (9e6, False), (None, False)])
def test_what_is_old_turns_nothing_on(age_s: Any, fresh: bool) -> None:
    parts = camera()["components"]
    message = {"event_type": "unknown", "type": "unknown", "age_s": age_s}
    assert (render(parts["unknown"]["value_template"], message) == "ON") is fresh
    assert (render(parts["on_unknown"]["value_template"], message) == "unknown") is fresh
    assert (render(parts["ring"]["value_template"], message) == "raw") is fresh
    assert render(parts["unknown"]["value_template"], {**message, "event_type": "known"}) == ""


def test_last_person() -> None:
    template = camera()["components"]["last"]["value_template"]
    assert render(template, {"person": "Ann", "person_id": "p", "event_type": "known"}) == "Ann"
    assert render(template, {"person": None, "person_id": "p", "event_type": "known"}) == "p"
    assert render(template, {"person": None, "person_id": None, "event_type": "no_face"}) == "no face visitor"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("a_b", "c"), ("a", "b_c"), id="underscore"),
        pytest.param(("a-", "b"), ("a", "-b"), id="dash"),
        pytest.param(("a-_", "b"), ("a", "-_b"), id="both"),
        pytest.param(("a_", "b"), ("a", "_b"), id="at-the-seam"),
    ],
)
def test_names_that_only_look_alike_when_joined(one: Tuple[str, str], other: Tuple[str, str]) -> None:
    assert discovery.camera_id(*one) != discovery.camera_id(*other)
    assert not discovery.is_camera_of(discovery.camera_id(*one), other[0])
    assert not discovery.is_camera_of(discovery.camera_id(*other), one[0])


@given(SLUGS, SLUGS, SLUGS, SLUGS)
def test_ids_are_never_shared(box: str, name: str, other_box: str, other_name: str) -> None:
    same = discovery.camera_id(box, name) == discovery.camera_id(other_box, other_name)
    assert same == ((box, name) == (other_box, other_name))
    assert discovery.is_camera_of(discovery.camera_id(other_box, other_name), box) == (box == other_box)
    assert not discovery.is_camera_of(discovery.box_id(other_box), box)


def test_a_removal_is_an_empty_retained_message() -> None:
    assert discovery.removal(PREFIX, "x") == discovery.Retained("homeassistant/device/x/config", b"")
