"""The MQTT client: takes rows from the outbox and deletes them when the broker has acknowledged them.

One thread owns the connection and everything paho; others only leave notes for it. Nothing is kept in paho's own queue
beyond what is in flight, so each connection starts clean and the outbox alone decides what is sent again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, List, Optional, Protocol, Sequence, Set, Tuple, Union

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgecam.alerts import discovery
from edgecam.alerts.message import (
    OFF,
    OFFLINE,
    ON,
    ONLINE,
    MessageError,
    RingSource,
    Topics,
    finish,
    moment,
    prompt_payload,
)
from edgecam.alerts.session import FAILED_FROM, Failure, Link, LinkReport, Received, Session, explain, refused
from edgecam.clock import Clock, parse_length
from edgecam.config import AlertsConfig
from edgecam.errors import BrokerError, ConfigError, StoreError
from edgecam.types import Prompt

_LOGGER = logging.getLogger(__name__)

WINDOW = 16
"""Rows in flight at most; brokers commonly accept 20."""

CONNECT_TIMEOUT_S = 10.0
"""For TCP, for TLS, and for the broker's first answer, each."""

NEWER_TIMEOUT_S = 3.0
"""Some brokers do not answer to MQTT 5 at all; then 3.1.1 is tried."""

_OLDER = MQTTProtocolVersion.MQTTv311
_SHORT_S = 5.0
_CUT_SHORT_MANY = 2
"""So many short connections in a row are somebody else's doing."""

_POLL_S = 1.0
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 30.0
_REFUSED_RETRY_S = 60.0
_DENIED_RETRY_S = 60.0
_HEAL_EVERY_S = 5.0
_RING_GAP_S = 1.0
_SWEEP_S = 5.0
_WITHDRAW_QUIET_S, _WITHDRAW_TURNS = 1.0, 3
_PROMPTS = 8
_PROMPT_LATE_S = 2.0
"""A prompt that could not be sent for so long is not sent any more."""

_TAKEN_OVER = 142


class OutboxRow(Protocol):
    """One waiting alert."""

    @property
    def seq(self) -> int:
        """Order and key."""
        ...

    @property
    def topic(self) -> str:
        """Where to."""
        ...

    @property
    def payload(self) -> bytes:
        """As made by `message`, unfinished."""
        ...


class OutboxPort(Protocol):
    """The store's outbox; called from the client's thread only."""

    def peek(self, n: int) -> Sequence[OutboxRow]:
        """Return the oldest n rows, by seq."""
        ...

    def delete(self, seqs: Sequence[int]) -> None:
        """Delete rows; some may be gone already."""
        ...


class NoOutbox:
    """Nothing waits; for who has something else to do with the broker than to tell alerts."""

    def peek(self, n: int) -> Sequence[OutboxRow]:
        """See `OutboxPort`."""
        del n
        return ()

    def delete(self, seqs: Sequence[int]) -> None:
        """See `OutboxPort`."""


@dataclass(frozen=True)
class PauseCommand:
    """Stop looking."""

    seconds: Optional[float]
    """None: until told otherwise."""


@dataclass(frozen=True)
class ResumeCommand:
    """Look again."""


@dataclass(frozen=True)
class RingCommand:
    """The doorbell was pressed."""

    camera: str
    source: RingSource = "mqtt"


@dataclass(frozen=True)
class ChallengeCommand:
    """Whoever stands before a camera is to be asked to show that they live."""

    camera: str


Command = Union[PauseCommand, ResumeCommand, RingCommand, ChallengeCommand]


