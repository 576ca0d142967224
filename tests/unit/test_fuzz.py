"""Whatever comes in: a value or an EdgecamError, nothing else; and no more memory or time than the box has.

Small budgets here, the same in every run. EDGECAM_FUZZ=40 multiplies them and makes each run another one.
docs/fuzzing.md says how targets were fuzzed by coverage (atheris).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from radiotap import dot11, tapped

from edgecam.alerts.client import AlertClient, parse_pause
from edgecam.alerts.session import Received
from edgecam.capture.base import make_source
from edgecam.capture.photo import is_clip, is_photo, read_photo
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig, Config, StoreConfig, load_config
from edgecam.daemon import control
from edgecam.daemon import metrics as metrics_of
from edgecam.daemon.control import ControlServer, Peer
from edgecam.daemon.listener import Listener
from edgecam.daemon.metrics import MetricsServer
from edgecam.daemon.reload import changes
from edgecam.errors import EdgecamError, InputError, ModelError, StoreError
from edgecam.nn import manifest
from edgecam.nn.registry import ModelRegistry, models_dir
from edgecam.pipeline.operations import OPERATIONS, execute
from edgecam.presence.frames import READERS, sender
from edgecam.presence.logs import association, read_leases
from edgecam.presence.replay import replay
from edgecam.presence.wire import Lines, WireError, unpack_sign, unpack_state, unpack_watch
from edgecam.store import Store

SCALE = int(os.environ.get("EDGECAM_FUZZ", "1"))
PHONE = "5c:51:4f:be:ef:01"


def budget(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples * SCALE,
        deadline=None,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for this module: hypothesis wants none a test."""
    return tmp_path_factory.mktemp("fuzz")


@st.composite
def mutated(draw: st.DrawFn, *seeds: bytes) -> bytes:
    """Good input, altered: bytes replaced, inserted, taken out, doubled, the end cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        long = draw(st.sampled_from((1, 1, 2, 4, 16)))
        how = draw(st.sampled_from(("put", "put", "extreme", "insert", "out", "twice", "cut")))
        if how == "put":
            data[at : at + long] = draw(st.binary(min_size=long, max_size=long))
        elif how == "extreme":
            data[at : at + long] = draw(st.sampled_from((b"\xff", b"\0", b"\x7f", b"\x80"))) * long
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=40))
        elif how == "out":
            del data[at : at + long]
        elif how == "twice":
            data[at:at] = data[at : at + 16 * long]
        elif at > 0:
            del data[at:]
    return bytes(data)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**63, -(2**63) - 1, 10**400, 1e308, float("inf"), float("nan"), -0.0)),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(("", "\0", "\ud800", "../../x", "a" * 5000, "01ARZ3NDEKTSV4RRFFQ69G5FAV", "Ann", "installed")),
)
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


# --- files of the owner -----------------------------------------------------------------------------------------------

CONFIG = b"""
[cameras.door]
url = "rtsp://ann:s3cret@10.0.0.7/live"
privacy_zones = [[[0.8, 0.0], [1.0, 0.0], [1.0, 0.5]]]
[alerts]
host = "broker.lan"
rules = { staff = "never" }
quiet_hours = [{ start = "22:00", end = "07:00" }]
[presence]
leases = ["/var/lib/misc/dnsmasq.leases"]
[store]
visits_d = 30
"""


def toml(value: Any) -> str:
    """Return a JSON value as TOML has it, as far as it has."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if value is not None else "[]"


def sections() -> st.SearchStrategy[bytes]:
    """Keys that exist, with values of any kind."""
    keys = [
        (name, key) for name, field in Config.model_fields.items() if name != "cameras"
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]  # fmt: skip
    camera = st.dictionaries(st.sampled_from(("url", "place", "fps", "privacy_zones", "rotate_deg")), JSON, max_size=3)
    lines = st.lists(st.tuples(st.sampled_from(keys), JSON), max_size=4).map(
        lambda rows: [f"{name}.{key} = {toml(value)}" for (name, key), value in rows]
    )
    return st.tuples(lines, camera).map(
        lambda both: "\n".join([*both[0], f"cameras.door = {toml(both[1])}"]).encode("utf-8", "surrogatepass")
    )


