"""The broker that deploy/mosquitto makes: what it keeps, whom it lets, what it refuses."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import paho.mqtt.client as paho
import pytest
from broker import DEPLOY, HardenedBroker, Listener, mosquitto, until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        mosquitto() is None or shutil.which("openssl") is None, reason="mosquitto or openssl is not installed"
    ),
    pytest.mark.timeout(60),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that mosquitto's user may enter, as /etc and /var are."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[HardenedBroker]:
    with HardenedBroker(folder) as started:
        assert isinstance(started, HardenedBroker)
        yield started


def session(broker: HardenedBroker, user: str, password: str, ca: str = "") -> Tuple[paho.Client, List[int]]:
    """Connect once, by MQTT 5, which says what it refuses; return the client and the answers to what it publishes."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False)
    client.tls_set(ca or str(broker.tls.ca if broker.tls else ""))
    if user:
        client.username_pw_set(user, password)
    answers: List[int] = []
    client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(int(reason.value))
    client.on_publish = lambda _client, _data, _mid, reason, _properties: answers.append(int(reason.value))
    client.connect("localhost", broker.port)
    client.loop_start()
    until(lambda: answers, "an answer")
    return client, answers


def refused(broker: HardenedBroker, user: str, topics: List[str]) -> Set[str]:
    """Return the topics on which a user may not publish."""
    client, answers = session(broker, user, broker.users[user])
    assert answers.pop() == 0
    found = set()
    for topic in topics:
        client.publish(topic, "x", qos=1)
        until(lambda: answers, "an acknowledgement")
        if answers.pop() == 135:
            found.add(topic)
    client.disconnect()
    client.loop_stop()
    return found


OURS = [
    "edgecam/edgecam/available", "edgecam/edgecam/front/event", "edgecam/edgecam/pause/state",
    "homeassistant/device/edgecam_edgecam/config",
]  # fmt: skip
COMMANDS = ["edgecam/edgecam/pause/set", "edgecam/edgecam/front/ring/press", "edgecam/edgecam/front/challenge/ask"]
OTHERS = ["edgecam/garage/front/event", "zigbee2mqtt/lamp/set", "homeassistant/light/lamp/config"]


def test_each_may_say_its_own_and_no_more(broker: HardenedBroker) -> None:
    everything = [*OURS, *COMMANDS, *OTHERS]
    assert refused(broker, "edgecam", everything) == set(OTHERS)
    # Home Assistant removes devices by emptying their configuration, whosever they are.
    may = {"homeassistant/device/edgecam_edgecam/config", "homeassistant/light/lamp/config", *COMMANDS}
    assert refused(broker, "homeassistant", everything) == set(everything) - may
    assert refused(broker, "edgecam-bridge", everything) == set(everything)


def test_each_may_hear_its_own_and_no_more(broker: HardenedBroker) -> None:
    said = {"edgecam/edgecam/front/event", "edgecam/edgecam/front/motion", "edgecam/edgecam/pause/set"}
    hears = {
        "edgecam": {*said},
        "homeassistant": {*said, "homeassistant/light/lamp/config"},
        "edgecam-bridge": {"edgecam/edgecam/front/event"},
    }
    listeners = {user: Listener(broker, "#", user=user) for user in hears}
    for listener in listeners.values():
        listener.__enter__()
    try:
        with Listener(broker, "nothing", user="edgecam") as box, Listener(broker, "x", user="homeassistant") as owner:
            for topic in sorted(said):
                box.say(topic, "now")
            owner.say("homeassistant/light/lamp/config", "now")
            owner.say("homeassistant/status", "now")
        for user, topics in hears.items():
            # Comes last; who may not hear it has heard everything else by the time that Home Assistant has.
            ours = listeners[user].heard
            until(lambda: topics <= {topic for topic, _, _ in ours}, f"{user} hears {topics}")  # noqa: B023
        until(lambda: listeners["homeassistant"].on("homeassistant/status"), "the last word")
        for user, topics in hears.items():
            heard = {topic for topic, payload, _ in listeners[user].heard if payload == b"now"}
            assert heard - {"homeassistant/status"} == topics, user
    finally:
        for listener in listeners.values():
            listener.__exit__()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("edgecam", "guessed"), ("guest", "guest")])
def test_nobody_else_comes_in(broker: HardenedBroker, user: str, password: str) -> None:
    client, answers = session(broker, user, password)
    assert answers[0] in (134, 135)
    client.loop_stop()


def test_not_without_its_ca(broker: HardenedBroker) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        session(broker, "", "", ca="/etc/ssl/certs/ca-certificates.crt")


def test_the_keys_are_not_for_everybody(folder: Path, broker: HardenedBroker) -> None:
    ours = folder / "etc/mosquitto/edgecam"
    for name in ("ca.key", "server.key", "passwd", "passwords/edgecam", "passwords/homeassistant"):
        assert (ours / name).stat().st_mode & 0o007 == 0, name
    if os.geteuid() == 0:
        assert (ours / "ca.key").stat().st_mode & 0o070 == 0
    assert "$7$" in (ours / "passwd").read_text()
    assert not any(password in (ours / "passwd").read_text() for password in broker.users.values())


def test_what_was_acknowledged_outlives_a_kill(folder: Path, broker: HardenedBroker) -> None:
    with Listener(broker, "edgecam/+/+/event", client_id="away", user="homeassistant"):
        pass
    with Listener(broker, "nothing", user="edgecam") as box:
        for number in range(50):
            box.say("edgecam/edgecam/front/event", str(number))
        box.say("edgecam/edgecam/available", "online", retain=True)
    saved = folder / "var/lib/mosquitto/mosquitto.db"
    until(lambda: saved.exists() and time.time() - saved.stat().st_mtime > 1.0, "saved, and no more to save")
    broker.kill()
    broker.start()
    topics = ("edgecam/+/+/event", "edgecam/edgecam/available")
    with Listener(broker, *topics, client_id="away", user="homeassistant") as back:
        until(lambda: len(back.on("edgecam/edgecam/front/event")) >= 50, "everything acknowledged")
        assert back.on("edgecam/edgecam/front/event") == [str(number).encode() for number in range(50)]
        until(lambda: back.on("edgecam/edgecam/available") == [b"online"], "what was retained")


def test_set_up_again_keeps_the_accounts_and_renews_what_is_asked(folder: Path, broker: HardenedBroker) -> None:
    ours = folder / "etc/mosquitto/edgecam"
    (ours / "acl").write_text((ours / "acl").read_text() + "user lamp\n")
    before = {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()}

    def again(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(DEPLOY / "mosquitto/set-up"), *arguments]
        env = {**os.environ, "DESTDIR": str(folder)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert again("localhost").returncode == 0
    assert before == {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()}
    assert again("--renew", "broker.lan", "192.168.1.2", "fd00::2").returncode == 0
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed == {"server.pem", "server.key"}
    verified = ["openssl", "verify", "-x509_strict", "-CAfile", str(ours / "ca.pem"), str(ours / "server.pem")]
    subprocess.run(
        [*verified[:2], "-verify_ip", "fd00::2", "-verify_hostname", "broker.lan", *verified[2:]], check=True
    )
    assert again().returncode == 2
    assert again("x y").returncode == 1
    assert again("a\nDNS:bank.example").returncode == 1
