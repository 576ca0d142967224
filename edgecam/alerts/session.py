"""One connection to the broker: paho driven by our own loop, and what its failures mean."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from edgecam.config import AlertsConfig

KEEPALIVE_S = 15
"""A silent broker is given up after at most twice this; the broker sends the will after one and a half."""

FAILED_FROM = 128
"""Reason codes from here on say no."""

_BAD_PASSWORD = frozenset({134, 135, 138, 140})
_BAD_PROTOCOL = 132


class Link(str, Enum):
    """How the broker is."""

    OFF = "off"
    """No broker configured."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"
    UNTRUSTED = "untrusted"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"


@dataclass(frozen=True)
class LinkReport:
    """The link and what to do about it, for `status` and `doctor`."""

    link: Link
    detail: str
    sent: int
    """Alerts acknowledged since the start."""

    unsendable: int
    """Rows that were no valid messages and were dropped; not 0 means a bug or an altered outbox."""

    denied: int
    """Acknowledgements in which the broker said no."""


@dataclass(frozen=True)
class Failure:
    """Why there is no connection."""

    link: Link
    detail: str
    try_older: bool = False
    """MQTT 3.1.1 may still work."""

    hung_up: bool = False


@dataclass(frozen=True)
class Received:
    """A message from the broker; only the first bytes of the payload are kept."""

    topic: str
    payload: bytes
    retain: bool


class Session:
    """One connection: paho driven by our own loop.

    paho's callbacks run while it holds its locks, so they only put notes on queues.
    """

    def __init__(self, client: paho.Client, wake: socket.socket) -> None:
        self._client = client
        self._wake = wake
        self._notes: queue.SimpleQueue[Tuple[int, int, str]] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._rows: Dict[int, Tuple[str, int]] = {}
        self.inflight: Dict[int, int] = {}
        """Packet id -> seq of outbox rows not yet acknowledged."""

        self.waiting: Set[int] = set()
        """Packet ids of everything not yet acknowledged."""

        self.error: Optional[Exception] = None
        self.connack: Optional[Tuple[int, str]] = None
        self.lost = False
        self.lost_why = ""
        self.lost_code = 0
        self.sweep: List[str] = []
        self.sweep_until_s = 0.0
        self.healed_s = 0.0
        self.denied_us = False
        """The broker was told that this box is offline."""

        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message

    def open(self, host: str, port: int) -> None:
        """Look up, connect, greet; blocks; runs in a helper thread."""
        try:
            self._client.connect(host, port, keepalive=KEEPALIVE_S)
        except Exception as err:
            self.error = err
        if self._abandoned.is_set():
            self.close()

    def abandon(self) -> None:
        """Have the helper thread close what it may still open."""
        self._abandoned.set()

    def turn(self, timeout_s: float) -> None:
        """Read and write what is there, waiting for at most so long."""
        sock = self._client.socket()
        if sock is None:
            self._gone("closed")
            return
        poll = select.poll()
        wanted = select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)
        poll.register(sock, wanted)
        poll.register(self._wake, select.POLLIN)
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        events = dict(poll.poll(0 if pending else timeout_s * 1000.0))
        if self._wake.fileno() in events:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        mine = events.get(sock.fileno(), 0)
        if mine & ~select.POLLOUT or pending:
            self._handle(self._client.loop_read())
        if mine & select.POLLOUT and not self.lost:
            self._handle(self._client.loop_write())
        if not self.lost:
            self._handle(self._client.loop_misc())

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Send a state (QoS 1)."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self.waiting.add(info.mid)

    def publish_row(self, topic: str, payload: bytes, seq: int) -> None:
        """Send an outbox row; `take_acks` tells when it has arrived."""
        info = self._client.publish(topic, payload, qos=1, retain=False)
        self._rows[info.mid] = (topic, seq)
        self.inflight[info.mid] = seq
        self.waiting.add(info.mid)

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics (QoS 1)."""
        self._client.subscribe([(topic, 1) for topic in topics])

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Do not want topics any more."""
        self._client.unsubscribe(list(topics))

    def take_acks(self) -> List[Tuple[str, int, int, str]]:
        """Return (topic, seq, reason code, reason) of the rows acknowledged since the last call."""
        acks = []
        for mid, code, text in _drain(self._notes):
            self.waiting.discard(mid)
            if mid in self._rows:
                topic, seq = self._rows.pop(mid)
                del self.inflight[mid]
                acks.append((topic, seq, code, text))
        return acks

    def take_messages(self) -> Iterable[Received]:
        """Return what was received since the last call."""
        return _drain(self._messages)

    def close(self) -> None:
        """Disconnect, without waiting."""
        with contextlib.suppress(OSError, ValueError):
            self._client.disconnect()
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _handle(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._gone(paho.error_string(code).rstrip("."))

    def _gone(self, why: str) -> None:
        if not self.lost:
            self.lost, self.lost_why = True, self.lost_why or why

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.connack = (int(reason.value), str(reason))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self.lost:  # paho calls again when the socket closes; the first reason is the true one
            self.lost, self.lost_code, self.lost_why = True, int(reason.value), str(reason)

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._notes.put((mid, int(reason.value), str(reason)))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._messages.put(Received(message.topic, bytes(message.payload[:256]), message.retain))


def _drain(notes: queue.SimpleQueue[Any]) -> List[Any]:
    found = []
    while True:
        try:
            found.append(notes.get_nowait())
        except queue.Empty:
            return found


def explain(error: Exception, host: str, port: int) -> Failure:
    """Say what a failed connection means and what to do."""
    where, link = f"{host}:{port}", Link.UNREACHABLE
    if isinstance(error, ssl.SSLCertVerificationError):
        link = Link.UNTRUSTED
        why = f"{error.verify_message}: give its CA in alerts.ca_file, and its name as certified in alerts.host"
    elif isinstance(error, ssl.SSLError):
        link, why = Link.UNTRUSTED, f"TLS failed ({error.reason or 'no answer'}): is this the TLS port (usually 8883)?"
    elif isinstance(error, socket.gaierror):
        why = "no such host: check alerts.host and the name server"
    elif isinstance(error, ConnectionRefusedError):
        why = "nothing listens there: is the broker running, is alerts.port right?"
    elif isinstance(error, (TimeoutError, socket.timeout)):
        why = "no answer: is the broker on, is a firewall between?"
    elif isinstance(error, ConnectionError):
        why = "hung up: is it the right port for alerts.tls (with TLS usually 8883, without 1883)?"
    elif isinstance(error, OSError):
        why = error.strerror or str(error)
    else:
        why = f"{type(error).__name__}: {error}"
    return Failure(link, f"{where}: {why}")


def refused(code: int, text: str, config: AlertsConfig) -> Failure:
    """Say what a broker's refusal means and what to do."""
    if code == _BAD_PROTOCOL:
        return Failure(Link.REFUSED, "the broker speaks neither MQTT 5 nor 3.1.1", try_older=True)
    if code in _BAD_PASSWORD:
        todo = "check alerts.username and alerts.password_file against the broker's password file"
        return Failure(Link.REFUSED, f"{config.host}:{config.port} says {text}: {todo}")
    return Failure(Link.REFUSED, f"{config.host}:{config.port} says {text}")
