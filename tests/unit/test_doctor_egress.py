"""What `edgecam doctor` says of whom the daemon speaks to; the daemon is this process, with real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from edgecam.config import parse_config
from edgecam.daemon.checks import CHECKS, Finding, Subject, egress
from edgecam.daemon.control import ControlServer, Peer

NO_NAME = "a" * 64
"""Longer than a name can be: nobody is asked for it."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    def answer(_request: Dict[str, Any], _peer: Peer) -> Iterator[Dict[str, Any]]:
        yield {}

    server = ControlServer(tmp_path / "control.sock", answer)
    server.start()
    yield tmp_path
    server.stop()


def told(folder: Path, **config: Any) -> List[Finding]:
    subject = Subject(folder, parse_config(config, "here"), None, folder, live=True)
    return list(dict(CHECKS)["egress"](subject))


def test_the_configured_broker_is_nobody_strange(daemon: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 1883))
        (found,) = told(daemon, alerts={"host": "localhost", "port": 1883})
    assert (found.state, found.text) == ("ok", "speaks to 127.0.0.1:1883 now, and listens on no port")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_open_port_is_told(daemon: Path, family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip(f"no {host} here")
        (found,) = told(daemon)
        assert found.state == "broken"
        assert found.text.endswith(f"port {listener.getsockname()[1]}")
    assert [finding.state for finding in told(daemon)] == ["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a packet socket needs root")
def test_a_packet_socket_is_told(daemon: Path) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        (found,) = told(daemon)
    assert (found.state, found.text) == ("broken", "has a packet socket: it could send anything")


def test_what_the_daemon_has_started_counts_as_the_daemon(daemon: Path) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        (found,) = told(daemon)
        (own,) = told(daemon, cameras={"front": {"url": "gst:rtspsrc location=rtsp://10.0.0.7/cam"}})
        child.communicate("\n")
    assert found.text == f"listens on tcp port {port}"
    assert own.text.endswith("listens on no port; a gst: pipeline was not looked at")


def test_without_a_daemon_nothing_is_said(tmp_path: Path) -> None:
    subject = Subject(tmp_path, parse_config({}, "here"), None, tmp_path, live=False)
    assert list(egress.check(subject)) == []


def test_places_are_those_that_the_configuration_names() -> None:
    cameras = {
        "front": {"url": "rtsp://ann:p%40ss@127.0.0.1/cam"},
        "back": {"url": "https://[::1]:8443/video"},
        "side": {"url": "/dev/video0"},
        "gone": {"url": f"rtsp://{NO_NAME}/cam"},
    }
    config = parse_config({"cameras": cameras, "alerts": {"host": "127.0.0.2"}}, "here")
    found, unknown = egress._wanted(config)
    mine = {place for place in found if place[1] != egress._DNS}
    assert mine == {("127.0.0.1", 554), ("::1", 8443), ("127.0.0.2", 8883)}
    assert unknown == [NO_NAME]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0100007F:1F90", ("127.0.0.1", 8080)),
        ("0000000000000000FFFF00000200000A:0035", ("10.0.0.2", 53)),
        ("B80D0120000000000000000001000000:01BB", ("2001:db8::1", 443)),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="written as a little-endian kernel does")
def test_addresses_are_read_as_the_kernel_writes_them(text: str, place: Any) -> None:
    assert egress._place(text) == place


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        (("10.0.0.2", 8883), ""),
        (("127.0.0.1", 5), ""),
        (("10.0.0.2", 443), "speaks to 10.0.0.2 port 443 (tcp): neither broker nor camera nor name server"),
        (("192.0.2.1", 8883), "speaks to 192.0.2.1 port 8883 (tcp): neither broker nor camera nor name server"),
    ],
)
def test_another_address_or_port_is_strange(remote: Any, said: str) -> None:
    assert egress._fault(egress._Socket("tcp", ("10.0.0.1", 4711), remote), {("10.0.0.2", 8883)}) == said


@pytest.mark.parametrize(
    ("network", "in_a_house"),
    [("127.0.0.0/8", True), ("fe80::/64", True), ("fc00::/7", True), ("100.64.0.0/10", False), ("9.9.9.9/32", False)],
)
def test_what_a_drop_in_opens_besides_the_house(network: str, in_a_house: bool) -> None:
    assert egress._of_a_house(network) == in_a_house