@budget(120)
@given(st.one_of(mutated(CONFIG), sections(), st.binary(max_size=60)))
@example(b"a = " + b"[" * 5000)
@example(b"a = " + b"9" * 5000)
@example(b'cameras.door.url = "a\\u0000b"')
@example(b'cameras.door.url = "' + b"x" * 5000 + b'"')
@example(b'cameras.door.url = "~nobody-of-this-name/x"')
@example(b"#" * 100_000)
def test_a_configuration_is_read_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "c.toml"
    path.write_bytes(data)
    with contextlib.suppress(EdgecamError):
        config = load_config(path)
        assert not any("s3cret" in text for text in [*changes(Config(), config), *changes(config, Config())])
        for name, camera in config.cameras.items():
            make_source(camera, name, SystemClock()).describe()


@budget(40)
@given(mutated((models_dir() / "manifest.toml").read_bytes()[:2500]) | st.binary(max_size=60))
@example(b"models = []\nsources = 3")
@example(b"models = [3]\n[sources]")
@example(b"models = " + b"[" * 5000)
def test_a_manifest_is_read_or_refused(folder: Path, data: bytes) -> None:
    (folder / "manifest.toml").write_bytes(data)
    with contextlib.suppress(ModelError):
        manifest.load.__wrapped__(folder)


@budget(40)
@given(JSON.map(lambda value: json.dumps({"files": value}).encode()) | st.binary(max_size=40))
@example(b"[" * 200_000)
def test_a_record_of_models_is_read_or_refused(folder: Path, data: bytes) -> None:
    (folder / "installed.json").write_bytes(data)
    with contextlib.suppress(ModelError):
        ModelRegistry(folder, models_dir()).installed()


# --- MQTT -------------------------------------------------------------------------------------------------------------


class Session:
    """What a connection is to the handlers of its messages."""

    sweep, denied_us, healed_s = ("x",), False, 0.0

    def __init__(self) -> None:
        self.published: List[Tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes, **_: Any) -> None:
        self.published.append((topic, payload))


class NoOutbox:
    def peek(self, n: int) -> Tuple[()]:
        del n
        return ()

    def delete(self, seqs: Any) -> None:
        del seqs


BOX = "edgecam/edgecam"
TOPICS = st.one_of(
    st.sampled_from(
        (
            *(f"{BOX}/{name}" for name in ("available", "pause/set", "pause/state", "door/ring/press", "door/event")),
            *(f"{BOX}/door/challenge/ask", f"{BOX}/gone/available", f"{BOX}/gone/health", "homeassistant/status"),
            *("homeassistant/device/edgecam_gone/config", "homeassistant/device//config", "tracker"),
        )
    ),
    st.text(max_size=20),
    st.text(max_size=8).map(lambda text: f"{BOX}/{text}/available"),
    st.text(max_size=8).map(lambda text: f"homeassistant/device/edgecam_{text}/config"),
)


@budget(100)
@given(st.lists(st.tuples(TOPICS, st.binary(max_size=40), st.booleans()), max_size=5))
def test_no_message_by_mqtt_harms_the_client(messages: List[Tuple[str, bytes, bool]]) -> None:
    commands: List[Any] = []
    client = AlertClient(AlertsConfig(host="broker", tls=False), ["door"], NoOutbox(), SystemClock(), commands.append)
    client.listen(["tracker"], lambda *_: None)
    session: Any = Session()
    for topic, payload, retain in messages:
        client._receive(session, Received(topic, payload, retain))
    assert len(commands) <= len(messages)
    # Somebody else's topics and cameras that exist are never cleared.
    cleared = [topic for topic, payload in session.published if payload == b""]
    assert not [topic for topic in cleared if "/door/" in topic or topic.endswith("edgecam_edgecam_door/config")]


@budget(100)
@given(st.binary(max_size=40) | mutated(b"30m", b"ON", b"366d", b" 4 h"))
def test_a_pause_has_a_length_or_is_none(payload: bytes) -> None:
    command: Any = parse_pause(payload)
    seconds = getattr(command, "seconds", None)
    assert seconds is None or 0 < seconds <= 366 * 86_400


# --- sockets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "state", StoreConfig()) as opened:
        ann = opened.add_person("Ann")
        opened.add_device(ann.id, "wifi", PHONE)
        yield opened


class Shut:
    """A control server that was killed by nothing that came."""

    def __init__(self, folder: Path, store: Store) -> None:
        def answer(request: Dict[str, Any], _peer: Peer) -> Iterator[Dict[str, Any]]:
            yield from execute(store, request)

        self.path = folder / "c.sock"
        self.server = ControlServer(self.path, answer)
        self.server.start()

    def alive(self) -> bool:
        return "people" in next(control.call(self.path, {"op": "status"}))


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Shut]:
    made = Shut(tmp_path_factory.mktemp("shut"), store)
    yield made
    made.server.stop()


