"""Home Assistant MQTT discovery: one device for the box, one for each camera.

Everything that may start an automation hangs on messages that are never retained; a state that is (availability,
motion, health) says nothing about who is at the door. Stale messages (a broker that was away) are kept from turning
anything on: templates look at `age_s`, and an unknown age counts as old.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Dict, List

from edgecam.alerts.message import OFF, OFFLINE, ON, ONLINE, RING, TRIGGERS, HealthState, Topics
from edgecam.types import Verdict

FRESH_S = 60
"""Older messages do not turn anything on."""

UNKNOWN_OFF_AFTER_S = 60
LAST_EXPIRES_AFTER_S = 600
PROMPT_EXPIRES_AFTER_S = 60
"""No challenge takes longer."""

_FRESH = f"value_json.age_s | float(1e9) < {FRESH_S}"

JsonDict = Dict[str, Any]


@dataclass(frozen=True)
class Retained:
    """A message the broker keeps; an empty payload removes it."""

    topic: str
    payload: bytes


def status_topic(prefix: str) -> str:
    """Return where Home Assistant says `online` when it starts."""
    return f"{prefix}/status"


def config_topic(prefix: str, object_id: str) -> str:
    """Return the topic of a device's configuration."""
    return f"{prefix}/device/{object_id}/config"


def box_id(box: str) -> str:
    """Return the object id of a box."""
    return f"edgecam_{_escape(box)}"


def camera_id(box: str, camera: str) -> str:
    """Return the object id of a camera; no other box and camera have the same."""
    return f"edgecam_{_escape(box)}_{_escape(camera)}"


def is_camera_of(object_id: str, box: str) -> bool:
    """Whether an object id is that of a camera, present or past, of this box."""
    return object_id.startswith(f"{box_id(box)}_")


def box_config(prefix: str, box: str, version: str) -> Retained:
    """Return the configuration of the box: the pause switch and whether the box is there."""
    topics, own = Topics(box), box_id(box)
    components: JsonDict = {
        "pause": {
            "platform": "switch",
            "unique_id": f"{own}_pause",
            "default_entity_id": f"switch.{_slug(own)}_pause",
            "name": "Pause",
            "icon": "mdi:eye-off-outline",
            "command_topic": topics.pause_set,
            "state_topic": topics.pause_state,
            "payload_on": ON,
            "payload_off": OFF,
            "optimistic": False,
            "retain": False,
            "availability": [{"topic": topics.available}],
        },
        "connected": {
            "platform": "binary_sensor",
            "unique_id": f"{own}_connected",
            "default_entity_id": f"binary_sensor.{_slug(own)}_connected",
            "name": "Connected",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.available,
            "payload_on": ONLINE,
            "payload_off": OFFLINE,
        },
    }
    config: JsonDict = {
        "device": _device(own, "edgecam" if box == "edgecam" else f"edgecam {box}", "edgecam box", version),
        "origin": _origin(version),
        "components": components,
        "qos": 1,
    }
    return Retained(config_topic(prefix, own), _dump(config))


