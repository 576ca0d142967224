"""Photos as people have them, turned into upright BGR pictures; never more memory than the box has."""

from __future__ import annotations

import re
import threading
import warnings
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Optional, Tuple

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as Pillow

from edgecam.capture.clip import check_regular
from edgecam.errors import InputError
from edgecam.types import Image

MAX_SIDE_PX = 4096
"""Larger photos are reduced to this."""

_MAX_SCANS = 100
_MAX_MARKERS = 10_000
"""A progressive JPEG has ten scans, and some dozens of markers."""
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

_MAX_PIXELS = 320_000_000
"""More than any camera has. A JPEG is decoded at an eighth of its size, and takes time for all of it all the same."""

_MAX_DECODE_BYTES = 330_000_000
# Named one by one: others (EPS) run programs, and Pillow knows only what has been imported.
_PLUGINS = (
    *(JpegImagePlugin, MpoImagePlugin, PngImagePlugin, GifImagePlugin),
    *(BmpImagePlugin, PpmImagePlugin, WebPImagePlugin, TiffImagePlugin),
)
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
_ORIENTATION = 0x0112
_LOCK = threading.Lock()

_BYTES_PER_PX = {"1": 5, "L": 1, "P": 5, "I;16": 6, "I;16B": 6, "I": 8, "F": 8, "LA": 8, "PA": 8}
"""What decoding and converting takes in Pillow; all colour modes take 4."""

_PHOTO_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_NETPBM_MAGIC = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_CLIP_MAGIC = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u")
_STILL_BRANDS = (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"avif", b"avis")


