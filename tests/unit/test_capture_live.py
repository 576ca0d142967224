"""Cameras: an MJPEG server, a silent one, GStreamer pipelines, a fake USB device, a real RTSP server."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional

import numpy as np
import pytest
from cameras import MjpegCamera, RtspCamera, jpegs, rtsp_missing, silent_server

from edgecam.capture.base import FrameSource, make_source
from edgecam.capture.device import DeviceSource
from edgecam.capture.reconnect import BackOff, LinkState, LiveFrames
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig
from edgecam.errors import ConfigError, SourceAuthError, SourceError
from edgecam.types import Frame

SECRET = "s3cr3t"


def camera(url: str, **config: Any) -> FrameSource:
    values = {"url": url, "fps": 120, "stall_after_s": 5.0, **config}
    return make_source(CameraConfig.model_validate(values), "front", SystemClock())


def take(source: FrameSource, count: int) -> List[Frame]:
    found = []
    for _ in range(count):
        frame = source.read()
        assert frame is not None
        found.append(frame)
    return found


def open_and_take(source: FrameSource) -> None:
    source.open()
    take(source, 1)


# MJPEG over HTTP.


def test_mjpeg_frames_have_monotonic_times() -> None:
    with MjpegCamera(jpegs()) as server:
        source = camera(server.url)
        before_s = time.monotonic()
        source.open()
        found = take(source, 12)
        source.close()
    at_s = [frame.captured_at_s for frame in found]
    assert at_s == sorted(at_s)
    assert before_s <= at_s[0]
    assert at_s[-1] <= time.monotonic()
    assert 0.2 < at_s[-1] - at_s[0] < 5.0


def test_the_end_of_a_camera_s_stream_is_a_fault() -> None:
    with MjpegCamera(jpegs(), endless=False) as server:
        source = camera(server.url)
        source.open()
        with pytest.raises(SourceError, match=r"ended|broke off"):
            take(source, 1000)
        source.close()


def test_a_change_of_size_is_fine() -> None:
    with MjpegCamera([*jpegs(3), *jpegs(3, (320, 240))]) as server:
        source = camera(server.url)
        source.open()
        shapes = {frame.image.shape for frame in take(source, 14)}
        source.close()
    assert shapes == {(120, 160, 3), (240, 320, 3)}


def test_damaged_pictures_are_passed_over() -> None:
    good = jpegs(2)
    with MjpegCamera([good[0], b"\xff\xd8 rubbish \xff\xd9", good[1], good[0][:300]]) as server:
        source = camera(server.url)
        source.open()
        assert len(take(source, 6)) == 6
        source.close()


def test_nothing_but_rubbish_is_a_fault_within_the_patience() -> None:
    with MjpegCamera([b"rubbish" * 50]) as server:
        source = camera(server.url, stall_after_s=1.5)
        began_s = time.monotonic()
        with pytest.raises(SourceError):
            open_and_take(source)
        source.close()
    assert time.monotonic() - began_s < 8.0


def test_a_camera_that_begins_to_send_rubbish_is_a_fault_within_the_patience() -> None:
    with MjpegCamera([*jpegs(3), *[b"\xff\xd8 rubbish \xff\xd9"] * 1000]) as server:
        source = camera(server.url, stall_after_s=1.0)
        source.open()
        began_s = time.monotonic()
        with pytest.raises(SourceError, match="no picture for 1 s"):
            take(source, 1000)
        source.close()
    assert time.monotonic() - began_s < 5.0


def test_a_picture_of_0x0_is_a_fault() -> None:
    """The size in the JPEG's frame header is patched to nothing."""
    data = bytearray(jpegs(1)[0])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = bytes(4)
    with MjpegCamera([bytes(data)]) as server:
        source = camera(server.url, stall_after_s=1.5)
        with pytest.raises(SourceError):
            open_and_take(source)
        source.close()


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_silent_camera_is_a_fault_within_the_patience(scheme: str) -> None:
    with silent_server() as port:
        source = camera(f"{scheme}://ann:{SECRET}@127.0.0.1:{port}/x", stall_after_s=1.0)
        began_s = time.monotonic()
        with pytest.raises(SourceError) as caught:
            source.open()
    assert 0.5 < time.monotonic() - began_s < 4.0
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert f"{scheme}://127.0.0.1:{port}/x" in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtsps"])
def test_nobody_there(scheme: str) -> None:
    source = camera(f"{scheme}://ann:{SECRET}@127.0.0.1:9/x?token={SECRET}")
    with pytest.raises(SourceError) as caught:
        source.open()
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_told_from_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with MjpegCamera(jpegs(), password="right") as server:
        source = camera(server.url.replace("http://", f"http://u:{SECRET}@"))
        with pytest.raises(SourceAuthError) as caught:
            source.open()
        assert SECRET not in str(caught.value) + caplog.text
        right = camera(server.url.replace("http://", "http://u:right@"))
        right.open()
        assert take(right, 1)
        right.close()


