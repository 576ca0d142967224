"""People at a composed door, where each face is and how much of it can be seen: for `edgecam eval track`.

Cut-outs of real people move over the benchmark's door on known paths: one before the other, behind a pillar, in and
out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.bench.scene import FPS, HEIGHT, WIDTH, Clip, Scene, Visitor
from edgecam.capture.photo import read_photo
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.evaluation.faces import photos_of, say
from edgecam.types import Floats, Image, Ints

Where = Callable[[float], Tuple[float, float]]
"""Middle x and top y of somebody's picture at a time."""
_Outline = Tuple[int, int, int, int]
"""x, y, width, height of a picture, px."""

FILM_PEOPLE, PHOTO_PEOPLE, PEOPLE_MIN = 4, 2, 3
SHOT_S = 7.0
_FACE_PX = (100.0, 170.0)
"""Height of a face before the door; the second camera stands further off, in worse light."""
_SIDE_SIZE, _SIDE_LIGHT, _SIDE_BLUR = 0.75, 0.65, 0.8
_CUT = (0.6, 0.5, 1.4)
"""A cut-out reaches so many widths of the face beside it, and heights above and below, wherever it is in the clip."""
_FILM_FACE_PX = 60.0
_PHOTOS_MIN, _PHOTOS_MAX, _ALBUMS_MAX = 4, 10, 30
_FILMS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


class Person(NamedTuple):
    """Somebody of whom there are clips or photos."""

    name: str
    sources: Tuple[Path, ...]
    film: bool


class Cutout(NamedTuple):
    """Somebody's pictures, FPS a second, all of one size; after the last they run backwards."""

    pictures: Tuple[Image, ...]
    faces: Floats
    """(n, 4) x, y, w, h in the picture."""
    sure: NDArray[np.bool_]
    """(n,) whether the face was found there; in between it is guessed, and not asked for."""

    def at(self, since_s: float) -> int:
        """Return which picture is seen."""
        n, last = round(since_s * FPS), max(1, len(self.pictures) - 1)
        return min(last - abs(last - n % (2 * last)), len(self.pictures) - 1)


class Actor(NamedTuple):
    """Somebody within a shot."""

    person: int
    cutout: Cutout
    visitor: Visitor


class Shot(NamedTuple):
    """What one camera sees of one visit."""

    visit: int
    camera: str
    actors: Tuple[Actor, ...]
    """Whoever comes later hides those before."""
    pillar: Optional[Visitor]


class Truth(NamedTuple):
    """The faces of one frame."""

    people: Ints
    boxes: Floats
    """(n, 4)."""
    seen: Floats
    """(n,) share of the face that can be seen."""


# --- who there is -----------------------------------------------------------------------------------------------------


def read_people(data: Path, detector: Detector) -> List[Person]:
    """Return who there is.

    Clips are those in `videos` (else in the folder itself) that show one face and are not called NAME_fake; those of
    one name up to its first digit show one person. Photos are those in `lfw_colour_10x10` (else in the folder's own
    folders) that show one face, four to ten of each of at most 30 people.

    Raises:
        InputError: there are fewer than three.
    """
    if not data.is_dir():
        raise InputError(f"{data}: not a folder; --data wants clips of one face each, and folders of photos")
    films: Dict[str, List[Path]] = {}
    inside = data / "videos" if (data / "videos").is_dir() else data
    for path in sorted(p for p in inside.rglob("*") if p.suffix.lower() in _FILMS and not p.stem.endswith("_fake")):
        if shows_one(path, detector):
            films.setdefault(re.split(r"\d", path.stem)[0], []).append(path)
    albums: Dict[str, List[Path]] = {}
    inside = data / "lfw_colour_10x10" if (data / "lfw_colour_10x10").is_dir() else data
    try:
        photos = photos_of(inside)
    except InputError:
        say(f"{inside}: no folders of photos: clips alone")
        photos = []
    for name, path in photos:
        if (len(albums) < _ALBUMS_MAX or name in albums) and len(albums.setdefault(name, [])) < _PHOTOS_MAX:
            albums[name] += [path] if _portrait(path, detector) else []
    people = [Person(name, tuple(paths), film=True) for name, paths in sorted(films.items())]
    people += [
        Person(name, tuple(paths), film=False) for name, paths in sorted(albums.items()) if len(paths) >= _PHOTOS_MIN
    ]
    in_films = len(films)
    say(f"{in_films} people in clips, {len(people) - in_films} in photos")
    if len(people) < PEOPLE_MIN:
        raise InputError(
            f"{data}: {len(people)} people, want {PEOPLE_MIN} at least: clips of one face, folders of photos"
        )
    if in_films < FILM_PEOPLE or len(people) < FILM_PEOPLE + PHOTO_PEOPLE:
        wanted = f"{FILM_PEOPLE} in clips and {PHOTO_PEOPLE} in photos"
        say(f"fewer people than wanted ({wanted}): households are smaller, or of photos that do not move by themselves")
    return people


