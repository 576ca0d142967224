"""Cameras and recordings for tests: an MJPEG server, an RTSP server as a process, clips written on the spot."""

from __future__ import annotations

import contextlib
import fractions
import select
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import av
import cv2
import numpy as np

from edgecam.types import Image

_SYSTEM_PYTHON = "/usr/bin/python3"
_SERVER = Path(__file__).parent / "system/rtsp_server.py"


def picture(index: int, size: Tuple[int, int] = (160, 120)) -> Image:
    """Return a picture that tells its number by its brightness (8 a step), with a white square at its top left."""
    width, height = size
    image = np.full((height, width, 3), (index * 8) % 200, np.uint8)
    image[: height // 4, : width // 4] = 255
    return image


def write_clip(path: Path, count: int = 20, fps: int = 10, pts: Optional[Sequence[int]] = None) -> Path:
    """Write a clip of `picture(0..)`, in an AVI as JPEGs, else as MPEG-4; `pts` in milliseconds."""
    codec, pixels = ("mjpeg", "yuvj420p") if path.suffix == ".avi" else ("mpeg4", "yuv420p")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixels
        stream.codec_context.time_base = fractions.Fraction(1, fps if codec == "mjpeg" else 1000)
        stream.codec_context.bit_rate = 2_000_000
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="bgr24")
            frame.time_base = fractions.Fraction(1, 1000)
            frame.pts = pts[index] if pts else index * 1000 // fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class MjpegCamera:
    """An HTTP camera on 127.0.0.1; use it in a `with`.

    Args:
        pictures: JPEGs (or rubbish) sent in turn.
        endless: start again after the last; else the stream ends.
        password: asked for by basic authentication, user `u`.
    """

    def __init__(self, pictures: Sequence[bytes], *, endless: bool = True, password: str = "") -> None:
        self.sent = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                if password and "Basic" not in self.headers.get("Authorization", ""):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                if password and not self.headers["Authorization"].endswith(_basic("u", password)):
                    self.send_response(401)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    camera._stream(self.wfile, pictures, endless=endless)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/video"

    def _stream(self, out: Any, pictures: Sequence[bytes], *, endless: bool) -> None:
        while not self._stopped.is_set():
            for data in pictures:
                out.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                out.write(data + b"\r\n")
                out.flush()
                self.sent += 1
                if self._stopped.wait(0.04):
                    return
            if not endless:
                return

    def __enter__(self) -> MjpegCamera:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()


def _basic(user: str, password: str) -> str:
    import base64

    return base64.b64encode(f"{user}:{password}".encode()).decode()


def jpegs(count: int = 10, size: Tuple[int, int] = (160, 120)) -> List[bytes]:
    """Return `picture(0..)` as JPEGs."""
    return [cv2.imencode(".jpg", picture(index, size))[1].tobytes() for index in range(count)]


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Yield the port of a server that accepts and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: List[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # A shutdown wakes the accepting thread; closing alone would not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()


def rtsp_missing() -> str:
    """Return what lacks for an RTSP server, empty if nothing."""
    want = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    with contextlib.suppress(OSError):
        if subprocess.run([_SYSTEM_PYTHON, "-c", want], capture_output=True, check=False).returncode == 0:
            return ""
    return "GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0)"


class RtspCamera:
    """`rtsp_server.py` as a process; use it in a `with`.

    Args:
        arguments: for the server.
        port: 0 takes a free one, and keeps it over `kill` and `start`.
    """

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self._arguments, self.port = arguments, port
        self._process: Optional[subprocess.Popen[str]] = None

    def start(self) -> None:
        command = [_SYSTEM_PYTHON, str(_SERVER), "--port", str(self.port), *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        end_s = time.monotonic() + 30.0
        while time.monotonic() < end_s and self._process.poll() is None and self._process.stdout is not None:
            if select.select([self._process.stdout], [], [], 0.2)[0]:
                word, _, port = self._process.stdout.readline().partition(" ")
                if word == "ready":
                    self.port = int(port)
                    return
        raise AssertionError("the RTSP server does not start")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> RtspCamera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
