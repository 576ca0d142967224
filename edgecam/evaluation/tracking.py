"""`edgecam eval track`: who is followed through a door's pictures and known again at the next visit (ST, tables 5, 6).

No clips with marked faces are at hand, so they are composed: cut-outs of real people (clips of one face, and photos)
move on known paths over the benchmark's door. They pass one behind the other and behind a pillar, go and come back,
come again on other days, and every other visit is seen by a second camera. Where each face is, is known from its
cut-out: there the product's detector finds it alone, before anything hides it; a face is asked for while 60 % of it can
be seen.

ours: the product's detector, tracker and linking across visits. noT: every face a track of its own, linked. noC:
tracks, not linked. iou: tracks by overlap alone, not linked; iou+C: these, linked. All frames of a household are one
sequence, in which a person must keep one identity (MOTA, IDF1, IDS, Frag by py-motmetrics).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edgecam import align, quality
from edgecam.adapt.constraints import constrain
from edgecam.adapt.gather import Kept, Watched
from edgecam.adapt.linking import link
from edgecam.adapt.samples import Track
from edgecam.bench.scene import FPS
from edgecam.config import Config, EmbedConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder, as_installed, embed
from edgecam.errors import EdgecamError
from edgecam.evaluation.door_shots import KINDS, SHOT_S, Shot, Truth, compose, read_people, scene_of, truth_at
from edgecam.evaluation.faces import say
from edgecam.geometry import iou
from edgecam.identify import Recognizability
from edgecam.metrics import Numbers, bootstrap
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import make_stages, strangers_of
from edgecam.pipeline.camera import _GLIMPSE_FACES, _GLIMPSE_S
from edgecam.pipeline.track import Look, TrackRecord
from edgecam.store import FACES_A_TRACK
from edgecam.track import Tracker, appearance, clothes, mean_clothes
from edgecam.track.assignment import assign
from edgecam.types import FaceCrop, Faces, Floats, Ints, Quality

Row = Dict[str, Any]

METHODS = ("ours", "noT", "noC", "iou", "iou+C")
_LINKED = ("ours", "noT", "iou+C")
_VISITS_A_DAY = 2
SEEN = 0.6
"""So much of a face must be seen to be asked for; of what is less neither finding nor missing counts."""
_SAME_BOX = 0.5
"""Intersection over union from which two boxes show one face, as in the papers' metric."""
_HIDDEN_BOX = 0.3
_IOU_LINK, _PATIENCE_S = 0.3, 1.5
"""Of the rival: the usual overlap, and the product's patience."""
_SLOW = 4
"""A slow box drops all frames but one in so many."""
_LINK_DRAWS = 1000
"""Virtual strangers, as in the night."""
_NOTHING: Floats = np.zeros(0, np.float32)
_NEEDS = "tracking is judged by py-motmetrics, which is not installed: pip install motmetrics"


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    data: Path
    full: bool = False
    seeds: Optional[int] = None

    @property
    def households(self) -> int:
        """Return how many are drawn."""
        return self.seeds or (10 if self.full else 3)

    @property
    def visits(self) -> int:
        """Return the visits of each: two rounds of the kinds of visit, or one."""
        return len(KINDS) * (2 if self.full else 1)


@dataclass(frozen=True, eq=False)
class Seen:
    """One frame of a shot, and what was found in it."""

    at_s: float
    truth: Truth
    faces: Faces
    looks: Floats
    """(N, 272) appearance of each."""
    crops: Tuple[FaceCrop, ...]
    """Without their pictures, of which nothing is asked any more."""
    rated: Tuple[Quality, ...]
    worn: Tuple[Floats, ...]
    embedded: Tuple[Optional[Tuple[Floats, Quality]], ...]
    """Of each usable face (K,) features, and the quality with how recognisable it is taken in."""


class Take(NamedTuple):
    """What was seen in a shot."""

    visit: int
    camera: str
    frames: Tuple[Seen, ...]


class Stages(NamedTuple):
    """The product's."""

    detector: Detector
    encoder: Encoder
    recognizability: Recognizability
    strangers: Floats
    """(V, K) features of virtual strangers."""


