"""Whether Home Assistant has said on the broker that it is there."""

from __future__ import annotations

import ssl
import time
from typing import Any, List

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgecam.config import AlertsConfig


def birth_seen(config: AlertsConfig, within_s: float) -> bool:
    """Return whether a retained `online` of Home Assistant is on the broker; False also without a connection."""
    seen: List[bytes] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edgecam-{config.box[:30]}-birth")
    secret = config.secret_file()
    if config.username is not None and secret is not None:
        client.username_pw_set(config.username, secret.read_text(encoding="utf-8").rstrip("\r\n"))
    if config.tls:
        client.tls_set_context(ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None))

    def subscribe(*_: Any) -> None:
        client.subscribe(f"{config.discovery_prefix}/status", qos=0)

    def note(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        seen.append(bytes(message.payload))

    client.on_connect, client.on_message = subscribe, note
    try:
        client.connect(str(config.host), config.port, keepalive=30)
    except (OSError, ValueError):
        return False
    client.loop_start()
    end = time.monotonic() + within_s
    while not seen and time.monotonic() < end:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    return b"online" in seen
