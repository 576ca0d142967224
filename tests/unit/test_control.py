"""The control socket: answers, errors, who may ask, what a killed daemon leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest

from edgecam.daemon import control
from edgecam.daemon.control import ControlServer, Peer, allowed, call, running
from edgecam.errors import ConfigError, ControlError, EnrolmentError

Item = Dict[str, Any]


def until(true: Callable[[], object], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Daemon:
    """Answers requests in the ways a daemon may."""

    def __init__(self) -> None:
        self.tidied = threading.Event()
        self.go_on = threading.Event()
        self.peers: List[Peer] = []

    def __call__(self, request: Item, peer: Peer) -> Iterator[Item]:
        self.peers.append(peer)
        command = request.get("command")
        try:
            if command == "echo":
                yield request
            elif command == "count":
                for number in range(int(request["to"])):
                    yield {"progress": number}
            elif command == "enroll":
                raise EnrolmentError("two faces in a.jpg: say which")
            elif command == "config":
                yield {"progress": 1}
                raise ConfigError("no such camera: x")
            elif command == "bug":
                raise KeyError("secret detail")
            elif command == "slow":
                yield {"progress": 0}
                self.go_on.wait(10)
                while True:
                    yield {"progress": "x" * 1000}
        finally:
            self.tidied.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def server(path: Path, daemon: Daemon) -> Iterator[ControlServer]:
    made = ControlServer(path, daemon)
    made.start()
    yield made
    daemon.go_on.set()
    made.stop()


def raw(path: Path, data: bytes, *, close: bool = False) -> List[Item]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5.0)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        if close:
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError), sock.makefile("rb") as lines:
            return [json.loads(line) for line in lines]
    return []


@pytest.mark.usefixtures("server")
def test_request_and_answer(path: Path, daemon: Daemon) -> None:
    request = {"command": "echo", "name": "Zoë"}
    assert list(call(path, request)) == [request]
    assert daemon.peers == [Peer(os.getpid(), os.geteuid(), os.getegid())]


@pytest.mark.usefixtures("server")
def test_a_long_answer_streams(path: Path, daemon: Daemon) -> None:
    answer = call(path, {"command": "slow"}, timeout_s=5.0)
    assert next(answer) == {"progress": 0}
    assert not daemon.go_on.is_set(), "the first item came before the rest was made"
    daemon.go_on.set()
    assert next(answer)
    answer.close()  # type: ignore[attr-defined]
    until(daemon.tidied.is_set)
    assert len(list(call(path, {"command": "count", "to": 1000}))) == 1000


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("command", "exit_code", "message"),
    [
        pytest.param("enroll", 1, "two faces in a.jpg: say which", id="work-failed"),
        pytest.param("config", 2, "no such camera: x", id="wrong-usage"),
        pytest.param("bug", 1, "internal error; the daemon's log has the details", id="bug"),
    ],
)
def test_errors_travel_with_their_exit_code(path: Path, command: str, exit_code: int, message: str) -> None:
    with pytest.raises(ControlError) as caught:
        list(call(path, {"command": command}))
    assert (str(caught.value), caught.value.exit_code) == (message, exit_code)
    assert ControlError.exit_code == 1, "the class is untouched"
    assert list(call(path, {"command": "echo"})), "and it still serves"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "data", [b"\n", b"no json\n", b"[1]\n", b"[" * 60_000 + b"\n", b"\xff\xfe\n", b"x" * 70_000 + b"\n"]
)
def test_rubbish_is_refused(path: Path, data: bytes, daemon: Daemon) -> None:
    for answer in raw(path, data):
        assert answer["exit_code"] == 2
    assert daemon.peers == []
    assert list(call(path, {"command": "echo"}))


@pytest.mark.usefixtures("server")
def test_a_request_that_is_too_long_is_told_so(path: Path) -> None:
    with pytest.raises(ControlError, match="longer than 65536"):
        list(call(path, {"command": "x" * 70_000}))


@pytest.mark.usefixtures("server")
def test_half_a_line_is_refused(path: Path, daemon: Daemon) -> None:
    (answer,) = raw(path, b'{"command":"echo"}', close=True)
    assert "whole line" in answer["error"]
    assert daemon.peers == []


@pytest.mark.usefixtures("server")
def test_a_silent_client_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.2)
    (answer,) = raw(path, b"")
    assert answer["error"] == "no request came"


@pytest.mark.usefixtures("server")
def test_a_client_that_does_not_read_is_dropped(path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_TIMEOUT_S", 0.3)
    daemon.go_on.set()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b'{"command":"slow"}\n')
        until(daemon.tidied.is_set)
    assert list(call(path, {"command": "echo"}))


@pytest.mark.usefixtures("server")
def test_too_many_at_once_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(control.MAX_CLIENTS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
        time.sleep(0.2)
        with pytest.raises(ControlError, match="too many"):
            list(call(path, {"command": "echo"}))

    def served() -> bool:
        try:
            return bool(list(call(path, {"command": "echo"})))
        except ControlError:
            return False

    until(served)


def test_who_may_not_ask(path: Path, daemon: Daemon) -> None:
    server = ControlServer(path, daemon, may=lambda peer: False)
    server.start()
    try:
        with pytest.raises(ControlError, match="not permitted"):
            list(call(path, {"command": "echo"}))
        assert daemon.peers == []
    finally:
        server.stop()


def test_root_and_the_daemons_user_may_ask_and_nobody_else() -> None:
    assert allowed(Peer(1, 0, 0))
    assert allowed(Peer(1, os.geteuid(), 12345))
    assert not allowed(Peer(1, 65534, 65534))
    assert not allowed(Peer(1, 4_000_000, 4_000_000))


def test_members_of_the_group_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwuid(65534)
    gid = 59_999

    def group(members: Sequence[str]) -> None:
        entry = grp.struct_group(("edgecam", "x", gid, list(members)))
        monkeypatch.setattr(grp, "getgrnam", lambda name: {"edgecam": entry}[name])

    group([])
    assert not allowed(Peer(1, nobody.pw_uid, nobody.pw_gid))
    assert allowed(Peer(1, nobody.pw_uid, gid))
    group([nobody.pw_name])
    assert allowed(Peer(1, nobody.pw_uid, nobody.pw_gid))
    assert not allowed(Peer(1, 4_000_000, 4_000_000))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_turned_away_by_the_kernels_word(path: Path, server: ControlServer) -> None:
    path.parent.chmod(0o755)
    for parent in path.parent.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    path.chmod(0o666)  # the file's mode alone would let him in
    ask = f"import socket; s = socket.socket(1); s.connect({str(path)!r}); print(s.recv(500))"
    found = subprocess.run(
        ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-S", "-c", ask],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if "ermission" in found.stderr:
        pytest.skip(f"the other user cannot reach the socket or python: {found.stderr[-200:]}")
    assert "not permitted" in found.stdout


def test_the_socket_is_private_from_its_first_moment(path: Path, server: ControlServer) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    server.stop()
    assert not path.exists()


def test_a_second_daemon_is_refused(path: Path, server: ControlServer, daemon: Daemon) -> None:
    assert running(path)
    with pytest.raises(ControlError, match="another edgecam daemon"):
        ControlServer(path, daemon).start()
    assert list(call(path, {"command": "echo"})), "the first one is unharmed"


def test_of_two_daemons_that_start_at_once_one_is_refused(path: Path, daemon: Daemon) -> None:
    with path.with_name("control.sock.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # even the weaker lock
        with pytest.raises(ControlError, match="another edgecam daemon"):
            ControlServer(path, daemon).start()
    server = ControlServer(path, daemon)
    server.start()
    server.stop()


def test_what_a_killed_daemon_leaves_is_replaced(path: Path, daemon: Daemon) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom edgecam.daemon.control import ControlServer\n"
        "ControlServer(Path(sys.argv[1]), lambda r, p: iter([r])).start()\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=root, env={**os.environ}
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        with pytest.raises(ControlError, match="another edgecam daemon"):
            ControlServer(path, daemon).start()
        other.send_signal(signal.SIGKILL)
    assert path.is_socket()
    assert not running(path)
    with pytest.raises(ControlError, match="no edgecam daemon"):
        list(call(path, {"command": "echo"}))
    server = ControlServer(path, daemon)
    server.start()
    try:
        assert list(call(path, {"command": "echo"}))
    finally:
        server.stop()


def test_a_file_that_is_no_socket_is_left_alone(path: Path, daemon: Daemon) -> None:
    path.write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        ControlServer(path, daemon).start()
    assert path.read_text() == "precious"


def test_no_daemon(path: Path) -> None:
    with pytest.raises(ControlError, match="no edgecam daemon is running"):
        list(call(path, {}))


def test_a_path_that_is_too_long(tmp_path: Path, daemon: Daemon) -> None:
    long = tmp_path / ("x" * 120)
    with pytest.raises(ControlError, match="too long"):
        ControlServer(long, daemon).start()
    with pytest.raises(ControlError, match="too long"):
        list(call(long, {}))


def test_stopping_ends_what_is_being_answered(path: Path, daemon: Daemon) -> None:
    server = ControlServer(path, daemon)
    server.start()
    answer = call(path, {"command": "slow"}, timeout_s=5.0)
    next(answer)
    server.stop()
    daemon.go_on.set()
    with pytest.raises(ControlError):
        list(answer)
    until(daemon.tidied.is_set)


def test_a_daemon_that_hangs_is_not_waited_for(path: Path, daemon: Daemon, server: ControlServer) -> None:
    answer = call(path, {"command": "slow"}, timeout_s=0.3)
    next(answer)
    with pytest.raises(ControlError, match="did not answer within"):
        next(answer)


def test_the_lock_is_for_its_owner_alone(path: Path, daemon: Daemon) -> None:
    lock = path.with_name("control.sock.lock")
    lock.touch(0o644)
    server = ControlServer(path, daemon)
    server.start()
    server.stop()
    assert lock.stat().st_mode & 0o777 == 0o600