def shows_one(path: Path, detector: Detector) -> bool:
    """Return whether a clip shows one face, large enough, in its beginning and its middle."""
    try:
        for start_s in (0.0, length_s(path) / 2):
            boxes = detector(Clip(path, start_s)(0.0)).boxes
            if len(boxes) != 1 or boxes[0, 3] < _FILM_FACE_PX:
                return False
    except (InputError, av.FFmpegError) as err:
        say(f"{path.name}: left out ({err})")
        return False
    return True


def _portrait(path: Path, detector: Detector) -> bool:
    """Return whether a photo shows one face: whoever else is in it would be found at the door, and be nobody's."""
    try:
        return len(detector(read_photo(path))) == 1
    except InputError as err:
        say(f"{path.name}: left out ({err})")
        return False


def length_s(path: Path) -> float:
    """Return how long a clip is."""
    with av.open(str(path)) as container:
        return float(container.duration or 0) / 1e6


def take_film(path: Path, detector: Detector, rng: np.random.Generator) -> Cutout:
    """Cut somebody out of a part of a clip."""
    whole_s = length_s(path)
    start_s = float(rng.uniform(0.0, max(0.0, whole_s - SHOT_S)))
    clip = Clip(path, start_s)
    frames = [clip(n / FPS) for n in range(int(min(SHOT_S, whole_s - start_s) * FPS))]
    return cut_out(frames, [largest(detector, frame) for frame in frames], path)


def take_photo(path: Path, detector: Detector) -> Cutout:
    """Cut somebody out of a photo."""
    image = read_photo(path)
    return cut_out([image], [largest(detector, image)], path)


def largest(detector: Detector, image: Image) -> Optional[Floats]:
    """Return (4,) the largest face, if any."""
    boxes = detector(image).boxes
    return boxes[int(np.argmax(boxes[:, 2] * boxes[:, 3]))] if len(boxes) else None


def cut_out(frames: Sequence[Image], found: Sequence[Optional[Floats]], path: Path) -> Cutout:
    """Cut the same window out of all frames, so that face and shoulders are in it.

    Args:
        frames: of one size.
        found: (4,) the face in each, or None.
        path: to be named if there is no face at all.

    Raises:
        InputError: no frame has a face.
    """
    sure = np.array([box is not None for box in found])
    if not sure.any():
        raise InputError(f"{path}: no face")
    at = np.flatnonzero(sure)
    boxes = np.array([box for box in found if box is not None], np.float32)
    faces = np.stack([np.interp(np.arange(len(found)), at, boxes[:, k]) for k in range(4)], axis=1).astype(np.float32)
    w, h = np.median(boxes[:, 2:], axis=0)
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    x0, y0 = max(0, int(low[0] - _CUT[0] * w)), max(0, int(low[1] - _CUT[1] * h))
    x1, y1 = min(frames[0].shape[1], int(high[0] + _CUT[0] * w)), min(frames[0].shape[0], int(high[1] + _CUT[2] * h))
    faces[:, :2] -= (x0, y0)
    shrink = min(1.0, _FACE_PX[1] / float(h))
    size = round((x1 - x0) * shrink), round((y1 - y0) * shrink)
    pictures = tuple(cv2.resize(frame[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA) for frame in frames)
    faces *= np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2, np.float32)
    return Cutout(pictures, faces, sure)