def exchange(path: Path, data: bytes) -> bytes:
    """Send bytes, close that direction, return whatever is answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65_536):
                answer += more
        return answer


REQUEST = b'{"op":"people.rename","who":"Ann","name":"Ann"}\n'


@budget(30)
@given(data=st.one_of(mutated(REQUEST), st.binary(max_size=40), st.binary(max_size=40).map(lambda data: data + b"\n")))
@example(data=b"[" * 60_000 + b"\n")
@example(data=b'{"op":' + b"9" * 60_000 + b"}\n")
@example(data=b"x" * 300_000)
@example(data=b'{"op":"status"')
@example(data=b'{"op":"\\ud800"}\n')
def test_garbage_on_the_control_socket_is_answered_in_one_line(shut: Shut, data: bytes) -> None:
    answer = exchange(shut.path, data)
    if answer:
        last = json.loads(answer.splitlines()[-1])
        assert "end" in last or "internal error" not in last["error"]
    assert shut.alive()


PARAMETERS = (
    *(
        "who",
        "name",
        "into",
        "other",
        "role",
        "consent",
        "faces",
        "face_ids",
        "visit",
        "person",
        "device",
        "id",
        "model",
    ),
    *(
        "vectors",
        "limit",
        "since",
        "key",
        "value",
        "base",
        "version",
        "seconds",
        "address",
        "kind",
        "proposals",
        "questions",
    ),
    *("visitors", "tracklets", "heads", "report", "people", "accepted", "told", "box"),
)


@budget(60)
@given(
    name=st.sampled_from(sorted(set(OPERATIONS) - {"backup", "restore", "visits.erase"})),
    request=st.dictionaries(
        st.sampled_from(PARAMETERS),
        JSON,
        max_size=6,
    ),
)
def test_no_request_ends_in_a_traceback(store: Store, name: str, request: Dict[str, Any]) -> None:
    with contextlib.suppress(EdgecamError):
        for item in execute(store, {**request, "op": name}):
            json.dumps(item)


def test_clients_that_never_end_hold_no_place(shut: Shut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.5)
    stop = threading.Event()

    def trickle(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.1):
                sock.sendall(b" ")

    socks = [socket.socket(socket.AF_UNIX) for _ in range(3 * control.MAX_CLIENTS)]
    threads = []
    for sock in socks:
        sock.connect(str(shut.path))
        threads.append(threading.Thread(target=trickle, args=(sock,), daemon=True))
        threads[-1].start()
    until = time.monotonic() + 30  # a guard against a hang
    answered = False
    while not answered and time.monotonic() < until:
        with contextlib.suppress(EdgecamError):
            answered = shut.alive()
    stop.set()
    for sock in socks:
        sock.close()
    assert answered


def test_a_reader_of_figures_that_never_ends_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_of, "_PATIENCE_S", 0.5)
    server = MetricsServer(tmp_path / "m.sock", lambda: "edgecam_ready 1\n")
    server.start()
    stop = threading.Event()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(tmp_path / "m.sock"))

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    slow.sendall(b"G")

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        time.sleep(0.2)  # it comes first
        assert exchange(tmp_path / "m.sock", b"GET / HTTP/1.0\r\n").endswith(b"edgecam_ready 1\n")
        stop.set()
        thread.join()
    server.stop()


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[MetricsServer]:
    server = MetricsServer(folder / "m.sock", lambda: "edgecam_ready 1\n")
    server.start()
    yield server
    server.stop()


@budget(40)
@given(data=st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"GET " + data + b"\n"))
def test_garbage_on_the_metrics_socket(serving: MetricsServer, data: bytes) -> None:
    answer = exchange(serving._path, data)
    assert answer == b"" or answer.split(b" ")[1] in (b"200", b"400")
    assert serving._thread.is_alive()


HEARD = (
    b'{"heard":{"device":"D1","source":"sniff","at_s":12.5,"rssi_dbm":-48,"channel":6,"frames":5,"doubled":false}}\n'
)
STATE = b'{"state":{"problems":{"radio":"gone"},"counts":{"frames":12}}}\n'
WATCH = b'{"watch":{"devices":{"5c514fbeef01":"D1"},"channels":[1,6],"hop_s":1.0,"ble":false}}\n'


@budget(100)
@given(
    mutated(HEARD, STATE, WATCH, HEARD + STATE) | JSON.map(lambda value: json.dumps({"heard": value}).encode() + b"\n")
)
@example(b'{"watch":{"channels":[1e999]}}\n')
@example(b'{"watch":{"hop_s":NaN}}\n')
@example(b'{"state":{"problems":{"\\ud800":[]},"counts":{"a":1e999}}}\n')
@example(b"[" * 100_000 + b"\n")
def test_the_line_of_a_helper_is_understood_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        for message in Lines().take(data):
            for unpack, key in ((unpack_sign, "heard"), (unpack_state, "state")):
                with contextlib.suppress(WireError):
                    unpack(message.get(key))
            unpack_watch(message)


@pytest.fixture(scope="module")
def listening(folder: Path) -> Iterator[Listener]:
    listener = Listener(folder / "p.sock", lambda _: None, lambda _: None)
    listener.start()
    yield listener
    listener.stop()


@budget(25)
@given(data=st.lists(mutated(HEARD, STATE) | st.binary(max_size=30), max_size=4).map(b"".join))
@example(data=b"x" * 600_000)
def test_the_daemon_outlives_its_helper(listening: Listener, data: bytes) -> None:
    watch = exchange(listening._path, data)
    assert watch == b"" or watch.startswith(b'{"watch":')
    assert listening._thread.is_alive()


# --- the air, and what routers write ----------------------------------------------------------------------------------

FRAME = tapped(dot11(PHONE), antennas=(-70, -44))
PRISM = struct.pack("<II16s", 0x44, 144, b"wlan0") + bytes(120) + dot11(PHONE)
PPI = struct.pack("<BBHI", 0, 0, 32, 105) + struct.pack("<HH", 2, 20) + bytes(20) + dot11(PHONE)
AVS = struct.pack(">II", 0x80211001, 64) + bytes(56) + dot11(PHONE)


@budget(200)
@given(st.sampled_from(sorted(READERS)), mutated(FRAME, PRISM, PPI, AVS) | st.binary(max_size=80))
def test_a_frame_has_a_sender_or_is_none(link: int, data: bytes) -> None:
    found = READERS[link](data)
    if found is not None:
        at, meta = found
        assert 0 <= at <= len(data)
        assert meta.rssi_dbm is None or -128 <= meta.rssi_dbm < 0
        told = sender(data, at)
        assert told is None or len(told.address) == 6


def classic(link: int = 127) -> bytes:
    record = struct.pack("<IIII", 10, 0, len(FRAME), len(FRAME)) + FRAME
    return b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 4, 0, 0, 65535, link) + 3 * record


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def pcapng() -> bytes:
    options = struct.pack("<HHB3xHH", 9, 1, 6, 0, 0)
    packet = struct.pack("<IIIII", 0, 0, 99, len(FRAME), len(FRAME)) + FRAME
    start = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    return start + block(1, struct.pack("<HHI", 127, 0, 65535) + options) + block(6, packet) + block(3, b"\4\0\0\0abcd")


@budget(80)
@given(mutated(classic(), classic(105), pcapng()) | st.binary(max_size=80).map(lambda data: b"\xd4\xc3\xb2\xa1" + data))
def test_a_capture_is_read_as_far_as_it_goes(folder: Path, data: bytes) -> None:
    path = folder / "x.pcap"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        rows = list(replay(path, {bytes.fromhex(PHONE.replace(":", "")): "D1"}, -128, 600.0))
        assert [row["type"] for row in rows].count("summary") == 1
        assert len(rows) <= len(data) / 16 + 2
        json.dumps(rows)


LOG = f"Nov 22 10:00:00 ap hostapd: wlan0: AP-STA-CONNECTED {PHONE}".encode()
LOG2 = f"Nov 22 ap daemon.info hostapd[9]: wlan0: STA {PHONE} IEEE 802.11: associated".encode()
ISC = f'lease 10.0.0.9 {{\n  cltt 3 2026/11/22;\n  hardware ethernet {PHONE};\n  uid "\\001a";\n}}\n'.encode()
DNSMASQ = f"1790000000 {PHONE} 10.0.0.9 phone 01:{PHONE}\n".encode()


@budget(60)
@given(mutated(LOG, LOG2), mutated(ISC, ISC + ISC, DNSMASQ))
def test_a_routers_lines_tell_of_a_device_or_of_none(folder: Path, line: bytes, leases: bytes) -> None:
    event = association(line.decode("utf-8", "replace"))
    assert event is None or len(event.address) == 6
    path = folder / "leases"
    path.write_bytes(leases)
    assert all(len(address) == 6 for address in read_leases(path))


def test_a_routers_files_take_a_time_that_grows_with_their_length_only(tmp_path: Path) -> None:
    """Each took hours once: their patterns began anew at every letter, and ran to the file's end."""
    (tmp_path / "leases").write_bytes(b"lease 10.0.0.9 {\n" * 60_000 + ISC)
    assert len(read_leases(tmp_path / "leases")) == 1
    assert association("x" * 1_000_000 + " AP-STA-") is None
    assert association("hostapd" * 100_000 + " IEEE 802.11") is None


