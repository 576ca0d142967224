"""What `edgecam doctor` looks at, check by check: what is wrong, and that something to do about it is told."""

from __future__ import annotations

import importlib
import os
import pkgutil
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from edgecam import __version__
from edgecam.config import Config, parse_config
from edgecam.daemon import checks
from edgecam.daemon.checks import CHECKS, Finding, Subject, base, board, clock, disk, examine, service, state
from edgecam.daemon.control import ControlServer, Peer
from edgecam.errors import ConfigError, KeyMissingError
from edgecam.store import Store
from edgecam.store.check import SEALED

STATUS: Dict[str, Any] = {
    "problems": {},
    "version": __version__,
    "words_lost": 0,
    "outbox_dropped": 0,
    "paused": False,
    "memory_mb": 250.0,
    "cameras": {},
}


def subject_of(folder: Path, data: Optional[Dict[str, Any]] = None, **more: Any) -> Subject:
    config = parse_config(data or {}, "here")
    return Subject(
        folder / "state", config, folder / "edgecam.toml", folder / "models", more.pop("live", False), **more
    )


def found(name: str, subject: Subject) -> List[Finding]:
    return list(dict(CHECKS)[name](subject))


def states(findings: List[Finding]) -> List[str]:
    return [finding.state for finding in findings]


def test_nothing_is_told_without_what_to_do() -> None:
    Finding("disk", "ok", "fine")
    with pytest.raises(ValueError, match="no fix is told"):
        Finding("disk", "broken", "full")


def test_every_file_is_a_check() -> None:
    files = {module.name for module in pkgutil.iter_modules(checks.__path__)} - {"base"}
    told = {importlib.import_module(f"edgecam.daemon.checks.{name}").check for name in files}
    assert told == {check for _, check in CHECKS}


def test_a_check_that_fails_is_a_finding_and_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(err: Exception) -> base.Check:
        def check(_: Subject) -> Iterator[Finding]:
            yield Finding("first", "ok", "half of it")
            raise err

        return check

    chain = (
        ("key", raising(KeyMissingError("no key"))),
        ("disk", raising(PermissionError(13, "Permission denied", "/x"))),
        ("broker", raising(ConfigError("no password file"))),
        ("last", lambda _: iter([Finding("last", "ok", "looked at")])),
    )
    monkeypatch.setattr(checks, "CHECKS", chain)
    told = list(examine(subject_of(tmp_path)))
    assert [one.check for one in told if one.state == "broken"] == ["key", "disk", "broker"]
    assert told[-1].text == "looked at"
    assert all(one.fix for one in told if one.state == "broken")
    assert "/x: Permission denied" in [one.text for one in told]


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "text", "want"),
    [
        (0o640, "rtsp://u:p@door/", ["ok"]),
        (0o644, "rtsp://u:p@door/", ["ok", "broken"]),
        (0o644, "rtsp://door/", ["ok", "hint"]),
    ],
)
def test_a_configuration_with_a_password_is_nobody_elses(tmp_path: Path, mode: int, text: str, want: List[str]) -> None:
    subject = subject_of(tmp_path, {"cameras": {"door": {"url": text}}})
    (tmp_path / "edgecam.toml").touch()
    (tmp_path / "edgecam.toml").chmod(mode)
    told = found("config", subject)
    assert states(told) == want
    assert not any("u:p" in one.text + one.fix for one in told)


def test_a_configuration_that_is_not_valid_is_told(tmp_path: Path) -> None:
    (one,) = found("config", subject_of(tmp_path, config_fault="cameras: unknown key"))
    assert (one.state, one.text) == ("broken", "cameras: unknown key")
    assert states(found("config", subject_of(tmp_path))) == ["hint"]


