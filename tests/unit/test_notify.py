"""systemd's side of the notify protocol, played by a plain socket; and logs without personal data."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Iterator, Sequence

import pytest

from edgecam.alerts.client import AlertClient
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig, CameraConfig, Config
from edgecam.daemon.app import Daemon, Options
from edgecam.daemon.notify import Notifier, redact, setup_logging
from edgecam.nn.registry import ModelRegistry
from edgecam.store import OutboxRow


class HandClock(SystemClock):
    """Runs when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


class Nothing:
    """An empty outbox."""

    def peek(self, n: int) -> Sequence[OutboxRow]:
        return ()

    def delete(self, seqs: Sequence[int]) -> None:
        raise AssertionError("there is nothing to delete")


class Manager:
    """Listens as systemd does."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(5.0)

    def heard(self) -> str:
        return self.sock.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@edgecam-test-{uuid.uuid4().hex}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.sock.close()


def test_every_word_arrives(manager: Manager, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("2 cameras")
    assert manager.heard() == "READY=1\nSTATUS=2 cameras"
    notifier.status("broker\naway")
    assert manager.heard() == "STATUS=broker away"
    notifier.watchdog()
    assert manager.heard() == "WATCHDOG=1"
    notifier.reloading()
    reloading, monotonic = manager.heard().split("\n")
    assert (reloading, monotonic.split("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(monotonic.split("=")[1]) > 0
    notifier.stopping()
    assert manager.heard() == "STOPPING=1"


@pytest.mark.parametrize("address", ["path"], indirect=True)
def test_the_watchdog_starves_when_the_alert_loop_stands_still(
    manager: Manager, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    config = Config(cameras={"front": CameraConfig(url="rtsp://camera/1")}, alerts=AlertsConfig(host="broker"))
    daemon = Daemon(Options(tmp_path / "state", lambda: config, ModelRegistry(tmp_path)), clock)
    daemon._alerts = AlertClient(config.alerts, ["front"], Nothing(), clock, print, "test")
    daemon._ready = True
    daemon._watch()
    assert manager.heard() == "WATCHDOG=1"
    clock.now_s += 59.0
    daemon._watch()
    assert manager.heard() == "WATCHDOG=1"  # slow, as a name server may be
    clock.now_s += 2.0
    daemon._watch()
    manager.sock.settimeout(0.1)
    with pytest.raises(socket.timeout):
        manager.heard()
    assert "alerts" in daemon._problems.of("")["loop_stuck"]
    daemon._alerts.last_turn_s = clock.now_s
    daemon._watch()
    assert manager.heard() == "WATCHDOG=1"
    assert "loop_stuck" not in daemon._problems.of("")


def test_a_status_cannot_smuggle_another_word(manager: Manager, address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).status("x\nSTOPPING=1")
    assert manager.heard() == "STATUS=x STOPPING=1"


def test_nobody_listens() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_s is None


def test_a_manager_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    Notifier({"NOTIFY_SOCKET": "relative"}).ready()


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="no-pid"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0, id="ours"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="somebody-elses"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="rubbish"),
        pytest.param({}, None, id="none"),
    ],
)
def test_watchdog(env: dict[str, str], seconds: float) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/x", **env}).watchdog_s == seconds


@pytest.fixture
def own_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_root")
def test_logs_hold_neither_addresses_nor_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    log = logging.getLogger("edgecam.test")
    log.info("device %s at %s", "aa:bb:cc:dd:ee:ff", "rtsp://user:pa55@cam/1")
    try:
        raise ValueError("rtsp://user:pa55@cam/1")
    except ValueError:
        log.exception("from AA-BB-CC-DD-EE-FF")
    log.debug("not shown")
    text = capsys.readouterr().err
    assert "edgecam.test: device (address) at rtsp://(credentials)@cam/1" in text
    assert "Traceback" in text
    for secret in ("aa:bb", "AA-BB", "pa55", "user", "not shown"):
        assert secret not in text


@pytest.mark.usefixtures("own_root")
def test_verbose_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(verbose=True)
    setup_logging(verbose=True)
    logging.getLogger("edgecam.test").debug("once")
    assert capsys.readouterr().err.count("once") == 1


def test_ids_and_times_are_not_taken_for_addresses() -> None:
    for text in ("12:34:56", "01JQ8Z5T6W", "2026-01-02-03-04-05 x", "fe80::1"):
        assert redact(text) == text


@pytest.mark.usefixtures("own_root")
def test_the_journal_is_used_only_if_stderr_is_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    journal = pytest.importorskip("systemd.journal")
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stat = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        assert isinstance(setup_logging(), journal.JournalHandler)
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + 1}")
        assert not isinstance(setup_logging(), journal.JournalHandler)
