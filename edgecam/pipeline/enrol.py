"""Enrolment: from photos, clips and a live camera to the faces that will stand for a person."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from edgecam import align, quality
from edgecam.capture.base import make_source
from edgecam.capture.photo import is_photo, read_photo
from edgecam.clock import Clock
from edgecam.config import CameraConfig, Config
from edgecam.detect import Detector
from edgecam.embed import Encoder, embed
from edgecam.errors import EnrolmentError, InputError
from edgecam.identify import Identifier, Recognizability
from edgecam.pipeline.still import StillFace, find_faces
from edgecam.track import Tracker, appearance
from edgecam.types import FaceCrop, Floats, Frame, Quality

_BACKGROUND = 0.25
"""A further face with less than this share of the largest one's area is somebody in the background."""
_CLIP_STEP_S = 0.2
_CLIP_KEEP = 16
"""So many faces of a clip are kept, spread over angle and time."""
_CLIP_MIN_S = 1.0
_CLIP_RIVAL = 0.5
"""A second track this long (share of the longest), at the same time, makes a clip ambiguous."""
_OUTLIERS_FROM = 3
"""With fewer faces nobody can say which one is wrong."""

ANGLES: Dict[str, str] = {
    "front": "look straight into the camera",
    "left": "turn your head a little to the left",
    "right": "turn your head a little to the right",
    "up": "lift your chin a little",
    "down": "lower your chin a little",
}
_TURNED_DEG = 12.0
_TILTED_DEG = 10.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A face that may stand for the person."""

    crop: FaceCrop
    quality: Quality
    source: str
    """File name and place in it, for the report; never stored beyond the file's name."""

    vector: Floats
    features: Floats


@dataclass
class Report:
    """What was kept and why not, in the order it was looked at."""

    kept: List[Candidate] = field(default_factory=list)
    refused: List[Tuple[str, str]] = field(default_factory=list)
    """(source, reason)."""
    warnings: List[str] = field(default_factory=list)

    def angles(self) -> Dict[str, int]:
        """Return how many kept faces show each angle, and how many are infrared."""
        counts = dict.fromkeys((*ANGLES, "infrared"), 0)
        for candidate in self.kept:
            counts[angle_of(candidate.quality)] += 1
            counts["infrared"] += candidate.quality.infrared
        return counts


def angle_of(q: Quality) -> str:
    """Return the name of the angle under which a face is seen, as the person would say it.

    The picture's right is the person's left.
    """
    if abs(q.yaw_deg) >= _TURNED_DEG:
        return "left" if q.yaw_deg > 0 else "right"
    if abs(q.pitch_deg) >= _TILTED_DEG:
        return "down" if q.pitch_deg > 0 else "up"
    return "front"


def expand(paths: Sequence[Path]) -> List[Path]:
    """Return the files behind paths, folders in order of name.

    Raises:
        InputError: a path does not exist or a folder cannot be read.
    """
    files: List[Path] = []
    for path in paths:
        try:
            if path.is_dir():
                files += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            elif path.exists():
                files.append(path)
            else:
                raise InputError(f"{path}: no such file or folder")
        except OSError as err:
            raise InputError(f"{path}: {err.strerror or err}") from err
    return files


def gather(
    files: Iterable[Path],
    detector: Detector,
    encoder: Encoder,
    recognizability: Recognizability,
    config: Config,
    clock: Clock,
    which: Optional[int],
    tell: Callable[[str], None],
) -> Report:
    """Collect the faces of photos and clips.

    Args:
        files: photos and clips.
        detector: finds the faces.
        encoder: makes their vectors.
        recognizability: of the same encoder.
        config: quality section.
        clock: for the clips' sources.
        which: which face of a picture with several, from the left, 1 is the first; None refuses such pictures.
        tell: progress.
    """
    report, seen = Report(), set()
    for path in files:
        tell(f"looking at {path.name}")
        try:
            if is_photo(path):
                digest = hashlib.sha256(path.read_bytes()).digest()
                if digest in seen:
                    raise EnrolmentError("the same photo once more")
                seen.add(digest)
                report.kept.append(_from_photo(path, detector, encoder, recognizability, config, which))
            else:
                report.kept += _from_clip(path, detector, encoder, config, clock, which)
        except (InputError, EnrolmentError) as err:
            report.refused.append((str(path), str(err).replace(f"{path}: ", "")))
    return report