def camera_config(prefix: str, box: str, camera: str, version: str) -> Retained:
    """Return the configuration of one camera."""
    topics, own = Topics(box), camera_id(box, camera)
    event = topics.event(camera)
    entities: List[JsonDict] = [
        {
            "platform": "event",
            "key": "visit",
            "name": "Visit",
            "icon": "mdi:account-eye",
            "state_topic": event,
            "event_types": [verdict.value for verdict in Verdict],
        },
        {
            "platform": "event",
            "key": RING,
            "name": "Ring",
            "device_class": "doorbell",
            "state_topic": topics.ring(camera),
            "event_types": [RING],
            "value_template": f"{{% if {_FRESH} %}}{{{{ value }}}}{{% endif %}}",
        },
        {
            "platform": "sensor",
            "key": "last",
            "name": "Last person (display only)",
            "icon": "mdi:account-clock",
            "state_topic": event,
            "value_template": "{{ value_json.person or value_json.person_id"
            " or (value_json.event_type | replace('_', ' ')) ~ ' visitor' }}",
            "expire_after": LAST_EXPIRES_AFTER_S,
        },
        {
            "platform": "sensor",
            "key": "prompt",
            "name": "Prompt (to be shown or spoken)",
            "icon": "mdi:account-voice",
            "state_topic": topics.prompt(camera),
            "value_template": "{{ value_json.text }}",
            "json_attributes_topic": topics.prompt(camera),
            "expire_after": PROMPT_EXPIRES_AFTER_S,
        },
        {
            "platform": "binary_sensor",
            "key": "unknown",
            "name": "Unknown person",
            "icon": "mdi:account-question",
            "state_topic": event,
            "value_template": f"{{% if value_json.event_type == 'unknown' and {_FRESH} %}}{ON}{{% endif %}}",
            "payload_on": ON,
            "payload_off": OFF,
            "off_delay": UNKNOWN_OFF_AFTER_S,
        },
        {
            "platform": "binary_sensor",
            "key": "motion",
            "name": "Motion",
            "device_class": "motion",
            # The only one that means nothing while the camera is away; the others speak of just that, or of the past.
            "availability": [{"topic": topics.available}, {"topic": topics.camera_available(camera)}],
            "availability_mode": "all",
            "state_topic": topics.motion(camera),
            "payload_on": ON,
            "payload_off": OFF,
        },
        {
            "platform": "sensor",
            "key": "health",
            "name": "Health",
            "device_class": "enum",
            "entity_category": "diagnostic",
            "options": [state.value for state in HealthState],
            "state_topic": topics.health(camera),
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topics.health(camera),
        },
    ]
    components: JsonDict = {}
    for entity in entities:
        key = entity.pop("key")
        names = {"unique_id": f"{own}_{key}", "default_entity_id": f"{entity['platform']}.{_slug(own)}_{key}"}
        components[key] = {**entity, **names}
    for verdict in TRIGGERS:
        template = f"{{% if {_FRESH} %}}{{{{ value_json.type }}}}{{% endif %}}"
        components[f"on_{verdict.value}"] = _trigger(topics.trigger(camera), verdict.value, "person", template)
    template = f"{{% if {_FRESH} %}}{{{{ value_json.event_type }}}}{{% endif %}}"
    components[f"on_{RING}"] = _trigger(topics.ring(camera), RING, "doorbell", template)
    config: JsonDict = {
        "device": {**_device(own, f"edgecam {camera}", "edgecam camera", version), "via_device": box_id(box)},
        "origin": _origin(version),
        "components": components,
        "availability": [{"topic": topics.available}],
        "qos": 1,
    }
    return Retained(config_topic(prefix, own), _dump(config))


def removal(prefix: str, object_id: str) -> Retained:
    """Return what makes Home Assistant forget a device."""
    return Retained(config_topic(prefix, object_id), b"")


def _trigger(topic: str, payload: str, subtype: str, template: str) -> JsonDict:
    return {
        "platform": "device_automation",
        "automation_type": "trigger",
        "topic": topic,
        "payload": payload,
        "type": payload,
        "subtype": subtype,
        "value_template": template,
    }


def _device(object_id: str, name: str, model: str, version: str) -> JsonDict:
    return {"identifiers": [object_id], "name": name, "manufacturer": "edgecam", "model": model, "sw_version": version}


def _origin(version: str) -> JsonDict:
    return {"name": "edgecam", "sw_version": version}


def _escape(part: str) -> str:
    """Keep `_` free as the separator: `a_b` and `c` must not become the id of `a` and `b_c`."""
    return part.replace("-", "--").replace("_", "-_")


def _slug(object_id: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", object_id.lower())


def _dump(config: JsonDict) -> bytes:
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode("utf-8")
