from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from cameras import jpegs, picture, write_clip
from PIL import Image as Pillow

from edgecam.capture.base import make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig
from edgecam.errors import InputError
from edgecam.types import Frame


def frames(path: Path, **config: Any) -> List[Frame]:
    source = make_source(CameraConfig.model_validate({"url": str(path), "fps": 120, **config}), "clip", SystemClock())
    source.open()
    try:
        return list(source)
    finally:
        source.close()


def times(found: List[Frame]) -> List[float]:
    return [round(frame.captured_at_s, 3) for frame in found]


class FakeClock(SystemClock):
    """Sleeping advances it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "mov"])
def test_every_frame_in_its_time(tmp_path: Path, ending: str) -> None:
    found = frames(write_clip(tmp_path / f"clip.{ending}"))
    assert times(found) == [round(i / 10, 3) for i in range(20)]
    assert all(abs(int(frame.image[-1, -1, 0]) - 8 * i) < 12 for i, frame in enumerate(found))
    assert found[0].camera == "clip"


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    assert times(frames(write_clip(tmp_path / "clip.mp4", 4, pts=[0, 50, 400, 450]))) == [0.0, 0.05, 0.4, 0.45]


def test_frames_beyond_the_wanted_rate_are_skipped(tmp_path: Path) -> None:
    found = frames(write_clip(tmp_path / "clip.mp4", 60, fps=30), fps=10)
    assert len(found) == 20
    assert np.allclose(np.diff(times(found)), 0.1, atol=0.04)


def test_a_loop_starts_again_and_time_goes_on(tmp_path: Path) -> None:
    config = CameraConfig(url=str(write_clip(tmp_path / "clip.mp4", 5)), loop=True)
    source = make_source(config, "clip", SystemClock())
    source.open()
    found = [source.read() for _ in range(13)]
    assert [round(frame.captured_at_s, 2) for frame in found if frame] == [round(i / 10, 2) for i in range(13)]
    source.close()


def test_paced_it_plays_in_real_time(tmp_path: Path) -> None:
    clock = FakeClock()
    source = make_source(CameraConfig(url=str(write_clip(tmp_path / "clip.mp4"))), "clip", clock, paced=True)
    source.open()
    at = [(clock.now_s - 100.0, frame.captured_at_s) for frame in source]
    assert all(now_s == pytest.approx(frame_s, abs=0.001) for now_s, frame_s in at)
    assert len(at) == 20


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_phone_s_rotation_is_honoured(tmp_path: Path, turned: int) -> None:
    """As ffmpeg's own player turns it."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed: no clip with a display matrix can be made")
    plain, phone = write_clip(tmp_path / "plain.mp4", 3), tmp_path / "phone.mp4"
    quiet = [ffmpeg, "-v", "error", "-y"]
    turn = subprocess.run(
        [*quiet, "-i", str(plain), "-c", "copy", "-metadata:s:v", f"rotate={turned}", str(phone)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert turn.returncode == 0, turn.stderr
    still = tmp_path / "reference.png"
    subprocess.run([*quiet, "-i", str(phone), "-frames:v", "1", str(still)], check=True)
    with Pillow.open(still) as reference:
        expected = np.asarray(reference.convert("RGB"))[:, :, ::-1]
    image = frames(phone)[0].image
    assert image.shape == expected.shape
    assert np.mean(np.abs(image.astype(int) - expected)) < 6


def test_a_gif_has_its_own_delays(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    stills = [Pillow.fromarray(picture(i)) for i in range(4)]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=[100, 300, 50, 100], loop=0)
    assert times(frames(path)) == [0.0, 0.1, 0.4, 0.45]


def test_a_truncated_clip_plays_what_it_has(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", 40)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 5 < len(frames(cut)) < 35


def test_damage_in_the_middle_is_skipped(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mkv", 40).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    found = frames(damaged)
    assert len(found) > 10
    assert times(found) == sorted(times(found))


def test_a_picture_of_rubbish_in_the_middle_is_skipped(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.avi", 20).read_bytes())
    fifth = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"][5]
    size = int.from_bytes(data[fifth + 4 : fifth + 8], "little")
    data[fifth + 8 : fifth + 8 + size] = b"\x55" * size
    damaged = tmp_path / "damaged.avi"
    damaged.write_bytes(data)
    found = times(frames(damaged))
    assert len(found) == 19
    assert found[-1] == 1.9


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "broken.mp4"
    if kind == "no index":
        whole = write_clip(tmp_path / "whole.mp4").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("this is no clip\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sound only":
        import wave

        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16000))
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize("kind", ["no index", "text", "empty", "folder", "pipe", "sound only", "playlist", "missing"])
def test_what_is_no_clip_gets_one_clear_line_at_once(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = broken(tmp_path, kind)
    began_s = time.monotonic()
    with pytest.raises(InputError) as caught:
        frames(path)
    assert time.monotonic() - began_s < 5.0
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert ";" in text, "what to do is missing"
    assert capfd.readouterr().err == "", "FFmpeg must not chat"


def test_a_folder_of_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index, data in enumerate(jpegs(3)):
        (tmp_path / f"{index}.jpg").write_bytes(data)
    (tmp_path / "1b.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "notes.txt").write_text("not a photo")
    with caplog.at_level(logging.WARNING):
        found = frames(tmp_path, fps=2)
    assert times(found) == [0.0, 0.5, 1.0]
    assert [round(int(frame.image[-1, -1, 0]) / 8) for frame in found] == [0, 1, 2]
    assert [record.getMessage().count("1b.jpg") for record in caplog.records] == [1]


def test_a_folder_or_photo_without_use_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no photo in this folder"):
        frames(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(InputError, match="none of 1 photos"):
        frames(tmp_path)
    with pytest.raises(InputError, match="not a readable photo"):
        frames(tmp_path / "broken.jpg")


@pytest.mark.data
def test_the_malformed_clips(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    played, refused = {}, set()
    for path in sorted((data_dir / "malformed/video").iterdir()):
        try:
            played[path.name] = len(frames(path))
        except InputError as err:
            refused.add(path.name)
            said = str(err)
            assert said.startswith(str(path)) and "\n" not in said  # noqa: PT018
    assert played["mp4parse_hevc_white_frame.mp4"] == 1
    assert played["mp4parse_video_colr_nclx_two_colr.mp4"] == 3
    assert "mp4parse_bipbop_cbcs_video_init.mp4" in refused
    assert all(played.values())
    assert capfd.readouterr().err == ""


@pytest.mark.data
def test_real_clips_play_whole_and_in_time(data_dir: Path) -> None:
    for name, count, last_s in (
        ("blink/blink_dinoman.mp4", 75, 2.96),
        ("multi/intel_face-demographics-walking.gif", 35, 2.83),
        ("liveness/lestari_fake.mp4", 77, 2.533),
    ):
        found = frames(data_dir / "videos" / name)
        assert len(found) == count
        assert found[-1].captured_at_s == pytest.approx(last_s, abs=0.02)