def _from_photo(
    path: Path,
    detector: Detector,
    encoder: Encoder,
    recognizability: Recognizability,
    config: Config,
    which: Optional[int],
) -> Candidate:
    faces = find_faces(read_photo(path), detector, encoder, recognizability, config.quality)
    if not faces:
        raise EnrolmentError("no face found")
    face = _the_face(faces, which)
    if not face.quality.ok:
        raise EnrolmentError(str(face.quality.reason))
    return Candidate(face.crop, face.quality, path.name, face.vector, face.features)


def _the_face(faces: List[StillFace], which: Optional[int]) -> StillFace:
    if which is not None:
        if which > len(faces):
            raise EnrolmentError(f"has {len(faces)} faces, there is no face {which}")
        return sorted(faces, key=lambda f: float(f.box[0]))[which - 1]
    areas = [float(f.box[2] * f.box[3]) for f in faces]
    rivals = sum(a >= _BACKGROUND * areas[0] for a in areas)
    if rivals > 1:
        raise EnrolmentError(f"{rivals} faces; say which with --face N (1 is the leftmost) or crop the photo")
    return faces[0]


@dataclass(eq=False)
class _ClipTrack:
    first_s: float
    last_s: float
    x: float
    faces: List[Tuple[FaceCrop, Quality, float]] = field(default_factory=list)


def _from_clip(
    path: Path, detector: Detector, encoder: Encoder, config: Config, clock: Clock, which: Optional[int]
) -> List[Candidate]:
    source = make_source(CameraConfig(url=str(path)), "enrolment", clock)
    source.open()
    try:
        frames = iter(source.read, None)
        tracks = _tracks_of((f for f in frames if f is not None), detector, config)
    finally:
        source.close()
    track = _the_track(tracks, which)
    chosen = spread([(c, q, at) for c, q, at in track.faces if q.ok], _CLIP_KEEP)
    if not chosen:
        raise EnrolmentError(f"no usable face: {track.faces[0][1].reason}")
    if track.last_s - track.first_s < _CLIP_MIN_S and len(track.faces) < _CLIP_MIN_S / _CLIP_STEP_S:
        raise EnrolmentError(f"the face is seen for {track.last_s - track.first_s:.1f} s only, one second is needed")
    vectors = embed(encoder, [c for c, _, _ in chosen])
    return [
        Candidate(crop, q, f"{path.name} at {at:.1f} s", vectors.vectors[i], vectors.features[i])
        for i, (crop, q, at) in enumerate(chosen)
    ]


def _tracks_of(frames: Iterable[Frame], detector: Detector, config: Config) -> List[_ClipTrack]:
    tracker, next_s = Tracker(config.track), -1e9
    tracks: Dict[int, _ClipTrack] = {}
    for frame in frames:
        if frame.captured_at_s < next_s:
            continue
        next_s = frame.captured_at_s + _CLIP_STEP_S
        faces = detector(frame.image)
        seen = tracker.update(faces, frame.captured_at_s, appearance(frame.image, faces))
        for track_id, box, landmarks in zip(seen.ids, seen.faces.boxes, seen.faces.landmarks):
            at = frame.captured_at_s
            track = tracks.setdefault(int(track_id), _ClipTrack(at, at, float(box[0])))
            crop = align.make_crop(frame.image, box, landmarks)
            track.faces.append((crop, quality.assess(crop, config.quality), at))
            track.last_s = at
    return list(tracks.values())


