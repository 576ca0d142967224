"""What leaves the box: every packet of a running household recorded, and everything it says searched for its secrets.

The figures printed here (`pytest -s`) stand in docs/reliability.md.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set

import cv2
import pytest
from booted import Machine, launcher, program
from booted import missing as no_machine
from box import COMMAND, Box, Door, events, frames_of, until
from broker import Broker, Listener, mosquitto
from cameras import RtspCamera, rtsp_missing
from canaries import Canaries, Finding, published
from house_net import (
    BROKER,
    CAMERA,
    RESOLVER,
    HouseNet,
    NameServer,
    Packet,
    Place,
    missing,
    question_of,
    strays,
    streams,
    tally,
)
from leaking import INTERNET, INTERNET6, LEAKS

from edgecam.alerts.message import MAX_PAYLOAD_BYTES
from edgecam.config import load_config
from edgecam.daemon.checks import Subject, egress

pytestmark = [
    pytest.mark.broker,
    pytest.mark.models,
    pytest.mark.data,
    pytest.mark.rtsp,
    pytest.mark.machine,
    pytest.mark.timeout(170),
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "-"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

KNOWN, STRANGER = "jomariya_real.mp4", "tranvan_real.mp4"
NAME, PHONE = "Zdenka Quillfeather", "5c:51:4f:be:ef:01"
ENROLLED_S = 6.0
MQTT, FRONT, BACK = 1883, 8554, 8555
TO_BROKER, TO_CAMERAS = ("tcp", BROKER, MQTT), {("tcp", CAMERA, FRONT), ("tcp", CAMERA, BACK)}
TO_HOUSE = {TO_BROKER, *TO_CAMERAS}
DISCOVERY_BYTES = 16_384
"""A Home Assistant device with all of its entities, in one message."""

CONFIG = """
[cameras.front]
url = "rtsp://{camera}:{front}/cam"
place = "front"
[cameras.back]
url = "rtsp://{camera}:{back}/cam"
place = "back"
[liveness]
passive = false
[motion]
burst_s = 2.0
[alerts]
host = "{broker}"
port = {mqtt}
tls = false
names = false
cooldown_s = 0.0
rules = {{ resident = "always", known = "always" }}
[store]
cluster_unknown = true
[presence]
access_point_log = "{log}"
"""


@pytest.fixture(scope="module")
def clips(data_dir: Path) -> Path:
    return data_dir / "videos" / "liveness"


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory, clips: Path, models_dir: Path) -> Path:
    """A state folder with one person, her face and her phone."""
    folder = tmp_path_factory.mktemp("household")
    with Box(folder, "") as box:
        photos = [folder / f"{n}.png" for n in range(4)]
        for photo, image in zip(photos, list(frames_of(clips / KNOWN, 0.0, ENROLLED_S))[::15]):
            cv2.imwrite(str(photo), image)
        box.run("enroll", NAME, *map(str, photos))
        box.run("devices", "add", NAME, PHONE, "--consent", "in person")
    return box.state


@pytest.fixture
def net() -> Iterator[HouseNet]:
    with HouseNet() as joined:
        yield joined


@pytest.fixture
def broker(net: HouseNet, tmp_path: Path) -> Iterator[Broker]:
    with net.house(), Broker(tmp_path / "broker", port=MQTT, address=BROKER) as started:
        yield started


def make_box(folder: Path, household: Path, broker: str = BROKER, camera: str = CAMERA) -> Box:
    log = folder / "access-point.log"
    log.touch()
    config = CONFIG.format(camera=camera, front=FRONT, back=BACK, broker=broker, mqtt=MQTT, log=log)
    box = Box(folder, config)
    shutil.copytree(household, box.state)
    return box


def camera(port: int, *film: Path) -> RtspCamera:
    return RtspCamera("--address", CAMERA, *map(str, film), port=port)


def verdicts(listener: Listener, camera: str) -> Set[str]:
    """Return how the visits that are over were told; a busy machine sees a visit in pieces, some without a verdict."""
    return {event["event_type"] for event in events(listener.heard, camera) if event["phase"] == "final"}


def sent(packets: List[Packet], to: Place) -> int:
    return sum(packet.sent and packet.place == to for packet in packets)


def searched(canaries: Canaries, packets: List[Packet], said: Dict[str, bytes]) -> Set[Finding]:
    """Return what of the household's secrets is in what left the box or was told about it."""
    found: Set[Finding] = set()
    for (kind, address, port), connections in streams(packets).items():
        for data in connections:
            found |= canaries.search(f"{kind} {address} {port}", data)
    for packet in packets:
        if packet.sent and packet.kind != "tcp":
            found |= canaries.search(f"{packet.kind} to {packet.target}", packet.payload)
    for where, data in said.items():
        found |= canaries.search(where, data)
    return found


