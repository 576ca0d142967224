"""The composed door, and the fetching of what stands before it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from edgecam.bench import media
from edgecam.bench.scene import FPS, HEIGHT, WALK_S, WIDTH, Clip, Scene, Visitor, write_part
from edgecam.errors import EdgecamError, InputError
from edgecam.types import Image

RED: Image = np.full((100, 80, 3), (0, 0, 255), np.uint8)


def red_columns(image: Image) -> int:
    """How many columns show a red picture in the middle row."""
    row = image[HEIGHT // 2].astype(int)
    return int(np.sum((row[:, 2] > 220) & (row[:, 1] < 40)))


def test_somebody_walks_in_stays_and_is_gone() -> None:
    visitor = Visitor(lambda _: RED, 1.0, 4.0, height_px=400, y_px=200)
    seen = [red_columns(Scene([visitor]).at(round(at_s * FPS))) for at_s in (0.9, 1.1, 1.0 + WALK_S, 3.0, 5.0)]
    assert seen[0] == seen[4] == 0
    assert seen[2] == seen[3] == 320  # 80 x 100 at a height of 400
    assert seen[1] < 320


def test_who_does_not_walk_is_there_at_once() -> None:
    visitor = Visitor(lambda _: RED, 1.0, 1.0, height_px=400, y_px=200, walks=False)
    assert red_columns(Scene([visitor]).at(FPS)) == 320


def test_what_is_taller_than_the_scene_is_cut_off() -> None:
    image = Scene([Visitor(lambda _: RED, 0.0, 5.0, height_px=1500, y_px=100)]).at(2 * FPS)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image[-1, WIDTH // 2, 2] > 220


def test_the_empty_scene_is_noise_only_and_the_same_every_time() -> None:
    first, second = Scene().at(3), Scene().at(4)
    assert np.array_equal(first, Scene().at(3))
    assert 0 < np.abs(first.astype(int) - second.astype(int)).max() <= 4


def test_a_film_has_the_frames_it_should(tmp_path: Path) -> None:
    path = Scene([Visitor(lambda _: RED, 0.0, 9.0)]).write(tmp_path / "door.mp4", 1.5)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 15
    assert (frames[0].width, frames[0].height) == (WIDTH, HEIGHT)


def test_a_part_of_a_clip_begins_where_it_was_asked_to(tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 1_000_000
        for k in range(40):
            grey = np.full((48, 64, 3), 50 * (k // 10), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="bgr24")))
        out.mux(stream.encode(None))
    clip = Clip(source, 2.0)
    assert float(clip(0.0).mean()) == pytest.approx(100, abs=12)
    assert float(clip(1.0).mean()) == pytest.approx(150, abs=12)
    assert float(clip(60.0).mean()) == pytest.approx(150, abs=12)  # the last one stays
    part = write_part(source, tmp_path / "part.mp4", 2.0, 1.0)
    assert float(Clip(part, 0.0)(0.0).mean()) == pytest.approx(100, abs=12)
    with pytest.raises(InputError, match="no frame"):
        Clip(source, 10.0)


def _archive(folder: Path, content: bytes) -> Path:
    path = folder / "some.tgz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("in/it.txt")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return path


def test_only_files_with_the_pinned_hash_are_taken(tmp_path: Path) -> None:
    archive = _archive(tmp_path, b"good")
    target = tmp_path / "cache"
    target.mkdir()
    wanted = {"it.txt": hashlib.sha256(b"other").hexdigest()}
    with pytest.raises(EdgecamError, match="another sha256"):
        media._fetch(target, wanted, "in", lambda _: archive)
    assert list(target.iterdir()) == []
    wanted = {"it.txt": hashlib.sha256(b"good").hexdigest()}
    found = media._fetch(target, wanted, "in", lambda _: archive)
    assert found["it.txt"].read_bytes() == b"good"
    assert media._present(target, wanted) == found
    found["it.txt"].write_bytes(b"goof")
    assert media._present(target, wanted) is None


def test_an_archive_that_lacks_a_file_is_told(tmp_path: Path) -> None:
    archive = _archive(tmp_path, b"x")
    with pytest.raises(EdgecamError, match=r"some\.tgz"):
        media._fetch(tmp_path, {"missing.txt": "0"}, "in", lambda _: archive)
    archive.write_bytes(b"no archive")
    with pytest.raises(EdgecamError, match=r"some\.tgz"):
        media._fetch(tmp_path, {"it.txt": "0"}, "in", lambda _: archive)


def test_who_has_a_path_is_where_it_says() -> None:
    visitor = Visitor(lambda _: RED, 1.0, 4.0, height_px=100, path=lambda at_s: (200.0 + 100.0 * at_s, 300.0))
    image = Scene([visitor]).at(3 * FPS).astype(int)
    rows, columns = np.nonzero((image[:, :, 2] > 220) & (image[:, :, 1] < 40))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (360, 439, 300, 399)
    assert visitor.corner(80, 2.0) == (360, 300)
