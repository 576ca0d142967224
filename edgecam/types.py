"""Values that pass between stages.

Boxes are (x, y, w, h) in pixels of the image they belong to; images are uint8 BGR; arrays have N first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.errors import ShapeError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Image = NDArray[np.uint8]

_UNIT_TOL = 1e-3


def _want(name: str, array: NDArray[Any], shape: Tuple[Optional[int], ...], dtype: Any) -> None:
    fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape))
    if not fits or array.dtype != dtype:
        raise ShapeError(f"{name}: want {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture from a camera."""

    image: Image
    """(H, W, 3) uint8 BGR, upright (rotation and flip already applied)."""

    captured_at_s: float
    """Monotonic seconds of the exposure; in a recording, seconds from its first frame."""

    camera: str = ""
    """Camera id from the configuration."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the image is a colour picture."""
        _want("image", self.image, (None, None, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces found in one frame; N may be 0."""

    boxes: Floats
    """(N, 4) float32 x, y, w, h in frame pixels; may reach over the border."""

    scores: Floats
    """(N,) float32 detector confidence, 0..1."""

    landmarks: Floats
    """(N, 5, 2) float32 frame pixels: eye, eye, nose, mouth corner, mouth corner; image-left first."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the arrays agree."""
        n = len(self.boxes)
        _want("boxes", self.boxes, (n, 4), np.float32)
        _want("scores", self.scores, (n,), np.float32)
        _want("landmarks", self.landmarks, (n, 5, 2), np.float32)

    def __len__(self) -> int:
        """Return N."""
        return len(self.boxes)

    def take(self, index: Any) -> Faces:
        """Return the faces at these positions (an index array, mask or slice)."""
        return Faces(self.boxes[index], self.scores[index], self.landmarks[index])

    @staticmethod
    def empty() -> Faces:
        """Return no faces."""
        return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


@dataclass(frozen=True, eq=False)
class Tracks:
    """What the tracker says of one frame: row i of `faces` belongs to `ids[i]`."""

    faces: Faces
    ids: Ints
    """(N,) int64 track ids, unique within one tracker's life."""

    ended: Tuple[int, ...] = ()
    """Tracks that were given up with this frame."""

    still: Tuple[int, ...] = ()
    """Tracks suppressed as pictures (a poster, a T-shirt on a rack): they never moved; not in `ids`."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless there is one id a face."""
        _want("ids", self.ids, (len(self.faces),), np.int64)


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A stored face: unstretched, the detector's box + 60 %, at most 256 px a side."""

    image: Image
    """(h, w, 3) uint8 BGR; both sides at most 256 px."""

    box: Floats
    """(4,) float32 x, y, w, h in crop pixels."""

    landmarks: Floats
    """(5, 2) float32 crop pixels, order as in `Faces`."""

    scale: float = 1.0
    """Crop pixels per frame pixel (at most 1); box[2] / scale is the face's width in the frame."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        _want("image", self.image, (None, None, 3), np.uint8)
        _want("box", self.box, (4,), np.float32)
        _want("landmarks", self.landmarks, (5, 2), np.float32)


@dataclass(frozen=True)
class Quality:
    """How far a face can be trusted for recognition."""

    score: float
    """0..1, the product of the parts."""

    parts: Mapping[str, float]
    """0..1 each: size, blur, light, pose, occlusion (and recognizability once embedded)."""

    yaw_deg: float
    """Positive: turned to the image's right."""

    pitch_deg: float
    """Positive: looking down."""

    roll_deg: float
    infrared: bool
    """A grey (IR or night) picture."""

    reason: Optional[str] = None
    """Why the face is not good enough (`too small`, `blurred`, ...); None if it is."""

    @property
    def ok(self) -> bool:
        """Whether the face passes the gate."""
        return self.reason is None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit face vectors of one model version; row i belongs to face i."""

    vectors: Floats
    """(N, D) float32, each row of length 1."""

    features: Floats
    """(N, K) float32 what the head was given (FaceNet: 1792 trunk features); cached for the night."""

    model: str
    """Model version; vectors of different versions are never compared."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless rows agree and have unit length."""
        _want("vectors", self.vectors, (None, None), np.float32)
        _want("features", self.features, (len(self.vectors), None), np.float32)
        if len(self.vectors) and np.any(np.abs(np.linalg.norm(self.vectors, axis=1) - 1.0) > _UNIT_TOL):
            raise ShapeError("vectors must have length 1")


class Verdict(str, Enum):
    """How a track, or a visit without a usable face, ends."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    UNCERTAIN = "uncertain"
    SPOOF = "spoof"
    POOR = "poor"
    NO_FACE = "no_face"


class Phase(str, Enum):
    """Which word about a track this is."""

    NAMED = "named"
    FINAL = "final"
    CORRECTED = "corrected"


class Liveness(str, Enum):
    """What is known about a face being a living one; only ever denies."""

    LIVE = "live"
    SPOOF = "spoof"
    UNPROVEN = "unproven"


class Action(str, Enum):
    """What somebody may be asked to do, to show that they live; left and right are their own."""

    TURN_LEFT = "turn_left"
    TURN_RIGHT = "turn_right"
    BLINK_TWICE = "blink_twice"


class Asked(str, Enum):
    """How a challenge stands."""

    ASKED = "asked"
    PASSED = "passed"
    FAILED = "failed"
    CANNOT_TELL = "cannot_tell"
    ENDED = "ended"
    """Broken off: the face left, or was exchanged."""


class Role(str, Enum):
    """What an enrolled person is to the house."""

    RESIDENT = "resident"
    KNOWN = "known"
    STAFF = "staff"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Match:
    """Who a face, or a whole track, looks like."""

    verdict: Verdict
    """KNOWN, UNKNOWN or UNCERTAIN (two people are too alike to tell)."""

    person_id: Optional[str]
    """Set only if KNOWN."""

    nearest_id: Optional[str]
    """The most similar enrolled person; None with nobody enrolled."""

    similarity: float
    """The thresholded score, comparable across households, -1..1; -1 with nobody enrolled."""

    candidates: Tuple[str, ...] = ()
    """Person ids that cannot be told apart here (UNCERTAIN)."""

    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """A word about one track of one visit, ready to be stored and announced."""

    id: str
    """Unique; receivers drop duplicates by it."""

    visit: str
    track: int
    """Track number within the visit, from 1; 0 for a visit without a face."""

    verdict: Verdict
    phase: Phase
    person_id: Optional[str]
    candidates: Tuple[str, ...]
    similarity: float
    liveness: Liveness
    reason: str
    camera: str
    place: str
    model: str
    t_first_s: float
    """Seconds (source clock) of the track's first face."""

    t_named_s: Optional[float]
    """Seconds (source clock) at which evidence sufficed for a name; None if it never did."""

    wall_s: float
    """Seconds since 1970 UTC at which it was decided."""

    clock_trusted: bool
    blinks_s: Tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Tracklet:
    """A track of a visit as the encoder saw it: what the night learns from."""

    visit: str
    track: int
    """Within the visit, from 1."""

    camera: str
    model: str
    """`Encoder.base` of what made the features: they do not depend on the head."""

    first_s: float
    last_s: float
    """Seconds (source clock) of its first and last face; comparable within the visit."""

    features: Floats
    """(N, K) float32 what the encoder's head is given, N >= 1 faces unlike each other, the best first."""

    qualities: Floats
    """(N,) float32 of these faces, 0..1."""

    infrared: bool = False
    """Most of them are grey (infrared or night) pictures."""

    liveness: Liveness = Liveness.UNPROVEN
    """`live` or `unproven`; a spoof is never kept."""

    clothes: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """(C,) float32 unit vector, what is worn below the face (`track.clothes`); empty where it could not be seen."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless there is at least one face, and a quality for each."""
        _want("features", self.features, (len(self.qualities), None), np.float32)
        _want("qualities", self.qualities, (len(self.features),), np.float32)
        _want("clothes", self.clothes, (None,), np.float32)
        if not len(self.features):
            raise ShapeError("features: want at least one face")

    @property
    def quality(self) -> float:
        """Return that of its best face, 0..1."""
        return float(self.qualities.max())

    def mean(self) -> Floats:
        """Return (K,) float32 the features' mean by quality."""
        mean: Floats = np.average(self.features, axis=0, weights=np.maximum(self.qualities, 1e-3))
        return mean.astype(np.float32)


@dataclass(frozen=True)
class Prompt:
    """A word to whoever stands before a camera, to be shown or spoken at once or not at all."""

    id: str
    """Of the challenge: the same when it is asked and when it is over."""

    visit: str
    """Empty if nobody is there."""

    track: int
    """Within the visit; 0 if nobody is there."""

    state: Asked
    action: Optional[Action]
    """None if there was nobody to ask."""

    text: str
    reason: str
    """How it ended; empty when asked."""

    limit_s: float
    camera: str
    wall_s: float


@dataclass(frozen=True)
class Person:
    """An enrolled person, without pictures."""

    id: str
    name: str
    role: Role
    created_wall_s: float
    faces: int
    consent: Mapping[str, Any] = field(default_factory=dict)


class SightingSource(str, Enum):
    """What noticed a device."""

    ACCESS_POINT = "ap"
    DHCP = "dhcp"
    NEIGHBOUR = "arp"
    MDNS = "mdns"
    BLE = "ble"
    TRACKER = "ha"
    SNIFF = "sniff"


class Transition(str, Enum):
    """What a sighting says of coming and going."""

    JOIN = "join"
    LEAVE = "leave"
    STEADY = "steady"


@dataclass(frozen=True)
class Device:
    """Something that somebody carries, who agreed to its being noticed."""

    id: str
    person_id: str
    kind: str
    """wifi, ble or ha (a Home Assistant `device_tracker`)."""

    address: str
    """MAC address in lower case with colons, or the tracker's MQTT topic; never logged, never sent by MQTT."""

    label: str
    created_wall_s: float
    client_id: str = ""
    """What it told the DHCP server, by which it is known again when its address changes."""

    hostname: str = ""
    consent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def random(self) -> bool:
        """Whether the address is a made-up one (locally administered): good for one network, perhaps not for ever."""
        return self.kind != "ha" and bool(int(self.address[:2] or "0", 16) & 2)


@dataclass(frozen=True)
class Sighting:
    """A device was noticed."""

    device_id: str
    source: SightingSource
    wall_s: float
    """Seconds since 1970 UTC of the first sign."""

    transition: Transition
    weight: float
    """0..1: 1 for coming and going, 0.2 for being there as always, 0 for what contradicts itself."""

    rssi_dbm: Optional[int] = None
    """The strongest frame's; None where the source has none."""

    channel: Optional[int] = None
    frames: int = 1
    """How many signs (frames of the radio, messages) this stands for."""

    reason: str = ""
    """Why it counts nothing (`doubled`, `away`); else empty."""
