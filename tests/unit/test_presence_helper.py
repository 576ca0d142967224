"""The helper without a radio: what it imports, whom it trusts, how it hops, what it does to the only uplink."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import pytest
from radiotap import dot11, mac, tapped

from edgecam.presence import helper as helper_module
from edgecam.presence import radio as radio_module
from edgecam.presence import sources
from edgecam.presence.frames import RADIOTAP
from edgecam.presence.helper import Helper
from edgecam.presence.radio import ChannelRefusedError, MonitorRadio, RadioError, channel_list, only_uplink
from edgecam.presence.sockets import mdns_filter, wireless_filter
from edgecam.presence.sources import Air, LostError, reachable
from edgecam.presence.wire import Lines, Watch, pack_watch

PHONE, OTHER = "5c:51:4f:be:ef:01", "5c:51:4f:be:ef:02"

CLOSURE = """
import json, sys
sys.argv = ["edgecam", "presence", "run", "--socket", "/nonexistent/p.sock"]
import signal
from edgecam.presence.helper import Helper
Helper.turn = lambda self, now_s: Helper._on_signal(self, 0, None)
from edgecam.__main__ import main
code = main()
assert code == 0, code
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


def test_the_helper_imports_the_standard_library_and_little_of_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", CLOSURE], capture_output=True, text=True, check=False, env=path_env()
    )
    assert done.returncode == 0, done.stderr
    loaded: Dict[str, Optional[str]] = json.loads(done.stdout.splitlines()[-1])
    homes = (str(Path(os.__file__).resolve().parent), str(Path(helper_module.__file__).resolve().parents[1]))
    foreign = {name for name, file in loaded.items() if file and not str(Path(file).resolve()).startswith(homes)}
    assert foreign == set()
    assert not any("site-packages" in (file or "") for file in loaded.values())
    ours = {name for name in loaded if name.startswith("edgecam.") and not name.startswith("edgecam.cli")}
    log = {"edgecam.daemon", "edgecam.daemon.flood"}  # of the daemon the log's own guard alone
    assert ours <= log | {"edgecam.__main__", "edgecam.clock", "edgecam.errors", "edgecam.presence"} | {
        f"edgecam.presence.{name}" for name in ("frames", "hearing", "helper", "radio", "sockets", "sources", "wire")
    }
    assert "edgecam.presence.helper" in ours


def path_env() -> Dict[str, str]:
    """Return an environment in which nothing but our own source can be imported besides the standard library."""
    return {**os.environ, "PYTHONPATH": str(Path(helper_module.__file__).parents[2])}


# Filters, run by an interpreter of the kernel's language.


def passes(program: Sequence[Any], data: bytes) -> bool:
    """Run a filter as the kernel would; reading beyond the frame drops it."""
    a = x = at = 0
    loads = {0x20: (4, 0), 0x28: (2, 0), 0x30: (1, 0), 0x40: (4, 1), 0x48: (2, 1)}
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code in loads:
            size, indirect = loads[code]
            start = k + (x if indirect else 0)
            if start + size > len(data):
                return False
            a = int.from_bytes(data[start : start + size], "big")
        elif code == 0x06:
            return bool(k > 0)
        elif code == 0x15:
            at += jt if a == k else jf
        elif code == 0x05:
            at += k
        elif code == 0x07:
            x = a
        elif code == 0x64:
            a <<= k
        elif code == 0x4C:
            a |= x
        elif code == 0x01:
            x = k
        elif code == 0xB1:
            x = 4 * (data[k] & 0xF)
        else:
            raise AssertionError(hex(code))


def test_the_kernel_passes_the_enrolled_and_nobody_else() -> None:
    program = wireless_filter([mac(OTHER), mac(PHONE)], radiotap=True)
    assert passes(program, tapped(dot11(PHONE)))
    assert passes(program, tapped(dot11(OTHER), antennas=(-40, -50)))
    assert not passes(program, tapped(dot11("5c:51:4f:be:ef:03")))
    assert not passes(program, tapped(dot11("02:51:4f:be:ef:01")))  # the same end
    assert not passes(program, tapped(dot11("5c:51:4f:be:ef:03", receiver=PHONE)))  # to, not from
    assert not passes(program, tapped(dot11(PHONE)[:12]))
    assert not passes(program, b"")
    assert passes(wireless_filter([mac(PHONE)], radiotap=False), dot11(PHONE))
    assert not passes(wireless_filter([], radiotap=True), tapped(dot11(PHONE)))