# GStreamer.

GST = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")


@pytest.mark.rtsp
@GST
@pytest.mark.parametrize("width", [320, 322])
def test_a_pipeline_s_pictures_arrive_whole(width: int) -> None:
    """322 pixels: GStreamer pads the rows, and a reader that forgets it shears the picture."""
    pipeline = "gst:videotestsrc is-live=true pattern=red ! video/x-raw,framerate=30/1"
    source = camera(pipeline, width_px=width, height_px=240)
    source.open()
    found = take(source, 5)
    source.close()
    for frame in found:
        assert frame.image.shape == (240, width, 3)
        assert np.all(np.abs(frame.image.astype(int) - (0, 0, 255)) < 8)
    assert source.describe() == "gst:videotestsrc ..."


@pytest.mark.rtsp
@GST
def test_a_pipeline_that_ends_is_a_fault() -> None:
    source = camera("gst:videotestsrc num-buffers=20", width_px=320, height_px=240)
    source.open()
    with pytest.raises(SourceError, match="ended"):
        take(source, 100)
    source.close()


@pytest.mark.rtsp
@GST
def test_a_pipeline_that_is_wrong_tells_what_gstreamer_said_without_its_secrets() -> None:
    source = camera(f"gst:nosuchelement location=rtsp://a:{SECRET}@h/ user-pw={SECRET} ! decodebin")
    source.open()
    with pytest.raises(SourceError, match="nosuchelement") as caught:
        source.read()
    source.close()
    assert SECRET not in str(caught.value)


@pytest.mark.rtsp
@GST
def test_what_gstreamer_says_is_cleaned() -> None:
    """It repeats a value that it does not understand."""
    for value in (f"rtsp://a:{SECRET}@cam/x", SECRET, f"'{SECRET} with spaces'", f"1 {SECRET}"):
        source = camera(f"gst:videotestsrc pattern={value} ! {SECRET} name={SECRET}")
        source.open()
        with pytest.raises(SourceError, match=r"the pipeline ended .*\*\*\*") as caught:
            source.read()
        source.close()
        assert SECRET not in str(caught.value)


@pytest.mark.rtsp
@GST
def test_a_pipeline_that_says_nothing_is_a_fault_and_is_killed() -> None:
    source = camera("gst:videotestsrc ! valve drop=true", stall_after_s=1.0)
    source.open()
    child: Any = source._child  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="no picture for 1 s"):
        source.read()
    source.close()
    assert child.poll() is not None


@pytest.mark.rtsp
@GST
def test_a_csi_camera_without_its_driver_is_a_fault() -> None:
    source = camera("csi://0")
    source.open()
    with pytest.raises(SourceError, match="nvarguscamerasrc"):
        source.read()
    source.close()


@pytest.mark.parametrize("url", ["csi://left", "gst:", "gst:'", "ftp://cam/x", ""])
def test_an_impossible_address_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError):
        camera(url)


# USB, by a fake device.


class FakeDevice:
    """Behaves like cv2.VideoCapture."""

    def __init__(self, images: List[Optional[Any]], *, there: bool = True) -> None:
        self._images, self._there = images, there
        self.asked: List[Any] = []
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return self._there

    def set(self, key: int, value: float) -> bool:
        self.asked.append((key, value))
        return True

    def grab(self) -> bool:
        return bool(self._images)

    def retrieve(self) -> Any:
        image = self._images.pop(0)
        return image is not None, image

    def release(self) -> None:
        self.released = True


def usb(device: FakeDevice) -> DeviceSource:
    config = CameraConfig(url="/dev/video0", fps=120)
    return DeviceSource(config, "front", SystemClock(), lambda _: device)


def test_a_usb_camera() -> None:
    import cv2

    device = FakeDevice([np.full((48, 64, 3), 7, np.uint8)])
    source = usb(device)
    source.open()
    (frame,) = take(source, 1)
    assert frame.image.shape == (48, 64, 3)
    assert (cv2.CAP_PROP_FRAME_WIDTH, 1280) in device.asked
    with pytest.raises(SourceError, match="no picture"):
        source.read()
    source.close()
    assert device.released