def run(plan: Plan) -> Iterator[Row]:
    """Yield a row a method.

    Raises:
        EdgecamError: motmetrics is not installed.
        InputError: fewer than three people in the folder.
        ModelError: a net is missing or altered.
    """
    if importlib.util.find_spec("motmetrics") is None:
        raise EdgecamError(_NEEDS)
    stages = open_stages()
    people = read_people(plan.data, stages.detector)
    speeds = (FPS, FPS / _SLOW) if plan.full else (FPS,)
    found: Dict[Tuple[float, str], List[Row]] = {}
    for seed in range(plan.households):
        takes = [watch(shot, stages) for shot in compose(people, plan.visits, seed, stages.detector)]
        for fps in speeds:
            sparse = [take._replace(frames=take.frames[:: round(FPS / fps)]) for take in takes]
            for method in METHODS:
                found.setdefault((fps, method), []).append(judge(method, sparse, stages))
        shown = ", ".join(f"{method} {found[FPS, method][-1]['mota']:.3f}" for method in METHODS)
        say(f"household {seed + 1} of {plan.households}: {len(takes)} shots, MOTA {shown}")
    for (fps, method), rows in found.items():
        yield summed_up(method, fps, rows, found[fps, "ours"])


def open_stages() -> Stages:
    """Load the product's nets, one thread each."""
    config = Config.model_validate({"run": {"threads": 1, "providers": ["cpu"]}})
    detector, encoder = make_stages(config, ModelRegistry(default_folder()))
    model = strangers_of(EmbedConfig())
    return Stages(detector, encoder, Recognizability(encoder.project(model.ruin())[0]), model.draw(_LINK_DRAWS, seed=1))


# --- the product's path -----------------------------------------------------------------------------------------------


def watch(shot: Shot, stages: Stages) -> Take:
    """Look at every frame of a shot as the product does, and embed every usable face."""
    config, scene, frames = Config(), scene_of(shot), []
    for index in range(round(SHOT_S * FPS)):
        image = scene.at(index)
        faces = stages.detector(image)
        crops = [align.make_crop(image, box, marks) for box, marks in zip(faces.boxes, faces.landmarks)]
        rated = tuple(quality.assess(crop, config.quality) for crop in crops)
        embedded: List[Optional[Tuple[Floats, Quality]]] = [None] * len(crops)
        usable = [n for n, one in enumerate(rated) if one.ok]
        if usable:
            found = embed(stages.encoder, [crops[n] for n in usable])
            for n, row, plain in zip(usable, found.features, as_installed(stages.encoder, found)):
                embedded[n] = row, stages.recognizability.rate(rated[n], plain)
        worn = [_NOTHING if one.infrared else clothes(image, box) for one, box in zip(rated, faces.boxes)]
        bare = tuple(replace(crop, image=crop.image[:1, :1].copy()) for crop in crops)
        looks, truth = appearance(image, faces), truth_at(shot, index)
        frames.append(Seen(index / FPS, truth, faces, looks, bare, rated, tuple(worn), tuple(embedded)))
    return Take(shot.visit, shot.camera, tuple(frames))


def by_tracker(frames: Sequence[Seen]) -> List[Ints]:
    """Return the product's track of each face, from 1; 0 where it is taken for a picture."""
    tracker, out = Tracker(Config().track), []
    for frame in frames:
        tracks = tracker.update(frame.faces, frame.at_s, frame.looks)
        ids = np.zeros(len(frame.faces), np.int64)
        for box, track in zip(tracks.faces.boxes, tracks.ids):
            ids[(frame.faces.boxes == box).all(axis=1)] = track
        out.append(ids)
    return out


def by_overlap(frames: Sequence[Seen]) -> List[Ints]:
    """Return tracks of faces that overlap the track's last one, the most overlap in all."""
    last: Dict[int, Tuple[float, Floats]] = {}
    out: List[Ints] = []
    count = 0
    for frame in frames:
        last = {track: seen for track, seen in last.items() if frame.at_s - seen[0] <= _PATIENCE_S}
        ids, tracks = np.zeros(len(frame.faces), np.int64), list(last)
        overlap = iou(np.array([last[t][1] for t in tracks], np.float32).reshape(-1, 4), frame.faces.boxes)
        overlap[overlap < _IOU_LINK] = 0
        for i, j in assign(overlap) if overlap.size else ():
            if overlap[i, j] > 0:
                ids[j] = tracks[i]
        for j in np.flatnonzero(ids == 0):
            count += 1
            ids[j] = count
        last.update({int(track): (frame.at_s, box) for track, box in zip(ids, frame.faces.boxes)})
        out.append(ids)
    return out