def dimmed(cutout: Cutout) -> Cutout:
    """Return how the second camera sees them."""
    pictures = (cv2.GaussianBlur(one, (0, 0), _SIDE_BLUR) for one in cutout.pictures)
    return cutout._replace(pictures=tuple(cv2.convertScaleAbs(one, alpha=_SIDE_LIGHT) for one in pictures))


# --- what happens at the door -----------------------------------------------------------------------------------------


def _line(x0: float, x1: float, from_s: float, to_s: float, top: float) -> Where:
    def where(at_s: float) -> Tuple[float, float]:
        share = min(1.0, max(0.0, (at_s - from_s) / (to_s - from_s)))
        return x0 + (x1 - x0) * share, top + 6.0 * float(np.sin(11.0 * at_s))

    return where


def _stay(x: float, top: float) -> Where:
    return lambda at_s: (x + 30.0 * float(np.sin(1.3 * at_s)), top + 4.0 * float(np.sin(2.1 * at_s)))


def _back(top: float) -> Where:
    """In from the left, out again, and in once more after longer than the tracker waits."""
    come, go, again = _line(-200, 420, 0, 1, top), _line(420, -200, 2, 2.8, top), _line(-200, 420, 5, 5.8, top)
    return lambda at_s: (come if at_s < 2 else go if at_s < 4 else again)(at_s)


KINDS: Tuple[Tuple[str, Tuple[Callable[[float], Where], ...]], ...] = (
    ("alone", (lambda top: _line(WIDTH + 200, 640, 0, 1.5, top),)),
    ("cross", (lambda top: _line(-150, WIDTH + 150, 0, SHOT_S, top), lambda top: _line(WIDTH + 150, -150, 0, 6, top))),
    ("pillar", (lambda top: _line(-150, 1000, 0, 6, top), lambda top: _stay(1080, top))),
    ("back", (_back, lambda top: _stay(850, top))),
    ("meet", (lambda top: _line(-150, 700, 0, 3, top), lambda top: _line(WIDTH + 150, 500, 0, 3, top))),
    ("three", (lambda top: _stay(300, top), lambda top: _stay(980, top), lambda top: _line(-150, 1430, 0, 7, top))),
)
"""Who comes goes where; whoever is named later passes in front."""
_PILLAR_X = 560
_PILLAR: Image = np.full((HEIGHT, 180, 3), (70, 80, 84), np.uint8)


def compose(people: Sequence[Person], visits: int, seed: int, detector: Detector) -> Iterator[Shot]:
    """Yield the shots of one household, of whom each shows another part of a clip, or another photo, at each visit.

    Args:
        people: to draw from.
        visits: how many; every other one is seen by a second camera, too.
        seed: of everything.
        detector: finds the faces in the cut-outs.
    """
    rng = np.random.default_rng(seed)
    films = rng.permutation([n for n, one in enumerate(people) if one.film])[:FILM_PEOPLE]
    photos = rng.permutation([n for n, one in enumerate(people) if not one.film])
    cast = [*films.tolist(), *photos[: max(PHOTO_PEOPLE, PEOPLE_MIN - len(films))].tolist()]
    deck: List[int] = []
    unused = {n: list(rng.permutation(len(people[n].sources))) for n in cast}
    for visit in range(visits):
        kind, paths = KINDS[visit % len(KINDS)]
        actors: List[Actor] = []
        for path in paths:
            there = [actor.person for actor in actors]
            deck = deck if any(n not in there for n in deck) else [*deck, *rng.permutation(cast).tolist()]
            who = next(n for n in deck if n not in there)
            deck.remove(who)
            actors.append(_actor(who, people[who], unused[who], path, rng, detector))
        pillar = _stand_in(_PILLAR) if kind == "pillar" else None
        yield Shot(visit, "door", tuple(actors), pillar)
        if visit % 2 == 0:
            yield Shot(visit, "side", tuple(_from_the_side(actor) for actor in actors), pillar)