def told(box: Box) -> Dict[str, bytes]:
    """Return what a running box says to those who ask, and what it has written."""
    return {
        "status": box.run("status", "--json", ok=False).stdout.encode(),
        "doctor": box.run("doctor", "--json", ok=False).stdout.encode(),
        "metrics": box.metrics().encode(),
        "health.json": (box.state / "health.json").read_bytes(),
        "log": box.log().encode(),
    }


def test_nothing_leaves_but_alerts_and_the_cameras_own_stream(
    tmp_path: Path, household: Path, clips: Path, net: HouseNet, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Door().record(clips / KNOWN, ENROLLED_S + 4, ENROLLED_S + 7.5, tmp_path / "front.mp4")
    back = Door().record(clips / STRANGER, 2, 5.5, tmp_path / "back.mp4")
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    with make_box(tmp_path, household) as box:
        with net.house(), camera(FRONT, front), camera(BACK, back), Listener(broker, "#") as listener:
            with net.box():
                box.start()
                with (tmp_path / "access-point.log").open("a") as log:
                    log.write(f"openwrt hostapd: wlan0: AP-STA-CONNECTED {PHONE}\n")
                until(lambda: "known" in verdicts(listener, "front"), "a known person told")
                until(lambda: "unknown" in verdicts(listener, "back"), "an unknown one told")
                until(lambda: box.status()["outbox"] == 0, "all alerts delivered")
                said = told(box)
                box.signal(signal.SIGABRT)
                box.wait()
            said["crash"] = box.log().encode()[len(said["log"]) :]
            packets = net.packets()
        visitors = Canaries(box.state)
    print(f"egress: {tally(packets)}")
    assert strays(packets, TO_HOUSE) == []
    assert all(sent(packets, place) > 10 for place in TO_HOUSE)
    assert b"Fatal Python error: Aborted" in said["crash"]
    # The visits left something to be searched for.
    doctor = [json.loads(line) for line in said["doctor"].splitlines()]
    assert [one["state"] for one in doctor if one["check"] == "egress"] == ["ok"]
    assert visitors.count["a picture"] > Canaries(household).count["a picture"]
    assert {"a picture", "a vector", "an address", "a name", "a key"} == set(visitors.count)
    assert searched(visitors, packets, said) == set()
    for stream in streams(packets)[TO_BROKER]:
        for topic, payload in published(stream):
            assert len(payload) <= (DISCOVERY_BYTES if topic.endswith("/config") else MAX_PAYLOAD_BYTES), topic


@pytest.mark.slow
def test_names_are_asked_of_the_configured_server_alone(
    tmp_path: Path, household: Path, net: HouseNet, broker: Broker
) -> None:
    (tmp_path / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    names = {"broker.house": BROKER, "camera.house": CAMERA}
    with make_box(tmp_path, household, "broker.house", "camera.house") as box:
        box.command = ["unshare", "--mount", "sh", "-c", _WITH_RESOLVER, str(tmp_path / "resolv.conf"), *COMMAND]
        with net.house(), camera(FRONT), camera(BACK), NameServer(RESOLVER, names) as server:
            with net.box():
                box.start()
                until(lambda: box.status()["broker"]["link"] == "connected", "the broker")
                until(lambda: all(c["frames"] for c in box.status()["cameras"].values()), "pictures")
            packets = net.packets()
    print(f"egress, by names: {tally(packets)}")
    questions = ("udp", RESOLVER, 53)
    assert strays(packets, {*TO_HOUSE, questions}) == []
    asked = {question_of(packet.payload)[0] for packet in packets if packet.sent and packet.place == questions}
    assert asked == server.asked == set(names)


def test_every_leak_is_found(tmp_path: Path, household: Path, net: HouseNet, broker: Broker) -> None:
    with make_box(tmp_path, household) as box:
        box.command = [sys.executable, str(Path(__file__).with_name("leaking.py"))]
        with net.house(), Listener(broker, "#") as listener:
            with net.box():
                box.start()
                until(lambda: {topic for topic, *_ in listener.heard} >= _TOPICS, "every leak by MQTT")
                until(lambda: "\nLEAK-KEY" in box.log(), "every leak in the log")
                subject = Subject(box.state, load_config(box.config), box.config, tmp_path, live=True)
                findings = list(egress.check(subject))
            packets = net.packets()
    assert [(one.state, INTERNET in one.text) for one in findings] == [("broken", True)]
    canaries = Canaries(household)
    assert {packet.place for packet in strays(packets, TO_HOUSE)} == {
        ("udp", INTERNET, 53),
        ("udp", INTERNET6, 53),
        ("tcp", INTERNET, 443),
    }
    found = searched(canaries, packets, {"log": box.log().encode()})
    assert {what for _, what in found} >= {*LEAKS.values(), "looks like an array of numbers", "looks like a long code"}
    assert {where for where, _ in found} == {f"tcp {BROKER} {MQTT}", "log"}
    # Each by itself: none is found only because it lies beside another.
    said = {topic: payload for topic, payload, _ in listener.heard if topic in LEAKS}
    said.update({line.split(b" ")[0].decode(): line for line in box.log().encode().splitlines()})
    for where, what in LEAKS.items():
        assert (where, what) in canaries.search(where, said[where])
    (stream,) = streams(packets)[TO_BROKER]
    assert canaries.search("the rest", b"".join(p for t, p in published(stream) if t not in LEAKS)) == set()


# As the service.

FIREWALL = "/etc/systemd/system/edgecam.service.d/30-private-only.conf"
HELD = "ok: the kernel lets it speak to private addresses alone (iptables, by user)"
SEND = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{}', {}))"


@pytest.fixture
def machine(net: HouseNet, tmp_path: Path, household: Path, models_dir: Path) -> Iterator[Machine]:
    """A booted machine in the place of the box, with the household's state, and the service installed, not started."""
    if why := no_machine():
        pytest.skip(f"no machine can be booted: {why}")
    folder = tmp_path / "machine"
    folder.mkdir()
    try:
        booting = Machine(folder, None, {**program(models_dir), household: "/srv/state"}, net.box_path)
    except RuntimeError as err:
        pytest.skip(f"no machine boots here: {err}")
    with booting as booted:
        booted.write("/opt/edgecam/bin/edgecam", launcher())
        leaking = launcher().replace("-m edgecam", "/srv/edgecam/tests/system/leaking.py")
        booted.write("/opt/edgecam/bin/leaking", leaking)
        booted.sh(
            "chmod 755 /opt/edgecam/bin/*; cp -r /srv/state /var/lib/edgecam; chmod 700 /var/lib/edgecam;"
            "PROGRAM=no MODELS=no /srv/edgecam/deploy/install; ln -s /srv/models/* /var/lib/edgecam/models/;"
            "touch /var/lib/edgecam/access-point.log; chown -R edgecam:edgecam /var/lib/edgecam"
        )
        log = "/var/lib/edgecam/access-point.log"
        config = CONFIG.format(camera=CAMERA, front=FRONT, back=BACK, broker=BROKER, mqtt=MQTT, log=log)
        booted.write("/etc/edgecam/edgecam.toml", config)
        yield booted


def egress_of(machine: Machine) -> List[str]:
    """Return what the doctor of a booted machine says of egress."""
    # Where the test has put the iptables in question.
    path = "PATH=/usr/local/sbin:/usr/sbin:/usr/bin"
    lines = machine.run("env", path, "/opt/edgecam/bin/edgecam", "doctor", "--json", ok=False).splitlines()
    found = [json.loads(line) for line in lines]
    return [f"{finding['state']}: {finding['text']}" for finding in found if finding["check"] == "egress"]


def restarted(machine: Machine, net: HouseNet, dropin: str) -> List[Packet]:
    """Let the service run for once with a drop-in, until it has leaked; return what passed the cable meanwhile."""
    machine.sh("systemctl stop edgecam.service")
    net.forget()
    machine.write("/etc/systemd/system/edgecam.service.d/90-test.conf", f"[Service]\n{dropin}")
    said = machine.journal("edgecam").count("LEAK-KEY")
    machine.sh("systemctl daemon-reload; systemctl start edgecam.service")
    until(lambda: machine.journal("edgecam").count("LEAK-KEY") > said, "a leak in the journal")
    return net.packets()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_service_cannot_speak_to_others_even_if_it_would(
    tmp_path: Path, household: Path, clips: Path, net: HouseNet, broker: Broker, machine: Machine
) -> None:
    front = Door().record(clips / KNOWN, ENROLLED_S + 4, ENROLLED_S + 7.5, tmp_path / "front.mp4")
    back = Door().record(clips / STRANGER, 2, 5.5, tmp_path / "back.mp4")
    with net.house(), camera(FRONT, front), camera(BACK, back), Listener(broker, "#") as listener:
        net.forget()
        machine.sh("systemctl start edgecam.service")
        machine.sh(f"echo 'hostapd: wlan0: AP-STA-CONNECTED {PHONE}' >>/var/lib/edgecam/access-point.log")
        until(lambda: "known" in verdicts(listener, "front"), "a known person told")
        until(lambda: "unknown" in verdicts(listener, "back"), "an unknown one told")
        said = {
            name: machine.run("/opt/edgecam/bin/edgecam", name, "--json", ok=False).encode()
            for name in ("status", "doctor")
        }
        seen = egress_of(machine)
        # Cut off in the middle: what a crash says is in the journal, and no core is left.
        machine.run("systemctl", "kill", "--signal=ABRT", "--kill-who=main", "edgecam.service")
        until(lambda: machine.show("edgecam.service", "NRestarts", "ActiveState") == ["1", "active"], "a restart")
        machine.sh("systemctl stop edgecam.service")
        packets = net.packets()
        said["journal"] = machine.run("journalctl", "--no-pager", "-o", "export").encode()
        said["health.json"] = machine.sh("cat /var/lib/edgecam/health.json").encode()
        after = shutil.copytree(tmp_path / "machine/root/var/lib/edgecam", tmp_path / "after", ignore=_not_the_store)
        shutil.copy(tmp_path / "machine/root/etc/edgecam/edgecam.key", after / "master.key")
        assert machine.sh("find / -xdev -name 'core*' -size +100k -path '*/var/*'").split() == []
    print(f"egress, as the service: {tally(packets)}")
    assert strays(packets, TO_HOUSE) == []
    assert len(seen) == 2, seen
    assert seen[0].startswith(f"ok: speaks to {BROKER}:{MQTT}, {CAMERA}:{FRONT}, {CAMERA}:{BACK} now")
    assert seen[1] == "ok: the kernel lets it speak to private addresses alone (systemd's filter)"
    assert searched(Canaries(household, after), packets, said) == set()

    # The same service with a daemon that leaks: it is heard in the house and in the journal, but not outside.
    leaking = "ExecStart=\nExecStart=/opt/edgecam/bin/leaking run\nIPAddressDeny=\n"
    sandboxed = restarted(machine, net, leaking.replace("IPAddressDeny=\n", ""))
    assert strays(sandboxed, TO_HOUSE) == []
    said = {"journal": machine.run("journalctl", "--no-pager", "-o", "export").encode()}
    found = searched(Canaries(household), sandboxed, said)
    assert {("journal", "a key"), ("journal", "an address"), (f"tcp {BROKER} {MQTT}", "a vector")} <= found
    # Without the filter it gets out: the capture would have seen it.
    assert {packet.target for packet in strays(restarted(machine, net, leaking), TO_HOUSE)} == {INTERNET, INTERNET6}
    assert [text.split(":")[0] for text in egress_of(machine)] == ["broken", "hint"]

    # A kernel that cannot do that: iptables by user, as JetPack 4 has it and as newer systems do. Root still gets out.
    machine.sh(f"install -m 644 /opt/edgecam/private-only.conf {FIREWALL}; mkdir -p /usr/local/sbin")
    for kind in ("legacy", "nft"):
        for name in ("iptables", "ip6tables"):
            machine.sh(f"ln -sfn /usr/sbin/{name}-{kind} /usr/local/sbin/{name}")
        assert strays(restarted(machine, net, leaking), TO_HOUSE) == []
        assert HELD in egress_of(machine)
        machine.run("python3", "-c", SEND.format(INTERNET, 53))
        assert [packet.target for packet in strays(net.packets(), TO_HOUSE)] == [INTERNET]
        opened = f"{leaking}ExecStartPre=+iptables -I edgecam 1 -d {INTERNET} -j RETURN\n"
        assert {packet.target for packet in strays(restarted(machine, net, opened), TO_HOUSE)} == {INTERNET}
        machine.sh("PATH=/usr/local/sbin:$PATH /opt/edgecam/private-only remove")
        assert "edgecam" not in machine.sh(f"iptables-{kind} -S; ip6tables-{kind} -S")


_not_the_store = shutil.ignore_patterns("models", "*.sock", "*.lock", "lock")
_TOPICS = {topic for topic in LEAKS if topic.startswith("edgecam/")}
_WITH_RESOLVER = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
