"""`edgecam devices` and `edgecam presence`: exit codes, JSON, one clear line for what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import pytest
from radiotap import dot11, tapped

from edgecam.__main__ import main
from edgecam.cli import presence
from edgecam.cli.common import Backend
from edgecam.store import Store

PHONE, OTHER = "5c:51:4f:be:ef:01", "02:51:4f:be:ef:02"


class Done(NamedTuple):
    """What a command said."""

    stdout: str
    stderr: str


class Shell:
    """A state folder with Ann and Ben, and the command line on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.state, self._capsys = folder, folder / "state", capsys
        with Store.open(self.state) as store:
            self.ann, self.ben = store.add_person("Ann"), store.add_person("Ben")

    def run(self, *args: object, code: int = 0) -> Done:
        before = signal.getsignal(signal.SIGTERM)
        self._capsys.readouterr()
        try:
            ended = main([*map(str, args)])
        finally:
            signal.signal(signal.SIGTERM, before)
        done = Done(*self._capsys.readouterr())
        assert ended == code, (ended, done)
        return done

    def json(self, *args: object, code: int = 0) -> List[Dict[str, Any]]:
        return [json.loads(line) for line in self.run(*args, "--json", code=code).stdout.splitlines()]

    def capture(self, *frames: bytes, link: int = 127) -> Path:
        path = self.folder / "c.pcap"
        head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
        records = (struct.pack("<IIII", 1_700_000_000 + n, 0, len(f), len(f)) + f for n, f in enumerate(frames))
        path.write_bytes(head + b"".join(records))
        return path


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("EDGECAM_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("EDGECAM_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Shell(tmp_path, capsys)


def test_a_device_is_bound_listed_heard_and_removed(shell: Shell) -> None:
    (added,) = shell.json("devices", "add", "ann", PHONE.upper(), "--label", "phone", "--consent", "asked, 3 May")
    assert (added["person"], added["kind"], added["random"], added["label"]) == ("Ann", "wifi", False, "phone")
    assert (added["consent"]["how"], added["consent"]["scope"]) == ("asked, 3 May", "presence")
    assert shell.json("devices", "list") == shell.json("devices", "list", "Ann") == [added]
    assert shell.json("devices", "list", "Ben") == []
    listed = shell.run("devices", "list").stdout
    assert "..:ef:01" in listed
    assert PHONE not in listed + json.dumps(added)
    path = shell.capture(tapped(dot11(PHONE), -40), tapped(dot11(OTHER), -30), tapped(dot11(PHONE), -70))
    sighting, summary = shell.json("presence", "replay", path)
    assert (sighting["device"], sighting["person"], sighting["rssi_dbm"]) == (added["device"], "Ann", -40)
    assert (summary["type"], summary["counts"]["strangers"], summary["counts"]["weak"]) == ("summary", 1, 1)
    assert len(shell.json("presence", "replay", path, "--rssi", -90)) == 3
    exported = shell.json("people", "export", "Ann")
    assert [row["address"] for row in exported if row["type"] == "device"] == [PHONE]
    assert shell.json("devices", "remove", PHONE) == [{"removed": added["device"]}]
    assert "no device is bound" in shell.run("devices", "list").stderr
    done = shell.run("presence", "replay", path)
    assert "no device is enrolled" in done.stderr
    assert done.stdout == ""


def test_everybody_only_by_pseudonym(shell: Shell) -> None:
    path = shell.capture(tapped(dot11(PHONE), -40), tapped(dot11(OTHER), -90))
    done = shell.run("presence", "replay", path, "--all", "--json")
    first, second, summary = map(json.loads, done.stdout.splitlines())
    assert (first["device"], second["device"], summary["random_addresses"]) == ("p1", "p2", 1)
    assert PHONE not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("add", "Ann", PHONE), 2, "say how Ann agreed"),
        (("add", "Ann", "rubbish", "--consent", "asked"), 2, "not the address of a device"),
        (("add", "Ann", "01:00:5e:00:00:fb", "--consent", "asked"), 2, "not the address of a device"),
        (("add", "Nobody", PHONE, "--consent", "asked"), 1, "nobody is called 'Nobody'"),
        (("add", "Ann", "a/#", "--consent", "asked"), 2, "not the MQTT topic of one"),
        (("add", "Ann", PHONE, "--consent", "  "), 2, "must have agreed"),
        (("add", "Ann", PHONE, "--consent", "\udcff"), 2, "the consent contains the control character"),
        (("add", "Ann", PHONE, "--consent", "asked", "--label", "a\x1b[2J"), 2, "the label contains the control"),
        (("remove", "\udcff"), 2, "contains the control character"),
        (("remove", "XYZ9"), 1, "no device is called XYZ9"),
    ],
)
def test_what_cannot_be_bound_is_said_in_one_line(shell: Shell, args: Any, code: int, said: str) -> None:
    done = shell.run("devices", *args, code=code)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("typed", "code"), [("", 2), ("n\n", 2), ("y\n", 0)])
