"""A door before a 720p camera, composed: a wall with sensor noise, and people from clips and photos who come and go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import av
import cv2
import numpy as np

from edgecam.errors import InputError
from edgecam.types import Image

WIDTH, HEIGHT, FPS = 1280, 720, 10
WALK_S = 0.8
"""Somebody takes so long from the border to the door, and as long back."""
_NOISES = 8
_BIT_RATE = 6_000_000
_SWAY_PX = 24.0

Moments = Callable[[float], Image]
"""What somebody looks like so many seconds after they came."""


@dataclass(frozen=True)
class Visitor:
    """Somebody who walks in from the right, stays and walks out to the left."""

    looks: Moments
    from_s: float
    """First seen at this time of the scene."""
    seconds: float
    """In view for so long, both walks included."""
    height_px: int = 480
    """Height of the picture within the scene; what is taller than the scene is cut off below."""
    x_px: float = WIDTH / 2
    """Where the middle of the picture stands while they stay."""
    y_px: int = 120
    """Where its top is."""
    walks: bool = True
    """False: they are there at once, as when a door opens."""
    path: Optional[Callable[[float], Tuple[float, float]]] = None
    """Where the middle (x) and the top (y) of the picture are so many seconds after they came, instead of all that."""

    def corner(self, width: int, since_s: float) -> Tuple[int, int]:
        """Return x, y of the left upper corner of their picture, so many px wide, at this time since they came."""
        if self.path is not None:
            middle, top = self.path(since_s)
            return round(middle - width / 2), round(top)
        middle = self.x_px
        if self.walks:
            left_s = self.seconds - since_s
            if since_s < WALK_S:
                middle += (WIDTH + width / 2 - self.x_px) * (1 - since_s / WALK_S)
            elif left_s < WALK_S:
                middle -= (self.x_px + width / 2) * (1 - left_s / WALK_S)
            else:
                middle += _SWAY_PX * float(np.sin(since_s - WALK_S))
        return round(middle - width / 2), self.y_px


class Clip:
    """The frames of a clip from `start_s` on, asked for in rising time; after its end the last one stays.

    Raises:
        InputError: there is no such frame.
    """

    def __init__(self, path: Path, start_s: float) -> None:
        self._path, self._start_s = path, start_s
        self._frames = self._decode()
        self._next: Optional[Tuple[float, Image]] = next(self._frames, None)
        if self._next is None:
            raise InputError(f"{path}: no frame at {start_s:.1f} s")
        self._now = self._next[1]

    def __call__(self, at_s: float) -> Image:
        """Return the frame at this time since `start_s`."""
        while self._next is not None and self._next[0] <= at_s + 1e-6:
            self._now = self._next[1]
            self._next = next(self._frames, None)
        return self._now

    def _decode(self) -> Iterator[Tuple[float, Image]]:
        with av.open(str(self._path)) as container:
            if self._start_s > 0:
                container.seek(int(self._start_s * 1_000_000))  # to the key frame before it
            for frame in container.decode(video=0):
                at_s = float(frame.time or 0.0) - self._start_s
                if at_s >= -1e-3:
                    yield at_s, frame.to_ndarray(format="bgr24")


def photo(path: Path) -> Moments:
    """Return a still picture as somebody's looks.

    Raises:
        InputError: not a picture.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: not a picture")
    found = np.asarray(image, np.uint8)
    return lambda _: found


class Scene:
    """The empty door, and what is seen of it at a time."""

    def __init__(self, visitors: Sequence[Visitor] = (), seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(90, 150, (18, 32, 3), dtype=np.uint8)
        wall = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        self._wall: Image = np.asarray(wall, np.uint8)
        self._noise: List[Image] = [
            rng.integers(0, 5, (HEIGHT, WIDTH, 1), dtype=np.uint8).repeat(3, axis=2) for _ in range(_NOISES)
        ]
        self._visitors = tuple(visitors)
        self._scaled: Dict[int, Tuple[Image, Image]] = {}
        """Visitor number -> the last picture and what it became: a photo is scaled once."""

    def at(self, index: int) -> Image:
        """Return frame `index`, FPS a second; ask for them in rising order."""
        at_s = index / FPS
        image: Image = self._wall.copy()
        for number, visitor in enumerate(self._visitors):
            if 0 <= at_s - visitor.from_s < visitor.seconds:
                _place(image, self._picture(number, visitor, at_s - visitor.from_s), visitor, at_s - visitor.from_s)
        noisy = cv2.subtract(cv2.add(image, self._noise[index * 5 % _NOISES]), (2, 2, 2, 0))
        return np.asarray(noisy, np.uint8)

    def _picture(self, number: int, visitor: Visitor, since_s: float) -> Image:
        looks = visitor.looks(since_s)
        last = self._scaled.get(number)
        if last is None or last[0] is not looks:
            width = round(looks.shape[1] * visitor.height_px / looks.shape[0])
            scaled = cv2.resize(looks, (width, visitor.height_px), interpolation=cv2.INTER_AREA)
            last = self._scaled[number] = (looks, np.asarray(scaled, np.uint8))
        return last[1]

    def write(self, path: Path, seconds: float) -> Path:
        """Write the scene as MP4."""
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=FPS)
            stream.width, stream.height, stream.bit_rate = WIDTH, HEIGHT, _BIT_RATE
            stream.pix_fmt = "yuv420p"
            for index in range(round(seconds * FPS)):
                frame = av.VideoFrame.from_ndarray(self.at(index), format="bgr24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path


def write_part(clip: Path, path: Path, start_s: float, seconds: float, fps: int = FPS) -> Path:
    """Write a part of a clip, in its own size.

    Raises:
        InputError: there is no such part.
    """
    looks = Clip(clip, start_s)
    height, width = looks(0.0).shape[:2]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.bit_rate = width, height, 4_000_000
        stream.pix_fmt = "yuv420p"
        for index in range(round(seconds * fps)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(looks(index / fps), format="bgr24")))
        out.mux(stream.encode(None))
    return path


def _place(scene: Image, picture: Image, visitor: Visitor, since_s: float) -> None:
    height, width = picture.shape[:2]
    x, y = visitor.corner(width, since_s)
    x0, x1 = max(0, x), min(WIDTH, x + width)
    y0, y1 = max(0, y), min(HEIGHT, y + height)
    if x1 > x0 and y1 > y0:
        scene[y0:y1, x0:x1] = picture[y0 - y : y1 - y, x0 - x : x1 - x]
