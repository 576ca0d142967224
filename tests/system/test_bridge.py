"""The bridge between the hardened broker and a server like ntfy or Gotify: what it tells, how often, what it keeps."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from broker import HardenedBroker, Listener, mosquitto, until

from edgecam import bridge as module
from edgecam.bridge import Bridge, load

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.timeout(60),
]

EVENT = "edgecam/edgecam/front/event"
GONE = "Client edgecam-bridge-edgecam disconnected"


class Server:
    """What ntfy and Gotify are to the bridge: takes a POST, answers with the next of `answers`, else 200."""

    def __init__(self, broker: HardenedBroker) -> None:
        self.got: List[Tuple[str, Dict[str, str], str]] = []
        self.answers: List[Tuple[int, Dict[str, str]]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                code, headers = server.answers.pop(0) if server.answers else (200, {})
                if code == 200:
                    server.got.append((self.path, dict(self.headers), body))
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        assert broker.tls is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(broker.tls.certificate, broker.tls.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def texts(self) -> List[str]:
        return [body for _, _, body in list(self.got)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def broker() -> Iterator[HardenedBroker]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with HardenedBroker(Path(name)) as started:
            assert isinstance(started, HardenedBroker)
            yield started


@pytest.fixture
def server(broker: HardenedBroker) -> Iterator[Server]:
    started = Server(broker)
    yield started
    started.close()


@pytest.fixture
def box(broker: HardenedBroker) -> Iterator[Listener]:
    with Listener(broker, "nothing", user="edgecam") as speaking:
        yield speaking


def write(folder: Path, broker: HardenedBroker, server: Server, kind: str = "ntfy", more: str = "") -> Path:
    """Write a configuration as deploy/examples has it, with the ports and paths of this test."""
    assert broker.tls is not None
    ca, passwords = broker.tls.ca, broker.tls.ca.parent / "passwords"
    (folder / "token").write_text("tk_secret\n")
    path = folder / "bridge.toml"
    path.write_text(
        f"""
