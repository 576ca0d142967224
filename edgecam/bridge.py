"""Tell by ntfy or Gotify, in words alone, what a box says by MQTT: `python -m edgecam.bridge FILE`.

A program and a service of its own, off by default: one more MQTT client, with no access to the box and its state. It
imports nothing of edgecam's, and what it sends is made here from a fixed choice of words; names only if asked for.

A message is acknowledged to the broker when it has been sent, or given up: what comes while the bridge is away waits.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import random
import signal
import ssl
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple, Type, TypeVar
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LOGGER = logging.getLogger("edgecam.bridge")

VERDICTS = ("known", "unknown", "uncertain", "spoof", "poor", "no_face")
RING = "ring"

TRIES = 6
_WAIT_FIRST_S, _WAIT_MAX_S = 1.0, 60.0
_HTTP_TIMEOUT_S = 10.0
_REMEMBERED = 1000
"""So many messages and tracks, against what comes twice."""

_WAITING = 1000
_MAX_PAYLOAD = 8192
_LOCAL = ("localhost", "127.0.0.1", "::1")


class BridgeError(Exception):
    """The configuration cannot be used."""


class _LaterError(Exception):
    """The server may take it another time."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class _RefusedError(Exception):
    """The server will not take it."""


@dataclass(frozen=True)
class BrokerSettings:
    """Where it listens."""

    host: str = "localhost"
    port: int = 8883
    tls: bool = True
    ca_file: str = ""
    username: str = ""
    password_file: str = ""
    box: str = "edgecam"


@dataclass(frozen=True)
class SendSettings:
    """Where it tells, and what."""

    kind: str = "ntfy"
    url: str = ""
    """ntfy: with the topic; Gotify: of the server."""
    token_file: str = ""
    ca_file: str = ""
    names: bool = False
    verdicts: Tuple[str, ...] = ("unknown", "spoof", RING)
    max_age_s: int = 300
    per_hour: int = 30


@dataclass(frozen=True)
class Settings:
    """The configuration file."""

    broker: BrokerSettings
    send: SendSettings


_S = TypeVar("_S", BrokerSettings, SendSettings)


def load(path: Path) -> Settings:
    """Read the configuration.

    Raises:
        BridgeError: it is not there or not valid; in one line.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BridgeError(f"{path}: {getattr(err, 'strerror', None) or err}") from err
    if unknown := set(given) - {"broker", "send"}:
        raise BridgeError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    settings = Settings(_section(BrokerSettings, given, "broker"), _section(SendSettings, given, "send"))
    broker, send = settings.broker, settings.send
    url = urlsplit(send.url)
    wrong = (
        (send.kind not in ("ntfy", "gotify"), "send.kind: ntfy or gotify"),
        (url.scheme not in ("http", "https") or not url.hostname, "send.url: https://SERVER/..."),
        (bool(url.query or url.fragment or "@" in url.netloc), "send.url: no password, ? or #; see send.token_file"),
        (send.kind == "ntfy" and not url.path.strip("/"), "send.url: of ntfy with the topic, https://SERVER/TOPIC"),
        (bool(set(send.verdicts) - {*VERDICTS, RING}), f"send.verdicts: of {', '.join((*VERDICTS, RING))}"),
        (send.max_age_s < 1 or send.per_hour < 1, "send.max_age_s, send.per_hour: at least 1"),
        (not 1 <= broker.port <= 65535, "broker.port"),
        (not broker.box or not set(broker.box).isdisjoint("/+#"), "broker.box"),
        # What is secret, or a name, is not said in clear on a network.
        (
            url.scheme == "http" and bool(send.token_file or send.names) and url.hostname not in _LOCAL,
            "send.url: https",
        ),
        (not broker.tls and bool(broker.password_file) and broker.host not in _LOCAL, "broker.tls"),
    )
    for is_wrong, what in wrong:
        if is_wrong:
            raise BridgeError(f"{path}: {what}")
    return settings


def _section(kind: Type[_S], given: Dict[str, Any], name: str) -> _S:
    values = given.get(name, {})
    known = {field.name: field.default for field in fields(kind)}
    if not isinstance(values, dict):
        raise BridgeError(f"{name}: a section, [{name}]")
    for key, value in values.items():
        if key not in known:
            raise BridgeError(f"{name}.{key}: no such key; there are {', '.join(known)}")
        wanted = list if isinstance(known[key], tuple) else type(known[key])
        if type(value) is not wanted or (wanted is list and not all(isinstance(one, str) for one in value)):
            raise BridgeError(f"{name}.{key}: must be {'a list of strings' if wanted is list else wanted.__name__}")
    ready: Dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**ready)


class Notice(NamedTuple):
    """What is to be told."""

    id: str
    track: Tuple[str, int]
    """Visit and track; of a ring, its id."""
    says: Tuple[str, str]
    """Verdict and person id: who says the same of the same track again, says nothing."""
    corrected: bool
    text: str


def notice(topic: str, payload: bytes, *, names: bool) -> Optional[Notice]:
    """Return what a message comes to in words, or None if it is not one of schema 1's events or rings."""
    try:
        message = json.loads(payload)
        camera, kind = topic.split("/")[2:4]
        if message["schema"] != 1:
            return None
        verdict, message_id = str(message["event_type"]), str(message["id"])
        if kind == RING:
            return Notice(message_id, (message_id, 0), (RING, ""), False, f"The doorbell rings ({_word(camera)})")
        person, who = str(message["person_id"] or ""), message["person"]
        candidates = [_word(one) for one in message["candidates"]]
        said = {
            "known": _word(who) if names and who else "Somebody known",
            "unknown": "Somebody unknown",
            "uncertain": " or ".join(candidates) if names and candidates else "Somebody not told apart",
            "spoof": "Somebody who shows a picture of a face",
            "poor": "Somebody, not seen well enough,",
            "no_face": "Somebody without a face to be seen",
        }[verdict]
        corrected = message["phase"] == "corrected"
        track = (str(message["visit"]), int(message["track"]))
        text = f"{'Correction: ' if corrected else ''}{said} is at the {_word(message['place'])}"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return Notice(message_id, track, (verdict, person), corrected, text)