def _actor(
    who: int,
    person: Person,
    unused: List[int],
    path: Callable[[float], Where],
    rng: np.random.Generator,
    detector: Detector,
) -> Actor:
    if not unused:
        unused.extend(rng.permutation(len(person.sources)))
    source = person.sources[unused.pop()]
    cutout = take_film(source, detector, rng) if person.film else take_photo(source, detector)
    face = float(np.median(cutout.faces[:, 3]))
    height = round(cutout.pictures[0].shape[0] * float(rng.uniform(*_FACE_PX)) / face)
    return Actor(who, cutout, _visitor(cutout, height, path(float(rng.uniform(120, 260)))))


def _visitor(cutout: Cutout, height: int, path: Where) -> Visitor:
    return Visitor(lambda at_s: cutout.pictures[cutout.at(at_s)], 0.0, SHOT_S, height_px=height, path=path)


def _from_the_side(actor: Actor) -> Actor:
    """Return the same from the other side of the door: who went to the right goes to the left."""
    path = actor.visitor.path
    if path is None:
        raise ValueError("who is composed has a path")
    other = dimmed(actor.cutout)
    height = round(actor.visitor.height_px * _SIDE_SIZE)
    return Actor(actor.person, other, _visitor(other, height, lambda at_s: (WIDTH - path(at_s)[0], path(at_s)[1] + 60)))


def _stand_in(picture: Image) -> Visitor:
    return Visitor(lambda _: picture, 0.0, SHOT_S, height_px=HEIGHT, path=lambda _: (float(_PILLAR_X), 0.0))


def scene_of(shot: Shot) -> Scene:
    """Return the shot's picture."""
    visitors = [actor.visitor for actor in shot.actors]
    return Scene([*visitors, *([shot.pillar] if shot.pillar else [])], seed=7 if shot.camera == "door" else 8)


def truth_at(shot: Shot, index: int) -> Truth:
    """Return whose faces are where in a frame, and how much of each can be seen."""
    at_s = index / FPS
    faces, outlines = [], []
    for actor in shot.actors:
        n = actor.cutout.at(at_s)
        picture, height = actor.cutout.pictures[n], actor.visitor.height_px
        width = round(picture.shape[1] * height / picture.shape[0])
        x, y = actor.visitor.corner(width, at_s)
        by = np.array([width / picture.shape[1], height / picture.shape[0]] * 2)
        faces.append(actor.cutout.faces[n] * by + (x, y, 0, 0))
        outlines.append((x, y, width, height))
    if shot.pillar is not None:
        outlines.append((*shot.pillar.corner(_PILLAR.shape[1], at_s), _PILLAR.shape[1], HEIGHT))
    seen = [
        _visible(face, outlines[n], outlines[n + 1 :]) if actor.cutout.sure[actor.cutout.at(at_s)] else 0.0
        for n, (face, actor) in enumerate(zip(faces, shot.actors))
    ]
    people = np.array([actor.person for actor in shot.actors], np.int64)
    return Truth(people, np.array(faces, np.float32).reshape(-1, 4), np.array(seen, np.float32))


def _visible(face: Floats, own: _Outline, before: Sequence[_Outline]) -> float:
    """Return the share of a face that lies within the frame and its own picture, and behind no other."""
    x, y, w, h = (round(float(v)) for v in face)
    left = np.zeros((max(h, 1), max(w, 1)), np.bool_)
    right, low = min(WIDTH, own[0] + own[2]), min(HEIGHT, own[1] + own[3])
    left[max(0, max(0, own[1]) - y) : max(0, low - y), max(0, max(0, own[0]) - x) : max(0, right - x)] = True
    for x0, y0, width, height in before:
        left[max(0, y0 - y) : max(0, y0 + height - y), max(0, x0 - x) : max(0, x0 + width - x)] = False
    return float(left.mean())
