"""What the store hands out, and how pictures, vectors and decisions become bytes."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass
from typing import Any, Dict, Literal, Mapping, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam.errors import DamagedError, StoreError
from edgecam.types import Decision, FaceCrop, Floats, Liveness, Phase, Tracklet, Verdict


class NotStoredError(StoreError):
    """Nobody or nothing by that name or id is stored."""


class NameTakenError(StoreError):
    """Another person has that name."""


Origin = Literal["photo", "visit", "visitor"]
"""Somebody's photo or clip; a face at the door that somebody looked at and named; one named with a whole visitor."""
DAMAGED = "(damaged)"
OF_A_VISITOR = "visitor, "
"""How the source of a face begins that was named with a whole visitor, not by itself."""
_OF_A_VISIT = re.compile(r"visit \S+ picture \S+")
_LIVE = re.compile(r"camera at [\d.]+ s")
"""The source of a face of a guided session before the camera."""


def picture_source(visit_id: str, picture_id: str) -> str:
    """Return the source of a face that was enrolled from a visit."""
    return f"visit {visit_id} picture {picture_id}"


@dataclass(frozen=True)
class FaceRecord:
    """An enrolled face, without its picture."""

    id: str
    person_id: str
    source: str
    """Where it came from (a file, a camera, a visit)."""
    quality: float
    infrared: bool
    yaw_deg: float
    created_wall_s: float

    @property
    def origin(self) -> Origin:
        """Return where it came from; nobody knows of a damaged source, and `visit` is what is trusted least."""
        if self.source.startswith(OF_A_VISITOR):
            return "visitor"
        return "visit" if self.source == DAMAGED or _OF_A_VISIT.fullmatch(self.source) else "photo"

    @property
    def seen_here(self) -> bool:
        """Whether a camera of the house saw it: if it is grey, then in infrared and not as a grey photo."""
        return self.origin != "photo" or _LIVE.fullmatch(self.source) is not None


class Gallery(NamedTuple):
    """All enrolled vectors of one model; row i is face `face_ids[i]` of person `person_ids[i]`."""

    person_ids: Tuple[str, ...]
    face_ids: Tuple[str, ...]
    vectors: Floats
    """(N, D) float32; (0, 0) with nobody enrolled."""
    qualities: Floats
    """(N,) float32, 0..1."""
    infrared: NDArray[np.bool_]
    """(N,) whether the face was seen in infrared."""
    damaged: Tuple[str, ...] = ()
    """Faces that are left out because their row cannot be read."""


class Message(NamedTuple):
    """Something to be published."""

    topic: str
    payload: bytes
    critical: bool
    """Dropped only when nothing else is left to drop."""


class OutboxRow(NamedTuple):
    """A message waiting for the broker's acknowledgement."""

    seq: int
    topic: str
    payload: bytes
    created_wall_s: float
    critical: bool


@dataclass(frozen=True)
class Visit:
    """One appearance at a place."""

    id: str
    place: str
    camera: str
    opened_wall_s: float
    closed_wall_s: Optional[float]
    """None while it lasts (or after a kill)."""
    ignored: bool
    summary: Mapping[str, Any]
    decisions: Tuple[Decision, ...]
    """Every word said about its tracks, in order."""
    pictured: Tuple[int, ...]
    """Tracks of which pictures are kept."""
    named: Mapping[int, str]
    """Track -> person id, where the user named it."""

    @property
    def latest(self) -> Dict[int, Decision]:
        """Return the last word about each track."""
        return {decision.track: decision for decision in self.decisions}

    @property
    def tracks(self) -> Tuple[int, ...]:
        """Return all tracks that left anything."""
        return tuple(sorted({*self.latest, *self.pictured}))


class KeptTrack(NamedTuple):
    """Which track is kept, and what the user said of it; without what it looks like, which costs a decryption."""

    id: str
    visit: str
    track: int
    place: str
    opened_wall_s: float
    """When its visit began."""

    person_id: Optional[str]
    nobody: bool
    camera: str
    taken_for: Optional[str]
    """Whom the last word about it named."""


class Visitor(NamedTuple):
    """Somebody unknown who came again, as the night thinks."""

    number: int
    ignored: bool
    tracks: Tuple[KeptTrack, ...]
    """Which nobody has named, oldest first."""


class StoredTracklet(NamedTuple):
    """A kept track and what the user said of it."""

    id: str
    seen: Tracklet
    person_id: Optional[str]
    """Who the user said it was."""

    nobody: bool
    """The user said: none of the house's people."""

    grouped: bool = False
    """It was said of a whole visitor, of whom the machine thinks that this is one face."""

    taken_for: Optional[str] = None
    """Whom the last word about it named."""