# --- pictures, clips, nets: what they rest on is written in C ---------------------------------------------------------


def picture(kind: str, **more: Any) -> bytes:
    made = io.BytesIO()
    rng = np.random.default_rng(3)
    Pillow.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(made, kind, **more)
    return made.getvalue()


KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
PICTURES = [*map(picture, KINDS), picture("JPEG", progressive=True), picture("TIFF", compression="tiff_lzw")]


@budget(120)
@given(mutated(*PICTURES))
def test_a_photo_is_read_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "photo"
    path.write_bytes(data)
    assert not (is_photo(path) and is_clip(path))
    with contextlib.suppress(InputError):
        image = read_photo(path)
        assert image.ndim == 3
        assert max(image.shape) <= 4096


def huge() -> Dict[str, bytes]:
    """Small files that say that they are huge."""
    jpeg, png, gif, _, bmp, tiff, _ = PICTURES[:7]
    start = jpeg.index(b"\xff\xc0") + 5
    progressive = PICTURES[7]
    scan = progressive.rindex(b"\xff\xda")
    tag = struct.pack("<HHI", 256, 4, 1)
    at = tiff.index(struct.pack("<H", 256), 8)
    vp8x = b"VP8X" + struct.pack("<II", 10, 0x02) + b"\xff\xff\xff" * 2
    return {
        "jpeg": jpeg[:start] + b"\xff\xdc\xff\xdc" + jpeg[start + 4 :],
        "jpeg scans": progressive[:-2] + progressive[scan:-2] * 3000 + b"\xff\xd9",
        "jpeg markers": jpeg[:2] + b"\xff\xfe\0\2" * 20_000 + jpeg[2:],
        "png": png[:16] + b"\x7f\xff\xff\xff" * 2 + png[24:],
        "gif": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "bmp": bmp[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bmp[26:],
        "tiff": tiff[:at] + tag + struct.pack("<I", 2**32 - 1) + tiff[at + 12 :],
        "webp": b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x,
        "ppm": b"P6 99999999 99999999 255\n",
        "text": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0) + bytes(4)
        + struct.pack(">I", 2**31 - 1) + b"zTXt",
    }  # fmt: skip


