"""The daemon's part: signs become sightings, sightings join visits, and nothing is made up."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence

import pytest
from test_store_samples import NOW, Watch

from edgecam.config import PresenceConfig
from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.daemon.listener import Listener
from edgecam.daemon.presence import Presence
from edgecam.errors import ConfigError, ControlError, StoreError
from edgecam.pipeline.operations import execute
from edgecam.presence.threshold import between
from edgecam.presence.wire import Lines, Sign, State, pack_sign, pack_state
from edgecam.presence.wire import Watch as WatchList
from edgecam.store import Store
from edgecam.types import Device

PHONE = "5c:51:4f:be:ef:01"
TRACKER = "homeassistant/device_tracker/ann/state"


class House:
    """A store, a clock and the daemon's presence, turned by hand."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.clock, self.problems = Watch(), Problems()
        self.store = Store.open(folder / "state", clock=self.clock)
        self.ann, self.ben = self.store.add_person("Ann"), self.store.add_person("Ben")
        self.phone = self.store.add_device(self.ann.id, "wifi", PHONE, label="phone", consent={"how": "asked"})
        self.folder, self.paused, self.topics = folder, False, list[str]()
        self.config = PresenceConfig(**config)
        self.make()

    def make(self) -> None:
        """Start (again) as after a restart of the daemon, without its thread."""
        self.presence = Presence(
            self.store,
            self.config,
            self.folder / "presence.sock",
            self.clock,
            self.problems,
            Beats(self.clock),
            lambda: self.paused,
            self.follow,
        )
        self.presence.refresh()
        self.presence._recall()
        self.presence._poll()

    def follow(self, topics: Sequence[str]) -> None:
        self.topics = list(topics)

    def later(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.presence._turn()

    def sign(
        self, device: Optional[Device] = None, source: str = "sniff", rssi: Optional[int] = -48, **more: Any
    ) -> None:
        self.presence._on_sign(
            Sign((device or self.phone).id, source, self.clock.now_s, rssi, 6, **{"frames": 5, **more})
        )

    def visit(self, name: str = "V1") -> None:
        self.store.open_visit(name, "door", "front", self.clock.now_s)
        self.presence.opened(name)

    def close(self, name: str = "V1") -> None:
        self.store.close_visit(name, self.clock.now_s)
        self.presence.closed(name)

    def kept(self) -> List[Any]:
        return [(s.source.value, s.transition.value, s.weight, s.reason) for s in self.store.sightings(0.0)]

    def shown(self, name: str = "V1") -> Any:
        (row,) = execute(self.store, {"op": "visits.show", "visit": name}, clock=self.clock)
        return row


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: List[House] = []

    def make(**config: Any) -> House:
        houses.append(House(tmp_path, **config))
        return houses[-1]

    yield make
    for house in houses:
        house.store.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


VISIT = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_a_visit_is_joined_with_what_came_shortly_before_and_after(house: House) -> None:
    house.later(3600)
    house.sign()  # long before
    house.later(700)
    house.sign(rssi=-50)  # comes, 60 s before
    house.later(60)
    house.visit(VISIT)
    house.later(30)
    house.sign(rssi=-44)
    house.close(VISIT)
    house.later(170)
    house.sign(rssi=-40)
    house.later(100)
    house.sign()  # too late
    house.later(100)
    shown = house.shown(VISIT)
    assert [(s["offset_s"], s["transition"], s["rssi_dbm"]) for s in shown["sightings"]] == [
        (-60.0, "join", -50),
        (30.0, "steady", -44),
        (200.0, "steady", -40),
    ]
    assert shown["present"] == [{"person": "Ann", "people": ["Ann"], "weight": 1.0, "reason": "came"}]
    assert shown["tracks"] == []  # a phone makes nobody known


def test_what_comes_too_late_is_not_joined_even_before_the_visit_is_put_away(house: House) -> None:
    house.visit(VISIT)
    house.close(VISIT)
    house.clock.now_s += 181
    house.sign()
    house.clock.now_s += 10
    house.presence._turn()
    assert len(house.kept()) == 1
    assert house.shown(VISIT)["sightings"] == []


def test_who_is_there_all_day_counts_little(house: House) -> None:
    for _ in range(20):
        house.sign()
        house.later(30)
    house.visit(VISIT)
    assert house.shown(VISIT)["present"] == [{"person": "Ann", "people": ["Ann"], "weight": 0.2, "reason": "there"}]
    assert len(house.kept()) <= 11  # once a minute, not once a sign


def test_two_frames_are_too_few(house: House) -> None:
    house.visit(VISIT)
    house.sign(frames=2)
    house.later(10)
    assert house.shown(VISIT)["present"][0]["reason"] == "too few frames"
    assert house.shown(VISIT)["present"][0]["weight"] == 0.0


def test_the_first_sign_after_a_start_is_no_coming(house: House) -> None:
    house.later(10)
    house.sign()
    house.later(70)
    assert house.kept() == [("sniff", "steady", 0.2, "")]


def test_a_clone_is_no_proof(house: House) -> None:
    house.visit(VISIT)
    house.sign()
    house.sign(doubled=True)
    house.later(10)
    assert [(p["weight"], p["reason"]) for p in house.shown(VISIT)["present"]] == [(0.0, "doubled")]
    assert f"doubled_{house.phone.id}" in house.problems.of(BOX)
    house.later(3700)
    assert house.problems.of(BOX) == {}


def test_a_phone_that_sends_while_its_owner_is_away_is_no_proof(house: House) -> None:
    house.store.add_device(house.ann.id, "ha", TRACKER, consent={"how": "asked"})
    house.presence.refresh()
    assert house.topics == [TRACKER]
    house.presence.tracked(TRACKER, b"not_home", True)
    house.later(1)
    house.visit(VISIT)
    house.sign()
    house.later(10)
    assert {(p["person"], p["weight"], p["reason"]) for p in house.shown(VISIT)["present"]} == {("Ann", 0.0, "away")}


@pytest.mark.parametrize("payload", [b"unavailable", b"", b"unknown", b'{"state": null}', b"{broken", b'["home"]x'[:0]])
def test_a_tracker_that_does_not_know_says_nothing(house: House, payload: bytes) -> None:
    house.store.add_device(house.ann.id, "ha", TRACKER, consent={"how": "asked"})
    house.presence.refresh()
    house.presence.tracked(TRACKER, payload, False)
    house.later(1)
    house.visit(VISIT)
    assert house.shown(VISIT)["sightings"] == []


def test_a_tracker_tells_of_coming_going_and_being_there(house: House) -> None:
    house.store.add_device(house.ann.id, "ha", TRACKER, consent={"how": "asked"})
    house.presence.refresh()
    house.presence.tracked(TRACKER, b"home", True)
    house.later(1)
    house.presence.tracked(TRACKER, b"not_home", True)
    house.presence.tracked(TRACKER, b"home", True)
    house.later(1)
    assert house.kept() == []  # retained: of old, told again after a reconnect
    house.visit(VISIT)
    house.presence.tracked(TRACKER, b"Work", False)
    house.later(1)
    house.presence.tracked(TRACKER, b'{"state": "home"}', False)
    house.later(1)
    assert house.kept() == [("ha", "steady", 0.2, ""), ("ha", "leave", 1.0, ""), ("ha", "join", 1.0, "")]


def test_a_device_of_two_people_tells_of_neither(house: House) -> None:
    tablet = house.store.add_device(house.ben.id, "wifi", "5c:51:4f:be:ef:02", consent={"how": "asked"})
    # Only two households' backups make this: `devices add` refuses it.
    house.store.change_device(tablet.id, address=PHONE)
    house.presence.refresh()
    house.visit(VISIT)
    house.sign()
    house.later(10)
    (present,) = house.shown(VISIT)["present"]
    assert (present["person"], present["people"], present["weight"], present["reason"]) == (
        None,
        ["Ann", "Ben"],
        0.0,
        "shared",
    )


def test_a_pause_notices_nobody(house: House) -> None:
    house.paused = True
    house.sign()
    house.later(100)
    assert house.kept() == []


def test_an_unbound_device_is_forgotten_at_once(house: House) -> None:
    house.sign()
    house.store.remove_device(house.phone.id)
    house.presence.refresh()
    house.sign()
    house.later(100)
    assert house.kept() == []


def test_no_devices_no_sightings(house: House) -> None:
    house.store.remove_device(house.phone.id)
    house.presence.refresh()
    house.visit(VISIT)
    assert (house.shown(VISIT)["present"], house.shown(VISIT)["sightings"]) == ([], [])


def test_a_clock_that_is_set_moves_no_sighting(house: House) -> None:
    house.clock.now_s = 1000.0  # unset, and stands for both clocks here
    house.make()
    house.visit(VISIT)
    house.sign()
    monotonic, house.clock.monotonic_s = house.clock.now_s, lambda: monotonic + 5  # type: ignore[method-assign]
    house.clock.now_s = NOW
    house.presence._turn()
    house.sign()
    house.presence._flush(0.0)
    assert [s["offset_s"] for s in house.shown(VISIT)["sightings"]] == [0.0, 5.0]
    assert [s.wall_s for s in house.store.sightings(0.0)] == [1000.0, NOW]


def test_what_cannot_be_stored_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.visit(VISIT)
    house.sign()
    with monkeypatch.context() as broken:
        broken.setattr(house.store, "add_sighting", full)
        house.later(10)
        assert "presence_unsaved" in house.problems.of(BOX)
        house.sign(rssi=-41)
        house.later(10)
    house.later(10)
    assert house.problems.of(BOX) == {}
    assert [s["rssi_dbm"] for s in house.shown(VISIT)["sightings"]] == [-48, -41]


def full(*_: Any) -> str:
    raise StoreError("the disk is full")


def test_a_restart_within_a_visits_time_goes_on(house: House) -> None:
    house.visit(VISIT)
    house.close(VISIT)
    house.later(60)
    house.make()
    house.sign()
    house.later(10)
    assert [s["offset_s"] for s in house.shown(VISIT)["sightings"]] == [60.0]


# Measuring.


def test_a_device_is_measured_without_the_threshold_and_others_keep_theirs(make_house: Callable[..., House]) -> None:
    house = make_house(radio="wlan1")
    with pytest.raises(ControlError, match=r"start edgecam-presence\.service"):
        next(house.presence.listen({"device": house.phone.id, "seconds": 10}))
    house.presence._on_state(State({}, {}))
    heard: List[Any] = []
    asked = house.presence.listen({"device": house.phone.id, "seconds": 10})
    thread = threading.Thread(target=lambda: heard.extend(asked))
    thread.start()
    wait_for(lambda: house.presence._measured)
    assert house.presence._listener is not None
    assert house.presence._listener._watch.min_rssi_dbm == -128
    with pytest.raises(ControlError, match="already"):
        next(house.presence.listen({"device": house.phone.id, "seconds": 10}))
    house.sign(rssi=-80)
    house.sign(rssi=-40)
    wait_for(lambda: len(heard) == 2)
    house.clock.now_s += 20
    thread.join(5)
    assert [one["rssi_dbm"] for one in heard] == [-80, -40]
    assert house.presence._listener._watch.min_rssi_dbm == -55
    house.later(70)
    # The weak one was for the measure only.
    assert [(s.rssi_dbm, s.frames) for s in house.store.sightings(0.0)] == [(-40, 5)]


@pytest.mark.parametrize(
    "request_", [{}, {"device": "D9", "seconds": 10}, {"device": None, "seconds": 10}, {"seconds": "x"}]
)
def test_what_cannot_be_measured_is_refused(make_house: Callable[..., House], request_: Any) -> None:
    house = make_house(radio="wlan1")
    with pytest.raises(ConfigError):
        next(house.presence.listen(request_))


@pytest.mark.parametrize(
    ("near", "far", "line", "apart"),
    [
        ([-50] * 20, [-80] * 20, -65, True),
        ([-40] * 10 + [-60] * 10, [-70] * 19 + [-20], -40, False),  # 95 % of the far ones must be below
        ([-40] * 10 + [-60] * 10, [-70] * 39 + [-20], -65, True),
        ([-50] * 20, [], -60, True),
        ([-70] * 20, [-50] * 20, -60, False),
    ],
)
def test_the_line_is_drawn_between_the_two_places(near: List[int], far: List[int], line: int, apart: bool) -> None:
    found = between(near, far)
    assert (found.rssi_dbm, found.apart) == (line, apart)
    if apart:
        assert found.kept >= 0.8
        assert found.leaking <= 0.05


# Files that routers write.

CONNECT = "Nov 22 04:00:00 openwrt hostapd: wlan0: AP-STA-CONNECTED 5c:51:4f:be:ef:01 auth_alg=open\n"
ROAM = "Nov 22 04:00:09 openwrt hostapd: wlan1: STA 5C:51:4F:BE:EF:01 IEEE 802.11: associated (aid 1)\n"
LEAVE_0 = "Nov 22 04:00:10 openwrt hostapd: wlan0: AP-STA-DISCONNECTED 5c:51:4f:be:ef:01\n"
LEAVE_1 = "Nov 22 04:00:20 openwrt hostapd: wlan1: AP-STA-DISCONNECTED 5c:51:4f:be:ef:01\n"


_TICKS = itertools.count(1)


def write(path: Path, text: str, mode: str = "a") -> None:
    with path.open(mode) as file:
        file.write(text)
    old = 1_700_000_000 + next(_TICKS)
    os.utime(path, (old, old))


def test_an_access_points_log_tells_of_coming_roaming_and_going(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    log = tmp_path / "ap.log"
    house = make_house(access_point_log=log)
    house.later(3)
    assert "presence_access_point_log" in house.problems.of(BOX)
    write(log, "Nov 22 03:59:59 openwrt dnsmasq: something else\n" + CONNECT)
    house.later(3)
    assert house.problems.of(BOX) == {}
    assert house.kept() == [("ap", "join", 1.0, "")]
    write(log, ROAM + LEAVE_0)
    house.later(3)
    assert len(house.kept()) == 1
    write(log, LEAVE_1[:30])
    house.later(3)
    write(log, LEAVE_1[30:])
    house.later(3)
    assert house.kept()[1:] == [("ap", "leave", 1.0, "")]
    log.unlink()
    write(log, CONNECT)  # rotated
    house.later(3)
    assert house.kept()[2:] == [("ap", "join", 1.0, "")]
    house.visit(VISIT)
    assert house.kept()[3:] == [("ap", "steady", 0.2, "")]


def test_a_log_that_could_not_be_read_at_first_is_old_when_it_can(
    make_house: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "ap.log"
    write(log, CONNECT)
    stat = Path.stat

    def not_permitted(path: Path, **more: Any) -> os.stat_result:
        if path == log:
            raise PermissionError(13, "Permission denied")
        return stat(path, **more)

    with monkeypatch.context() as refused:
        refused.setattr(Path, "stat", not_permitted)
        house = make_house(access_point_log=log)
    assert "presence_access_point_log" in house.problems.of(BOX)
    house.later(3)
    assert (house.problems.of(BOX), house.kept()) == ({}, [])
    write(log, LEAVE_0)
    house.later(3)
    assert house.kept() == [("ap", "leave", 1.0, "")]


def test_old_lines_of_a_log_are_no_news(make_house: Callable[..., House], tmp_path: Path) -> None:
    log = tmp_path / "ap.log"
    write(log, CONNECT)
    house = make_house(access_point_log=log)
    house.later(3)
    assert house.kept() == []
    house.visit(VISIT)
    assert house.kept() == [("ap", "steady", 0.2, "")]


DNSMASQ = "1800000000 {mac} 192.168.1.5 {name} {client}\n"
OTHER = "02:aa:bb:cc:dd:ee"


def lease(mac: str = PHONE, name: str = "Anns-S21", client: str = "*", expiry: str = "1800000000") -> str:
    return DNSMASQ.format(mac=mac, name=name, client=client).replace("1800000000", expiry)


def test_a_new_lease_is_a_coming_and_a_renewed_one_a_sign(make_house: Callable[..., House], tmp_path: Path) -> None:
    path = tmp_path / "leases"
    write(path, "")
    house = make_house(leases=(path,))
    house.later(3)
    write(path, lease())
    house.later(3)
    write(path, lease(expiry="1800003600"), "w")
    house.later(3)
    house.later(70)
    assert house.kept() == [("dhcp", "join", 1.0, ""), ("dhcp", "steady", 0.2, "")]


ISC = """lease 192.168.1.9 {
  starts 4 2026/11/19 10:00:00;
  cltt 4 2026/11/19 10:00:00;
  binding state active;
  hardware ethernet 5c:51:4f:be:ef:01;
  uid "\\001\\\\QO\\276\\357\\001";
  client-hostname "Anns-S21";
}
"""


def test_leases_of_isc_dhcpd(make_house: Callable[..., House], tmp_path: Path) -> None:
    path = tmp_path / "dhcpd.leases"
    write(path, "# comment\n")
    house = make_house(leases=(path,))
    house.later(3)
    write(path, ISC)
    house.later(3)
    assert house.kept() == [("dhcp", "join", 1.0, "")]
    assert (house.store.device(house.phone.id).hostname, house.store.device(house.phone.id).client_id) == (
        "Anns-S21",
        "",
    )
    write(path, ISC.replace("active", "free"))
    house.later(3)
    assert len(house.kept()) == 1
    write(path, ISC)  # given again: it was gone meanwhile
    house.later(3)
    assert house.kept() == [("dhcp", "join", 1.0, "")] * 2


@pytest.mark.parametrize(
    ("first", "second", "bound"),
    [
        pytest.param({"client": "ff:1:2:3"}, {"client": "ff:1:2:3"}, True, id="same-client-id"),
        pytest.param({}, {}, True, id="same-host-name"),
        pytest.param({"client": f"01:{PHONE}"}, {"client": f"01:{OTHER}"}, True, id="client-id-that-is-the-address"),
        pytest.param({"name": "iPhone"}, {"name": "iPhone"}, False, id="everybodys-name"),
        pytest.param({"name": "iPhone-2"}, {"name": "iPhone-2"}, False, id="everybodys-name-numbered"),
        pytest.param({}, {"name": "Bens-S21"}, False, id="another-name"),
        pytest.param({}, {"client": "ff:1:2:3"}, False, id="another-client-id"),
        pytest.param({}, {"mac": "5c:51:4f:00:00:09"}, False, id="not-a-random-address"),
    ],
)
def test_a_phone_with_a_new_address_is_known_again(
    make_house: Callable[..., House], tmp_path: Path, first: Any, second: Any, bound: bool
) -> None:
    path = tmp_path / "leases"
    write(path, lease(**first))
    house = make_house(leases=(path,))
    house.later(3)
    write(path, lease(**{"mac": OTHER, **second}), "w")
    house.later(3)
    assert (house.store.device(house.phone.id).address == OTHER) is bound
    assert house.kept() == ([("dhcp", "join", 1.0, "")] if bound else [])


def test_two_that_look_the_same_are_not_told_apart(make_house: Callable[..., House], tmp_path: Path) -> None:
    path = tmp_path / "leases"
    write(path, lease())
    house = make_house(leases=(path,))
    house.later(3)
    write(path, lease(mac=OTHER) + lease(mac="06:aa:bb:cc:dd:ef"), "w")
    house.later(3)
    assert house.store.device(house.phone.id).address == PHONE
    assert house.kept() == []


def test_a_phone_that_is_still_there_is_not_taken_for_another(make_house: Callable[..., House], tmp_path: Path) -> None:
    path = tmp_path / "leases"
    write(path, lease())
    house = make_house(leases=(path,))
    house.later(3)
    write(path, lease(mac=OTHER) + lease(name="renamed"), "w")
    house.later(3)
    assert house.store.device(house.phone.id).address == PHONE


def test_a_lease_file_that_is_rubbish_harms_nobody(make_house: Callable[..., House], tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_bytes(os.urandom(5000) + b"\nlease x {\n" * 200)
    os.utime(path, (1, 1))
    house = make_house(leases=(path, tmp_path / "none"))
    house.later(3)
    assert list(house.problems.of(BOX)) == ["presence_leases"]
    assert house.kept() == []


# The helper's socket.


def wait_for(what: Callable[[], Any]) -> None:
    until = time.monotonic() + 5
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    assert what()


class Link:
    """A listener and what it was told."""

    def __init__(self, path: Path, *, may: bool = True) -> None:
        self.signs, self.states = list[Sign](), list[Optional[State]]()
        self.path = path
        self.listener = Listener(path, self.signs.append, self.states.append, lambda _: may)
        self.listener.start()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(5)
        sock.connect(str(self.path))
        return sock


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    made = Link(tmp_path / "p.sock")
    yield made
    made.listener.stop()


def test_the_helper_is_told_what_to_listen_for_at_once_and_with_every_change(link: Link) -> None:
    link.listener.watch(WatchList({"5c514fbeef01": "D1"}, radio="wlan1"))
    lines = Lines()
    with link.connect() as sock:
        (first,) = lines.read(sock) or []
        assert (first["watch"]["devices"], first["watch"]["radio"]) == ({"5c514fbeef01": "D1"}, "wlan1")
        link.listener.watch(WatchList())
        (second,) = lines.read(sock) or []
        assert second["watch"]["devices"] == {}
        sock.sendall(
            pack_sign(Sign("D1", "sniff", 1.5, -50, 6, 3)) + pack_state(State({"radio_lost": "gone"}, {"frames": 7}))
        )
        wait_for(lambda: link.states)
    assert link.signs == [Sign("D1", "sniff", 1.5, -50, 6, 3)]
    assert link.states[0] == State({"radio_lost": "gone"}, {"frames": 7})
    wait_for(lambda: link.states[-1] is None)
    with link.connect() as again:
        assert lines.read(again)


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish\n",
        b"[1]\n",
        b'{"heard": {"device": "D1"}}\n',
        b'{"heard": {"device": "D1", "source": "ap", "at_s": 1.0}}\n',
        b'{"heard": {"device": "D1", "source": "sniff", "at_s": 1.0, "rssi_dbm": 5000}}\n',
        b'{"heard": {"device": "D1", "source": "sniff", "at_s": 1.0, "frames": true}}\n',
        b'{"heard": null}\n',
        b'{"state": {"problems": []}}\n',
        b"{" * 300_000,
    ],
)
def test_a_helper_that_says_what_it_should_not_is_hung_up_on(link: Link, line: bytes) -> None:
    with link.connect() as sock:
        assert Lines().read(sock)
        try:
            sock.sendall(line)
            assert sock.recv(10) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert link.signs == []
    with link.connect() as sock:
        assert Lines().read(sock)


def test_others_are_told_nothing(tmp_path: Path) -> None:
    link = Link(tmp_path / "p.sock", may=False)
    link.listener.watch(WatchList({"5c514fbeef01": "D1"}))
    with link.connect() as sock:
        assert sock.recv(100) == b""
    link.listener.stop()
    assert not link.path.exists()


def test_a_dead_daemons_socket_is_taken_over_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    link = Link(path)
    assert path.stat().st_mode & 0o777 == 0o660
    link.listener.stop()
    path.write_text("mine")
    with pytest.raises(ControlError, match="not a socket"):
        Link(path)
    assert path.read_text() == "mine"