def each_alone(frames: Sequence[Seen]) -> List[Ints]:
    """Return a track a face."""
    starts = np.cumsum([0, *(len(frame.faces) for frame in frames)])
    return [np.arange(start, start + len(frame.faces)) + 1 for start, frame in zip(starts, frames)]


_FOLLOW: Dict[str, Callable[[Sequence[Seen]], List[Ints]]] = {
    "ours": by_tracker,
    "noT": each_alone,
    "noC": by_tracker,
    "iou": by_overlap,
    "iou+C": by_overlap,
}


def kept_of(take: Take, ids: Sequence[Ints]) -> Dict[int, Track]:
    """Return what the product would keep of each track of a shot; of one without a usable face nothing.

    Args:
        take: the shot.
        ids: of each frame (N,) the track of each face, 0 for none.
    """
    records: Dict[int, TrackRecord] = {}
    of: Dict[int, Tuple[Seen, int]] = {}
    for frame, tracks in zip(take.frames, ids):
        for n, track in enumerate(tracks.tolist()):
            if not track:
                continue
            record = records.setdefault(track, TrackRecord(track, frame.at_s, Config().quality.best_k, track_id=track))
            of[id(frame.crops[n])] = (frame, n)
            if record.add(frame.crops[n], frame.rated[n], frame.at_s):
                _take_in(record.looks[-1], of)
                record.clothes.append(frame.worn[n])
    out = {}
    for track, record in records.items():
        for look in record.looks:
            _take_in(look, of)
        features, qualities, infrared = record.faces(FACES_A_TRACK)
        if len(features):
            out[track] = _track(take, track, record, features, qualities, infrared=infrared)
    return out


def _take_in(look: Look, of: Dict[int, Tuple[Seen, int]]) -> None:
    """Give a look what was found out of its face."""
    frame, n = of[id(look.crop)]
    found = frame.embedded[n]
    if found is not None:
        look.features, look.quality = found


def _track(
    take: Take, track: int, record: TrackRecord, features: Floats, qualities: Floats, *, infrared: bool
) -> Track:
    return Track(
        id=f"{take.visit} {take.camera} {track}",
        visit=str(take.visit),
        camera=take.camera,
        place="door",
        day=take.visit // _VISITS_A_DAY,
        first_s=record.first_s,
        # A face alone lasts as long as its frame, so that those beside it are known to be other people.
        last_s=max(record.last_s, record.first_s + 0.5 / FPS),
        mean=np.average(features, axis=0, weights=np.maximum(qualities, 1e-3)).astype(np.float32),
        features=features.astype(np.float16),
        qualities=qualities,
        infrared=infrared,
        live=True,
        clothes=mean_clothes(record.clothes),
        taken_for=None,
        person_id=None,
        nobody=False,
        grouped=False,
    )


def linked(tracks: Sequence[Track], stages: Stages) -> Tuple[Ints, float]:
    """Return (N,) who each track is, as the night links them, and the distance at which it stopped."""
    none = np.zeros((0, 0))
    watched = Watched(tuple(tracks), np.full(len(tracks), -1), (), none, none, none.astype(np.bool_), 0)
    known = constrain(tracks, watched.vectors(stages.encoder.project))
    kept = Kept(stages.encoder.base, watched, known, (), (), np.zeros(0, np.bool_))
    found = link(kept, stages.encoder.project, stages.strangers, np.zeros(len(tracks), np.bool_))
    return found.group, found.stop


# --- judging ----------------------------------------------------------------------------------------------------------


def judge(method: str, takes: Sequence[Take], stages: Stages) -> Row:
    """Return the metrics of one method on one household."""
    ids = [_FOLLOW[method](take.frames) for take in takes]
    names: List[Dict[int, int]] = []
    count = 0
    for of_shot in ids:
        there = sorted({int(track) for tracks in of_shot for track in tracks if track})
        names.append({track: count + k + 1 for k, track in enumerate(there)})
        count += len(there)
    stop: Optional[float] = None
    if method in _LINKED:
        kept = [(k, n, row) for k, take in enumerate(takes) for n, row in kept_of(take, ids[k]).items()]
        group, stop = linked([row for *_, row in kept], stages)
        for (k, n, _), who in zip(kept, group.tolist()):
            names[k][n] = count + 1 + who
    named = [
        [np.array([of_shot.get(int(track), 0) for track in tracks], np.int64) for tracks in ids[k]]
        for k, of_shot in enumerate(names)
    ]
    return measure([take.frames for take in takes], without_glimpses(takes, named), stop)


