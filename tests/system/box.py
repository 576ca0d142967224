"""The whole daemon as a process, with everything around it: commands, service manager, scenes before its cameras."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import av
import cv2
import numpy as np
from broker import free_port

from edgecam.capture.base import make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig
from edgecam.daemon import control, talk
from edgecam.errors import ControlError
from edgecam.types import Image

WAIT_S = 60.0
"""Twenty times what it takes on a machine that has nothing else to do."""

FPS = 10
_FADE = 300
"""Pixels over which the surroundings of a visitor become the door's."""


def until(true: Callable[[], object], what: str, within_s: float = WAIT_S) -> Any:
    """Wait for a condition; return what it returned."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what}")


class ServiceManager:
    """What systemd would hear: a datagram socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: List[Dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def count(self, key: str) -> int:
        return sum(key in message for message in self.heard)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(4096):
                lines = data.decode().splitlines()
                self.heard.append(dict(line.split("=", 1) for line in lines))


class Box:
    """One daemon and its state folder.

    Args:
        folder: state, configuration and log go here; kept short, for sockets.
        config: the configuration file's text.
        watchdog_s: what the service manager expects.
    """

    def __init__(self, folder: Path, config: str, watchdog_s: float = 2.0) -> None:
        self.folder, self.state = folder, folder / "s"
        self.config = folder / "edgecam.toml"
        self.config.write_text(config)
        self.manager = ServiceManager(folder / "n")
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.command: Sequence[str] = COMMAND
        """What is `edgecam`."""
        self._watchdog_s = watchdog_s

    def start(self, *arguments: str, ready: bool = True) -> Box:
        """Start the daemon; wait until it says READY."""
        before = self.manager.count("READY")
        env = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.manager.path),
            "WATCHDOG_USEC": str(int(self._watchdog_s * 1e6)),
        }
        env.pop("WATCHDOG_PID", None)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "run", "--state", str(self.state), "--config", str(self.config), *arguments],
                stdout=log,
                stderr=log,
                env=env,
            )
        if ready:
            until(lambda: self.manager.count("READY") > before or self.process_ended(), "READY")
            assert not self.process_ended(), self.log()
        return self

    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def run(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a subcommand on the same state."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--state", str(self.state), "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not ok or done.returncode == 0, done.stderr
        return done

    def ask(self, op: str, **params: Any) -> List[Dict[str, Any]]:
        return list(talk.ask(talk.socket_path(self.state), {"op": op, **params}))

    def status(self) -> Dict[str, Any]:
        return self.ask("status")[0]

    def metrics(self) -> str:
        """Return what Prometheus would read."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(talk.socket_path(self.state).with_name("metrics.sock")))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: box\r\n\r\n")
            with sock.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK"), head
        return body.decode()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, within_s: float = WAIT_S) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.manager.close()

    def answers(self) -> bool:
        """Whether the control socket answers within two seconds."""
        with contextlib.suppress(ControlError):
            return bool(list(control.call(talk.socket_path(self.state), {"op": "status"}, 2.0)))
        return False

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def enrol(folder: Path, clip: Path, seconds: float) -> Path:
    """Return a state folder in which Ann is enrolled from the first seconds of a clip."""
    with Box(folder, "") as box:
        box.run("enroll", "Ann Example", str(cut(clip, 0.0, seconds, folder / "ann.mp4")))
    return box.state


COMMAND = [sys.executable, "-m", "edgecam"]


class Door:
    """A network camera (MJPEG over HTTP) that looks at a door, 1280x720 at 10 a second.

    Nobody is there until `visit` lets somebody from a clip stand before it. `stop` and `start` are a power cut.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        small = rng.integers(90, 150, (18, 32, 3), dtype=np.uint8)
        self._empty = np.asarray(cv2.resize(small, (1280, 720), interpolation=cv2.INTER_CUBIC), np.uint8)
        self._rng = rng
        self._noisies = [self._noisy(self._empty) for _ in range(5)]
        self._quiet = [_jpeg(image) for image in self._noisies]
        self._coming: List[bytes] = []
        self._lock = threading.Lock()
        self._server: Optional[http.server.ThreadingHTTPServer] = None
        self._cut = threading.Event()
        self.port = free_port()
        self.sent = 0
        self.asked = 0
        """How often a viewer connected."""

    @property
    def url(self) -> str:
        return f"http://ann:s3cret@127.0.0.1:{self.port}/stream.mjpg"

    def picture(self, face: Image) -> bytes:
        """Return a picture with somebody in it; their surroundings fade into the door's, without an edge.

        A pasted rectangle would be a picture shown to the camera, and be told as that.
        """
        width = int(face.shape[1] * 720 / face.shape[0])
        left = (1280 - width) // 2
        near = cv2.resize(face, (width, 720))
        wide = cv2.copyMakeBorder(near, 0, 0, left, 1280 - width - left, cv2.BORDER_REPLICATE)
        share = np.interp(np.arange(1280), [left - _FADE, left, left + width, left + width + _FADE], [0, 1, 1, 0])
        weight = np.ascontiguousarray(np.broadcast_to(share.astype(np.float32), (720, 1280)))
        return _jpeg(np.asarray(cv2.blendLinear(wide, self._noisy_empty(), weight, 1.0 - weight), np.uint8))

    def visit(self, clip: Path, start_s: float, end_s: float) -> int:
        """Let somebody come; return after how many frames they will be gone."""
        pictures = [self.picture(face) for face in frames_of(clip, start_s, end_s)]
        with self._lock:
            self._coming += pictures
            return self.sent + len(self._coming)

    def record(self, clip: Path, start_s: float, end_s: float, path: Path) -> Path:
        """Write a recording: nobody for 4 seconds, somebody from a clip, nobody for 6."""
        quiet = [_decoded(data) for data in self._quiet]
        frames = [quiet[n % len(quiet)] for n in range(4 * FPS)]
        frames += [_decoded(self.picture(face)) for face in frames_of(clip, start_s, end_s)]
        frames += [quiet[n % len(quiet)] for n in range(6 * FPS)]
        return write_clip(frames, path)

    @property
    def empty(self) -> bool:
        return not self._coming

    def start(self) -> Door:
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                door.asked += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    due = time.monotonic()
                    while not door._cut.is_set():
                        data = door._next()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        due = max(due + 1.0 / FPS, time.monotonic() - 0.5)
                        time.sleep(max(0.0, due - time.monotonic()))

            def log_message(self, *_: object) -> None:
                pass

        self._cut.clear()
        http.server.ThreadingHTTPServer.allow_reuse_address = True
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Hang up on every viewer and answer nobody."""
        self._cut.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _next(self) -> bytes:
        with self._lock:
            self.sent += 1
            return self._coming.pop(0) if self._coming else self._quiet[self.sent % len(self._quiet)]

    def _noisy_empty(self) -> Image:
        return self._noisies[int(self._rng.integers(len(self._noisies)))]

    def _noisy(self, image: Image) -> Image:
        noise = self._rng.integers(-2, 3, (720, 1280, 1), dtype=np.int16)
        return np.asarray(np.clip(image.astype(np.int16) + noise, 0, 255), np.uint8)

    def __enter__(self) -> Door:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _jpeg(image: Image) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def _decoded(data: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def frames_of(clip: Path, start_s: float, end_s: float) -> Iterator[Image]:
    """Yield the upright pictures of a part of a clip, FPS a second."""
    source = make_source(CameraConfig(url=str(clip), fps=FPS), "clip", SystemClock())
    source.open()
    try:
        for frame in source:
            if frame.captured_at_s >= end_s:
                return
            if frame.captured_at_s >= start_s:
                yield frame.image
    finally:
        source.close()


def cut(clip: Path, start_s: float, end_s: float, path: Path) -> Path:
    """Write a part of a clip as an MP4 file."""
    return write_clip(list(frames_of(clip, start_s, end_s)), path)


def write_clip(frames: List[Image], path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"tune": "zerolatency", "preset": "ultrafast", "g": "10"})
        stream.height, stream.width = (side // 2 * 2 for side in frames[0].shape[:2])
        stream.bit_rate, stream.pix_fmt = 6_000_000, "yuv420p"
        for image in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def events(heard: List[Any], camera: str = "") -> List[Dict[str, Any]]:
    """Return the event messages among what a listener heard."""
    found = [json.loads(payload) for topic, payload, _ in list(heard) if topic.endswith("/event")]
    return [event for event in found if not camera or event["camera"] == camera]


__all__ = [
    "COMMAND",
    "Box",
    "Door",
    "ServiceManager",
    "cut",
    "enrol",
    "events",
    "frames_of",
    "signal",
    "until",
    "write_clip",
]