APART = """
import resource, sys, time
from pathlib import Path
import numpy as np
{imports}
from edgecam.errors import EdgecamError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, {call})
    except EdgecamError as err:
        print(path.name, "refused", str(err).partition(": ")[2])
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def apart(folder: Path, imports: str, call: str) -> Tuple[List[str], int]:
    """Read every file in a folder; return what was said of each and by how many MB the process grew."""
    code = APART.format(imports=imports, call=call)
    cpu = (120 * SCALE, 120 * SCALE + 5)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600 * SCALE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, cpu),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *said, grown = done.stdout.rstrip("\n").split("\n")
    return said, int(grown.split()[1]) // 1024


def test_what_says_it_is_huge_takes_no_memory(tmp_path: Path) -> None:
    for name, data in huge().items():
        (tmp_path / name).write_bytes(data)
    said, grown_mb = apart(tmp_path, "from edgecam.capture.photo import read_photo", "read_photo(path).shape")
    assert len(said) == len(huge())
    assert all(" refused " in line for line in said), said
    assert grown_mb < 100


def test_a_video_behind_a_photo_is_not_taken_for_scans(tmp_path: Path) -> None:
    """Phones keep a moving picture there."""
    for i in (0, 7):
        path = tmp_path / f"{i}.jpg"
        path.write_bytes(PICTURES[i] + b"\xff\xda\0\2" * 1000)
        assert read_photo(path).shape == (24, 32, 3)


def shaken(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield altered copies, the head more often than the rest."""
    rng = np.random.default_rng(seed)
    for _ in range(count * SCALE):
        copy = bytearray(data)
        for _ in range(int(rng.integers(1, 8))):
            end = len(copy) if rng.random() < 0.5 else min(200, len(copy))
            copy[int(rng.integers(0, end))] = int(rng.choice((0, 0x7F, 0x80, 0xFF, rng.integers(0, 256))))
        yield bytes(copy if rng.random() < 0.8 else copy[: int(rng.integers(1, len(copy)))])