def test_rights_of_state_and_key(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    with Store.open(subject.state, subject.config.store):
        pass
    assert [one.check for one in found("state", subject)] == ["state", "people"]
    assert states(found("key", subject)) == ["hint"]
    (subject.state / "edgecam.db").chmod(0o640)
    (subject.state / "master.key").chmod(0o604)
    subject.state.chmod(0o750)
    told = [*found("state", subject), *found("key", subject)]
    fixes = [one.fix for one in told if one.check == "permissions"]
    names = (f"700 {subject.state}", f"600 {subject.state}/edgecam.db", f"600 {subject.state}/master.key")
    assert fixes == [f"chmod {name}" for name in names]


def test_a_key_among_the_backups_protects_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").write_bytes(bytes(32))
    (tmp_path / "k").chmod(0o600)
    monkeypatch.setenv("EDGECAM_KEY_FILE", str(tmp_path / "k"))
    assert states(found("key", subject_of(tmp_path))) == ["ok"]
    (told,) = found("key", subject_of(tmp_path, {"store": {"backup_dir": str(tmp_path)}}))
    assert told.state == "broken"


def test_every_kind_of_damage_has_a_fix() -> None:
    entries = [{"table": table, "owner": f"{table}{i}"} for table in {row[0] for row in SEALED} for i in range(2)]
    told = list(state._damage(entries))
    assert sum(int(one.text.split()[0]) for one in told) == len(entries)
    assert sum("faces kept for the night" in one.text for one in told) == 1


def test_backups_by_their_age(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    subject = subject_of(tmp_path, {"store": {"backup_dir": str(folder)}})
    subject.state.mkdir()
    assert states(found("backup", subject_of(tmp_path))) == ["hint"]
    assert "none yet" in found("backup", subject)[0].text
    folder.mkdir()
    for name, days in (("edgecam-1.db", 9), ("edgecam-2.db", 4)):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - days * 86_400))
    (told,) = found("backup", subject)
    assert (told.state, told.text) == ("broken", "the newest is 4 days old")
    os.utime(folder / "edgecam-1.db")
    (told,) = found("backup", subject)
    assert (told.state, told.text) == ("hint", "2, the newest 0 h old, on the same disk as what they copy")


def test_a_state_in_memory_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    subject = subject_of(tmp_path)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n/dev/b {tmp_path}x ext4 rw 0 0\n")
    assert [one.state for one in disk.check(subject, mounts)] == ["ok", "broken"]
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path}/state2 tmpfs rw 0 0\n")
    assert [one.state for one in disk.check(subject, mounts)] == ["ok"]


# --- the box ----------------------------------------------------------------------------------------------------------


def zone(sys: Path, milli: int) -> None:
    folder = sys / "class/thermal/thermal_zone0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type").write_text("cpu-thermal\n")
    (folder / "temp").write_text(f"{milli}\n")


def test_the_board_is_looked_at(tmp_path: Path) -> None:
    sys, proc = tmp_path / "sys", tmp_path / "proc"
    cpu, hwmon = sys / "devices/system/cpu", sys / "class/hwmon/hwmon1"
    for folder in (cpu, hwmon, proc):
        folder.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n")
    for name in ("present", "online"):
        (cpu / name).write_text("0-5\n")

    def told() -> List[str]:
        return [f"{one.state}: {one.text}" for one in board.check(subject_of(tmp_path), sys, proc)]

    assert told() == []
    zone(sys, 51_200)
    (hwmon / "in0_lcrit_alarm").write_text("0\n")
    assert told() == ["ok: 51 degrees (cpu-thermal)"]
    zone(sys, 84_000)
    (hwmon / "in0_lcrit_alarm").write_text("1\n")
    (cpu / "online").write_text("0-2,5\n")
    (proc / "meminfo").write_text("MemAvailable: 100000 kB\n")
    hot, power, cores, memory = told()
    assert hot == "hint: 84 degrees (cpu-thermal): it slows down"
    assert power.startswith("broken: the supply's voltage")
    assert cores == "hint: 2 of 6 cores are switched off"
    assert memory.startswith("broken: 102 MB of memory")
    zone(sys, 99_000)
    assert told()[0].startswith("broken: 99 degrees")


