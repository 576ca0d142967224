from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
from PIL import Image as Pillow

from edgecam.capture.photo import MAX_SIDE_PX, is_clip, is_photo, read_photo
from edgecam.errors import InputError

RED, GREEN = (0, 0, 255), (0, 255, 0)  # BGR


def two_halves(size: Tuple[int, int] = (80, 60)) -> Pillow.Image:
    """Red above, green below."""
    image = Pillow.new("RGB", size, (255, 0, 0))
    image.paste((0, 255, 0), (0, size[1] // 2, size[0], size[1]))
    return image


def near(pixel: Any, colour: Tuple[int, int, int]) -> bool:
    return bool(np.all(np.abs(pixel.astype(int) - colour) < 40))


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "ppm", "tiff", "gif"])
def test_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"photo.{ending}"
    two_halves().save(path)
    image = read_photo(path)
    assert image.shape == (60, 80, 3)
    assert image.dtype == np.uint8
    assert near(image[10, 40], RED)
    assert near(image[50, 40], GREEN)
    assert (is_photo(path), is_clip(path)) == (True, False)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 200, (200, 200, 200)),
        ("1", 1, (255, 255, 255)),
        ("P", None, RED),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("LA", (10, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("I;16", 50000, (195, 195, 195)),
    ],
)
def test_modes(tmp_path: Path, mode: str, value: Any, expected: Tuple[int, int, int]) -> None:
    image = two_halves().convert("P") if value is None else Pillow.new(mode, (80, 60), value)
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    image.save(path)
    assert near(read_photo(path)[10, 40], expected)


def test_a_sixteen_bit_pgm(tmp_path: Path) -> None:
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 4 2 65535\n" + np.full((2, 4), 32768, ">u2").tobytes())
    assert np.all(np.abs(read_photo(path).astype(int) - 128) <= 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """Whatever way it was stored, red is above and blue at the top left, as the reference turns it."""
    from PIL import ImageOps

    image = two_halves()
    image.paste((0, 0, 255), (0, 0, 20, 10))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    with Pillow.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))[:, :, ::-1]
    assert np.array_equal(read_photo(path), expected)


def test_of_an_animation_the_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "two.gif"
    Pillow.new("RGB", (20, 20), (255, 0, 0)).save(
        path, save_all=True, append_images=[Pillow.new("RGB", (20, 20), (0, 255, 0))], duration=100
    )
    assert near(read_photo(path)[5, 5], RED)
    assert (is_photo(path), is_clip(path)) == (False, True)


@pytest.mark.parametrize(
    ("name", "size"), [("wide.png", (9000, 30)), ("wide.jpg", (9000, 400)), ("high.jpg", (40, 9000))]
)
def test_a_large_one_is_reduced_and_keeps_its_shape(tmp_path: Path, name: str, size: Tuple[int, int]) -> None:
    path = tmp_path / name
    two_halves(size).save(path)
    image = read_photo(path)
    assert max(image.shape[:2]) == MAX_SIDE_PX
    assert image.shape[1] / image.shape[0] == pytest.approx(size[0] / size[1], rel=0.05)
    assert near(image[0, 0], RED)


def memory_mb(path: Path) -> Tuple[int, str]:
    """Read a photo in a process of its own; return its peak memory and what it said."""
    code = (
        "import sys; from pathlib import Path; from edgecam.capture.photo import read_photo\n"
        "from edgecam.errors import InputError\n"
        "try: print(read_photo(Path(sys.argv[1])).shape)\n"
        "except InputError as err: print('InputError', err)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    said, peak = done.stdout.splitlines()
    return int(peak) // 1024, said


def test_a_photo_of_20000_pixels_needs_less_than_500_mb(tmp_path: Path) -> None:
    path = tmp_path / "vast.jpg"
    Pillow.new("L", (20_000, 15_000), 90).save(path, quality=30)
    peak, said = memory_mb(path)
    assert said == "(3072, 4096, 3)"
    assert peak < 250, "it was not decoded reduced"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(30_000, 30_000))
    peak, said = memory_mb(path)
    assert "30000x30000 PNG is too large" in said
    assert peak < 300


def test_a_vast_progressive_jpeg_is_refused(tmp_path: Path) -> None:
    """Its coefficients must all be held, whatever the scale."""
    path = tmp_path / "progressive.jpg"
    # The frame's size is patched: writing such a one would take the memory that is not to be spent.
    file = io.BytesIO()
    two_halves((64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    at = data.index(b"\xff\xc2")
    path.write_bytes(data[: at + 5] + struct.pack(">HH", 20_000, 20_000) + data[at + 9 :])
    with pytest.raises(InputError, match="20000x20000 JPEG is too large"):
        read_photo(path)


def whole(ending: str) -> bytes:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Pillow.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(file, ending)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(whole("JPEG")[:2000], id="truncated-jpeg"),
        pytest.param(whole("PNG")[:3000], id="truncated-png"),
        pytest.param(whole("JPEG")[:10], id="head-only"),
        pytest.param(b"", id="empty"),
        pytest.param(b"hello, I am a text", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="postscript"),
        pytest.param(b"\0\0\0\x18ftypheic" + b"\0" * 40, id="heic"),
        pytest.param(b"GIF89a\0\0\0\0\0\0\0;", id="no-pixels"),
    ],
)
def test_a_broken_one_gets_one_clear_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_photo(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert ";" in text, "what to do is missing"


def test_an_iphone_s_photo_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    with pytest.raises(InputError, match="HEIC"):
        read_photo(path)
    assert (is_photo(path), is_clip(path)) == (True, False)


def test_what_is_no_file_gets_one_clear_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, word in ((tmp_path / "none.jpg", "no such file"), (tmp_path, "not a regular"), (pipe, "not a regular")):
        with pytest.raises(InputError, match=word):
            read_photo(path)
        assert not is_photo(path)
        assert not is_clip(path)


@pytest.mark.data
def test_the_malformed_photos(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is a picture or one clear line, silently; what Pillow itself can read is read."""
    read = 0
    for path in sorted((data_dir / "malformed/image").iterdir()):
        said = ""
        try:
            read += min(read_photo(path).shape[:2]) >= 1
        except InputError as err:
            said = str(err)
        assert said == "" or (said.startswith(str(path)) and "\n" not in said and ";" in said)
    assert read >= 12
    assert capfd.readouterr().err == ""
