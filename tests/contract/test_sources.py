"""What every source of frames must do, whatever it reads from: a new one joins by a line in `SOURCES`."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

import numpy as np
import pytest
from cameras import MjpegCamera, RtspCamera, jpegs, rtsp_missing, write_clip

from edgecam.capture.base import FrameSource, make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig
from edgecam.errors import InputError, SourceError

Made = Tuple[str, Dict[str, Any]]


@contextlib.contextmanager
def clip(folder: Path) -> Iterator[Made]:
    yield str(write_clip(folder / "clip.mp4")), {}


@contextlib.contextmanager
def photos(folder: Path) -> Iterator[Made]:
    for index, data in enumerate(jpegs(8)):
        (folder / f"{index}.jpg").write_bytes(data)
    yield str(folder), {}


@contextlib.contextmanager
def photo(folder: Path) -> Iterator[Made]:
    (folder / "one.jpg").write_bytes(jpegs(1)[0])
    yield str(folder / "one.jpg"), {"loop": True}


@contextlib.contextmanager
def mjpeg(folder: Path) -> Iterator[Made]:
    with MjpegCamera(jpegs()) as camera:
        yield camera.url, {}


@contextlib.contextmanager
def pipeline(folder: Path) -> Iterator[Made]:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("gst-launch-1.0 is not installed")
    corner = "videotestsrc is-live=true pattern=black ! video/x-raw,width=160,height=120,framerate=30/1 ! videobox"
    yield f"gst:{corner} top=-30 left=-40 border-alpha=1 fill=white ! videoscale", {"width_px": 160, "height_px": 120}


@contextlib.contextmanager
def rtsp(folder: Path) -> Iterator[Made]:
    if lacks := rtsp_missing():
        pytest.skip(lacks)
    with RtspCamera(str(write_clip(folder / "clip.avi", 200))) as camera:
        yield f"rtsp://127.0.0.1:{camera.port}/cam", {}


SOURCES = [
    pytest.param(clip, id="clip"),
    pytest.param(photos, id="folder"),
    pytest.param(photo, id="photo"),
    pytest.param(mjpeg, id="mjpeg"),
    pytest.param(pipeline, id="gst", marks=pytest.mark.rtsp),
    pytest.param(rtsp, id="rtsp", marks=pytest.mark.rtsp),
]
Make = Callable[[Path], "contextlib.AbstractContextManager[Made]"]
ALL = pytest.mark.parametrize("make", SOURCES)


def source_of(url: str, values: Dict[str, Any], **more: Any) -> FrameSource:
    config = CameraConfig.model_validate({"url": url, "stall_after_s": 10.0, "fps": 30, **values, **more})
    return make_source(config, "front", SystemClock())


@ALL
def test_frames_are_upright_pictures_in_rising_time(make: Make, tmp_path: Path) -> None:
    with make(tmp_path) as (url, values):
        source = source_of(url, values)
        source.open()
        found = [frame for frame in (source.read() for _ in range(6)) if frame is not None]
        source.close()
    assert len(found) == 6
    assert len({frame.captured_at_s for frame in found}) == 6
    assert [frame.captured_at_s for frame in found] == sorted(frame.captured_at_s for frame in found)
    for frame in found:
        assert frame.image.shape == (120, 160, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.writeable
        assert frame.image.flags.c_contiguous
        assert frame.camera == "front"


@ALL
def test_rotation_flip_and_privacy_zones_are_everybody_s(make: Make, tmp_path: Path) -> None:
    """Turned right and mirrored, the white corner stays at the top left; the lower half is hidden."""
    zone = [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]
    with make(tmp_path) as (url, values):
        source = source_of(url, values, rotate_deg=90, flip=True, privacy_zones=[zone])
        source.open()
        frame = source.read()
        source.close()
    assert frame is not None
    assert frame.image.shape == (160, 120, 3)
    assert np.all(frame.image[81:] == 0), "the privacy zone shows something"
    if make is not pipeline:
        assert frame.image[5:15, 5:15].min() > 200


@ALL
def test_opens_again_after_close_and_closes_twice(make: Make, tmp_path: Path) -> None:
    with make(tmp_path) as (url, values):
        source = source_of(url, values)
        source.close()
        for _ in range(2):
            source.open()
            assert source.read() is not None
            source.close()
            source.close()


@ALL
def test_says_where_it_looks_without_secrets(make: Make, tmp_path: Path) -> None:
    with make(tmp_path) as (url, values):
        source = source_of(url.replace("://", "://ann:s3cr3t@"), values)
        assert "s3cr3t" not in source.describe()
        assert source.describe()
        assert source.live is (make in (mjpeg, pipeline, rtsp))


@pytest.mark.parametrize("url", ["/nowhere/clip.mp4", "rtsp://127.0.0.1:9/x", "http://127.0.0.1:9/x", "/dev/video97"])
def test_what_is_not_there_is_one_clear_line(url: str) -> None:
    with pytest.raises((InputError, SourceError)) as caught:
        source_of(url, {}).open()
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
