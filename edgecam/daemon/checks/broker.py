"""The broker: whether it takes us, and whom else."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any, Dict, Iterator, Optional, Tuple

from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig
from edgecam.daemon.checks.base import Finding, Subject, live_status

_PATIENCE_S = 12.0
_STRANGER_S = 3.0
_EXPIRES_S = 21 * 86_400.0
_HERE = ("localhost", "127.0.0.1", "::1")

_FIX: Dict[str, str] = {
    "off": "set alerts.host",
    "connecting": "check address and port (alerts.host, alerts.port)",
    "connected": "correct the broker's access list",
    "refused": "correct alerts.username and the file of alerts.password_file",
    "untrusted": "give the broker's CA: alerts.ca_file",
    "unreachable": "check address, port and network (alerts.host, alerts.port, alerts.tls)",
    "stopped": "run this again",
}


def check(subject: Subject) -> Iterator[Finding]:
    """Connect as the daemon does, and as somebody without a password."""
    alerts = subject.config.alerts
    if alerts.host is None:
        yield Finding("broker", "hint", "no broker is configured: nobody is told", "set alerts.host")
        return
    link, detail = _connect(alerts)
    where = f"{alerts.host}:{alerts.port}"
    if link != "connected":
        yield Finding("broker", "broken", detail or f"{where} does not answer", _FIX[link])
        return
    yield Finding("broker", "ok", f"{where} {'with' if alerts.tls else 'without'} TLS, user {alerts.username}")
    if alerts.tls:
        yield from _certificate(alerts)
    elif alerts.host not in _HERE:
        yield Finding("broker", "hint", "names pass over the network in the clear", "set alerts.tls = true")
    if alerts.host not in _HERE and _takes_strangers(alerts):
        text = "it lets anybody in without a password: whoever is in the network may read who comes home"
        fix = "in mosquitto.conf: allow_anonymous false, a password_file; then alerts.username (docs/mqtt.md)"
        yield Finding("broker", "hint", text, fix)
    if subject.live and (denied := live_status(subject)["broker"]["denied"]):
        text = f"it has refused {denied} of our messages"
        yield Finding("broker", "broken", text, f"let the user {alerts.username} write to edgecam/{alerts.box}/#")


def _connect(alerts: AlertsConfig) -> Tuple[str, str]:
    """Return how the link is after at most `_PATIENCE_S`, and why."""
    from edgecam.alerts.client import AlertClient, NoOutbox
    from edgecam.alerts.session import Link

    # Another name than the daemon's: the broker would throw that one out.
    trial = alerts.model_copy(update={"box": f"{alerts.box[:30]}-doctor", "discovery_prefix": None})
    client = AlertClient(trial, (), NoOutbox(), SystemClock(), lambda _: None)
    client.start()
    end = time.monotonic() + _PATIENCE_S
    while client.report.link is Link.CONNECTING and time.monotonic() < end:
        time.sleep(0.05)
    report = client.report
    client.stop(2.0)
    return report.link.value, report.detail


def _context(alerts: AlertsConfig) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(alerts.ca_file) if alerts.ca_file else None)


def _certificate(alerts: AlertsConfig) -> Iterator[Finding]:
    """Tell of a certificate that is about to expire: the alerts would end without a word."""
    address = (str(alerts.host), alerts.port)
    plain = socket.create_connection(address, _STRANGER_S)
    with _context(alerts).wrap_socket(plain, server_hostname=alerts.host) as secure:  # closes the plain one, too
        shown: Optional[Dict[str, Any]] = secure.getpeercert()
    left_s = ssl.cert_time_to_seconds(str((shown or {})["notAfter"])) - time.time()
    if left_s < _EXPIRES_S:
        text = f"its certificate expires in {left_s / 86_400:.0f} days: then no alert goes out"
        yield Finding("broker", "hint", text, "renew it on the broker")


def _takes_strangers(alerts: AlertsConfig) -> bool:
    """Whether it accepts a connection without user and password."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    answered, taken = threading.Event(), threading.Event()

    def note(_client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if not code.is_failure:
            taken.set()
        answered.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edgecam-{alerts.box[:30]}-stranger")
    client.on_connect = note
    if alerts.tls:
        client.tls_set_context(_context(alerts))
    try:
        client.connect(str(alerts.host), alerts.port, keepalive=30)
    except (OSError, ValueError):
        return False
    client.loop_start()
    answered.wait(_STRANGER_S)
    client.disconnect()
    client.loop_stop()
    return taken.is_set()