def _word(text: object) -> str:
    """Return a name or place as one short line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())[:80]


def age_s(payload: bytes, now_s: float) -> Optional[float]:
    """Return how long ago the thing happened, with the time in the broker; None if nobody can know."""
    message = json.loads(payload)
    sent_s, at_s = message.get("age_s"), message.get("ts")
    if not isinstance(sent_s, (int, float)):
        return None
    # A clock that was not set says nothing; then only the time up to the broker is known.
    since_s = now_s - at_s if message.get("clock_trusted") is True and isinstance(at_s, (int, float)) else 0.0
    return max(float(sent_s), since_s)


class Bridge:
    """Take messages from the broker, one by one, and tell them.

    Args:
        settings: what and where.
        password: of the broker's account.
        token: of ntfy or Gotify.
        wait: sleeps, and returns whether the bridge is to end.
    """

    def __init__(
        self, settings: Settings, password: str, token: str, wait: Optional[Callable[[float], bool]] = None
    ) -> None:
        self._settings = settings
        self._token = token
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._messages: queue.Queue[Tuple[int, paho.MQTTMessage]] = queue.Queue(_WAITING)
        self._connection = 0
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._told: OrderedDict[Tuple[str, int], Tuple[str, str]] = OrderedDict()
        self._sent_s: Deque[float] = deque()
        self._held_back = 0
        broker = settings.broker
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"edgecam-bridge-{broker.box}", clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311, manual_ack=True,
        )  # fmt: skip
        if broker.username:
            self._client.username_pw_set(broker.username, password)
        if broker.tls:
            self._client.tls_set_context(_tls(broker.ca_file, "broker.ca_file"))
        self._https = _tls(settings.send.ca_file, "send.ca_file")
        self._client.reconnect_delay_set(1, 60)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    def run(self) -> None:
        """Work until `end` is called."""
        self._client.connect_async(self._settings.broker.host, self._settings.broker.port, keepalive=60)
        self._client.loop_start()
        while not self._ended.is_set():
            try:
                connection, message = self._messages.get(timeout=0.5)
            except queue.Empty:
                continue
            # Of an older connection: the number may be another message's by now, and this one comes again anyway.
            if self._handle(message) and connection == self._connection:
                self._client.ack(message.mid, message.qos)
        self._client.disconnect()
        self._client.loop_stop()

    def end(self) -> None:
        """End soon; may be called from a signal handler."""
        self._ended.set()

    @property
    def connected(self) -> bool:
        """Whether the broker has let it in."""
        return self._connection > 0

    def _handle(self, message: paho.MQTTMessage) -> bool:
        """Tell a message if it is to be told; return False if it is to come again."""
        payload = bytes(message.payload)
        what = None if len(payload) > _MAX_PAYLOAD else notice(message.topic, payload, names=self._settings.send.names)
        if what is None or message.retain:
            _LOGGER.warning("ignored what is no event of schema 1, on %s", message.topic)
            return True
        if what.id in self._seen or self._told.get(what.track) == what.says:
            return True
        # What was told and is not true is told, whether it is asked for or not.
        wanted = what.says[0] in self._settings.send.verdicts or (what.corrected and what.track in self._told)
        if wanted and not self._tell(what, payload):
            return False
        _remember(self._seen, what.id, None)
        return True

    def _tell(self, what: Notice, payload: bytes) -> bool:
        """Send; return False if the bridge ended meanwhile."""
        if self._too_many():
            self._held_back += 1
            _LOGGER.warning("%s: held back, more than %d an hour", what.id, self._settings.send.per_hour)
            return True
        text = what.text + (f" (and {self._held_back} more, held back)" if self._held_back else "")
        wait_s, why = _WAIT_FIRST_S, ""
        for _ in range(TRIES):
            age = age_s(payload, time.time())
            if age is None or not age <= self._settings.send.max_age_s:
                _LOGGER.info("%s: too old%s", what.id, f" by now ({why})" if why else "")
                return True
            try:
                self._post(text)
            except _RefusedError as err:
                _LOGGER.error("%s: not sent: %s", what.id, err)  # noqa: TRY400 - no traceback
                return True
            except _LaterError as err:
                why = str(err)
                _LOGGER.warning("%s: %s; trying again", what.id, why)
                if self._wait(min(max(wait_s * random.uniform(0.5, 1.0), err.after_s), _WAIT_MAX_S)):
                    return False
                wait_s = min(wait_s * 2, _WAIT_MAX_S)
                continue
            self._sent_s.append(time.monotonic())
            self._held_back = 0
            _remember(self._told, what.track, what.says)
            _LOGGER.info("%s: sent", what.id)
            return True
        _LOGGER.error("%s: not sent after %d tries: %s", what.id, TRIES, why)
        return True

    def _too_many(self) -> bool:
        while self._sent_s and time.monotonic() - self._sent_s[0] > 3600:
            self._sent_s.popleft()
        return len(self._sent_s) >= self._settings.send.per_hour

    def _post(self, text: str) -> None:
        """Hand one line of text over; follows nobody elsewhere, and knows no proxy."""
        send = self._settings.send
        url = urlsplit(send.url)
        host, path = str(url.hostname), url.path
        headers = {"User-Agent": "edgecam"}
        if send.kind == "ntfy":
            body = text
            headers.update({"Title": "edgecam", **({"Authorization": f"Bearer {self._token}"} if self._token else {})})
        else:
            path = f"{path.rstrip('/')}/message"
            body = json.dumps({"title": "edgecam", "message": text, "priority": 5})
            headers.update(
                {"Content-Type": "application/json", **({"X-Gotify-Key": self._token} if self._token else {})}
            )
        try:
            connection = (
                http.client.HTTPSConnection(host, url.port, timeout=_HTTP_TIMEOUT_S, context=self._https)
                if url.scheme == "https"
                else http.client.HTTPConnection(host, url.port, timeout=_HTTP_TIMEOUT_S)
            )
            try:
                connection.request("POST", path, body.encode(), headers)
                answer = connection.getresponse()
                status, after = answer.status, answer.headers.get("Retry-After", "")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as err:
            raise _LaterError(f"{host}: {getattr(err, 'strerror', None) or err or type(err).__name__}") from err
        if status in (408, 429) or status >= 500:
            raise _LaterError(f"{host} answers {status}", float(after) if after.isdecimal() else 0.0)
        if not 200 <= status < 300:
            raise _RefusedError(f"{host} answers {status}: check send.url and send.token_file")

    # What paho calls, in its thread.

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _LOGGER.warning("the broker refuses: %s", reason)
            return
        _LOGGER.info("connected to %s", self._settings.broker.host)
        self._connection += 1
        topics = [f"edgecam/{self._settings.broker.box}/+/{kind}" for kind in ("event", RING)]
        client.subscribe([(topic, 1) for topic in topics])

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        err = sys.exc_info()[1]
        _LOGGER.warning("no connection to %s: %s", self._settings.broker.host, err or "is the broker running?")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._ended.is_set():
            _LOGGER.warning("connection lost: %s", reason)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            self._messages.put_nowait((self._connection, message))
        except queue.Full:
            _LOGGER.warning("too many messages wait; this one comes again with the next connection")


_K = TypeVar("_K")
_V = TypeVar("_V")


def _remember(store: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    store[key] = value
    if len(store) > _REMEMBERED:
        store.popitem(last=False)


def _tls(ca_file: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as err:
        raise BridgeError(f"{key} {ca_file}: {getattr(err, 'strerror', None) or 'not a PEM certificate'}") from err
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _secret(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip() if name else ""
    except (OSError, UnicodeDecodeError) as err:
        raise BridgeError(f"{name}: {getattr(err, 'strerror', None) or 'not text'}") from err


def main(argv: List[str]) -> int:
    """Run until SIGTERM; return 0, or 2 if the configuration cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        if len(argv) != 1:
            raise BridgeError("usage: python -m edgecam.bridge FILE")
        settings = load(Path(argv[0]))
        bridge = Bridge(settings, _secret(settings.broker.password_file), _secret(settings.send.token_file))
    except BridgeError as err:
        print(f"edgecam-bridge: {err}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: bridge.end())
    bridge.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