class AlertClient:
    """Deliver alerts at least once, states as they are, and hand commands over.

    Args:
        config: broker, credentials, box, discovery.
        cameras: ids of the configured cameras.
        outbox: where alerts wait; called from the client's own thread.
        clock: for the age of alerts.
        on_command: called in the client's thread; must not block.
        version: edgecam's, for Home Assistant.

    Raises:
        ConfigError: the password or CA file cannot be used.
    """

    def __init__(
        self,
        config: AlertsConfig,
        cameras: Sequence[str],
        outbox: OutboxPort,
        clock: Clock,
        on_command: Callable[[Command], None],
        version: str = "",
    ) -> None:
        self._config = config
        self._topics = Topics(config.box)
        self._cameras = tuple(cameras)
        by_camera = (self._topics.ring_press, self._topics.challenge_ask)
        self._command_topics = (self._topics.pause_set, *(topic(camera) for topic in by_camera for camera in cameras))
        self._outbox = outbox
        self._clock = clock
        self._on_command = on_command
        self._version = version
        self._password = _read_password(config)
        self._tls = _tls_context(config)
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._lock = threading.Lock()
        self._states: Dict[str, bytes] = {
            self._topics.pause_state: OFF.encode(),
            **{self._topics.camera_available(camera): OFFLINE.encode() for camera in cameras},
            **{self._topics.motion(camera): OFF.encode() for camera in cameras},
        }
        self._changed: Set[str] = set()
        self._prompts: Deque[Tuple[float, str, bytes]] = deque(maxlen=_PROMPTS)
        self._listened: Tuple[str, ...] = ()
        self._on_heard: Callable[[str, bytes, bool], None] = lambda *_: None
        self._listen_changed = False
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._report = LinkReport(Link.CONNECTING if config.host else Link.OFF, "", 0, 0, 0)
        self._acked: List[int] = []
        self._denied_until: Dict[str, float] = {}
        self._cut_short = 0
        self._last_ring: Dict[str, float] = {}
        self._store_failed = False
        self._drained = threading.Condition()
        self._drain_asked = self._drain_done = 0
        self.last_turn_s = clock.monotonic_s()
        """When the thread was last seen alive (monotonic); the watchdog looks at it."""

    # What others may call, from any thread.

    def start(self) -> None:
        """Start the thread; without a broker there is none and alerts wait in the outbox."""
        if self._config.host is None:
            _LOGGER.info("no broker configured (alerts.host): alerts wait in the outbox")
            return
        self._thread = threading.Thread(target=self._guarded, name="alerts", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Say `offline`, disconnect and end; return whether that was done in time (a frozen broker may prevent it)."""
        self._stop.set()
        self.wake()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def withdraw(self) -> int:
        """Instead of `start`: remove all that the broker keeps of this box and its devices; return how many topics.

        Whose client runs, puts it there again; so stop that first.

        Raises:
            BrokerError: the broker cannot be reached, or does not let us.
        """
        session = self._connect()
        if session is None:
            raise BrokerError(f"the broker: {self._report.detail}")
        wanted = [f"edgecam/{self._config.box}/#"]
        if self._config.discovery_prefix is not None:
            wanted.append(discovery.config_topic(self._config.discovery_prefix, "+"))
        removed: Set[str] = set()
        kept: Set[str] = set()
        try:
            for _ in range(_WITHDRAW_TURNS):
                kept = self._kept(session, wanted)
                if not kept:
                    return len(removed)
                for topic in kept:
                    session.publish(topic, b"", retain=True)
                self._settle(session)
                removed |= kept
        finally:
            session.close()
        raise BrokerError(f"the broker still keeps {min(kept)}: does its ACL let {self._config.username} write there?")

    def wake(self) -> None:
        """Look at the outbox now; call it after a commit."""
        with contextlib.suppress(OSError):  # full: awake anyway
            self._wake_w.send(b"x")

    def listen(self, topics: Sequence[str], on_heard: Callable[[str, bytes, bool], None]) -> None:
        """From now on hand over what others say on these topics: (topic, at most 256 bytes, whether it was retained).

        Called in the client's thread; must not block.
        """
        with self._lock:
            self._listened, self._on_heard, self._listen_changed = tuple(dict.fromkeys(topics)), on_heard, True
        self.wake()

    def drain(self, timeout_s: float) -> bool:
        """Wait until the outbox is empty and everything acknowledged; return whether it is."""
        with self._drained:
            self._drain_asked += 1
            ticket = self._drain_asked
            self.wake()
            return self._drained.wait_for(lambda: self._drain_done >= ticket, timeout_s)

    def set_camera_online(self, camera: str, *, online: bool) -> None:
        """Tell whether a camera delivers pictures."""
        self._set_state(self._topics.camera_available(camera), (ONLINE if online else OFFLINE).encode())

    def set_motion(self, camera: str, *, moving: bool) -> None:
        """Tell whether something moves."""
        self._set_state(self._topics.motion(camera), (ON if moving else OFF).encode())

    def set_health(self, camera: str, payload: bytes) -> None:
        """Tell a camera's health (see `message.health_payload`)."""
        self._set_state(self._topics.health(camera), payload)

    def set_paused(self, *, paused: bool) -> None:
        """Tell whether the box is paused."""
        self._set_state(self._topics.pause_state, (ON if paused else OFF).encode())

    def say(self, prompt: Prompt) -> None:
        """Publish a prompt now; while the broker is away it is lost, for later nobody stands there any more."""
        with self._lock:
            self._prompts.append(
                (self._clock.monotonic_s(), self._topics.prompt(prompt.camera), prompt_payload(prompt))
            )
        self.wake()

    @property
    def report(self) -> LinkReport:
        """How the broker is."""
        return self._report

    def _set_state(self, topic: str, payload: bytes) -> None:
        """Note the newest state; what lies between is never sent."""
        with self._lock:
            if self._states.get(topic) == payload:
                return
            self._states[topic] = payload
            self._changed.add(topic)
        self.wake()

    # Everything below runs in the client's thread.

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception:
            # The heartbeat stops with the thread, and the watchdog acts on that.
            _LOGGER.exception("the alerts thread died")
            raise

    def _run(self) -> None:
        delay_s = _RETRY_FIRST_S
        while not self._stop.is_set():
            session = self._connect()
            if session is not None:
                began = self._clock.monotonic_s()
                self._serve(session)
                lasted_s = self._clock.monotonic_s() - began
                delay_s = _RETRY_FIRST_S if lasted_s > _RETRY_MAX_S else delay_s
                self._cut_short = self._cut_short + 1 if lasted_s < _SHORT_S else 0
            if self._stop.is_set():
                break
            refused = self._report.link in (Link.REFUSED, Link.UNTRUSTED)
            self._rest((_REFUSED_RETRY_S if refused else delay_s) * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, _RETRY_MAX_S)
        self._set_link(Link.STOPPED, "")

    def _rest(self, seconds: float) -> None:
        """Wait for the next attempt, with a heartbeat."""
        until = self._clock.monotonic_s() + seconds
        while not self._stop.is_set() and (left := until - self._clock.monotonic_s()) > 0:
            self._beat()
            self._stop.wait(min(left, _POLL_S))

    def _beat(self) -> None:
        self.last_turn_s = self._clock.monotonic_s()

    def _connect(self) -> Optional[Session]:
        """Return a session the broker has accepted, or None with the link set to why not."""
        outcome = self._attempt(self._protocol)
        if isinstance(outcome, Failure) and outcome.try_older and self._protocol != _OLDER:
            before, outcome = outcome, self._attempt(_OLDER)
            if not isinstance(outcome, Failure) and not before.hung_up:
                self._protocol = _OLDER  # one that merely hung up (a restart) is asked again next time
        if not isinstance(outcome, Failure):
            return outcome
        self._set_link(outcome.link, outcome.detail)
        return None

    def _attempt(self, protocol: MQTTProtocolVersion) -> Union[Session, Failure]:
        session = Session(self._new_paho(protocol), self._wake_r)
        host, port = str(self._config.host), self._config.port
        # Name look-up, TCP and TLS may block for long: a helper does it, so that stop() and the watchdog never wait.
        helper = threading.Thread(target=session.open, args=(host, port), name="alerts-connect", daemon=True)
        helper.start()
        while helper.is_alive():
            helper.join(0.2)
            self._beat()
            if self._stop.is_set():
                session.abandon()
                return Failure(Link.STOPPED, "")
        if session.error is not None:
            return explain(session.error, host, port)
        until = self._clock.monotonic_s() + (CONNECT_TIMEOUT_S if protocol == _OLDER else NEWER_TIMEOUT_S)
        while session.connack is None and not self._stop.is_set():
            self._beat()
            session.turn(0.2)
            if session.lost:
                break
            if self._clock.monotonic_s() > until:
                session.close()
                detail = f"{host}:{port} does not answer (is the broker hanging?)"
                return Failure(Link.UNREACHABLE, detail, try_older=True)
        if session.connack is None:
            session.close()
            hint = "" if self._config.tls else "; does it want TLS (alerts.tls = true)?"
            detail = f"{host}:{port} hung up before answering: is it an MQTT broker{hint or '?'}"
            return Failure(Link.UNREACHABLE, detail, try_older=True, hung_up=True)
        code, text = session.connack
        if code >= FAILED_FROM:
            session.close()
            return refused(code, text, self._config)
        return session

    def _new_paho(self, protocol: MQTTProtocolVersion) -> paho.Client:
        # The same id for every connection: the broker then ends a half-dead old one at once, and its will is sent
        # before, not after, the `online` of the new one.
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgecam-{self._config.box}",
            protocol=protocol,
            reconnect_on_failure=False,
            clean_session=True if protocol == _OLDER else None,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(WINDOW + 4)
        client.will_set(self._topics.available, OFFLINE, qos=1, retain=True)
        if self._config.username is not None:
            client.username_pw_set(self._config.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        return client

    def _serve(self, session: Session) -> None:
        """Work until the connection is lost or the client is stopped."""
        host, port = self._config.host, self._config.port
        self._set_link(Link.CONNECTED, f"{host}:{port}")
        self._greet(session)
        while not session.lost and not self._stop.is_set():
            self._beat()
            if not self._turn(session):
                session.turn(_POLL_S)
        if session.lost:
            self._lost(session)
            return
        self._farewell(session)

    def _lost(self, session: Session) -> None:
        text = f"connection lost ({session.lost_why})"
        if session.lost_code == _TAKEN_OVER or self._cut_short >= _CUT_SHORT_MANY:
            name = f"edgecam-{self._config.box}"
            text = f"cut off by the broker: does another client call itself {name}? Each box needs its own alerts.box"
        self._note_acks(session)
        self._delete_acked()
        self._set_link(Link.UNREACHABLE, text)

    def _farewell(self, session: Session) -> None:
        """Say `offline`, let what is in flight be acknowledged, disconnect."""
        session.publish(self._topics.available, OFFLINE.encode(), retain=True)
        self._settle(session)
        self._delete_acked()
        session.close()

    def _kept(self, session: Session, wanted: Sequence[str]) -> Set[str]:
        """Return the topics that the broker keeps of this box; it sends them at once, but does not say when it has."""
        session.subscribe(wanted)
        heard_s, kept = self._clock.monotonic_s(), set()
        while not session.lost and self._clock.monotonic_s() - heard_s < _WITHDRAW_QUIET_S:
            session.turn(0.1)
            for message in session.take_messages():
                if message.retain and message.payload and self._is_ours(message.topic):
                    kept.add(message.topic)
                    heard_s = self._clock.monotonic_s()
        session.unsubscribe(wanted)
        if session.lost:
            raise BrokerError(f"the broker: connection lost ({session.lost_why})")
        return kept

    def _is_ours(self, topic: str) -> bool:
        box, prefix = self._config.box, f"{self._config.discovery_prefix}/device/"
        if not (topic.startswith(prefix) and topic.endswith("/config")):
            return topic.startswith(f"edgecam/{box}/")
        object_id = topic[len(prefix) : -len("/config")]
        return object_id == discovery.box_id(box) or discovery.is_camera_of(object_id, box)

    def _settle(self, session: Session) -> None:
        """Let what is in flight be acknowledged."""
        until = self._clock.monotonic_s() + 2.0
        while not session.lost and session.waiting and self._clock.monotonic_s() < until:
            self._beat()
            session.turn(0.1)
            self._note_acks(session)

    def _greet(self, session: Session) -> None:
        """Subscribe, introduce the devices, tell every state."""
        prefix, topics = self._config.discovery_prefix, self._topics
        wanted = [topics.available, *self._command_topics]
        if prefix is not None:
            wanted.append(discovery.status_topic(prefix))
        self._listen_changed = bool(self._listened)
        session.subscribe(wanted)
        self._sweep_begin(session)
        self._introduce(session)
        session.publish(topics.available, ONLINE.encode(), retain=True)
        self._tell_states(session, everything=True)
        session.healed_s = self._clock.monotonic_s()

    def _introduce(self, session: Session) -> None:
        prefix, box = self._config.discovery_prefix, self._config.box
        if prefix is None:
            return
        configs = [discovery.box_config(prefix, box, self._version)]
        configs += [discovery.camera_config(prefix, box, camera, self._version) for camera in self._cameras]
        for config in configs:
            session.publish(config.topic, config.payload, retain=True)

    def _tell_states(self, session: Session, *, everything: bool) -> None:
        with self._lock:
            names = set(self._states) if everything else set(self._changed)
            due = [(topic, self._states[topic]) for topic in sorted(names)]
            self._changed.clear()
        for topic, payload in due:
            session.publish(topic, payload, retain=True)

    def _sweep_begin(self, session: Session) -> None:
        """Look at what the broker keeps of this box for a moment: cameras that are gone are removed."""
        box, prefix = self._config.box, self._config.discovery_prefix
        session.sweep = [f"edgecam/{box}/+/{leaf}" for leaf in ("available", "motion", "health")]
        if prefix is not None:
            session.sweep.append(discovery.config_topic(prefix, "+"))
        session.sweep_until_s = self._clock.monotonic_s() + _SWEEP_S
        session.subscribe(session.sweep)

    def _turn(self, session: Session) -> bool:
        """Do what is to be done; return whether there may be more at once."""
        now_s = self._clock.monotonic_s()
        if session.sweep and now_s > session.sweep_until_s:
            session.unsubscribe(session.sweep)
            session.sweep = []
        if self._listen_changed:
            self._listen_changed = False
            if self._listened:
                session.subscribe(self._listened)
        for message in session.take_messages():
            self._receive(session, message)
        self._heal(session)
        if self._changed:
            self._tell_states(session, everything=False)
        self._say_prompts(session, now_s)
        self._note_acks(session)
        self._delete_acked()
        return self._send(session)

    def _say_prompts(self, session: Session, now_s: float) -> None:
        with self._lock:
            due = [(topic, payload) for at_s, topic, payload in self._prompts if now_s - at_s <= _PROMPT_LATE_S]
            self._prompts.clear()
        for topic, payload in due:
            session.publish(topic, payload, retain=False)

    def _send(self, session: Session) -> bool:
        """Put waiting rows in flight, oldest first; return whether a row was found broken."""
        if len(session.inflight) >= WINDOW:
            return False
        asked = self._drain_asked  # before looking: a row put in after this look is not what was asked about
        held = set(session.inflight.values()) | set(self._acked)
        try:
            rows, empty = self._sendable(WINDOW - len(session.inflight), held)
        except StoreError as err:
            self._store_trouble(err)
            return False
        if empty and not held:
            with self._drained:
                self._drain_done = asked
                self._drained.notify_all()
        broken = False
        for row in rows:
            if len(session.inflight) < WINDOW and not session.lost:
                broken |= not self._send_row(session, row)
        return broken

    def _sendable(self, count: int, held: Set[int]) -> Tuple[List[OutboxRow], bool]:
        """Return the oldest rows that may be sent, and whether nothing waits at all.

        Topics that the broker denies hold up no other, however many of their rows are older.
        """
        now_s, looked = self._clock.monotonic_s(), WINDOW
        denied = {topic for topic, until_s in self._denied_until.items() if until_s > now_s}
        while True:
            rows = self._outbox.peek(looked)
            found = [row for row in rows if row.seq not in held and row.topic not in denied]
            if len(found) >= count or len(rows) < looked or not denied:
                return found[:count], not rows
            looked *= 4

    def _send_row(self, session: Session, row: OutboxRow) -> bool:
        try:
            if not row.topic.startswith(f"edgecam/{self._config.box}/") or set(row.topic) & set("+#\0"):
                raise MessageError("not a topic of this box")
            payload = finish(row.topic, row.payload, moment(self._clock))
        except MessageError as err:
            _LOGGER.error("outbox row %d is not sent and dropped: %s", row.seq, err)  # noqa: TRY400 - one line
            self._count(unsendable=1)
            self._acked.append(row.seq)
            return False
        session.publish_row(row.topic, payload, row.seq)
        return True

    def _note_acks(self, session: Session) -> None:
        for topic, seq, code, text in session.take_acks():
            if code < FAILED_FROM:
                self._acked.append(seq)
                self._count(sent=1)
                continue
            self._count(denied=1)
            if topic not in self._denied_until:
                _LOGGER.error(
                    "the broker does not let us publish to %s (%s): allow user %s to write edgecam/%s/#",
                    topic,
                    text,
                    self._config.username or "(none)",
                    self._config.box,
                )
            self._denied_until[topic] = self._clock.monotonic_s() + _DENIED_RETRY_S

    def _delete_acked(self) -> None:
        if not self._acked:
            return
        try:
            self._outbox.delete(tuple(self._acked))
        except StoreError as err:
            self._store_trouble(err)
            return
        self._acked.clear()
        self._store_failed = False

    def _store_trouble(self, err: StoreError) -> None:
        if not self._store_failed:
            _LOGGER.error("outbox: %s; tried again every second", err)
        self._store_failed = True

    def _receive(self, session: Session, message: Received) -> None:
        topic, topics = message.topic, self._topics
        if topic in self._listened:
            self._on_heard(topic, message.payload, message.retain)
            return
        if session.sweep and message.retain and self._sweep(session, message):
            return
        if topic == topics.available:
            session.denied_us = message.payload != ONLINE.encode()
        elif self._config.discovery_prefix and topic == discovery.status_topic(self._config.discovery_prefix):
            if message.payload == ONLINE.encode():
                self._introduce(session)
                session.publish(topics.available, ONLINE.encode(), retain=True)
                self._tell_states(session, everything=True)
        elif message.retain and topic in self._command_topics:
            # A retained command would be obeyed again after every reconnect.
            _LOGGER.warning("ignored a retained command on %s: send commands without retain", topic)
        else:
            command = self._command(message)
            if command is not None:
                self._hand_over(command)

    def _heal(self, session: Session) -> None:
        """Contradict an `offline` that is not true (a late will, a stranger), but not in a quick dispute."""
        now_s = self._clock.monotonic_s()
        if session.denied_us and now_s - session.healed_s > _HEAL_EVERY_S:
            session.healed_s = now_s
            session.publish(self._topics.available, ONLINE.encode(), retain=True)

    def _sweep(self, session: Session, message: Received) -> bool:
        """Remove what the broker keeps of a camera that is no longer configured; return whether it was that."""
        topic, box = message.topic, self._config.box
        prefix = self._config.discovery_prefix
        parts = topic.split("/")
        if len(parts) == 4 and parts[:2] == ["edgecam", box] and parts[3] in ("available", "motion", "health"):
            if parts[2] not in self._cameras and message.payload:
                session.publish(topic, b"", retain=True)
            return True
        if prefix is not None and topic.startswith(f"{prefix}/device/") and topic.endswith("/config"):
            object_id = topic[len(prefix) + len("/device/") : -len("/config")]
            current = {discovery.camera_id(box, camera) for camera in self._cameras}
            if message.payload and discovery.is_camera_of(object_id, box) and object_id not in current:
                session.publish(topic, b"", retain=True)
            return True
        return False

    def _command(self, message: Received) -> Optional[Command]:
        if message.topic == self._topics.pause_set:
            return parse_pause(message.payload)
        for camera in self._cameras:
            if message.topic == self._topics.ring_press(camera):
                now_s = self._clock.monotonic_s()
                if now_s - self._last_ring.get(camera, -_RING_GAP_S) < _RING_GAP_S:
                    return None
                self._last_ring[camera] = now_s
                return RingCommand(camera)
            if message.topic == self._topics.challenge_ask(camera):
                return ChallengeCommand(camera)
        return None

    def _hand_over(self, command: Command) -> None:
        try:
            self._on_command(command)
        except Exception:
            _LOGGER.exception("a command by MQTT failed")

    def _set_link(self, link: Link, detail: str) -> None:
        before = self._report
        self._report = LinkReport(link, detail, before.sent, before.unsendable, before.denied)
        if link is before.link and (link is not Link.REFUSED or detail == before.detail):
            return
        if link in (Link.CONNECTED, Link.STOPPED):
            _LOGGER.info("broker %s %s", link.value, detail)
        else:
            _LOGGER.warning("broker %s: %s; alerts wait in the outbox", link.value, detail)

    def _count(self, *, sent: int = 0, unsendable: int = 0, denied: int = 0) -> None:
        old = self._report
        self._report = LinkReport(
            old.link, old.detail, old.sent + sent, old.unsendable + unsendable, old.denied + denied
        )


def parse_pause(payload: bytes) -> Optional[Command]:
    """Return the command of a `pause/set` payload: ON, OFF, or a duration such as `90s`, `30m`, `4h`, `2d`."""
    try:
        seconds = parse_length(payload[:32].decode("ascii", "replace"))
    except ValueError:
        _LOGGER.warning("ignored a pause command: say ON, OFF or a duration such as 30m or 4h")
        return None
    return ResumeCommand() if seconds == 0 else PauseCommand(seconds)


def _read_password(config: AlertsConfig) -> Optional[str]:
    secret = config.secret_file()
    if secret is None:
        return None
    if config.username is None:
        raise ConfigError("alerts.password_file is given without alerts.username: give both")
    try:
        return secret.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"alerts.password_file {secret}: {_why(err)}") from err


def _tls_context(config: AlertsConfig) -> Optional[ssl.SSLContext]:
    if not config.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(f"alerts.ca_file {config.ca_file}: not a readable PEM certificate ({_why(err)})") from err
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _why(err: Exception) -> str:
    return err.strerror if isinstance(err, OSError) and err.strerror else type(err).__name__
