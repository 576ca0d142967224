"""An RTSP camera of GStreamer's, for tests: `/usr/bin/python3 rtsp_server.py [--user U --password P] [FILE]`.

Serves /cam as H.264: a test picture, or the file (an MP4 as it is, from its start for the first viewer). Prints
`ready PORT` once it listens. Needs only the system's Python with gi (gir1.2-gst-rtsp-server-1.0).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

_PAYLOAD = "rtph264pay name=pay0 pt=96 config-interval=1"
_ENCODER = f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! {_PAYLOAD}"


def _pipeline(arguments: argparse.Namespace) -> str:
    if arguments.file and arguments.file.endswith(".mp4"):
        return f"( filesrc location={arguments.file} ! qtdemux ! h264parse ! {_PAYLOAD} )"
    if arguments.file:
        return f"( filesrc location={arguments.file} ! decodebin ! videoconvert ! {_ENCODER} )"
    size = f"video/x-raw,width={arguments.width},height={arguments.height},framerate={arguments.fps}/1"
    return f"( videotestsrc is-live=true pattern=ball ! {size} ! {_ENCODER} )"


def _protect(server: Any, factory: Any, user: str, password: str) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    basic = GstRtspServer.RTSPAuth.make_basic(user, password)
    auth.add_basic(basic, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", default="0")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--fps", type=int, default=15)
    arguments = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(arguments.address)
    server.set_service(arguments.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(_pipeline(arguments))
    factory.set_shared(True)
    if arguments.user:
        _protect(server, factory, arguments.user, arguments.password)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit("cannot listen")
    sys.stdout.write(f"ready {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