def _the_track(tracks: List[_ClipTrack], which: Optional[int]) -> _ClipTrack:
    if not tracks:
        raise EnrolmentError("no face found")
    if which is not None:
        if which > len(tracks):
            raise EnrolmentError(f"has {len(tracks)} people, there is no face {which}")
        return sorted(tracks, key=lambda t: t.x)[which - 1]
    longest = max(tracks, key=lambda t: len(t.faces))
    for other in tracks:
        together = other is not longest and other.first_s <= longest.last_s and longest.first_s <= other.last_s
        if together and len(other.faces) >= _CLIP_RIVAL * len(longest.faces):
            raise EnrolmentError("two people at the same time; say which with --face N (1 is the leftmost)")
    return longest


def spread(faces: Sequence[Tuple[FaceCrop, Quality, float]], keep: int) -> List[Tuple[FaceCrop, Quality, float]]:
    """Pick `keep` faces that are good and unlike each other in angle and time (farthest first)."""
    if len(faces) <= keep:
        return list(faces)
    span = max(faces[-1][2] - faces[0][2], 1e-6)
    place = np.array([[q.yaw_deg / 30, q.pitch_deg / 30, at / span] for _, q, at in faces])
    score = np.array([q.score for _, q, _ in faces])
    picked = [int(np.argmax(score))]
    while len(picked) < keep:
        gap = np.min(np.linalg.norm(place[:, None] - place[None, picked], axis=2), axis=1)
        picked.append(int(np.argmax(gap * (0.2 + score))))
    return [faces[i] for i in sorted(set(picked))]


def drop_strangers(report: Report, same_at: float) -> None:
    """Take out faces that do not look like the rest; say so.

    Each face is compared with the mean of the others. With a clear majority the odd ones are refused; without one
    nothing is refused and the disagreement is a warning.

    Args:
        report: changed in place.
        same_at: cosine under which two faces are not taken for one person.
    """
    if len(report.kept) < 2:
        return
    vectors = np.stack([c.vector for c in report.kept])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, np.nan)
    typical = np.nanmedian(cosines, axis=1)
    odd = typical < same_at
    if not odd.any():
        return
    if len(vectors) < _OUTLIERS_FROM or odd.mean() >= 0.5:
        report.warnings.append("these photos do not look like one person; check that they all show the same one")
        return
    for candidate, is_odd in zip(list(report.kept), odd):
        if is_odd:
            report.kept.remove(candidate)
            report.refused.append((candidate.source, "does not look like the other photos"))


_SAME_SHARE = 0.75
"""Photos of one person vary more than a visitor may: this share of the known-threshold marks a foreign photo."""
_DRIFT = 0.8
"""New photos that reach less than this share of the usual likeness to the old ones are worth a remark."""


def same_person_at(identifier: Identifier) -> float:
    """Return the cosine under which two enrolment faces are not taken for one person."""
    radius = identifier.calibration.radius
    typical = float(np.median(list(radius.values()))) if radius else 0.42
    return _SAME_SHARE * typical


def warn(report: Report, identifier: Identifier, owner: Optional[str], names: Dict[str, str]) -> None:
    """Add warnings: seen in infrared alone, too like somebody else, or unlike the person's earlier photos.

    Args:
        report: changed in place.
        identifier: of the household before this enrolment.
        owner: person id, if already enrolled.
        names: by person id.
    """
    dark = all(c.quality.infrared for c in report.kept)
    if dark and (owner is None or owner in identifier.calibration.by_night):
        report.warnings.append(
            "infrared or grey faces alone: enrol colour ones by day, too; till then visits end uncertain if a camera"
            " here took these, or strangers at night may get this name if they are infrared files"
        )
    if not identifier.people:
        return
    mean = np.mean([c.vector for c in report.kept], axis=0)
    scores = identifier.scores((mean / np.linalg.norm(mean))[None].astype(np.float32))[0]
    threshold = identifier.calibration.threshold
    for person, score in zip(identifier.people, scores):
        if person == owner and score < threshold:
            why = "wrong person, or the light alone?" if dark else "wrong person?"
            report.warnings.append(f"the earlier photos do not look like these; {why}")
        elif person == owner and score < threshold / _DRIFT and not dark:
            report.warnings.append("looks changed since the earlier photos (a child grows): enrol again now and then")
        elif person != owner and score >= threshold:
            report.warnings.append(
                f"looks much like {names.get(person, person)}: visits may be told as either; enrol more photos of both"
            )


