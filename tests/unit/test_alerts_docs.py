"""docs/mqtt.md and the code say the same, in both directions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest

from edgecam.alerts import discovery
from edgecam.alerts.message import (
    MAX_CANDIDATES,
    MAX_PAYLOAD_BYTES,
    RULES,
    EventMessage,
    HealthMessage,
    HealthState,
    MessageError,
    NightMessage,
    PromptMessage,
    RingMessage,
    Topics,
    TriggerMessage,
    check,
)
from edgecam.alerts.session import Link
from edgecam.liveness.challenge import THANKS
from edgecam.types import Action, Asked, Liveness, Phase, Role, Verdict

PAGE = (Path(__file__).resolve().parents[2] / "docs/mqtt.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text under a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title!r}"
    return found[1]


def first_column(text: str) -> List[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def types(text: str) -> Dict[str, str]:
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", text, re.MULTILINE))


MESSAGES = {
    "event": EventMessage,
    "trigger": TriggerMessage,
    "ring": RingMessage,
    "night": NightMessage,
    "prompt": PromptMessage,
    "health": HealthMessage,
}
SAMPLES: Dict[str, List[Any]] = {
    "integer": [1],
    "number": [0.5],
    "number or null": [0.5, None],
    "boolean": [True],
    "list of strings": [[], ["a"]],
}


@pytest.mark.parametrize("kind", RULES)
def test_every_key_is_documented_and_no_other(kind: str) -> None:
    keys = first_column(section(kind))
    assert len(keys) == len(set(keys))
    assert set(keys) == set(RULES[kind]) == set(MESSAGES[kind].__annotations__)


@pytest.mark.parametrize("kind", RULES)
def test_every_type_is_documented(kind: str) -> None:
    for key, told in types(section(kind)).items():
        rule = RULES[kind][key]
        for sample in SAMPLES.get(told, []):
            assert rule(sample), f"{kind}.{key} is documented as {told} and refuses {sample!r}"
        assert rule(None) == told.endswith("or null"), f"{kind}.{key}"
        assert rule(True) == (told == "boolean"), f"{kind}.{key}"


def test_the_examples_are_messages() -> None:
    examples = re.findall(r"^```json (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in examples} == set(RULES)
    for kind, text in examples:
        message = json.loads(text)
        check(kind, message)
        assert text.strip() == json.dumps(message, sort_keys=True, separators=(",", ":"))
        with pytest.raises(MessageError):
            check(kind, {**message, "image": ""})


def test_every_topic_is_documented_and_no_other() -> None:
    topics = Topics("<box>")
    ours: Set[str] = {topics.available, topics.pause_set, topics.pause_state, topics.night}
    by_camera = (
        topics.camera_available,
        topics.event,
        topics.trigger,
        topics.ring,
        topics.ring_press,
        topics.prompt,
        topics.challenge_ask,
        topics.motion,
        topics.health,
    )
    ours |= {topic("<camera>") for topic in by_camera}
    ours |= {discovery.status_topic("homeassistant"), discovery.config_topic("homeassistant", "…")}
    public = {name for name in dir(Topics) if not name.startswith("_")} - {"box"}
    assert len(public) + 2 == len(ours)
    assert set(first_column(section("Topics"))) == ours


def test_every_value_is_documented() -> None:
    event = section("event")
    for value in [*Verdict, *Phase, *Liveness, *Role]:
        assert f"`{value.value}`" in event, value
    for word in [*Asked, *Action]:
        assert f"`{word.value}`" in section("prompt"), word
    assert f"`{THANKS}`" in section("prompt")
    for state in HealthState:
        assert f"`{state.value}`" in section("health"), state
    assert set(first_column(section("When it does not connect"))) == {link.value for link in Link}


def test_every_entity_is_documented() -> None:
    text = section("Home Assistant")
    components = json.loads(discovery.camera_config("homeassistant", "b", "c", "").payload)["components"]
    entities = {key for key, value in components.items() if value["platform"] != "device_automation"}
    assert set(first_column(text)) == entities
    told = set(re.findall(r"`(\w+)`", text))
    assert set(components) <= told
    assert set(json.loads(discovery.box_config("homeassistant", "b", "").payload)["components"]) <= told
    assert f"on for {discovery.UNKNOWN_OFF_AFTER_S} s" in text
    assert f"older than {discovery.FRESH_S} s" in text
    assert f"forgotten after {discovery.PROMPT_EXPIRES_AFTER_S} s" in text
    assert f"after {discovery.LAST_EXPIRES_AFTER_S // 60} minutes" in text


def test_the_numbers_are_right() -> None:
    assert f"the longest is {MAX_PAYLOAD_BYTES} bytes" in PAGE
    assert f"at most {MAX_CANDIDATES} names" in PAGE


def test_the_entity_of_the_automation_exists() -> None:
    config = json.loads(discovery.camera_config("homeassistant", "edgecam", "front", "").payload)
    names = {part.get("default_entity_id") for part in config["components"].values()}
    assert set(re.findall(r"entity_id: (event\.\S+)", PAGE)) <= names