def without_glimpses(takes: Sequence[Take], named: Sequence[Sequence[Ints]]) -> List[List[Ints]]:
    """Return of each shot who each face is; who was there for a glimpse only is 0, as the product drops them."""
    times: Dict[int, List[Tuple[int, float]]] = {}
    for k, (take, shot_names) in enumerate(zip(takes, named)):
        for frame, who in zip(take.frames, shot_names):
            for name in who.tolist():
                times.setdefault(name, []).append((k, frame.at_s))
    glimpsed = [
        name
        for name, at in times.items()
        if len(at) < _GLIMPSE_FACES and at[0][0] == at[-1][0] and at[-1][1] - at[0][1] < _GLIMPSE_S
    ]
    return [[np.where(np.isin(who, glimpsed), 0, who) for who in shot_names] for shot_names in named]


def measure(shots: Sequence[Sequence[Seen]], named: Sequence[Sequence[Ints]], stop: Optional[float] = None) -> Row:
    """Return the metrics of identities given to the found faces, all shots being one sequence.

    Args:
        shots: the frames of each.
        named: of each frame (N,) who each found face is; 0 is left out.
        stop: told in the row.
    """
    import motmetrics

    book = motmetrics.MOTAccumulator(auto_id=True)
    identities = set()
    for frames, shot_names in zip(shots, named):
        for frame, who in zip(frames, shot_names):
            truth, wanted = frame.truth, frame.truth.seen >= SEEN
            overlap = iou(truth.boxes, frame.faces.boxes)
            hidden = (overlap[~wanted] >= _HIDDEN_BOX).any(axis=0) & ~(overlap[wanted] >= _SAME_BOX).any(axis=0)
            use = (who > 0) & ~hidden
            distance = np.where(overlap >= _SAME_BOX, 1.0 - overlap, np.nan)[wanted][:, use]
            book.update(truth.people[wanted].tolist(), who[use].tolist(), distance.astype(np.float64))
            identities |= set(who[use].tolist())
    wanted_names = ("recall", "precision", "idf1", "mota", "num_switches", "num_fragmentations", "num_objects")
    found = motmetrics.metrics.create().compute(book, metrics=wanted_names, return_dataframe=False)
    recall, precision = float(found["recall"]), float(found["precision"])
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / max(recall + precision, 1e-9),
        "idf1": float(found["idf1"]),
        "mota": float(found["mota"]),
        "ids": int(found["num_switches"]),
        "frag": int(found["num_fragmentations"]),
        "identities": len(identities),
        "faces": int(found["num_objects"]),
        "stop": stop,
    }


def summed_up(method: str, fps: float, rows: Sequence[Row], ours: Sequence[Row]) -> Row:
    """Return one method's means over households, with 95 % intervals under resampling of them; for rivals also of the
    paired difference, ours less theirs.
    """

    def interval(values: Numbers) -> Optional[List[float]]:
        found = bootstrap(len(values), lambda weights: float(np.average(values, weights=weights)), rounds=2000)
        return list(found) if found and len(values) > 1 else None

    columns = {key: np.array([row[key] for row in rows], np.float64) for key in rows[0] if key != "stop"}
    row: Row = {"method": method, **{key: float(values.mean()) for key, values in columns.items()}}
    row["ci95"] = {key: interval(columns[key]) for key in ("idf1", "mota", "ids")}
    row["fps"], row["seeds"] = fps, len(rows)
    if rows[0]["stop"] is not None:
        row["stop"] = float(np.mean([one["stop"] for one in rows]))
    if method != "ours":
        gain = {key: np.array([one[key] for one in ours]) - columns[key] for key in ("idf1", "mota", "ids")}
        row["ours_less_this"] = {key: [float(value.mean()), *(interval(value) or [])] for key, value in gain.items()}
    return row