def test_clips_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "seed.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(12):
        writer.write(np.full((48, 64, 3), i * 20, np.uint8))
    writer.release()
    folder = tmp_path / "clips"
    folder.mkdir()
    for i, data in enumerate(shaken((tmp_path / "seed.mp4").read_bytes(), 60, 1)):
        (folder / f"{i:05}.mp4").write_bytes(data)
    imports = (
        "from itertools import islice\n"
        "from edgecam.capture.clip import ClipSource\nfrom edgecam.clock import SystemClock\n"
        "from edgecam.config import CameraConfig\n"
        "def frames(path):\n"
        "    source = ClipSource(path, CameraConfig(url=str(path)), 'x', SystemClock())\n"
        "    source.open()\n"
        "    try: return sum(1 for _ in islice(source, 1000))\n"
        "    finally: source.close()\n"
    )
    said, grown_mb = apart(folder, imports, "frames(path)")
    assert len(said) == 60 * SCALE
    assert any(line.endswith(" 12") for line in said), "some are as good as before"
    assert any("refused" in line for line in said)
    assert grown_mb < 400


def test_heads_are_loaded_or_refused(tmp_path: Path) -> None:
    from edgecam.nn.convert.builder import Builder

    net = Builder()
    net.node("MatMul", ["features", net.constant("m", np.eye(8, dtype=np.float32))], "raw")
    net.node("LpNormalization", ["raw"], "embeddings", axis=1, p=2)
    seed = net.model("turned", {"features": ("n", 8)}, {"embeddings": ("n", 8)}).SerializeToString()
    for i, data in enumerate(shaken(seed, 60, 2)):
        (tmp_path / f"{i:05}.onnx").write_bytes(data)
    imports = "from edgecam.embed.base import head_session"
    # The library's own words on stdout would break `--json`: every line is ours.
    call = 'bool(head_session({"h": path.read_bytes()}, "h"))'
    said, grown_mb = apart(tmp_path, imports, call)
    assert len(said) == 60 * SCALE
    assert any("refused" in line for line in said)
    assert grown_mb < 200


# --- backups ----------------------------------------------------------------------------------------------------------


def test_an_altered_backup_is_brought_back_or_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", StoreConfig()) as store:
        ann = store.add_person("Ann")
        store.add_device(ann.id, "wifi", PHONE)
        good = store.backup(tmp_path / "backups").read_bytes()
        altered, refused = tmp_path / "altered.db", 0
        for data in shaken(good, 40, 4):
            altered.write_bytes(data)
            try:
                store.restore(altered)
            except StoreError:
                refused += 1
        assert refused
        assert store.problems() == []
        assert [person.name for person in store.people()] == ["Ann"]


def test_a_damaged_schema_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state", StoreConfig()) as store:
        path = store.backup(tmp_path / "backups")
        data = path.read_bytes()
        for good, bad in (
            (b"tablevisitsvisits", b"table\x80isitsvisits"),
            (b"CREATE TABLE visits", b"CREATE TABLX visits"),
        ):
            assert data.count(good) == 1
            data = data.replace(good, bad)
        path.write_bytes(data)
        with pytest.raises(StoreError, match="damaged"):
            store.restore(path)


def test_a_backup_brings_no_program_with_it(tmp_path: Path) -> None:
    import sqlite3

    with Store.open(tmp_path / "state", StoreConfig()) as store:
        store.add_person("Ann")
        path = store.backup(tmp_path / "backups")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TRIGGER t AFTER INSERT ON people BEGIN DELETE FROM people; END")
            database.commit()
        for mode in ("merge", "replace"):
            with pytest.raises(StoreError, match="altered"):
                store.restore(path, mode)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_same_with_forty_times_the_budget() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--timeout=3000", __file__],
        env={**os.environ, "EDGECAM_FUZZ": "40"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
