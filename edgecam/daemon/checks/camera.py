"""The cameras: whether pictures come, how light they are, and how large a face is in them."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, Mapping, Optional

import numpy as np

from edgecam.clock import SystemClock
from edgecam.config import CameraConfig
from edgecam.daemon.checks.base import Finding, Subject, failed, live_status
from edgecam.errors import EdgecamError
from edgecam.types import Frame, Image

_CAMERA_S = 12.0
_SMALL_FACE_PX = 60
_DARK, _BRIGHT, _FLAT = 40.0, 215.0, 12.0

_LOG = "journalctl -u edgecam"
_FIX: Dict[str, str] = {
    "camera_starting": "wait some seconds; then check its power, network and address",
    "camera_lost": "check its power, network and address (cameras.ID.url)",
    "camera_refused": "correct user and password in cameras.ID.url, then: systemctl reload edgecam",
    "camera_ended": "give cameras.ID.url a camera instead of a recording, or set loop = true",
    "camera_wrong": "correct cameras.ID.url, then: systemctl reload edgecam",
    "perception_failing": "edgecam models verify",
    "loop_stuck": f"systemctl restart edgecam; report it with its log ({_LOG})",
}


def check(subject: Subject) -> Iterator[Finding]:
    """Try each camera; one that the daemon watches is told by the daemon."""
    if not subject.config.cameras:
        yield Finding(
            "camera", "broken", "no camera is configured", "edgecam init, or [cameras.ID] in the configuration"
        )
    if subject.live and subject.config.cameras:
        # Many cameras serve one viewer at a time; the daemon itself knows best.
        watched = live_status(subject)["cameras"]
        for camera in subject.config.cameras:
            yield from _live_camera(camera, watched.get(camera))
        return
    for camera, config in subject.config.cameras.items():
        try:
            yield from look(camera, config, subject)
        except EdgecamError as err:  # the next one may work
            yield failed("camera", err, f"{camera}: ")


def _live_camera(camera: str, entry: Optional[Mapping[str, Any]]) -> Iterator[Finding]:
    if entry is None:
        fix = "systemctl reload edgecam"
        yield Finding("camera", "hint", f"{camera} is in the configuration, but not in the running daemon", fix)
    elif entry["problems"]:
        for code, text in entry["problems"].items():
            yield Finding("camera", "broken", f"{camera}: {code}: {text}", _FIX.get(code, _LOG))
    else:
        yield Finding("camera", "ok", f"{camera}: {entry['fps']:.0f} pictures a second, {entry['dropped']} dropped")


def look(camera: str, config: CameraConfig, subject: Subject) -> Iterator[Finding]:
    """Open a camera, take a picture, look at light and face size."""
    from edgecam.capture.base import make_source

    source = make_source(config, camera, SystemClock(), paced=True)
    frame: Optional[Frame] = None
    count, end = 0, time.monotonic() + _CAMERA_S
    try:
        source.open()
        began = time.monotonic()
        while count < 15 and time.monotonic() < end:
            got = source.read()
            if got is None:
                break
            frame, count = got, count + 1
        took = max(time.monotonic() - began, 1e-3)
    finally:
        source.close()
    if frame is None:
        yield Finding("camera", "broken", f"{camera}: opened, but no picture came", "restart the camera")
        return
    height, width = frame.image.shape[:2]
    rate = f", {count / took:.0f} a second" if count > 5 else ""
    yield Finding("camera", "ok", f"{camera}: {width}x{height}{rate}")
    if min(width, height) < 400:
        fix = "use the camera's larger stream: a face at 2 m needs 60 pixels"
        yield Finding("camera", "hint", f"{camera}: the picture is small", fix)
    yield from _light(camera, frame.image)
    yield from _faces(camera, frame.image, subject)


def _light(camera: str, image: Image) -> Iterator[Finding]:
    grey = image.mean(axis=2)
    middle = grey[grey.shape[0] // 4 : -grey.shape[0] // 4, grey.shape[1] // 4 : -grey.shape[1] // 4]
    mean, contrast = float(grey.mean()), float(grey.std())
    if mean < _DARK:
        yield Finding("light", "hint", f"{camera}: it is dark ({mean:.0f} of 255)", "add a lamp or infrared light")
    elif mean > _BRIGHT:
        yield Finding("light", "hint", f"{camera}: over-exposed ({mean:.0f} of 255)", "turn the camera from the light")
    if contrast < _FLAT:
        yield Finding("light", "hint", f"{camera}: nearly no contrast", "clean the lens, or take off its cover")
    if float(middle.mean()) < 0.6 * mean and mean > _DARK:
        fix = "turn the camera, or switch on its wide dynamic range (WDR)"
        yield Finding("light", "hint", f"{camera}: the light is behind the visitors", fix)


def _faces(camera: str, image: Image, subject: Subject) -> Iterator[Finding]:
    from edgecam import detect
    from edgecam.nn.registry import ModelRegistry

    detector = detect.make(subject.config.detect, ModelRegistry(subject.models))
    faces = detector(np.ascontiguousarray(image))
    if not len(faces):
        yield Finding("faces", "hint", f"{camera}: nobody in the picture", "stand 2 m before it and run this again")
        return
    widest = float(faces.boxes[:, 2].max())
    text = f"{camera}: a face of {widest:.0f} pixels"
    if widest < _SMALL_FACE_PX:
        fix = f"at 2 m a face should have {_SMALL_FACE_PX}: use a larger stream, or mount the camera nearer"
        yield Finding("faces", "hint", text, fix)
    else:
        yield Finding("faces", "ok", text)
