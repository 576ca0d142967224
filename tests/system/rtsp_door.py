"""A real RTSP server (GStreamer's) that plays a recording as a camera would: H.264 in real time, to whoever asks."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import Optional

from broker import free_port

_SYSTEM_PYTHON = "/usr/bin/python3"
_START_S = 20.0
"""The first start of GStreamer looks through all of its plug-ins."""

_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( filesrc location={sys.argv[2]} ! qtdemux ! h264parse config-interval=1 ! rtph264pay name=pay0 pt=96 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/door", factory)
server.attach(None)
GLib.MainLoop().run()
"""


def missing() -> str:
    """Return what lacks for a server, empty if nothing."""
    want = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    with contextlib.suppress(OSError):
        if subprocess.run([_SYSTEM_PYTHON, "-c", want], capture_output=True, check=False).returncode == 0:
            return ""
    return "GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0)"


class RtspDoor:
    """The server as a process.

    Args:
        recording: MP4 with H.264, played from its start for the first viewer.
    """

    def __init__(self, recording: Path) -> None:
        self._recording = recording
        self._port = free_port()
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/door"

    def start(self) -> RtspDoor:
        self._process = subprocess.Popen([_SYSTEM_PYTHON, "-c", _SERVER, str(self._port), str(self._recording)])
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
                return self
            time.sleep(0.05)
        raise AssertionError("the RTSP server does not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> RtspDoor:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