def test_consent_is_asked_for_on_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    done = shell.run("devices", "add", "Ann", PHONE, code=code)
    assert ("nothing was bound" in done.stderr) == bool(code)
    assert len(shell.json("devices", "list")) == (0 if code else 1)


def test_a_device_has_one_owner(shell: Shell) -> None:
    shell.run("devices", "add", "Ann", PHONE, "--consent", "asked")
    done = shell.run("devices", "add", "Ben", PHONE, "--consent", "asked", code=2)
    assert "bound to somebody else already" in done.stderr
    assert PHONE not in done.stderr


def test_a_random_address_is_recognised(shell: Shell) -> None:
    done = shell.run("devices", "add", "Ann", OTHER, "--consent", "asked")
    assert "private (random) address" in done.stderr
    assert "(random address)" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("replay", "none.pcap"), 1, "cannot be read"),
        (("replay", __file__), 1, "is not a capture"),
        (("run", "--channels", "1,x"), 2, "a list of channel numbers is wanted"),
        (("calibrate", "D1"), 1, "needs the running daemon"),
        (("calibrate", "D1", "--seconds", "1"), 2, "from 10 to 50"),
    ],
)
def test_wrong_usage_of_presence_is_one_line(shell: Shell, args: Any, code: int, said: str) -> None:
    done = shell.run("presence", *args, code=code)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_capture_of_a_cable_is_refused(shell: Shell) -> None:
    done = shell.run("presence", "replay", shell.capture(bytes(60), link=1), "--all", code=1)
    assert "has no 802.11 frames (link type 1, Ethernet)" in done.stderr


def test_a_broken_capture_is_read_as_far_as_it_goes(shell: Shell) -> None:
    path = shell.capture(tapped(dot11(PHONE)), tapped(dot11(PHONE)))
    path.write_bytes(path.read_bytes()[:-5])
    sighting, summary = shell.json("presence", "replay", path, "--all")
    assert sighting["frames"] == 1
    assert summary["problems"] == [f"{path}: read as far as it goes: it ends within a frame"]


class Measured:
    """A daemon whose radio hears a phone at the door, and then elsewhere."""

    def __init__(self, near: Sequence[Optional[int]], far: Sequence[Optional[int]]) -> None:
        self.rounds = [near, far]
        self.asked: List[Any] = []

    def answer(self, request: Any) -> Iterator[Dict[str, Any]]:
        self.asked.append(request)
        if request["op"] == "devices.list":
            yield {"device": "01ABCD", "person": "Ann", "kind": "wifi", "label": ""}
        else:
            yield from ({"rssi_dbm": rssi, "channel": 6, "frames": 1} for rssi in self.rounds.pop(0))


@pytest.mark.parametrize(
    ("near", "far", "code", "said"),
    [
        ([-50] * 20, [-80] * 20, 0, "min_rssi_dbm = -65"),
        ([-50] * 20, [], 0, "min_rssi_dbm = -60"),
        ([-50] * 20, [-45] * 20, 1, "cannot be told apart"),
        ([-50] * 9 + [None] * 9, [], 1, "was heard in 9 seconds of 30"),
    ],
)
def test_calibration_asks_for_two_places(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, near: Any, far: Any, code: int, said: str
) -> None:
    daemon = Measured(near, far)

    @contextlib.contextmanager
    def live(_args: Any) -> Iterator[Backend]:
        yield Backend(daemon.answer, live=True)

    monkeypatch.setattr(presence, "backend", live)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    done = shell.run("presence", "calibrate", "abcd", code=code)
    assert said in done.stdout + done.stderr
    assert "Stand at the door with the device of Ann" in done.stderr
    assert daemon.asked[1] == {"op": "presence.listen", "device": "01ABCD", "seconds": 30.0}


def test_doctor_says_that_presence_was_skipped(shell: Shell) -> None:
    config = shell.folder / "c.toml"
    config.write_text("[presence]\nble = true\n")
    done = shell.run("doctor", "--config", config, code=1)  # nothing else is set up here
    assert "skipped presence: the daemon does not run" in done.stdout