def test_a_usb_camera_by_the_port_it_is_plugged_into(tmp_path: Path) -> None:
    assert isinstance(camera("/dev/v4l/by-path/usb-1.2-video-index0"), DeviceSource)
    port = tmp_path / "usb-1.2-video-index0"
    opened: List[str] = []

    def opener(path: str) -> FakeDevice:
        opened.append(path)
        return FakeDevice([])

    source = DeviceSource(CameraConfig(url=str(port)), "front", SystemClock(), opener)
    for device in ("video0", "video1"):  # plugged in again, it is another one
        port.unlink(missing_ok=True)
        port.symlink_to(device)
        source.open()
    assert opened == [str(tmp_path / "video0"), str(tmp_path / "video1")]


@pytest.mark.parametrize("image", [None, np.zeros((0, 0, 3), np.uint8), np.zeros((4, 4), np.uint8)])
def test_a_usb_camera_s_empty_picture_is_a_fault(image: Any) -> None:
    source = usb(FakeDevice([image]))
    source.open()
    with pytest.raises(SourceError, match="empty"):
        source.read()


def test_a_usb_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    device = FakeDevice([], there=False)
    with pytest.raises(SourceError, match="cannot be opened"):
        usb(device).open()
    assert device.released
    with pytest.raises(SourceError, match="/dev/video97: cannot be opened"):
        camera("/dev/video97").open()
    assert capfd.readouterr().err == "", "OpenCV must not chat"


# A real RTSP server.


@pytest.fixture
def rtsp() -> Iterator[RtspCamera]:
    if lacks := rtsp_missing():
        pytest.skip(lacks)
    with RtspCamera("--user", "ann", "--password", SECRET) as server:
        yield server


class Quick(BackOff):
    def wait_s(self, *, refused: bool) -> float:
        return 0.2


@pytest.mark.rtsp
def test_rtsp_comes_back_after_a_kill(rtsp: RtspCamera, caplog: pytest.LogCaptureFixture) -> None:
    """A killed server looks like a clean end of the stream to FFmpeg; it must count as a loss."""
    caplog.set_level(logging.DEBUG)
    url = f"rtsp://ann:{SECRET}@127.0.0.1:{rtsp.port}/cam"
    states: List[LinkState] = []
    lost = threading.Event()
    clock = SystemClock()

    def changed(state: LinkState, _: str) -> None:
        states.append(state)
        if state is LinkState.LOST:
            lost.set()

    frames = LiveFrames(lambda: camera(url), "front", clock, 5.0, changed, Quick())
    count, killed, restarted, end_s = 0, False, False, clock.monotonic_s() + 60.0
    last_s = 0.0
    for frame in frames:
        assert clock.monotonic_s() < end_s, states
        if frame is not None:
            count += 1
            assert frame.image.shape == (240, 320, 3)
            assert last_s <= frame.captured_at_s <= clock.monotonic_s()
            last_s = frame.captured_at_s
        if count >= 10 and not killed:
            rtsp.kill()
            killed = True
        if lost.is_set() and not restarted:
            rtsp.start()
            restarted, count = True, 0
        if restarted and count >= 10:
            frames.stop()
    assert states == [LinkState.LIVE, LinkState.LOST, LinkState.LIVE]
    assert SECRET not in caplog.text


@pytest.mark.rtsp
@pytest.mark.parametrize("user", ["ann:wrong@", ""])
def test_rtsp_with_a_wrong_password_or_none(rtsp: RtspCamera, user: str) -> None:
    source = camera(f"rtsp://{user}127.0.0.1:{rtsp.port}/cam")
    with pytest.raises(SourceAuthError, match="refuses user or password"):
        source.open()


@pytest.mark.rtsp
def test_rtsp_of_a_path_that_does_not_exist(rtsp: RtspCamera) -> None:
    with pytest.raises(SourceError):
        camera(f"rtsp://ann:{SECRET}@127.0.0.1:{rtsp.port}/nothing").open()


def test_reading_what_is_not_open_is_a_fault() -> None:
    for url in ("rtsp://127.0.0.1:9/x", "gst:videotestsrc", "/dev/video97"):
        with pytest.raises(SourceError, match="not open"):
            camera(url).read()
    assert Path("/dev/video97").exists() is False