_GUIDE_WANT = {"front": 3, "left": 2, "right": 2, "up": 1, "down": 1}
_GUIDE_GAP_S = 0.4
_GUIDE_PATIENCE_S = 8.0
"""After this long with the same wish, the next one is tried."""


class Guide:
    """A guided session: asks for the angles that are still missing, keeps what it gets.

    Args:
        detector: finds the faces.
        encoder: makes their vectors at the end.
        config: quality section.
    """

    def __init__(self, detector: Detector, encoder: Encoder, config: Config) -> None:
        self._detector, self._encoder, self._config = detector, encoder, config
        self._faces: List[Tuple[FaceCrop, Quality, float]] = []
        self._last_s = -1e9
        self._wish, self._wish_s = "", -1e9
        self._given_up: List[str] = []

    @property
    def done(self) -> bool:
        """Whether every angle was seen or given up."""
        return not self._missing()

    def _missing(self) -> List[str]:
        have = self._counts()
        return [angle for angle, want in _GUIDE_WANT.items() if have[angle] < want and angle not in self._given_up]

    def _counts(self) -> Dict[str, int]:
        counts = dict.fromkeys(_GUIDE_WANT, 0)
        for _, q, _ in self._faces:
            counts[angle_of(q)] += 1
        return counts

    def coverage(self) -> str:
        """Return a line such as `front 3/3 left 0/2 ... day`."""
        counts = self._counts()
        light = {"IR" if q.infrared else "day" for _, q, _ in self._faces}
        parts = [f"{angle} {min(counts[angle], want)}/{want}" for angle, want in _GUIDE_WANT.items()]
        return " ".join([*parts, *sorted(light)])

    def look(self, frame: Frame) -> str:
        """Take one frame in; return what to tell the person."""
        missing = self._missing()
        if not missing:
            return "done, thank you"
        if missing[0] != self._wish:
            self._wish, self._wish_s = missing[0], frame.captured_at_s
        elif frame.captured_at_s - self._wish_s > _GUIDE_PATIENCE_S and self._faces:
            self._given_up.append(self._wish)
        faces = self._detector(frame.image)
        if not len(faces):
            return "no face in sight: step into the picture"
        areas = faces.boxes[:, 2] * faces.boxes[:, 3]
        if np.sum(areas >= _BACKGROUND * areas.max()) > 1:
            return "two faces in sight: one person at a time, please"
        i = int(np.argmax(areas))
        crop = align.make_crop(frame.image, faces.boxes[i], faces.landmarks[i])
        rated = quality.assess(crop, self._config.quality)
        if not rated.ok:
            return f"{rated.reason}: {ANGLES[self._wish]}"
        if frame.captured_at_s - self._last_s >= _GUIDE_GAP_S and angle_of(rated) in missing:
            self._faces.append((crop, rated, frame.captured_at_s))
            self._last_s = frame.captured_at_s
        missing = self._missing()
        return ANGLES[missing[0]] if missing else "done, thank you"

    def report(self) -> Report:
        """Return what was kept."""
        report = Report()
        vectors = embed(self._encoder, [crop for crop, _, _ in self._faces])
        for i, (crop, q, at) in enumerate(self._faces):
            where = f"camera at {at - self._faces[0][2]:.1f} s"
            report.kept.append(Candidate(crop, q, where, vectors.vectors[i], vectors.features[i]))
        if not self._faces:
            report.refused.append(("camera", "no usable face was seen"))
        report.warnings += [f"not seen: {angle}" for angle in self._given_up]
        return report