def test_the_kernel_passes_mdns_alone() -> None:
    program = mdns_filter([mac(PHONE)])

    def packet(sender: str, port: int, words: int = 5, protocol: int = 17) -> bytes:
        ip = bytes([0x40 | words]) + bytes(8) + bytes([protocol]) + bytes(4 * words - 10)
        return mac("01:00:5e:00:00:fb") + mac(sender) + b"\x08\x00" + ip + struct.pack(">HHHH", 5353, port, 8, 0)

    assert passes(program, packet(PHONE, 5353))
    assert passes(program, packet(PHONE, 5353, words=8))  # options
    assert not passes(program, packet(OTHER, 5353))
    assert not passes(program, packet(PHONE, 53))
    assert not passes(program, packet(PHONE, 5353, protocol=6))
    assert not passes(program, mac(OTHER) + mac(PHONE) + b"\x08\x06" + bytes(60))


# Netlink.


def neighbour(state: int, address: bytes, kind: int = 28) -> bytes:
    body = struct.pack("=BxxxiHBB", 2, 3, state, 0, 1)
    body += struct.pack("=HH4s", 8, 1, bytes([192, 168, 1, 5])) + struct.pack("=HH", 4 + len(address), 2) + address
    body += bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def test_only_confirmed_neighbours_are_there() -> None:
    data = (
        neighbour(0x02, mac(PHONE))
        + neighbour(0x04, mac(OTHER))
        + neighbour(0x02, b"\1\2")
        + neighbour(2, mac(OTHER), 29)
    )
    assert reachable(data) == [mac(PHONE)]
    assert reachable(data[:30]) == []
    assert reachable(struct.pack("=IHHII", 0, 28, 0, 0, 0)) == []


# The radio.


class FakeRadio:
    """A radio that some channels are refused to."""

    def __init__(self, name: str, refused: Sequence[int] = (), fails: str = "") -> None:
        self.name, self.refused, self.fails = name, refused, fails
        self.tuned: List[int] = []
        self.closed = 0

    def open(self) -> int:
        if self.fails:
            raise RadioError(self.fails)
        return RADIOTAP

    def tune(self, channel: int) -> Optional[int]:
        if self.fails:
            raise RadioError(self.fails)
        if channel in self.refused:
            raise ChannelRefusedError(f"channel {channel} is refused")
        self.tuned.append(channel)
        return channel

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield what is written into the air: a datagram socket in place of the packet socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    monkeypatch.setattr(sources, "packet_socket", lambda *_: theirs)
    monkeypatch.setattr(sources, "dropped", lambda _: 3)
    with ours, theirs:
        yield ours


def air(radio: FakeRadio, channels: Any = (1, 6, 11)) -> Air:
    return Air(radio, {mac(PHONE): "D1"}, channels, 1.0, -55)


def test_a_second_on_each_channel(sky: socket.socket) -> None:
    radio = FakeRadio("wlan1")
    one = air(radio)
    for tenth in range(45):
        list(one.tick(100.0 + tenth / 10))
    assert radio.tuned == [1, 6, 11, 1, 6]
    one.close()
    assert radio.closed == 1


def test_a_refused_channel_is_left_out_and_said(sky: socket.socket) -> None:
    radio = FakeRadio("wlan1", refused=(6, 13))
    one = air(radio, (1, 6, 13, 11))
    for second in range(7):
        list(one.tick(100.0 + second))
    assert radio.tuned == [1, 11, 1, 11, 1, 11, 1]
    assert "refused" in one.problems["channel_refused"]


def test_a_radio_that_nothing_is_allowed_to_is_lost(sky: socket.socket) -> None:
    radio = FakeRadio("wlan1", refused=(1, 6, 11))
    with pytest.raises(LostError, match="every configured channel is refused"):
        air(radio)
    assert radio.closed == 1


def test_a_radio_that_goes_while_hopping_is_lost(sky: socket.socket) -> None:
    radio = FakeRadio("wlan1")
    one = air(radio)
    list(one.tick(100.0))
    radio.fails = "wlan1 is gone"
    with pytest.raises(LostError, match="wlan1 is gone"):
        list(one.tick(101.5))


def test_frames_become_signs_and_drops_are_counted(sky: socket.socket) -> None:
    one = air(FakeRadio("wlan1"))
    sky.send(tapped(dot11(PHONE), -40))
    sky.send(tapped(dot11(OTHER), -30))
    assert list(one.read(50.0)) == []
    (sign,) = one.tick(51.0)
    assert (sign.device, sign.rssi_dbm, sign.at_s, sign.frames) == ("D1", -40, 50.0, 1)
    assert (one.counts["dropped"], one.counts["dropped"]) == (3, 6)