[broker]
port = {broker.port}
ca_file = "{ca}"
username = "edgecam-bridge"
password_file = "{passwords / "edgecam-bridge"}"
[send]
kind = "{kind}"
url = "https://localhost:{server.port}{"/front" if kind == "ntfy" else "/gotify"}"
token_file = "{folder / "token"}"
ca_file = "{ca}"
{more}
"""
    )
    return path


@contextlib.contextmanager
def running(path: Path, broker: HardenedBroker) -> Iterator[Bridge]:
    """Run the bridge in a thread, impatient; connected when it yields, and gone from the broker at the end."""
    settings = load(path)
    ended = threading.Event()
    password = Path(settings.broker.password_file).read_text().strip()
    made = Bridge(settings, password, "tk_secret", lambda s: ended.wait(s / 1000))
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        until(lambda: made.connected, "connected")
        yield made
    finally:
        ended.set()
        before = broker.log().count(GONE)
        made.end()
        thread.join(20)
        assert not thread.is_alive()
        until(lambda: broker.log().count(GONE) > before, "gone")


def event(number: int, verdict: str = "unknown", **changed: Any) -> str:
    now = time.time()
    message = {
        "schema": 1, "id": f"id-{number}", "visit": f"visit-{number}", "track": 1, "event_type": verdict,
        "phase": "final", "person": "Ann Example" if verdict == "known" else None,
        "person_id": "p-1" if verdict == "known" else None,
        "candidates": ["Ann Example", "Ben"] if verdict == "uncertain" else [], "reason": "Ann Example is far",
        "similarity": 0.1, "liveness": "unproven", "ts": now, "age_s": 0.1, "camera": "front", "place": "door",
        "model": "m", "clock_trusted": True, **changed,
    }  # fmt: skip
    return json.dumps(message)


def test_ntfy_and_gotify_get_words_and_nothing_else(
    tmp_path: Path, broker: HardenedBroker, server: Server, box: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    everything = f"verdicts = {json.dumps([*module.VERDICTS, module.RING])}"
    with running(write(tmp_path, broker, server, more=everything), broker):
        for number, verdict in enumerate(module.VERDICTS):
            box.say(EVENT, event(number, verdict))
        ring = {"schema": 1, "id": "ring-1", "event_type": "ring", "source": "mqtt", "ts": time.time(), "age_s": 0.0}
        box.say("edgecam/edgecam/front/ring", json.dumps({**ring, "clock_trusted": True}))
        until(lambda: len(server.got) == 7, "all told")
    assert server.texts == [
        "Somebody known is at the door",
        "Somebody unknown is at the door",
        "Somebody not told apart is at the door",
        "Somebody who shows a picture of a face is at the door",
        "Somebody, not seen well enough, is at the door",
        "Somebody without a face to be seen is at the door",
        "The doorbell rings (front)",
    ]
    for path, headers, _ in server.got:
        assert path == "/front"
        assert headers.pop("Host").startswith("localhost:")
        del headers["Content-Length"], headers["Accept-Encoding"]
        assert headers == {"User-Agent": "edgecam", "Title": "edgecam", "Authorization": "Bearer tk_secret"}
    server.got.clear()
    with running(write(tmp_path, broker, server, "gotify", everything + "\nnames = true"), broker):
        box.say(EVENT, event(20, "known", person="Ann\nExämple\x00", place="back_yard"))
        box.say(EVENT, event(21, "uncertain"))
        until(lambda: len(server.got) == 2, "both told")
    (path, headers, body), (_, _, second) = server.got
    assert (path, headers["X-Gotify-Key"]) == ("/gotify/message", "tk_secret")
    told = {"title": "edgecam", "message": "Ann Exämple is at the back_yard", "priority": 5}
    assert json.loads(body) == told
    assert json.loads(second)["message"] == "Ann Example or Ben is at the door"
    assert "Ann" not in caplog.text
    assert "tk_secret" not in caplog.text


def test_what_is_told_and_what_is_not(tmp_path: Path, broker: HardenedBroker, server: Server, box: Listener) -> None:
    with running(write(tmp_path, broker, server, more="per_hour = 4"), broker):
        quiet = [
            event(1, "known"),
            event(2, age_s=301.0),
            event(3, age_s=None),
            event(4, ts=time.time() - 400.0),
            event(5, age_s=float("nan")),
            event(6, schema=2),
            event(7, track=float("inf")),
            event(8, event_type=["unknown"]),
            "[]", "\xff", '{"schema":1}', "[" * 5000, "x" * 9000,
        ]  # fmt: skip
        for message in quiet:
            box.say(EVENT, message)
        # An hour in a house whose clock was not set: only the time up to the broker is known.
        box.say(EVENT, event(10, clock_trusted=False, ts=3.0))
        box.say(EVENT, event(10, clock_trusted=False, ts=3.0))
        box.say(EVENT, event(11, visit="visit-10"))
        box.say(EVENT, event(12, "known", visit="visit-10", phase="corrected"))
        box.say(EVENT, event(10, clock_trusted=False, ts=3.0))
        box.say(EVENT, event(13))
        box.say(EVENT, event(14, "spoof"))
        for number in (15, 16):
            box.say(EVENT, event(number))
        until(lambda: len(server.got) >= 4, "told")
        time.sleep(0.3)
    assert server.texts == [
        "Somebody unknown is at the door",
        "Correction: Somebody known is at the door",
        "Somebody unknown is at the door",
        "Somebody who shows a picture of a face is at the door",
    ]


def test_a_server_that_is_slow_refuses_or_is_away(
    tmp_path: Path, broker: HardenedBroker, server: Server, box: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, broker, server)
    with running(path, broker):
        server.answers = [(503, {}), (429, {"Retry-After": "2"}), (500, {"Retry-After": "²"})]
        box.say(EVENT, event(1))
        until(lambda: len(server.got) == 1, "told at the fourth try")
        server.answers = [(403, {}), (302, {"Location": "https://localhost:1/"})]
        box.say(EVENT, event(2))
        box.say(EVENT, event(3))
        box.say(EVENT, event(4))
        until(lambda: len(server.got) == 2, "the one after those refused")
        assert [line for line in caplog.messages if "send.token_file" in line] == [
            f"id-{number}: not sent: localhost answers {code}: check send.url and send.token_file"
            for number, code in ((2, 403), (3, 302))
        ]
        server.answers = [(500, {})] * module.TRIES
        box.say(EVENT, event(5))
        box.say(EVENT, event(6))
        until(lambda: len(server.got) == 3, "the one after the one given up")
        assert not server.answers
        assert f"id-5: not sent after {module.TRIES} tries: localhost answers 500" in caplog.text
    # Another's certificate: told to nobody.
    path.write_text(path.read_text().replace("https://localhost", "https://127.0.0.2"))
    with running(path, broker):
        box.say(EVENT, event(7))
        until(lambda: f"id-7: not sent after {module.TRIES} tries" in caplog.text, "not trusted")
    assert len(server.got) == 3


def test_what_comes_while_it_is_away_waits(
    tmp_path: Path, broker: HardenedBroker, server: Server, box: Listener
) -> None:
    command = [sys.executable, "-m", "edgecam.bridge", str(write(tmp_path, broker, server))]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    process = start()
    try:
        box.say(EVENT, event(1))
        until(lambda: len(server.got) == 1 or process.poll() is not None, "told")
        # Killed over one that the server does not take: it comes again, as do those of its absence.
        server.answers = [(503, {})] * 100
        box.say(EVENT, event(2))
        until(lambda: len(server.answers) < 100, "tried")
        process.kill()
        process.wait(10)
        box.say(EVENT, event(3))
        broker.restart()
        server.answers = []
        process = start()
        until(lambda: len(server.got) == 3, "what was missed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert server.texts == ["Somebody unknown is at the door"] * 3


WRONG = {
    "kind = 'sms'": "ntfy or gotify",
    "url = 'ftp://x/y'": "send.url",
    "url = 'https://user:pw@x/y'": "send.url",
    "url = 'https://x/'": "with the topic",
    "url = 'http://ntfy.lan/front'\nnames = true": "https",
    "url = 'http://ntfy.lan/front'\ntoken_file = 'x'": "https",
    "verdicts = ['resident']": "send.verdicts",
    "verdicts = 'unknown'": "a list of strings",
    "per_hour = 0": "at least 1",
    "max_age_s = true": "must be int",
    "picture = true": "no such key",
    "[broker]\nhost = 'broker.lan'\ntls = false\npassword_file = 'x'": "broker.tls",
    "[broker]\nbox = '#'": "broker.box",
    "[alerts]\n": "unknown: alerts",
    "ca_file = '/nowhere'": "send.ca_file",
    "token_file = '/nowhere'": "/nowhere",
    "x": "bridge.toml",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_configuration_is_told_in_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bridge.toml"
    url = "" if "url" in text else "url = 'https://ntfy.lan/front'\n"
    path.write_text(f"[send]\n{url}{text}")
    assert module.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRONG[text] in line