class Proposal(NamedTuple):
    """Who a kept track probably was, by the devices heard then; it names nobody."""

    tracklet: str
    person_id: str
    share: float
    """0..1."""

    with_device: int
    """Events in which this person was seen while their device was heard ..."""

    without_device: int
    """... and in which it was not."""


class AuditRow(NamedTuple):
    """Who did what to whom."""

    wall_s: float
    actor: str
    action: str
    target: str


class Purged(NamedTuple):
    """What a purge removed."""

    pictures: int
    visits: int
    strangers: int


class Restored(NamedTuple):
    """What a restore brought back."""

    people: int
    faces: int
    visits: int
    mended: int = 0
    """Damaged entries replaced by the backup's."""


class Damage(NamedTuple):
    """A sealed entry that cannot be read any more."""

    table: str
    id: str
    column: str
    owner: Optional[str]
    """The person or visit it belongs to; None: the house."""

    @property
    def place(self) -> str:
        """What it was sealed for."""
        return f"{self.table}:{self.id}:{self.column}"


def pack_json(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_GEOMETRY = struct.Struct("<d14f")


def pack_crop(crop: FaceCrop) -> bytes:
    """Return a crop as bytes: geometry, then the picture as PNG (lossless)."""
    written, png = cv2.imencode(".png", crop.image)
    if not written:
        raise StoreError("a face's picture cannot be encoded as PNG")
    numbers = [*crop.box.tolist(), *crop.landmarks.ravel().tolist()]
    return _GEOMETRY.pack(crop.scale, *numbers) + bytes(png.tobytes())


def unpack_crop(data: bytes) -> FaceCrop:
    """Return a crop from `pack_crop`'s bytes."""
    scale, *numbers = _GEOMETRY.unpack_from(data)
    image = cv2.imdecode(np.frombuffer(crop_png(data), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DamagedError("a stored face's picture cannot be decoded: `edgecam doctor` says what helps")
    landmarks = np.array(numbers[4:], np.float32).reshape(5, 2)
    return FaceCrop(image, np.array(numbers[:4], np.float32), landmarks, scale)


def crop_png(data: bytes) -> bytes:
    """Return the PNG inside `pack_crop`'s bytes."""
    return data[_GEOMETRY.size :]


def pack_floats(values: Floats) -> bytes:
    """Return float32 values as little-endian bytes."""
    return np.ascontiguousarray(values, "<f4").tobytes()


def unpack_floats(data: bytes) -> Floats:
    """Return a copy of `pack_floats`'s values, one-dimensional."""
    return np.frombuffer(data, "<f4").astype(np.float32)


_COUNTS = struct.Struct("<HH")
_HALF_MAX = float(np.finfo(np.float16).max)


def pack_faces(tracklet: Tracklet) -> bytes:
    """Return a track's faces and clothes as little-endian float16: N, C, (N,) qualities, (C,) clothes, (N, K) features.

    Eleven bits of mantissa move the cosine of two faces by less than 1e-4.
    """
    parts = (tracklet.qualities, tracklet.clothes, np.clip(tracklet.features, -_HALF_MAX, _HALF_MAX))
    head = _COUNTS.pack(len(tracklet.qualities), len(tracklet.clothes))
    return head + b"".join(np.ascontiguousarray(part, "<f2").tobytes() for part in parts)


def unpack_faces(data: bytes) -> Tuple[Floats, Floats, Floats]:
    """Return (N, K) features, (N,) qualities and (C,) clothes of `pack_faces`'s bytes."""
    faces, worn = _COUNTS.unpack_from(data)
    values = np.frombuffer(data, "<f2", offset=_COUNTS.size).astype(np.float32)
    return values[faces + worn :].reshape(faces, -1), values[:faces], values[faces : faces + worn]


def pack_decision(decision: Decision) -> bytes:
    """Return a decision as JSON."""
    return pack_json(asdict(decision))


def unpack_decision(data: bytes) -> Decision:
    """Return a decision from `pack_decision`'s bytes."""
    fields: Dict[str, Any] = json.loads(data)
    fields["verdict"], fields["phase"] = Verdict(fields["verdict"]), Phase(fields["phase"])
    fields["liveness"] = Liveness(fields["liveness"])
    fields["candidates"], fields["blinks_s"] = tuple(fields["candidates"]), tuple(fields["blinks_s"])
    return Decision(**fields)