ROUTES = "Iface\tDestination\tGateway\tFlags\n{}"
DEFAULT = "{}\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("carrying", "only"),
    [((), False), (("wlan0",), True), (("wlan0", "eth0"), False), (("eth0",), False), (("wlan0", "lo"), True)],
)
def test_the_only_uplink_is_known(tmp_path: Path, carrying: Sequence[str], only: bool) -> None:
    (tmp_path / "route").write_text(ROUTES.format("".join(DEFAULT.format(name) for name in carrying)))
    (tmp_path / "route6").write_text(f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 0 0 0 0 eth9\n")
    assert only_uplink("wlan0", tmp_path / "route", tmp_path / "route6") is only
    assert only_uplink("wlan0", tmp_path / "none", tmp_path / "none") is False


class Machine:
    """A machine's interfaces and `iw` as `MonitorRadio` sees them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind, self.uplink, self.log = 1, False, list[str]()
        self.says = dict[str, str]()
        iw = folder / "iw"
        refuses = f'[ -f {folder}/"$4$5" ] && cat {folder}/"$4$5" >&2 && exit 1'
        iw.write_text(f'#!/bin/sh\necho "$@" >>{folder}/iw.log\n{refuses}\nexit 0\n')
        iw.chmod(0o755)
        self.folder = folder
        (folder / "wlan1").mkdir()
        (folder / "wlan1" / "phy80211").mkdir()
        monkeypatch.setattr(radio_module, "_sys", lambda name, what: folder / name / what)
        monkeypatch.setattr(radio_module, "_flags", lambda _: 0)
        monkeypatch.setattr(radio_module, "_set_up", lambda _, *, up: self.log.append("up" if up else "down"))
        monkeypatch.setattr(radio_module, "only_uplink", lambda _: self.uplink)
        monkeypatch.setattr(radio_module, "_hardware", self.hardware)
        monkeypatch.setattr("shutil.which", lambda *_, **__: str(iw))

    def hardware(self, _name: str) -> int:
        return 803 if "monitor" in self.asked() else self.kind

    def refuse(self, what: str, said: str) -> None:
        (self.folder / what).write_text(said)

    def asked(self) -> str:
        log = self.folder / "iw.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_an_adapter_goes_into_monitor_mode_and_back(machine: Machine) -> None:
    radio = MonitorRadio("wlan1")
    assert radio.open() == RADIOTAP
    assert radio.tune(6) == 6
    radio.close()
    radio.close()
    assert machine.asked().splitlines() == [
        "dev wlan1 set type monitor",
        "dev wlan1 set channel 6",
        "dev wlan1 set type managed",
    ]
    assert machine.log == ["down", "up", "down", "up"]


def test_the_only_uplink_is_left_alone(machine: Machine) -> None:
    machine.uplink = True
    with pytest.raises(RadioError, match="only way to the network and stays as it is"):
        MonitorRadio("wlan1").open()
    assert (machine.log, machine.asked()) == ([], "")


def test_an_adapter_without_monitor_mode_is_put_back_and_others_are_named(machine: Machine) -> None:
    machine.refuse("typemonitor", "command failed: Operation not supported (-95)\n")
    machine.hardware = lambda _name: 1  # type: ignore[method-assign]
    with pytest.raises(RadioError, match=r"no monitor mode .*Operation not supported.*known to work: ath9k_htc"):
        MonitorRadio("wlan1").open()
    assert machine.asked().splitlines()[-1] == "dev wlan1 set type managed"


def test_what_iw_says_is_understood(machine: Machine) -> None:
    radio = MonitorRadio("wlan1")
    radio.open()
    machine.refuse("channel13", "command failed: Invalid argument (-22)\n")
    with pytest.raises(ChannelRefusedError, match=r"channel 13 is refused .*Invalid argument.*iw reg get"):
        radio.tune(13)
    machine.refuse("channel6", "command failed: No such device (-19)\n")
    with pytest.raises(RadioError, match="wlan1 is gone"):
        radio.tune(6)


@pytest.mark.parametrize("text", ["", "a", "1,,6", "0", "999"])
def test_what_is_no_list_of_channels(text: str) -> None:
    assert channel_list(text) is None


# The daemon's end.


class Daemon:
    """What a helper meets at its socket."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.lines = Lines()

    def accept(self) -> socket.socket:
        self.listener.settimeout(5)
        client, _ = self.listener.accept()
        client.settimeout(5)
        return client


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "p.sock")
    yield made
    made.listener.close()


def turns(helper: Helper, until: Callable[[], Any]) -> None:
    for number in range(200):
        helper.turn(1000.0 + number / 10)
        if until():
            return
    raise AssertionError("never came")