def is_photo(path: Path) -> bool:
    """Whether the file's first bytes are a picture's; an animated GIF is a clip."""
    head = _head(path)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return not _animated(path)
    if head.startswith(_NETPBM_MAGIC):
        return head[2:3].isspace()
    return head.startswith(_PHOTO_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or _is_heif(head)


def is_clip(path: Path) -> bool:
    """Whether the file's first bytes are a video's."""
    head = _head(path)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _animated(path)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return not _is_heif(head)
    transport = len(head) > 376 and head[0] == head[188] == head[376] == 0x47
    return transport or head.startswith(_CLIP_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def read_photo(path: Path) -> Image:
    """Return a photo upright, (H, W, 3) uint8 BGR, its longer side at most `MAX_SIDE_PX`.

    Transparency becomes white, of an animation the first picture is taken.

    Raises:
        InputError: missing, unreadable, not a photo, broken or too large to decode.
    """
    check_regular(path)
    if _is_heif(_head(path)):
        raise InputError(f"{path}: HEIC/AVIF photos are not read; export it as JPEG")
    try:
        # Pillow's own limit warns and refuses by a process-wide number; ours looks at format and mode.
        _want_few_scans(path)
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
            try:
                with Pillow.open(path, formats=_FORMATS) as photo:
                    image, orientation = _decode(photo, path)
            finally:
                Pillow.MAX_IMAGE_PIXELS = limit
    except InputError:
        raise
    except Exception as err:  # Pillow raises whatever its parsers meet
        raise InputError(f"{path}: not a readable photo ({_what(err)}); open it and save it as JPEG") from None
    return _turn(image, orientation)


def _want_few_scans(path: Path) -> None:
    """Raise InputError for a JPEG of thousands of scans: each passes over the whole picture, for some bytes of file."""
    if not _head(path).startswith(b"\xff\xd8"):
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        at, scans = 2, 0
        for _ in range(_MAX_MARKERS):
            mark = _MARKER.search(data, at)
            code = mark[0][1] if mark is not None else _END_OF_IMAGE
            if mark is None or code == _END_OF_IMAGE:  # what phones put behind it (a whole video) is not read
                return
            at = mark.end() + max(2, int.from_bytes(data[mark.end() : mark.end() + 2], "big"))
            scans += code == _SCAN
            if scans > _MAX_SCANS:
                break
    raise InputError(f"{path}: a JPEG of more than {_MAX_SCANS} scans; open it and save it anew")


def _decode(photo: Any, path: Path) -> Tuple[Image, int]:
    width, height = photo.size
    if width < 1 or height < 1:
        raise InputError(f"{path}: the photo has no pixels ({width}x{height}); export it again")
    if width * height > _MAX_PIXELS:
        raise InputError(f"{path}: {width}x{height} {photo.format} is too large; reduce it to {MAX_SIDE_PX} pixels")
    longer = max(width, height)
    scale = 1
    if photo.format in ("JPEG", "MPO"):
        scale = max(s for s in (1, 2, 4, 8) if s == 1 or longer // s >= MAX_SIDE_PX)
    need = _decode_bytes(photo, scale)
    if need > _MAX_DECODE_BYTES:
        raise InputError(
            f"{path}: {width}x{height} {photo.format} is too large (decoding takes {need // 1_000_000} MB); "
            f"reduce it to {MAX_SIDE_PX} pixels"
        )
    orientation = _orientation(photo)
    if scale > 1:
        photo.draft(photo.mode, (width // scale, height // scale))
    photo.load()
    return _to_bgr(photo), orientation


def _decode_bytes(photo: Any, scale: int) -> int:
    width, height = photo.size
    need = width * height * _BYTES_PER_PX.get(photo.mode, 4)
    if photo.format not in ("JPEG", "MPO"):
        return int(need)
    # A progressive JPEG's coefficients are all kept, 2 bytes each and at most unsampled.
    coefficients = width * height * 2 * len(photo.getbands()) if photo.info.get("progressive") else 0
    return int(need // scale**2 + coefficients)


def _orientation(photo: Any) -> int:
    try:
        value = int(photo.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the picture
        return 1
    return value if 1 <= value <= 8 else 1


def _to_bgr(photo: Any) -> Image:
    if photo.mode in ("P", "PA", "1") or (photo.mode in ("L", "RGB") and "transparency" in photo.info):
        photo = photo.convert("RGBA" if "transparency" in photo.info or photo.mode == "PA" else "RGB")
    longer = max(photo.size)
    if photo.mode.startswith(("I", "F")):
        photo = Pillow.fromarray(_eight_bit(np.asarray(photo)))
    if longer > MAX_SIDE_PX:
        size = tuple(max(1, round(side * MAX_SIDE_PX / longer)) for side in photo.size)
        photo = photo.resize(size, Pillow.Resampling.BOX if longer > 2 * MAX_SIDE_PX else Pillow.Resampling.BICUBIC)
    if photo.mode in ("RGBA", "LA", "RGBa", "La"):
        colour = photo.convert("RGBA")
        flat = Pillow.new("RGB", colour.size, (255, 255, 255))
        flat.paste(colour, mask=colour.getchannel("A"))
        photo = flat
    rgb = np.asarray(photo.convert("RGB"))
    image: Image = np.ascontiguousarray(rgb[:, :, ::-1])
    return image


def _eight_bit(deep: Any) -> Any:
    """Return a 16- or 32-bit grey picture as uint8."""
    top = float(np.nanmax(deep)) if deep.size else 0.0
    if deep.dtype == np.uint16 or (deep.dtype.kind == "i" and top > 255):
        full = max(65535.0, top)
    elif deep.dtype.kind == "f" and top <= 1.0:
        full = 1.0
    else:
        full = max(255.0, top)
    scaled = np.asarray(deep, np.float32) * np.float32(255.0 / full)
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def _turn(image: Image, orientation: int) -> Image:
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    # After the transposition 5 is done, 6 wants a mirror, 8 a flip, 7 both.
    how: Optional[int] = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if how is None else cv2.flip(image, how)


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(512)
    except OSError:
        return b""


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS


def _animated(path: Path) -> bool:
    try:
        with Pillow.open(path, formats=("GIF",)) as photo:
            return bool(getattr(photo, "is_animated", False))
    except Exception:  # broken: whoever reads it will say so
        return False


def _what(err: BaseException) -> str:
    text = str(err).partition("\n")[0]
    if "cannot identify" in text:
        return "unknown or broken format"
    return text[:100] or type(err).__name__
