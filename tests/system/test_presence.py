"""The helper on live interfaces: a TAP with radiotap frames in a network namespace; as root, where /dev/net/tun is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence

import pytest
from box import Box, until
from broker import Broker, mosquitto
from broker import Listener as MqttListener
from radiotap import DATA, dot11, mac, tapped

from edgecam.daemon.listener import Listener
from edgecam.presence.wire import Sign, State, Watch
from edgecam.store import Store

HERE = Path(__file__).resolve().parent
PHONE, OTHER = "5c:51:4f:be:ef:01", "5c:51:4f:be:ef:02"
RADIOTAP, PLAIN, PRISM, ETHERNET = 803, 801, 802, 1


def _tap_works() -> bool:
    if os.getuid() != 0 or not Path("/dev/net/tun").exists():
        return False
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    not _tap_works(), reason="NOT TESTED: the live radio path needs root, /dev/net/tun and unshare(1)"
)


class Air:
    """A daemon's end of the socket here, a helper and its interface there."""

    def __init__(
        self, folder: Path, link: int, *args: str, daemon: Optional[Path] = None, under: Sequence[str] = ()
    ) -> None:
        self.signs: List[Sign] = []
        self.states: List[Optional[State]] = []
        self.path = daemon or folder / "p.sock"
        self.listener = Listener(self.path, self.signs.append, self.states.append, lambda _: True)
        if daemon is None:
            self.listener.start()
        helper = [*under, sys.executable, "-m", "edgecam", "presence", "run", "--socket", str(self.path), *args]
        self._log = (folder / "helper.log").open("w+b")
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, str(HERE / "tap_air.py"), str(link), *helper],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._answer() == "ready"

    def watch(self, devices: Any = None, **more: Any) -> None:
        """Tell the helper what to listen for, and wait until it says that it does (or cannot)."""
        self._watch = Watch(**{"devices": devices or {mac(PHONE).hex(): "D1"}, "radio": "emon0", **more})
        self.ask(lambda: "frames" in self.counts() or self.problems() or (self._watch.radio is None and self.states))

    def ask(self, what: Callable[[], Any]) -> Any:
        """Wait for a state of the helper's; being told again what it knows, it answers at once."""
        self.states.clear()

        def again() -> Any:
            self.listener.watch(self._watch)
            time.sleep(0.1)
            return what()

        return self.wait(again)

    def send(self, *frames: bytes, times: int = 1, per_s: float = 1000.0) -> None:
        self._tell({"frames": [frame.hex() for frame in frames], "times": times, "per_s": per_s})

    def do(self, what: str, **more: Any) -> str:
        return self._tell({"do": what, **more})

    def wait(self, what: Callable[[], Any], within_s: float = 20.0) -> Any:
        until = time.monotonic() + within_s
        while not (found := what()):
            assert time.monotonic() < until, f"never came; helper: {self.log()}"
            time.sleep(0.02)
        return found

    def counts(self) -> Any:
        states = [state for state in self.states if state is not None]
        return states[-1].counts if states else {}

    def problems(self) -> Any:
        states = [state for state in self.states if state is not None]
        return states[-1].problems if states else {}

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def end(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(20)
        if self.listener._listener is not None:
            self.listener.stop()
        self._log.close()
        return code

    def _tell(self, told: Any) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def air(tmp_path: Path) -> Iterator[Callable[..., Air]]:
    made: List[Air] = []

    def make(link: int = RADIOTAP, *args: str, **how: Any) -> Air:
        made.append(Air(how.pop("folder", tmp_path), link, *args, **how))
        return made[-1]

    yield make
    for one in made:
        assert one.end() == 0


def test_enrolled_devices_are_heard_and_nobody_else(air: Callable[..., Air]) -> None:
    sky = air()
    sky.watch()
    sky.send(
        tapped(dot11(PHONE), -60), tapped(dot11(OTHER), -30), tapped(dot11(PHONE, sequence=1), -50, antennas=(-61, -47))
    )
    sign = sky.wait(lambda: sky.signs)[0]
    assert (sign.device, sign.source, sign.rssi_dbm, sign.channel, sign.frames) == ("D1", "sniff", -47, 6, 1)
    assert abs(time.monotonic() - sign.at_s) < 10
    # The stranger's frame was stopped in the kernel: the helper has not even counted it.
    counts = sky.ask(sky.counts)
    assert (counts["frames"], counts["strangers"], counts["weak"], counts["dropped"]) == (2, 0, 1, 0)
    assert PHONE not in sky.log()
    assert mac(PHONE).hex() not in sky.log()


TWO = "+net_raw,+net_admin"


def test_two_capabilities_and_nobodys_user_are_enough(air: Callable[..., Air]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="edgecam-air-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        rights = ["--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,{TWO}", f"--ambient-caps={TWO}"]
        sky = air(under=["setpriv", *rights, f"--bounding-set=-all,{TWO}", "--no-new-privs"], folder=folder)
        sky.path.chmod(0o666)
        sky.watch()
        sky.send(tapped(dot11(PHONE)))
        assert sky.wait(lambda: sky.signs)[0].device == "D1"
    finally:
        shutil.rmtree(folder)


def test_a_changed_list_takes_effect_and_an_empty_one_ends_listening(air: Callable[..., Air]) -> None:
    sky = air()
    sky.watch()
    sky.watch({mac(OTHER).hex(): "D2"}, min_rssi_dbm=-90)
    sky.send(tapped(dot11(PHONE)), tapped(dot11(OTHER), -88))
    assert sky.wait(lambda: sky.signs)[0].device == "D2"
    sky.signs.clear()
    sky.listener.watch(Watch(radio="emon0"))
    time.sleep(0.5)
    sky.send(tapped(dot11(PHONE)), tapped(dot11(OTHER), -48))
    time.sleep(1.5)
    assert sky.signs == []


def test_two_thousand_frames_a_second_are_all_heard(air: Callable[..., Air]) -> None:
    sky = air()
    sky.watch()
    frames = [tapped(dot11(PHONE, DATA, sequence=n)) for n in range(50)]
    strangers = [tapped(dot11(OTHER, DATA, sequence=n)) for n in range(50)]
    before_s = float(sky.do("cpu"))
    sky.send(*frames, *strangers, times=60, per_s=4000)
    print(f"the helper took {float(sky.do('cpu')) - before_s:.2f} s of a core for 3,000 frames in 1.5 s")  # pytest -s
    counts = sky.ask(lambda: sky.counts().get("frames", 0) >= 3000 and sky.counts())
    assert (counts["frames"], counts["heard"], counts["strangers"], counts["dropped"]) == (3000, 3000, 0, 0)
    assert sky.wait(lambda: sum(sign.frames for sign in sky.signs) == 3000)


def test_an_interface_that_vanishes_is_told_and_taken_again(air: Callable[..., Air]) -> None:
    sky = air()
    sky.watch()
    sky.do("vanish")
    sky.wait(lambda: "radio_lost" in sky.problems())
    assert "emon0" in sky.problems()["radio_lost"]
    sky.do("return")
    sky.wait(lambda: sky.problems() == {})
    sky.send(tapped(dot11(PHONE)))
    assert sky.wait(lambda: sky.signs)
    assert sky.log().count("WARNING") == 1


def test_frames_without_strength_are_heard_and_said_to_be(air: Callable[..., Air]) -> None:
    sky = air(PLAIN)
    sky.watch(channels=(11,))
    sky.send(dot11(PHONE), dot11(OTHER))
    assert sky.wait(lambda: sky.signs)[0][3:5] == (None, None)
    assert "no_rssi" in sky.problems()


@pytest.mark.parametrize(
    ("link", "said"), [(PRISM, "Prism headers"), (ETHERNET, "no Wi-Fi interface"), (24, "of type 24")]
)
def test_an_interface_of_the_wrong_kind_is_refused_clearly(air: Callable[..., Air], link: int, said: str) -> None:
    sky = air(link)
    sky.watch()
    sky.wait(lambda: said in sky.problems().get("radio_lost", ""))


def test_no_such_interface(air: Callable[..., Air]) -> None:
    sky = air(RADIOTAP, "--interface", "wlan9")  # the command line goes before what the daemon says
    sky.watch()
    sky.wait(lambda: "there is no interface wlan9" in sky.problems().get("radio_lost", ""))


@pytest.mark.skipif(shutil.which("ip") is None, reason="NOT TESTED: the neighbour table needs ip(8)")
def test_confirmed_neighbours_are_read_from_the_kernels_table(air: Callable[..., Air]) -> None:
    sky = air(ETHERNET)
    sky.watch({mac(PHONE).hex(): "D1", mac(OTHER).hex(): "D2"}, radio=None, neighbours=True)
    sky.do("neighbours", addresses=[PHONE, OTHER])
    assert sky.wait(lambda: sky.signs)[0][:2] == ("D1", "arp")
    time.sleep(0.5)
    assert {sign.device for sign in sky.signs} == {"D1"}


def test_mdns_of_enrolled_devices_is_heard_on_the_cable(air: Callable[..., Air]) -> None:
    sky = air(ETHERNET)
    sky.watch(radio=None, mdns="emon0")
    sky.send(ethernet(OTHER, 5353), ethernet(PHONE, 53), ethernet(PHONE, 5353, ip=6))
    sign = sky.wait(lambda: sky.signs)[0]
    assert sign[:2] == ("D1", "mdns")
    sky.send(ethernet(PHONE, 5353))
    sky.wait(lambda: len(sky.signs) == 2)


CONFIG = """
[cameras.door]
url = "{clip}"
loop = true
[alerts]
host = "127.0.0.1"
port = {port}
tls = false
[presence]
radio = "emon0"
access_point_log = "{log}"
"""
TRACKER = "homeassistant/device_tracker/ann/state"


@pytest.mark.data
@pytest.mark.models
@pytest.mark.broker
@pytest.mark.timeout(170)
@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
def test_a_visit_tells_whose_devices_were_near(
    air: Callable[..., Air], tmp_path: Path, data_dir: Path, models_dir: Path
) -> None:
    log = tmp_path / "ap.log"
    log.write_text("")
    with Broker(tmp_path / "broker") as broker, MqttListener(broker, "edgecam/#") as told:
        clip = data_dir / "videos/liveness/tranvan_real.mp4"
        with Box(tmp_path, CONFIG.format(clip=clip, port=broker.port, log=log)) as box:
            with Store.open(box.state) as store:
                store.add_person("Ann")
                store.add_device(
                    store.add_person("Ben").id, "ha", TRACKER, label="Ben's tracker", consent={"how": "asked"}
                )
            box.start()
            # While the daemon runs, a device is bound and heard of at once.
            box.run("devices", "add", "Ann", PHONE, "--label", "phone", "--consent", "asked")
            sky = air(daemon=box.state / "presence.sock")
            until(lambda: box.status()["presence"]["helper"], "the helper's coming")
            until(lambda: "frames" in box.status()["presence"]["counts"], "the radio")
            until(lambda: box.status()["broker"]["link"] == "connected", "the broker")
            told.say(TRACKER, "home")
            told.say(TRACKER, "not_home")
            sky.send(*[tapped(dot11(PHONE, sequence=n), -41) for n in range(9)], tapped(dot11(OTHER)))
            with log.open("a") as lines:
                lines.write(f"openwrt hostapd: wlan0: AP-STA-CONNECTED {PHONE}\n")

            def shown() -> Any:
                visit = json.loads(box.run("visits", "show", "last", "--json").stdout)
                return visit if {"sniff", "ap", "ha"} <= {s["source"] for s in visit["sightings"]} else None

            visit = until(shown, "the visit's sightings")
            near = {one["person"]: (one["weight"], one["reason"]) for one in visit["present"]}
            assert near == {"Ann": (1.0, "came"), "Ben": (1.0, "left")}
            sniffed = [s for s in visit["sightings"] if s["source"] == "sniff"]
            assert (sniffed[0]["rssi_dbm"], sniffed[0]["channel"], sum(s["frames"] for s in sniffed)) == (-41, 6, 9)
            assert {track["person"] for track in visit["tracks"]} <= {None}  # a phone makes nobody known
            text = box.run("visits", "show", "last").stdout
            assert "near: Ann (came, weight 1.0)" in text
            assert "phone: access point, join" in text
            box.run("people", "forget", "Ann", "--yes")
            kept = json.loads(box.run("visits", "show", "last", "--json").stdout)["sightings"]
            assert {s["person"] for s in kept} <= {"Ben"}
            box.config.write_text(box.config.read_text().split("[presence]")[0])
            box.signal(signal.SIGHUP)
            until(lambda: box.status()["presence"]["helper"] is None, "the configuration without a radio")
            assert not (box.state / "presence.sock").exists()
            box.signal(signal.SIGTERM)
            assert box.wait() == 0
            secrets = [PHONE.encode(), mac(PHONE), mac(PHONE).hex().encode(), PHONE.upper().encode()]
            files = [path for path in tmp_path.rglob("*") if path.is_file() and path != log]
            assert [path.name for path in files for secret in secrets if secret in path.read_bytes()] == []
            assert not any(secret in payload for _, payload, _ in told.heard for secret in secrets)


def ethernet(sender: str, port: int, ip: int = 4) -> bytes:
    """Return a UDP packet as it lies on the cable."""
    udp = bytes.fromhex("14e9") + port.to_bytes(2, "big") + bytes.fromhex("00080000")
    if ip == 4:
        head = bytes.fromhex("4500001c00000000ff110000c0a80105e00000fb")
        return mac("01:00:5e:00:00:fb") + mac(sender) + b"\x08\x00" + head + udp
    head = bytes.fromhex("6000000000081101") + b"\xfe\x80" + bytes(14) + b"\xff\x02" + bytes(13) + b"\xfb"
    return mac("33:33:00:00:00:fb") + mac(sender) + b"\x86\xdd" + head + udp
