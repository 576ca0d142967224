"""A real Home Assistant, run by its own Python (see `make-home-assistant`): tells what it sees, a JSON object a line.

`home_assistant_client.py FOLDER BROKER` with the broker's config entry as JSON; on stdin one command a line, as JSON:
`{"do": "dump"}`, `{"do": "call", ...}`, `{"do": "validate", ...}`; it ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from datetime import datetime
from types import MappingProxyType
from typing import Any, Dict, List

import voluptuous as vol
from homeassistant import bootstrap, config_entries, const
from homeassistant.components.device_automation import DeviceAutomationType, async_get_device_automations
from homeassistant.components.mqtt import binary_sensor, device_trigger, event, sensor, switch
from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import Event, HomeAssistant, ServiceCall
from homeassistant.helpers import device_registry, entity_registry, trigger
from homeassistant.runner import RuntimeConfig

SCHEMAS = {
    "binary_sensor": binary_sensor.PLATFORM_SCHEMA_MODERN,
    "device_automation": device_trigger.TRIGGER_DISCOVERY_SCHEMA,
    "event": event.PLATFORM_SCHEMA_MODERN,
    "sensor": sensor.PLATFORM_SCHEMA_MODERN,
    "switch": switch.PLATFORM_SCHEMA_MODERN,
}
"""Those of its configuration files: unlike discovery's, they refuse an unknown key."""

_LOGGER = logging.getLogger("trigger")
_OUT = os.dup(1)


def tell(kind: str, **what: Any) -> None:
    line = json.dumps(
        {"type": kind, **what}, default=lambda one: one.isoformat() if isinstance(one, datetime) else str(one)
    )
    os.write(_OUT, line.encode() + b"\n")


class Log(logging.Handler):
    """What it complains about."""

    def emit(self, record: logging.LogRecord) -> None:
        tell("log", level=record.levelname, logger=record.name, text=record.getMessage())


class Client:
    def __init__(self, home: HomeAssistant) -> None:
        self._home = home
        self._listening: Dict[str, Any] = {}
        home.bus.async_listen(const.EVENT_STATE_CHANGED, self._changed)
        for name in ("owner", "asleep", "curious"):
            home.services.async_register("notify", name, self._notified)

    def _changed(self, event: Event) -> None:
        new = event.data["new_state"]
        what = {} if new is None else {"state": new.state, "attributes": dict(new.attributes)}
        tell("state", entity_id=event.data["entity_id"], gone=new is None, **what)

    def _notified(self, call: ServiceCall) -> None:
        tell("notified", service=call.service, data=dict(call.data))

    async def do(self, command: Dict[str, Any]) -> None:
        tell("done", id=command["id"], answer=await getattr(self, command["do"])(command))

    async def call(self, command: Dict[str, Any]) -> None:
        await self._home.services.async_call(
            command["domain"], command["service"], command.get("data", {}), blocking=True
        )

    async def dump(self, _: Dict[str, Any]) -> Dict[str, Any]:
        """Return the devices and entities that MQTT brought, with their states and triggers."""
        entities: List[Dict[str, Any]] = []
        for entry in entity_registry.async_get(self._home).entities.values():
            if entry.platform == "mqtt":
                state = self._home.states.get(entry.entity_id)
                entities.append({
                    "entity_id": entry.entity_id, "unique_id": entry.unique_id, "device_id": entry.device_id,
                    "category": entry.entity_category, "device_class": entry.original_device_class,
                    "unit": entry.unit_of_measurement, "name": entry.original_name,
                    "state": None if state is None else state.state,
                    "attributes": {} if state is None else dict(state.attributes),
                })  # fmt: skip
        devices = {}
        for device in device_registry.async_get(self._home).devices.values():
            if not any(ident[0] == "mqtt" for ident in device.identifiers):
                continue
            found = await async_get_device_automations(self._home, DeviceAutomationType.TRIGGER, [device.id])
            triggers = [one for one in found.get(device.id, []) if one["domain"] == "mqtt"]
            devices[device.id] = {
                "identifiers": sorted(ident for domain, ident in device.identifiers if domain == "mqtt"),
                "name": device.name, "manufacturer": device.manufacturer, "model": device.model,
                "sw_version": device.sw_version, "via": device.via_device_id,
                "triggers": sorted(f"{one['type']} {one['subtype']}" for one in triggers),
            }  # fmt: skip
            for one in triggers:
                await self._listen(one)
        automations = [state.as_dict() for state in self._home.states.async_all("automation")]
        return {"entities": entities, "devices": devices, "automations": automations, "version": const.__version__}

    async def _listen(self, one: Dict[str, Any]) -> None:
        """Tell from now on when a device trigger fires."""
        name = f"{one['device_id']} {one['type']}"
        if name in self._listening:
            return

        async def fired(variables: Dict[str, Any], *_: Any) -> None:
            tell("trigger", name=one["type"], subtype=one["subtype"])

        configs = await trigger.async_validate_trigger_config(
            self._home, [{key: value for key, value in one.items() if key != "metadata"} | {"platform": "device"}]
        )
        self._listening[name] = await trigger.async_initialize_triggers(
            self._home, configs, fired, "mqtt", "test", lambda level, text, **_: _LOGGER.log(level, text)
        )

    async def validate(self, command: Dict[str, Any]) -> List[str]:
        """Return what its own schemas find wrong with a device configuration."""
        config, wrong = json.loads(command["payload"]), []
        try:
            DEVICE_DISCOVERY_SCHEMA({**config})
        except vol.Invalid as err:
            wrong.append(f"device: {err}")
        shared = {key: config[key] for key in ("availability", "availability_mode", "qos") if key in config}
        for key, told in config["components"].items():
            of_device = told["platform"] == "device_automation"
            part = {**({} if of_device else shared), **told, "device": config["device"]}
            schema = SCHEMAS[part.pop("platform")]
            try:
                schema(part)
            except vol.Invalid as err:
                wrong.append(f"{key}: {err}")
        return wrong


async def run(folder: str, broker: Dict[str, Any]) -> None:
    logging.getLogger().addHandler(log := Log(logging.WARNING))
    home = await bootstrap.async_setup_hass(RuntimeConfig(config_dir=folder, skip_pip=True))
    assert home is not None
    logging.getLogger().addHandler(log)  # its own logging took the handlers away
    client = Client(home)
    if not home.config_entries.async_entries("mqtt"):
        entry = ConfigEntry(
            domain="mqtt", title="broker", data=broker, options={}, source=config_entries.SOURCE_USER, version=1,
            minor_version=2, unique_id=None, discovery_keys=MappingProxyType({}), subentries_data=None,
        )  # fmt: skip
        await home.config_entries.async_add(entry)
    await home.async_start()
    (entry,) = home.config_entries.async_entries("mqtt")
    tell("ready", state=entry.state.value, recovery=home.config.recovery_mode, version=const.__version__)
    lines: asyncio.Queue[str] = asyncio.Queue()
    reader = asyncio.get_running_loop().run_in_executor(None, read, asyncio.get_running_loop(), lines)
    while line := await lines.get():
        await client.do(json.loads(line))
    await reader
    await home.async_stop(force=True)
    tell("stopped")


def read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    while True:
        line = sys.stdin.readline()
        loop.call_soon_threadsafe(lines.put_nowait, line)
        if not line:
            return


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], json.loads(sys.argv[2])))