def test_the_helper_hears_for_the_daemon_and_forgets_when_it_goes(
    tmp_path: Path, daemon: Daemon, sky: socket.socket
) -> None:
    radios: List[FakeRadio] = []

    def make(name: str) -> FakeRadio:
        radios.append(FakeRadio(name))
        return radios[-1]

    helper = Helper(tmp_path / "p.sock", channels=(4,), make_radio=make)
    helper.turn(999.0)
    with daemon.accept() as sock:
        sock.sendall(pack_watch(Watch({mac(PHONE).hex(): "D1"}, radio="wlan1")))
        turns(helper, lambda: radios)
        assert radios[0].tuned == [4]  # the command line goes first
        sky.send(tapped(dot11(PHONE), -40))
        messages: List[Dict[str, Any]] = []
        sock.settimeout(0.05)

        def heard() -> Any:
            try:
                messages.extend(daemon.lines.read(sock) or [])
            except socket.timeout:
                pass
            return [m["heard"] for m in messages if "heard" in m]

        turns(helper, heard)
        assert (heard()[0]["device"], heard()[0]["rssi_dbm"], heard()[0]["channel"]) == ("D1", -40, 6)
        assert mac(PHONE).hex() not in json.dumps(messages)
    turns(helper, lambda: radios[0].closed)
    assert helper._watch == Watch()


def test_without_devices_the_radio_is_not_touched(tmp_path: Path, daemon: Daemon) -> None:
    helper = Helper(tmp_path / "p.sock", make_radio=lambda _: pytest.fail("touched"))
    helper.turn(999.0)
    with daemon.accept() as sock:
        sock.sendall(pack_watch(Watch(radio="wlan1")))
        for _ in range(5):
            helper.turn(1000.0)
        assert helper._watch.radio == "wlan1"


@pytest.mark.parametrize(
    "line", [b"no json\n", b'{"watch": {"devices": {"xx": "D1"}}}\n', b'{"watch": {"new": 1}}\n', b"[]\n"]
)
def test_a_daemon_of_another_kind_is_left(tmp_path: Path, daemon: Daemon, line: bytes) -> None:
    helper = Helper(tmp_path / "p.sock")
    helper.turn(999.0)
    with daemon.accept() as sock:
        sock.sendall(line)
        turns(helper, lambda: helper._daemon is None)


def test_whom_the_helper_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "1000")
    assert set(helper_module._trusted()) >= {0, 1000}
    monkeypatch.setattr("os.geteuid", lambda: 1001)
    assert 1000 not in helper_module._trusted()
    assert set(helper_module._trusted()) >= {0, 1001}


def test_a_stranger_at_the_socket_is_not_obeyed(
    tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper_module, "peer_uid", lambda _: 12345)
    helper = Helper(tmp_path / "p.sock")
    helper.turn(999.0)
    with daemon.accept() as sock:
        assert sock.recv(100) == b""
    assert helper._daemon is None


# Bluetooth, with bleak's interface in place of bleak.


class Scanner:
    """bleak's BleakScanner: one advertisement of each of two devices."""

    def __init__(self, detection_callback: Callable[[Any, Any], None]) -> None:
        self.callback = detection_callback

    async def __aenter__(self) -> None:
        for address in (PHONE.upper(), OTHER.upper(), "no address"):
            self.callback(types.SimpleNamespace(address=address), types.SimpleNamespace(rssi=-66))

    async def __aexit__(self, *_: object) -> None:
        return


class Off(Scanner):
    async def __aenter__(self) -> None:
        raise OSError("no adapter")


@pytest.mark.parametrize("scanner", [Scanner, Off])
def test_bluetooth_tells_of_the_enrolled_or_that_it_cannot(monkeypatch: pytest.MonkeyPatch, scanner: Any) -> None:
    monkeypatch.setitem(sys.modules, "bleak", types.SimpleNamespace(BleakScanner=scanner))
    from edgecam.presence.ble import Bluetooth

    source = Bluetooth({mac(PHONE): "D1"})
    os.set_blocking(source.fileno(), True)
    if scanner is Off:
        with pytest.raises(LostError, match="cannot scan: OSError: no adapter"):
            list(source.read(0.0))
    else:
        (sign,) = source.read(0.0)
        assert (*sign[:2], sign.rssi_dbm) == ("D1", "ble", -66)
    source.close()


def test_bluetooth_without_bleak_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bleak", None)
    from edgecam.presence.ble import Bluetooth

    with pytest.raises(LostError, match=r"pip install 'edgecam\[presence\]'"):
        Bluetooth({})