def test_quiet_hours_want_a_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_adrift", lambda: False)
    monkeypatch.setattr(time, "tzname", ("UTC", "UTC"))
    hours = {"pause": {"schedule": [{"start": "09:00", "end": "10:00"}]}}
    assert states(found("clock", subject_of(tmp_path))) == ["ok"]
    assert states(found("clock", subject_of(tmp_path, hours))) == ["ok", "hint"]
    monkeypatch.setattr(time, "tzname", ("CET", "CEST"))
    assert states(found("clock", subject_of(tmp_path, hours))) == ["ok"]
    monkeypatch.setattr(clock, "_adrift", lambda: True)
    assert "timedatectl" in found("clock", subject_of(tmp_path))[1].fix


def test_a_clock_that_was_never_set_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert states(found("clock", subject_of(tmp_path))) == ["broken"]


@pytest.mark.parametrize(
    ("answers", "want"),
    [
        ({}, ["ok", "ok", "ok"]),
        ({("is-enabled", "edgecam.service"): "disabled"}, ["hint", "ok", "ok"]),
        ({("is-enabled", "edgecam-tune.timer"): ""}, ["ok", "ok", "hint"]),
        ({("is-active", "edgecam-presence.service"): "failed"}, ["ok", "broken", "ok"]),
        ({("is-active", "edgecam-tune.service"): "failed"}, ["ok", "ok", "ok", "broken"]),
        ({("show", "edgecam.service"): "NRestarts=7"}, ["ok", "ok", "ok", "hint"]),
    ],
)
def test_the_units_that_this_configuration_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Dict[Any, str], want: List[str]
) -> None:
    usual = {"is-enabled": "enabled", "is-active": "active", "show": "NRestarts=0"}
    monkeypatch.setattr(service, "_systemctl", lambda verb, unit, *_: answers.get((verb, unit), usual[verb]))
    monkeypatch.setattr(service, "STATE", tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Subject, "as_service", True)
    subject = subject_of(tmp_path, {"presence": {"ble": True}, "store": {"cluster_unknown": True}})
    assert states(found("service", subject)) == want


# --- the running daemon -----------------------------------------------------------------------------------------------


def told_live(folder: Path, name: str, status: Dict[str, Any], data: Optional[Dict[str, Any]] = None) -> List[Finding]:
    def answer(_request: Dict[str, Any], _peer: Peer) -> Iterator[Dict[str, Any]]:
        yield {**STATUS, **status}

    subject = subject_of(folder, data, live=True)
    subject.state.mkdir(exist_ok=True)
    server = ControlServer(subject.state / "control.sock", answer)
    server.start()
    try:
        return found(name, subject)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({}, ["ok"]),
        ({"problems": {"loop_stuck": "no turn of alerts", "broker_refused": "told elsewhere"}}, ["broken"]),
        ({"version": "0.0.1"}, ["hint", "ok"]),
        ({"words_lost": 2, "outbox_dropped": 5}, ["broken", "hint", "ok"]),
        ({"paused": True}, ["hint"]),
    ],
)
def test_the_daemon_says_how_it_is(tmp_path: Path, status: Dict[str, Any], want: List[str]) -> None:
    assert states(told_live(tmp_path, "daemon", status)) == want


def test_cameras_are_told_by_the_daemon_that_watches_them(tmp_path: Path) -> None:
    data = {"cameras": {name: {"url": "rtsp://door/"} for name in ("a", "b", "c")}}
    cameras = {
        "a": {"problems": {}, "fps": 15.0, "dropped": 3},
        "b": {"problems": {"camera_lost": "no route", "new_code": "what nobody foresaw"}},
    }
    told = told_live(tmp_path, "camera", {"cameras": cameras}, data)
    assert states(told) == ["ok", "broken", "broken", "hint"]
    assert "reload" in told[3].fix


def test_one_dead_camera_hides_no_other(tmp_path: Path) -> None:
    data = {"cameras": {name: {"url": f"{tmp_path}/{name}.mp4"} for name in ("a", "b")}}
    told = found("camera", subject_of(tmp_path, data))
    assert [(one.state, one.text[:2]) for one in told] == [("broken", "a:"), ("broken", "b:")]


def test_no_camera_is_broken(tmp_path: Path) -> None:
    assert states(found("camera", subject_of(tmp_path))) == ["broken"]
    assert Config().cameras == {}
