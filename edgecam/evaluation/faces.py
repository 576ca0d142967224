"""A folder of people as features, for the evaluations: read once, encoded once, each encoder judged from the same."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam import embed as encoders
from edgecam import quality
from edgecam.capture.photo import is_photo, read_photo
from edgecam.config import Config, EmbedConfig, IdentifyConfig, QualityConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder, FaceNet
from edgecam.errors import InputError
from edgecam.evaluation.strangers import padded
from edgecam.identify import Household, Identifier, Recognizability
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import _CHUNK, _DRAWS, make_stages, strangers_of
from edgecam.pipeline.still import find_faces
from edgecam.types import Floats, Image

KINDS = ("fused", "facenet", "sface")
"""The product's default first."""

WORKERS = 2
"""Photos worked on at a time."""

_PROJECTED = 512
"""Rows given to a head at a time."""


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


class Bench(NamedTuple):
    """Detector and joint encoder, and each kind's encoder, whose `project` takes its own columns of the features."""

    detector: Detector
    encoder: Encoder
    kinds: Dict[str, Encoder]

    def doors(self, kind: str) -> Doors:
        """Return the maker of identifiers for one kind of encoder."""
        config = EmbedConfig.model_validate({"kind": kind})
        model, encoder = strangers_of(config), self.kinds[kind]
        drawn = [encoder.project(model.draw(_CHUNK, seed)) for seed in range(_DRAWS // _CHUNK)]
        return Doors(drawn, Recognizability(encoder.project(model.ruin())[0]), IdentifyConfig())


class Doors(NamedTuple):
    """Makes the product's identifiers for hundreds of households; unlike the product it keeps the virtual strangers."""

    drawn: Sequence[Floats]
    recognizability: Recognizability
    config: IdentifyConfig

    def at(self, target: float) -> Doors:
        """Return the same for another false-accept target."""
        return self._replace(config=IdentifyConfig(target_fpir=target))

    def make(self, household: Household) -> Identifier:
        """Return the identifier of this household."""
        return Identifier(household, self.drawn, self.config, self.recognizability)


def open_bench() -> Bench:
    """Load the nets, one thread each: the photos are spread over threads instead.

    Raises:
        ModelError: a net is missing or altered.
    """
    registry = ModelRegistry(default_folder())
    config = Config.model_validate({"run": {"threads": 1, "providers": ["cpu"]}, "embed": {"kind": "fused"}})
    detector, fused = make_stages(config, registry)
    kinds: Dict[str, Encoder] = {"fused": fused}
    kinds["facenet"] = encoders.make(EmbedConfig(kind="facenet"), registry)
    kinds["sface"] = encoders.make(EmbedConfig(kind="sface"), registry)
    return Bench(detector, fused, kinds)


def columns(kind: str) -> slice:
    """Return the columns of the joint features that belong to one kind of encoder."""
    return {"facenet": slice(0, FaceNet.width), "sface": slice(FaceNet.width, None)}.get(kind, slice(None))


@dataclass(frozen=True, eq=False)
class Album:
    """The photos of a folder of people, N of them."""

    people: Tuple[str, ...]
    """(N,) folder of each photo."""

    names: Tuple[str, ...]
    """(N,) file name of each photo."""

    found: NDArray[np.bool_]
    """(N,) whether a face was found."""

    good: NDArray[np.bool_]
    """(N,) whether it passes the product's quality gate; how recognisable it is depends on the encoder."""

    features: Floats
    """(N, K) joint trunk features of the largest face; zero without one."""

    version: str
    """Of the joint encoder."""

    def by_person(self) -> Dict[str, List[int]]:
        """Return the photos' positions by person, in order of file name."""
        out: Dict[str, List[int]] = {}
        for i, person in enumerate(self.people):
            out.setdefault(person, []).append(i)
        return out

    def seen_by(self, bench: Bench, kind: str, doors: Doors) -> View:
        """Return the album as one kind of encoder sees it."""
        vectors = self.vectors(bench, kind)
        return View(self, vectors, self.good & (doors.recognizability(vectors) > 0))

    def vectors(self, bench: Bench, kind: str) -> Floats:
        """Return (N, D) unit vectors of one kind of encoder; rows without a face are zero."""
        out: Floats = np.zeros((len(self.people), bench.kinds[kind].dim), np.float32)
        rows = np.flatnonzero(self.found)
        for start in range(0, len(rows), _PROJECTED):
            part = rows[start : start + _PROJECTED]
            out[part] = bench.kinds[kind].project(np.ascontiguousarray(self.features[part, columns(kind)]))
        return out


class View(NamedTuple):
    """An album in one encoder's vectors."""

    album: Album
    vectors: Floats
    """(N, D) unit vectors; rows without a face are zero."""
    usable: NDArray[np.bool_]
    """(N,) whether the product would compare the face; else it says poor."""


def photos_of(data: Path) -> List[Tuple[str, Path]]:
    """Return (person, photo) of a folder of one folder a person.

    Raises:
        InputError: there are no such folders.
    """
    if not data.is_dir():
        raise InputError(f"{data}: not a folder; --data wants one folder of photos a person")
    out = [
        (folder.name, path)
        for folder in sorted(p for p in data.iterdir() if p.is_dir())
        for path in sorted(folder.iterdir())
        if path.is_file() and is_photo(path)
    ]
    if not out:
        raise InputError(f"{data}: no photos in folders; --data wants one folder of photos a person")
    return out


def read_album(photos: Sequence[Tuple[str, Path]], bench: Bench, pad: float, cache: Optional[Path] = None) -> Album:
    """Find and encode the largest face of every photo.

    Args:
        photos: (person, file).
        bench: the nets.
        pad: border replicated around tight crops, in shares of the height.
        cache: an .npz of an earlier run; used if it holds the same photos of the same encoder, else (re)written.
    """
    key = np.array([f"{bench.encoder.version} {pad:g}", *(f"{person}/{path.name}" for person, path in photos)])
    if cache is not None and (kept := _from_cache(cache, key)) is not None:
        say(f"{cache}: features of {len(photos)} photos")
        return _album(photos, *kept, bench.encoder.version)
    pictures = (lambda path=path: padded(read_photo(path), pad) for _, path in photos)
    found, good, features = encode(pictures, len(photos), bench)
    if cache is not None:
        np.savez(cache, key=key, found=found, good=good, features=features.astype(np.float16))
    return _album(photos, found, good, features, bench.encoder.version)


def encode(
    pictures: Iterable[Callable[[], Image]], count: int, bench: Bench
) -> Tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
    """Return found, good (N,) and features (N, K) of the largest face of each picture; progress on stderr."""
    config = QualityConfig()
    rates = Recognizability(bench.encoder.project(strangers_of(EmbedConfig(kind="fused")).ruin())[0])

    def one(picture: Callable[[], Image]) -> Optional[Tuple[bool, Floats]]:
        try:
            faces = find_faces(picture(), bench.detector, bench.encoder, rates, config)
        except InputError as err:
            say(f"left out: {err}")
            return None
        return (quality.assess(faces[0].crop, config).ok, faces[0].features) if faces else None

    found, good = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    rows: Dict[int, Floats] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for i, face in enumerate(pool.map(one, pictures)):
            if face is not None:
                found[i], (good[i], rows[i]) = True, face
            if (i + 1) % 200 == 0 or i + 1 == count:
                say(f"{i + 1} of {count} photos, {i + 1 - len(rows)} without a face")
    width = len(next(iter(rows.values()))) if rows else 1
    features: Floats = np.zeros((count, width), np.float32)
    for i, row in rows.items():
        features[i] = row
    return found, good, features


def _from_cache(cache: Path, key: NDArray[np.str_]) -> Optional[Tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]]:
    if not cache.exists():
        return None
    with np.load(cache) as data:
        stored = {str(k): i for i, k in enumerate(data["key"])}
        if str(data["key"][0]) != str(key[0]) or any(str(k) not in stored for k in key[1:]):
            return None
        rows = np.array([stored[str(k)] - 1 for k in key[1:]])
        return data["found"][rows], data["good"][rows], data["features"][rows].astype(np.float32)


def _album(
    photos: Sequence[Tuple[str, Path]],
    found: NDArray[np.bool_],
    good: NDArray[np.bool_],
    features: Floats,
    version: str,
) -> Album:
    people = tuple(person for person, _ in photos)
    return Album(people, tuple(path.name for _, path in photos), found, good, features, version)
