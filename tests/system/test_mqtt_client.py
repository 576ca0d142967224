"""The MQTT client against a real mosquitto: what arrives, what survives, what is said when it does not work."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest
from broker import Broker, Certificates, Listener, free_port, make_certificates, mosquitto, until
from mqtt_box import BOX, CAMERA, TOPICS, SqliteOutbox, put

from edgecam.__main__ import main
from edgecam.alerts import client as client_module
from edgecam.alerts import discovery
from edgecam.alerts.client import AlertClient, Command, PauseCommand, ResumeCommand, RingCommand
from edgecam.alerts.message import check
from edgecam.alerts.session import Link
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig
from edgecam.errors import ConfigError, StoreError

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed: apt-get install mosquitto"),
    pytest.mark.timeout(60),
]

HERE = Path(__file__).parent
EVENTS = TOPICS.event(CAMERA)
PREFIX = "homeassistant"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon: these tests are about what happens, not about how long it takes."""
    for name, seconds in (("_RETRY_FIRST_S", 0.1), ("_RETRY_MAX_S", 0.3), ("_REFUSED_RETRY_S", 0.3)):
        monkeypatch.setattr(client_module, name, seconds)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


class Box:
    """A client with its outbox."""

    def __init__(self, folder: Path, outbox: Any = None, cameras: Sequence[str] = (CAMERA,), **config: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.outbox = SqliteOutbox(folder / "outbox.db") if outbox is None else outbox
        self.commands: List[Command] = []
        settings: Dict[str, Any] = {"host": "localhost", "tls": False, "box": BOX, **config}
        self.client = AlertClient(
            AlertsConfig(**settings), cameras, self.outbox, SystemClock(), self.commands.append, "0.1"
        )

    def put(self, *ids: str) -> None:
        put(self.outbox, ids)
        self.client.wake()

    def link_is(self, link: Link) -> bool:
        return self.client.report.link is link

    def __enter__(self) -> Box:
        self.client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as started:
        yield started


def ids(listener: Listener, topic: str = EVENTS) -> List[str]:
    return [json.loads(payload)["id"] for payload in listener.on(topic)]


def once(found: Sequence[str]) -> List[str]:
    """Return ids as a receiver keeps them: the first of each."""
    return list(dict.fromkeys(found))


def numbered(*numbers: int) -> List[str]:
    return [f"id-{n}" for n in range(*numbers)]


def warnings(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def password_file(folder: Path, password: str) -> Path:
    path = folder / "password"
    path.write_text(password + "\n")
    return path


def test_rows_arrive_in_order_and_leave_the_outbox(tmp_path: Path, broker: Broker) -> None:
    with Listener(broker, f"edgecam/{BOX}/#") as listener, Box(tmp_path, port=broker.port) as box:
        box.put(*numbered(100))
        assert box.client.drain(10)
        until(lambda: len(ids(listener)) == 100, "all rows")
        assert ids(listener) == numbered(100)
        assert len(box.outbox) == 0
        assert box.client.report.sent == 100
        assert not any(retained for topic, _, retained in listener.heard if topic == EVENTS)
    for payload in listener.on(EVENTS):
        check("event", json.loads(payload))


def test_events_are_never_retained_and_availability_always_is(tmp_path: Path, broker: Broker) -> None:
    with Box(tmp_path, port=broker.port) as box:
        box.client.set_camera_online(CAMERA, online=True)
        box.put("id-0")
        assert box.client.drain(10)
        with Listener(broker, "edgecam/#") as late:
            until(lambda: late.on(TOPICS.available) == [b"online"], "availability")
            until(lambda: late.on(TOPICS.camera_available(CAMERA)) == [b"online"], "camera")
            assert late.on(EVENTS) == []
            assert all(retained for _, _, retained in late.heard)
    with Listener(broker, "edgecam/#") as late:
        until(lambda: late.on(TOPICS.available) == [b"offline"], "a clean stop says so")


def test_tls_and_password(tmp_path: Path, certificates: Certificates) -> None:
    with Broker(tmp_path / "broker", tls=certificates, users={"box": "right", "reader": "r"}) as broker:
        secret = password_file(tmp_path, "right")
        tls: Dict[str, Any] = {"tls": True, "ca_file": certificates.ca, "username": "box", "password_file": secret}
        with Listener(broker, EVENTS, user="reader") as listener, Box(tmp_path, port=broker.port, **tls) as box:
            box.put(*numbered(50))
            assert box.client.drain(10)
            until(lambda: ids(listener) == numbered(50), "all rows over TLS")


def test_a_wrong_password_is_said_once_and_loses_nothing(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with Broker(tmp_path / "broker", tls=certificates, users={"box": "right", "reader": "r"}) as broker:
        wrong = password_file(tmp_path, "wr0ng-pa55")
        tls: Dict[str, Any] = {"tls": True, "ca_file": certificates.ca, "username": "box", "password_file": wrong}
        with Listener(broker, EVENTS, user="reader") as listener, Box(tmp_path, port=broker.port, **tls) as box:
            box.put("id-0")
            until(lambda: box.link_is(Link.REFUSED), "refused")
            time.sleep(1.0)  # several more attempts
            assert broker.log().count("not authorised") >= 2
            (line,) = warnings(caplog)
            assert "alerts.password_file" in line
            assert "wr0ng-pa55" not in caplog.text
            assert len(box.outbox) == 1
            broker.set_password("box", "wr0ng-pa55")
            until(lambda: ids(listener) == ["id-0"], "sent once the password is right")
            assert box.link_is(Link.CONNECTED)


def test_a_wrong_ca_is_not_trusted(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_certificates(tmp_path / "other")
    with Broker(tmp_path / "broker", tls=certificates) as broker:
        with Box(tmp_path, port=broker.port, tls=True, ca_file=other.ca) as box:
            box.put("id-0")
            until(lambda: box.link_is(Link.UNTRUSTED), "untrusted")
            time.sleep(0.6)
            (line,) = warnings(caplog)
            assert "alerts.ca_file" in line
            assert len(box.outbox) == 1
        assert "New client connected" not in broker.log()


def test_a_certificate_for_another_host_is_not_trusted(tmp_path: Path) -> None:
    elsewhere = make_certificates(tmp_path / "elsewhere", host="broker.example")
    with Broker(tmp_path / "broker", tls=elsewhere) as broker:
        with Box(tmp_path, port=broker.port, tls=True, ca_file=elsewhere.ca) as box:
            until(lambda: box.link_is(Link.UNTRUSTED), "untrusted")
            assert "alerts.host" in box.client.report.detail
        assert "New client connected" not in broker.log()


def test_tls_and_plain_mixed_up_is_explained(tmp_path: Path, broker: Broker, certificates: Certificates) -> None:
    with Box(tmp_path / "a", port=broker.port, tls=True, ca_file=certificates.ca) as box:
        until(lambda: box.link_is(Link.UNREACHABLE), "no TLS there")
        assert "alerts.tls" in box.client.report.detail
    with Broker(tmp_path / "tls", tls=certificates) as secure, Box(tmp_path / "b", port=secure.port) as box:
        until(lambda: box.link_is(Link.UNREACHABLE), "TLS wanted")
        assert "alerts.tls" in box.client.report.detail


def test_a_broker_that_comes_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    with Box(tmp_path, port=port) as box:
        box.put(*numbered(5))
        until(lambda: box.link_is(Link.UNREACHABLE), "unreachable")
        time.sleep(1.0)
        assert len(warnings(caplog)) == 1
        # A subscriber's session is made first, else nobody would be there to hear.
        with Broker(tmp_path / "broker", port=port) as broker, Listener(broker, EVENTS) as listener:
            box.put(*numbered(5, 8))
            assert box.client.drain(10)
            until(lambda: once(ids(listener))[-1:] == ["id-7"], "the rows after the start")
            assert len(box.outbox) == 0


def test_an_unknown_host(tmp_path: Path) -> None:
    with Box(tmp_path, host="no-such-host.invalid", port=1883) as box:
        until(lambda: box.link_is(Link.UNREACHABLE), "unreachable")
        assert "alerts.host" in box.client.report.detail
        assert box.client.stop(3.0)


class Remembering(SqliteOutbox):
    """Knows when each row was acknowledged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.acknowledged: Dict[str, float] = {}

    def delete(self, seqs: Sequence[int]) -> None:
        names = {row.seq: json.loads(row.payload)["id"] for row in self.peek(64)}
        self.acknowledged.update({names[seq]: time.monotonic() for seq in seqs if seq in names})
        super().delete(seqs)


def test_a_broker_killed_with_rows_in_flight_loses_nothing(tmp_path: Path) -> None:
    """The subscriber is away all the time: what the broker had acknowledged it must have kept."""
    broker = Broker(tmp_path / "broker", persistent=True).start()
    try:
        with Listener(broker, EVENTS, client_id="house"):
            pass
        with Box(tmp_path, port=broker.port) as box:
            for first in (0, 40, 80):
                box.put(*numbered(first, first + 20))
                assert box.client.drain(10)
                time.sleep(0.5)  # the broker has saved what it acknowledged
                broker.freeze()
                box.put(*numbered(first + 20, first + 40))
                time.sleep(0.3)  # sent, and in its buffers
                assert len(box.outbox) == 20
                broker.kill()
                broker.start()
            assert box.client.drain(10)
        with Listener(broker, EVENTS, client_id="house") as house:
            until(lambda: once(ids(house)) == numbered(120), "every row, in order")
    finally:
        broker.kill()


def test_a_broker_killed_in_mid_stream_loses_at_most_what_it_had_just_acknowledged(tmp_path: Path) -> None:
    """mosquitto acknowledges a moment before it saves; nobody but it can close that gap."""
    broker = Broker(tmp_path / "broker", persistent=True).start()
    outbox = Remembering(tmp_path / "outbox.db")
    kills: List[float] = []
    try:
        with Listener(broker, EVENTS, client_id="house"):
            pass
        with Box(tmp_path, outbox, port=broker.port) as box:

            def feed() -> None:
                for number in range(300):
                    box.put(f"id-{number}")
                    time.sleep(0.003)

            feeder = threading.Thread(target=feed)
            feeder.start()
            for _ in range(2):
                time.sleep(0.3)
                broker.kill()
                kills.append(time.monotonic())
                time.sleep(0.2)
                broker.start()
            feeder.join()
            assert box.client.drain(20)
        with Listener(broker, EVENTS, client_id="house") as house:
            until(lambda: "id-299" in ids(house), "the last row")
            time.sleep(0.3)
            found = once(ids(house))
        assert sorted(found, key=lambda i: int(i[3:])) == found
        missing = set(numbered(300)) - set(found)
        just_before = {i for i, at in outbox.acknowledged.items() if any(-0.5 < at - kill < 0.1 for kill in kills)}
        assert missing <= just_before
        assert len(missing) < 30
    finally:
        broker.kill()


def test_a_client_killed_in_mid_stream_loses_nothing(tmp_path: Path, broker: Broker) -> None:
    command = [sys.executable, str(HERE / "mqtt_box.py"), "--port", str(broker.port)]
    command += ["--outbox", str(tmp_path / "outbox.db")]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    with Listener(broker, EVENTS, TOPICS.available) as listener:
        first = 0
        for _ in range(2):
            box = subprocess.Popen(
                [*command, "--first", str(first), "--count", "100000"], stdout=subprocess.PIPE, env=environment
            )
            assert box.stdout is not None
            for line in box.stdout:
                first = int(line) + 1
                if first % 100 == 50:
                    break
            box.send_signal(signal.SIGKILL)
            box.wait(10)
            first = max([first, *(int(line) + 1 for line in box.stdout.read().split())])
            box.stdout.close()
        # A row may be in the outbox although its number was never printed.
        with sqlite3.connect(str(tmp_path / "outbox.db")) as db:
            (first,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        until(lambda: listener.on(TOPICS.available)[-1:] == [b"offline"], "the will")
        subprocess.run([*command, "--drain", "--count", "0"], env=environment, check=True, timeout=30)
        until(lambda: len(set(ids(listener))) >= first, "every row")
        found = once(ids(listener))
        assert sorted(found, key=lambda i: int(i[3:])) == found
        assert len(found) >= 100


def test_the_will_says_offline(tmp_path: Path, broker: Broker) -> None:
    command = [sys.executable, str(HERE / "mqtt_box.py"), "--port", str(broker.port)]
    command += ["--outbox", str(tmp_path / "outbox.db"), "--count", "1000000"]
    with Listener(broker, TOPICS.available) as listener:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
        ) as box:
            until(lambda: listener.on(TOPICS.available) == [b"online"], "online")
            box.kill()
        until(lambda: listener.on(TOPICS.available) == [b"online", b"offline"], "the will")
    with Listener(broker, TOPICS.available) as late:
        until(lambda: late.heard == [(TOPICS.available, b"offline", True)], "kept by the broker")


def test_a_frozen_broker_blocks_nobody(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecam.alerts.session.KEEPALIVE_S", 2)
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT_S", 1.0)
    with Box(tmp_path, port=broker.port) as box, Listener(broker, EVENTS) as listener:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        broker.freeze()
        began = time.monotonic()
        for n in range(200):
            box.put(f"id-{n}")
            box.client.set_motion(CAMERA, moving=bool(n % 2))
        assert time.monotonic() - began < 2.0
        until(lambda: box.link_is(Link.UNREACHABLE), "given up")
        assert time.monotonic() - box.client.last_turn_s < 1.5
        broker.thaw()
        until(lambda: set(ids(listener)) == set(numbered(200)), "everything after the thaw")
        assert once(ids(listener)) == numbered(200)
        assert box.client.drain(5)
        broker.freeze()
        box.put("id-200")
        time.sleep(0.2)
        began = time.monotonic()
        box.client.stop(4.0)
        assert time.monotonic() - began < 4.5
        broker.thaw()
    assert len(box.outbox) in (0, 1)


def test_commands_are_handed_over(tmp_path: Path, broker: Broker) -> None:
    with Listener(broker, EVENTS) as remote, Box(tmp_path, port=broker.port) as box:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        for payload in ("4h", "ON", "off", "nonsense", "0m"):
            remote.say(TOPICS.pause_set, payload)
        remote.say(TOPICS.ring_press(CAMERA), "PRESS")
        remote.say(TOPICS.ring_press(CAMERA), "PRESS")  # a bouncing button
        remote.say(TOPICS.ring_press("elsewhere"), "PRESS")
        wanted: List[Command] = [PauseCommand(14_400.0), PauseCommand(None), ResumeCommand(), ResumeCommand()]
        until(lambda: box.commands == [*wanted, RingCommand(CAMERA)], f"commands, got {box.commands}")


def test_a_retained_command_is_not_obeyed(tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with Listener(broker, TOPICS.pause_set) as remote:
        remote.say(TOPICS.pause_set, "ON", retain=True)
        until(lambda: remote.heard, "kept by the broker")
    with Box(tmp_path, port=broker.port) as box:
        until(lambda: any("retained command" in line for line in warnings(caplog)), "said so")
        assert box.commands == []


def test_a_failing_command_does_not_stop_the_alerts(tmp_path: Path, broker: Broker) -> None:
    def fail(_: Command) -> None:
        raise RuntimeError("a bug elsewhere")

    box = Box(tmp_path, port=broker.port)
    box.client._on_command = fail
    with box, Listener(broker, EVENTS) as listener:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        listener.say(TOPICS.pause_set, "ON")
        box.put("id-0")
        until(lambda: ids(listener) == ["id-0"], "still alive")


def test_home_assistants_birth_brings_everything_again(tmp_path: Path, broker: Broker) -> None:
    front = discovery.config_topic(PREFIX, discovery.camera_id(BOX, CAMERA))
    own = discovery.config_topic(PREFIX, discovery.box_id(BOX))
    with Listener(broker, f"{PREFIX}/#", f"edgecam/{BOX}/#") as house, Box(tmp_path, port=broker.port) as box:
        until(lambda: len(house.on(front)) == 1, "introduced")
        box.client.set_camera_online(CAMERA, online=True)
        box.client.set_motion(CAMERA, moving=True)
        until(lambda: house.on(TOPICS.motion(CAMERA))[-1:] == [b"ON"], "motion")
        before = len(house.heard)
        house.say(f"{PREFIX}/status", "online")
        until(lambda: len(house.on(front)) == 2, "introduced again")
        until(lambda: TOPICS.pause_state in [topic for topic, _, _ in house.heard[before:]], "states again")
        again = {topic: payload for topic, payload, _ in house.heard[before:]}
        assert json.loads(again[front])
        assert json.loads(again[own])
        assert again[TOPICS.available] == b"online"
        assert again[TOPICS.camera_available(CAMERA)] == b"online"
        assert again[TOPICS.motion(CAMERA)] == b"ON"
        order = [topic for topic, _, _ in house.heard[before:]]
        assert order.index(front) < order.index(TOPICS.available)


def test_a_removed_camera_disappears_and_nobody_elses(tmp_path: Path, broker: Broker) -> None:
    names = (CAMERA, "back_yard")
    with Box(tmp_path, cameras=names, port=broker.port) as box:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        box.client.set_motion("back_yard", moving=True)
        assert box.client.drain(5)
    others = {
        discovery.config_topic(PREFIX, discovery.camera_id(f"{BOX}_back", "yard")): "{}",
        f"edgecam/{BOX}2/gone/available": "online",
        f"{PREFIX}/device/zigbee/config": "{}",
    }
    with Listener(broker, EVENTS) as house:
        for topic, payload in others.items():
            house.say(topic, payload, retain=True)
    with Box(tmp_path, port=broker.port) as box:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        time.sleep(0.5)
    with Listener(broker, "#") as late:
        until(lambda: late.on(TOPICS.available), "what is kept")
        time.sleep(0.2)
        kept = {topic for topic, _, _ in late.heard}
    assert set(others) <= kept
    assert {discovery.config_topic(PREFIX, discovery.camera_id(BOX, CAMERA)), TOPICS.motion(CAMERA)} <= kept
    assert not [topic for topic in kept if "back-_yard" in topic.replace(f"{BOX}-_back", "")]
    assert not [topic for topic in kept if topic.startswith(f"edgecam/{BOX}/back_yard/")]


def test_withdraw_leaves_nothing_of_this_box_and_all_of_the_others(
    tmp_path: Path, broker: Broker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_WITHDRAW_QUIET_S", 0.3)
    config = tmp_path / "edgecam.toml"
    config.write_text(f'[alerts]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = false\nbox = "{BOX}"\n')
    command = ["withdraw", "--config", str(config), "--state", str(tmp_path / "state"), "--json"]
    with Box(tmp_path, cameras=(CAMERA, "back_yard"), port=broker.port) as box:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        assert box.client.drain(5)
    others = {
        discovery.config_topic(PREFIX, discovery.camera_id(f"{BOX}_back", "yard")): "{}",
        f"edgecam/{BOX}2/available": "online",
        f"{PREFIX}/device/zigbee/config": "{}",
    }
    with Listener(broker, EVENTS) as house:
        for topic, payload in {**others, TOPICS.pause_set: "ON"}.items():
            house.say(topic, payload, retain=True)
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    # Three devices, three of the box (one not its own doing), two of each camera.
    assert answer == {"broker": "127.0.0.1", "removed": 3 + 3 + 2 * 2}
    with Listener(broker, "#") as late:
        until(lambda: len(late.heard) >= len(others), "what is kept")
        time.sleep(0.2)
        assert {topic for topic, _, _ in late.heard} == set(others)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 0


def test_withdraw_says_why_it_could_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_WITHDRAW_QUIET_S", 0.3)
    config = tmp_path / "edgecam.toml"
    command = ["withdraw", "--config", str(config), "--state", str(tmp_path / "state")]
    config.write_text("")
    assert main(command) == 0
    assert capsys.readouterr().out == "no broker is configured\n"
    config.write_text(f'[alerts]\nhost = "127.0.0.1"\nport = {free_port()}\ntls = false\n')
    assert main(command) == 1
    assert "nothing listens there" in capsys.readouterr().err
    acl = "user owner\ntopic readwrite #\nuser box\ntopic read #\n"
    with Broker(tmp_path / "broker", users={"owner": "o", "box": "b"}, acl=acl) as broker:
        login = f'username = "box"\npassword_file = "{password_file(tmp_path, "b")}"'
        config.write_text(f'[alerts]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = false\nbox = "{BOX}"\n{login}\n')
        assert main(command) == 0
        with Listener(broker, EVENTS, user="owner") as owner:
            owner.say(TOPICS.available, "online", retain=True)
        assert main(command) == 1
        said = capsys.readouterr().err
        assert TOPICS.available in said
        assert "ACL let box write" in said


def test_a_false_offline_is_contradicted(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_HEAL_EVERY_S", 0.3)
    with Listener(broker, TOPICS.available) as listener, Box(tmp_path, port=broker.port):
        until(lambda: listener.on(TOPICS.available) == [b"online"], "online")
        listener.say(TOPICS.available, "offline", retain=True)
        until(lambda: listener.on(TOPICS.available) == [b"online", b"offline", b"online"], "contradicted")


def test_a_denied_topic_is_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    acl = f"topic read #\ntopic write edgecam/{BOX}/available\n"
    with Broker(tmp_path / "broker", acl=acl) as broker, Box(tmp_path, port=broker.port) as box:
        box.put("id-0", "id-1")
        until(lambda: box.client.report.denied >= 1, "denied")
        until(lambda: any(f"edgecam/{BOX}/#" in line for line in warnings(caplog)), "said so")
        assert len(box.outbox) == 2


def test_a_denied_topic_holds_up_no_other(tmp_path: Path) -> None:
    """More of its rows wait, and longer, than are ever in flight."""
    allowed = TOPICS.event("back")
    acl = f"topic read #\ntopic write edgecam/{BOX}/available\ntopic write {allowed}\n"
    with (
        Broker(tmp_path / "broker", acl=acl) as broker,
        Listener(broker, allowed) as listener,
        Box(tmp_path, cameras=(CAMERA, "back"), port=broker.port) as box,
    ):
        box.put(*numbered(40))
        until(lambda: box.client.report.denied, "denied")
        box.outbox.put(allowed, box.outbox.peek(1)[0].payload)
        box.client.wake()
        until(lambda: listener.on(allowed), "the other camera's word")
        until(lambda: len(box.outbox) == 40, "what is denied is kept")
        assert not box.client.drain(0.5)


def test_rows_that_are_no_messages_are_dropped_and_counted(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    box = Box(tmp_path, port=broker.port)
    with Listener(broker, "#") as listener:
        box.outbox.put(EVENTS, b"\xff\xd8\xff\xe0 a picture")
        box.outbox.put(EVENTS, b'{"schema":1,"vector":[0.1,0.2]}')
        put(box.outbox, ["id-other"])
        (sound,) = [row for row in box.outbox.peek(9) if b"id-other" in row.payload]
        box.outbox.delete([sound.seq])
        box.outbox.put("edgecam/otherbox/front/event", sound.payload)
        box.outbox.put("+/#", b"{}")
        box.put("id-0")
        with box:
            until(lambda: ids(listener) == ["id-0"], "the sound row")
            assert box.client.drain(5)
        assert box.client.report.unsendable == 4
    assert not [payload for _, payload, _ in listener.heard if b"vector" in payload or b"picture" in payload]
    assert "picture" not in caplog.text


def test_a_failing_store_is_tried_again(tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    class Full(SqliteOutbox):
        full = True

        def delete(self, seqs: Sequence[int]) -> None:
            if self.full:
                raise StoreError("disk full")
            super().delete(seqs)

    outbox = Full(tmp_path / "full.db")
    with Listener(broker, EVENTS) as listener, Box(tmp_path, outbox, port=broker.port) as box:
        box.put(*numbered(3))
        until(lambda: ids(listener) == numbered(3), "sent")
        time.sleep(1.2)
        assert len(outbox) == 3
        assert [line for line in warnings(caplog) if "disk full" in line] != []
        outbox.full = False
        assert box.client.drain(5)
        assert (len(outbox), ids(listener)) == (0, numbered(3))
    assert len([line for line in warnings(caplog) if "disk full" in line]) == 1


def test_reconnecting_leaks_neither_files_nor_threads(tmp_path: Path, broker: Broker) -> None:
    def used() -> int:
        return len(os.listdir("/proc/self/fd")) + threading.active_count()

    with Box(tmp_path, port=broker.port) as box:
        until(lambda: box.link_is(Link.CONNECTED), "connected")
        before = used()
        for _ in range(4):
            broker.kill()
            until(lambda: box.link_is(Link.UNREACHABLE), "gone")
            time.sleep(0.3)
            broker.start()
            until(lambda: box.link_is(Link.CONNECTED), "back")
        until(lambda: used() <= before + 1, f"{used()} files and threads, {before} before")


def test_two_boxes_of_one_name_are_told(tmp_path: Path, broker: Broker) -> None:
    with Box(tmp_path / "a", port=broker.port) as one:
        until(lambda: one.link_is(Link.CONNECTED), "connected")
        details: List[str] = []

        def seen() -> bool:
            details.append(one.client.report.detail)
            return any("alerts.box" in detail for detail in details)

        with Box(tmp_path / "b", port=broker.port):
            until(seen, "the name is taken")


def test_an_old_broker_is_spoken_to_in_mqtt_3(tmp_path: Path) -> None:
    """`amqtt` knows 3.1.1 only; `make demo` brings it."""
    pytest.importorskip("amqtt")
    port = free_port()
    script = (
        "import asyncio, sys\nfrom amqtt.broker import Broker\n"
        "async def main():\n"
        f"    broker = Broker({{'listeners': {{'default': {{'type': 'tcp', 'bind': '127.0.0.1:{port}'}}}},"
        " 'plugins': {'amqtt.plugins.authentication.AnonymousAuthPlugin': {'allow_anonymous': True}}})\n"
        "    await broker.start()\n    print('ready', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as old:
        try:
            assert old.stdout is not None
            assert old.stdout.readline() == b"ready\n"
            with Box(tmp_path, port=port) as box:
                box.put(*numbered(20))
                assert box.client.drain(15), box.client.report
                assert box.link_is(Link.CONNECTED)
        finally:
            old.kill()


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        pytest.param(lambda d: {"username": "u", "password_file": d / "none"}, "password_file", id="no-password-file"),
        pytest.param(lambda d: {"password_file": password_file(d, "x")}, "alerts.username", id="no-username"),
        pytest.param(lambda d: {"tls": True, "ca_file": d / "none"}, "ca_file", id="no-ca-file"),
        pytest.param(lambda d: {"tls": True, "ca_file": password_file(d, "x")}, "ca_file", id="not-a-ca"),
    ],
)
def test_unusable_files_are_refused_at_the_start(
    tmp_path: Path, make: Callable[[Path], Dict[str, Any]], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        Box(tmp_path, port=1883, **make(tmp_path))


def test_without_a_broker_alerts_wait(tmp_path: Path) -> None:
    with Box(tmp_path, host=None) as box:
        box.put("id-0")
        assert box.link_is(Link.OFF)
        assert box.client.stop()
    assert len(box.outbox) == 1
