"""`edgecam eval night`: households whose door is dark, before and after a night's tuning.

Photos are degraded as a cheap camera sees faces at night: grey, 28 to 44 px wide, dark, blurred, noisy. Every household
has enrolled clean photos. Its visits are composed: residents, alone or by twos, with devices that are missed or heard
wrongly at stated rates, and visitors without one. What a face of a visit is the night finds out as in the product, by
associating faces and devices; the truth is used to judge alone. Photos for enrolment, visits and judging are different
ones; strangers who ring when it is judged are people who take part in nothing else, and so are the people behind the
statistics of virtual strangers, on whom the constants of the training were chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from edgecam import quality
from edgecam.adapt.apart import Job, Kind, Trained
from edgecam.adapt.apart import Options as TrainOptions
from edgecam.adapt.rounds import Adapted, Material, adapt
from edgecam.adapt.samples import Samples
from edgecam.associate import Scene
from edgecam.capture.photo import read_photo
from edgecam.config import EmbedConfig, IdentifyConfig, QualityConfig
from edgecam.errors import InputError
from edgecam.evaluation.faces import WORKERS, Bench, columns, open_bench, photos_of, say
from edgecam.evaluation.strangers import half_of, largest_face, padded
from edgecam.identify import Household, Identifier, Recognizability
from edgecam.metrics import Numbers, bootstrap, threshold_at
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import _CHUNK, _DRAWS, strangers_of
from edgecam.types import FaceCrop, Floats, Ints

Row = Dict[str, Any]

WIDTH_PX = (28.0, 44.0)
"""Of the face's box."""
GAIN = (0.15, 0.45)
BLUR_PX = (0.3, 0.8)
NOISE = (4.0, 9.0)
"""Standard deviation, of 255."""

MISSED, WRONG, VISITORS, TOGETHER = 0.2, 0.1, 0.3, 0.2
"""Rates: a resident's device is silent though its owner is seen; it is heard though its owner is not; visits of
strangers; visits of two residents."""

HOME, ENROLLED = 5, 4
EQUAL_FPIR = 0.01
_PHOTOS_MAX, _PHOTOS_WANTED, _PHOTOS_MIN = 30, 14, 6
_RESIDENTS = 24
_WILD = 0.6
"""Share of the photos beyond the enrolled ones that visits are made of."""
_LOOKS, _TEST_LOOKS = 6, 2
"""Night looks at a photo: for two visits, and for judging."""
_FACES = 3
"""Of a track of a visit."""
_DAYS = 7
_STRANGERS, _STRANGERS_WANTED = 400, 300
_TEACHING = 60
"""Visitors in the composed visits."""
_FRESH = 1000
"""First seed of the virtual strangers that predict; others set the thresholds."""
_FRESH_DRAWS = 4


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    cache: Optional[Path] = None
    encoder: Kind = "fused"
    seeds: Optional[int] = None
    households: int = 20
    first_seed: int = 0
    train: TrainOptions = field(default_factory=TrainOptions)
    half: str = "odd"
    """Whose photos; the even people set the constants."""

    @property
    def seeds_drawn(self) -> int:
        """Return how often the households and their visits are drawn."""
        return self.seeds or (5 if self.full else 1)


class Pool(NamedTuple):
    """Everybody's faces; N rows."""

    people: Tuple[str, ...]
    residents: Tuple[int, ...]
    """Positions of the people who live in households; those with the most photos."""
    strangers: Tuple[int, ...]
    """People who ring when it is judged."""
    visitors: Tuple[int, ...]
    """People of the composed visits."""
    person: Ints
    """(N,) position in `people`."""
    photo: Ints
    """(N,)."""
    look: Ints
    """(N,) 0 the photo itself, from 1 on as seen at night."""
    features: Floats
    """(N, K) of the joint encoder."""
    good: Floats
    """(N,) 1 where the product's quality gate lets it pass."""


def night_look(crop: FaceCrop, rng: np.random.Generator) -> FaceCrop:
    """Return the face as a cheap camera sees it at night; the face is found on the photo itself."""
    height, width = crop.image.shape[:2]
    small = float(rng.uniform(*WIDTH_PX)) / float(crop.box[2])
    size = max(8, round(width * small)), max(8, round(height * small))
    grey = cv2.cvtColor(crop.image, cv2.COLOR_BGR2GRAY)
    how = cv2.INTER_AREA if small < 1 else cv2.INTER_LINEAR
    light = cv2.resize(grey, size, interpolation=how).astype(np.float32) * float(rng.uniform(*GAIN))
    light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(*BLUR_PX)))
    noisy = np.clip(light + rng.normal(0.0, rng.uniform(*NOISE), light.shape), 0.0, 255.0).astype(np.uint8)
    per_px = np.array([size[0] / width, size[1] / height], np.float32)
    box = (crop.box * np.tile(per_px, 2)).astype(np.float32)
    return FaceCrop(cv2.cvtColor(noisy, cv2.COLOR_GRAY2BGR), box, (crop.landmarks * per_px).astype(np.float32))


def run(options: Options) -> Iterator[Row]:
    """Yield a row a household, seed, domain and head, then a summary.

    Raises:
        InputError: too few people or photos.
    """
    bench = open_bench()
    pool = read_pool(options, bench)
    yield from nights(options, pool, _Door.of(options, bench))


def nights(options: Options, pool: Pool, door: _Door) -> Iterator[Row]:
    """Yield the rows of a pool that was read."""
    size = min(HOME, len(pool.residents) - 1)
    outcomes: List[Outcome] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds_drawn):
        rng = np.random.default_rng((3, seed))
        for number in range(options.households):
            people = tuple(int(p) for p in rng.choice(pool.residents, size, replace=False))
            outcome = _night(pool, door, people, seed * options.households + number, options)
            outcomes.append(outcome)
            for domain in ("night", "clean"):
                for tuned in (False, True):
                    yield outcome.row(number, seed, domain, tuned=tuned)
            say(
                f"seed {seed}, household {number}: TPIR at night {outcome.tpir('night', 0):.3f} -> "
                f"{outcome.tpir('night', 1):.3f}, {outcome.trainings} trainings {outcome.reason}"
            )
    yield from summary(outcomes, len(pool.people), options.encoder)


# --- pictures ---------------------------------------------------------------------------------------------------------


def read_pool(options: Options, bench: Bench) -> Pool:
    """Read, degrade and encode everybody who takes part.

    Raises:
        InputError: fewer than three people with six photos.
    """
    by_person: Dict[str, List[Path]] = {}
    for person, path in photos_of(options.data):
        by_person.setdefault(person, []).append(path)
    half = {p: paths for p, paths in by_person.items() if half_of(p) == options.half}
    if sum(len(paths) >= _PHOTOS_WANTED for paths in half.values()) > 2 * HOME:
        by_person = half
    else:
        say("too few people to be halved: some may be behind the statistics of virtual strangers")
    enough = _PHOTOS_WANTED
    while enough > _PHOTOS_MIN and sum(len(paths) >= enough for paths in by_person.values()) <= HOME:
        enough -= 1
    rich = sorted((p for p, paths in by_person.items() if len(paths) >= enough), key=lambda p: (-len(by_person[p]), p))
    rest = sorted((p for p in by_person if p not in rich[:_RESIDENTS]), key=_digest)
    if not rest:  # everybody has many photos: some must ring
        rich, rest = rich[: (len(rich) + 1) // 2 + 1], sorted(rich[(len(rich) + 1) // 2 + 1 :], key=_digest)
    rich = rich[:_RESIDENTS]
    if len(rich) < 3 or len(rest) < 2:
        raise InputError(f"{options.data}: {len(rich)} people with {enough} photos and {len(rest)} others; too few")
    visitors = rest[: min(_TEACHING, len(rest) // 4 + 1)]
    strangers = rest[len(visitors) : len(visitors) + _STRANGERS]
    if len(strangers) < _STRANGERS_WANTED:
        say(f"{len(strangers)} strangers instead of the protocol's {_STRANGERS_WANTED}: intervals are wide")
    people = tuple(rich + visitors + strangers)
    shown = _STRANGERS_WANTED // max(len(strangers), 1) + 1 if len(strangers) < _STRANGERS_WANTED else 1
    plan = [
        (n, path, looks)
        for names, photos, looks in ((rich, _PHOTOS_MAX, _LOOKS), (visitors, 3, _LOOKS // 2), (strangers, shown, 1))
        for n, paths in ((people.index(p), by_person[p]) for p in names)
        for path in paths[:photos]
    ]
    rows = _encoded(options, bench, plan)
    at = {kind: tuple(people.index(p) for p in names) for kind, names in (("r", rich), ("s", strangers))}
    pool = Pool(people, at["r"], at["s"], tuple(people.index(p) for p in visitors), *rows)
    say(f"{len(rich)} residents, {len(visitors)} visitors, {len(strangers)} strangers, {len(rows[0])} faces")
    say(f"the quality gate would let {pool.good[pool.look > 0].mean():.0%} of the night's faces pass; all are judged")
    return pool


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _encoded(
    options: Options, bench: Bench, plan: Sequence[Tuple[int, Path, int]]
) -> Tuple[Ints, Ints, Ints, Floats, Floats]:
    key = f"{bench.encoder.version} {options.pad:g} " + _digest(" ".join(f"{n}/{p.name}/{k}" for n, p, k in plan))
    if options.cache is not None and options.cache.exists():
        with np.load(options.cache) as data:
            if str(data["key"]) == key:
                who, photo, look = (data[n].astype(np.int64) for n in ("person", "photo", "look"))
                return who, photo, look, data["features"].astype(np.float32), data["good"].astype(np.float32)
    config = QualityConfig()

    def one(job: Tuple[int, Path, int]) -> Optional[Tuple[Floats, List[float]]]:
        _, path, looks = job
        try:
            crop = largest_face(padded(read_photo(path), options.pad), bench.detector)
        except InputError as err:
            say(f"left out: {err}")
            return None
        if crop is None:
            return None
        seed = int(_digest(path.name)[:8], 16)
        crops = [crop, *(night_look(crop, np.random.default_rng((seed, k))) for k in range(looks))]
        return bench.encoder.features(crops), [float(quality.assess(c, config).ok) for c in crops]

    who, photo, look = [], [], []
    features: List[Floats] = []
    good: List[float] = []
    with ThreadPoolExecutor(WORKERS) as workers:
        for i, (job, face) in enumerate(zip(plan, workers.map(one, plan))):
            if face is not None:
                features.append(face[0])
                good += face[1]
                who += [job[0]] * len(face[0])
                photo += [i] * len(face[0])
                look += range(len(face[0]))
            if (i + 1) % 100 == 0 or i + 1 == len(plan):
                say(f"{i + 1} of {len(plan)} photos, {i + 1 - len(features)} without a face")
    out = (np.array(who), np.array(photo), np.array(look), np.concatenate(features), np.array(good, np.float32))
    if options.cache is not None:
        named = dict(zip(("person", "photo", "look"), out[:3]))
        np.savez(options.cache, key=np.array(key), features=out[3].astype(np.float16), good=out[4], **named)
    return out


# --- one household's weeks --------------------------------------------------------------------------------------------


class Weeks(NamedTuple):
    """What a household's door saw; numbers are rows of the pool."""

    enrolled: Tuple[Ints, ...]
    """Of each resident, clean."""
    judged: Tuple[Ints, ...]
    """Of each resident, clean and at night."""
    tracks: Tuple[Ints, ...]
    """Faces of each track."""
    truth: Ints
    """(T,) resident of each track, -1 a visitor."""
    visits: Ints
    """(T,) visit of each track."""
    heard: Numbers
    """(visits, residents) whether the device was."""
    days: Ints
    """(T,)."""


def compose(pool: Pool, people: Sequence[int], rng: np.random.Generator) -> Weeks:
    """Draw the photos and the visits of a household."""
    enrolled, judged = [], []
    queue: List[Tuple[int, Ints]] = []
    for k, person in enumerate(people):
        photos = rng.permutation(np.unique(pool.photo[pool.person == person]))
        first = min(ENROLLED, max(1, len(photos) - 4))
        last = first + max(2, int(_WILD * (len(photos) - first)))
        of_person = pool.person == person
        enrolled.append(np.flatnonzero(of_person & np.isin(pool.photo, photos[:first]) & (pool.look == 0)))
        judged.append(np.flatnonzero(of_person & np.isin(pool.photo, photos[last:]) & (pool.look <= _TEST_LOOKS)))
        for photo in photos[first:last]:
            looks = rng.permutation(np.flatnonzero((pool.photo == photo) & (pool.look > 0)))
            queue += [(k, looks[n : n + _FACES]) for n in range(0, len(looks), _FACES)]
    queue = [queue[int(i)] for i in rng.permutation(len(queue))]
    tracks: List[Ints] = []
    truth: List[int] = []
    visits: List[int] = []
    there: List[List[int]] = []
    while queue:
        residents = [queue.pop()]
        other = next((n for n, (k, _) in enumerate(queue) if k != residents[0][0]), None)
        if other is not None and rng.random() < TOGETHER:
            residents.append(queue.pop(other))
        for k, rows in residents:
            tracks.append(rows)
            truth.append(k)
            visits.append(len(there))
        there.append([k for k, _ in residents])
    calls = round(len(there) * VISITORS / (1.0 - VISITORS))
    for person in rng.permutation(np.resize(rng.permutation(pool.visitors), calls)):
        rows = np.flatnonzero((pool.person == person) & (pool.look > 0))
        if len(rows):
            photo = rng.choice(np.unique(pool.photo[rows]))
            tracks.append(rows[pool.photo[rows] == photo][:_FACES])
            truth.append(-1)
            visits.append(len(there))
            there.append([])
    heard = rng.random((len(there), len(people))) < WRONG
    for n, residents_there in enumerate(there):
        for k in residents_there:
            heard[n, k] = rng.random() >= MISSED
    day = rng.integers(0, _DAYS, len(there))
    placed = np.array(visits)
    return Weeks(
        tuple(enrolled), tuple(judged), tuple(tracks), np.array(truth), placed, heard.astype(np.float64), day[placed]
    )  # fmt: skip


def material_of(pool: Pool, weeks: Weeks, features: Floats) -> Material:
    """Return what the night is given; `features` are the encoder's own columns."""
    residents = len(weeks.enrolled)
    rows = np.concatenate([*weeks.enrolled, *weeks.tracks])
    sizes = [len(r) for r in (*weeks.enrolled, *weeks.tracks)]
    shares = np.zeros((len(sizes), residents), np.float32)
    shares[:residents] = np.eye(residents)
    pairs = [
        (a, b)
        for a in range(len(weeks.tracks))
        for b in range(a + 1, len(weeks.tracks))
        if weeks.visits[a] == weeks.visits[b]
    ]
    apart = np.array(pairs, np.int64).reshape(-1, 2)
    people = tuple(f"p{k}" for k in range(residents))
    samples = Samples(
        features=features[rows],
        group=np.repeat(np.arange(len(sizes)), sizes),
        shares=shares,
        people=people,
        apart=apart + residents,
        domain=(pool.look[rows] > 0).astype(np.int64),
        enrolled=np.arange(len(rows)) < sum(sizes[:residents]),
    )
    none = np.zeros((len(weeks.tracks), 1), np.float32)
    scene = Scene(none, weeks.visits, weeks.heard, apart=apart)
    means = np.stack([features[track].mean(axis=0) for track in weeks.tracks])
    return Material(samples, scene, residents + np.arange(len(weeks.tracks)), means, people, weeks.days)


class _Door(NamedTuple):
    """The encoder, and the virtual strangers that set and predict."""

    bench: Bench
    kind: Kind
    file: bytes
    drawn: Floats
    fresh: Floats

    @staticmethod
    def of(options: Options, bench: Bench) -> _Door:
        model = strangers_of(EmbedConfig.model_validate({"kind": options.encoder}))
        drawn = np.concatenate([model.draw(_CHUNK, seed) for seed in range(_DRAWS // _CHUNK)])
        fresh = np.concatenate([model.draw(_CHUNK, _FRESH + seed) for seed in range(_FRESH_DRAWS)])
        file = ModelRegistry(default_folder()).path("facenet_head").read_bytes()
        return _Door(bench, options.encoder, file, drawn, fresh)

    def project(self, heads: Mapping[str, bytes], features: Floats) -> Floats:
        encoder = self.bench.kinds[self.kind]
        if heads:
            encoder = encoder.with_heads(heads, "tuned")
        parts = [encoder.project(np.ascontiguousarray(features[i : i + 500])) for i in range(0, len(features), 500)]
        return np.concatenate(parts) if parts else np.zeros((0, encoder.dim), np.float32)


def _night(pool: Pool, door: _Door, people: Tuple[int, ...], seed: int, options: Options) -> Outcome:
    from edgecam.adapt.train import train

    weeks = compose(pool, people, np.random.default_rng((5, seed)))
    features = np.ascontiguousarray(pool.features[:, columns(door.kind)])

    def tune(last: bool, samples: Samples, _: Ints) -> Trained:
        return train(Job(door.kind, door.file, samples, door.drawn[:_FRESH], options.train.of(last=last)))

    material = material_of(pool, weeks, features)
    done = adapt(material, partial(tune, True), door.project, sketch=partial(tune, False))
    before = _judge(pool, door, people, weeks, features, {})
    after = _judge(pool, door, people, weeks, features, done.trained.heads)
    return Outcome(people, (before, after), done.trainings, done.trained.reason, *_labels(done, weeks))


def _labels(done: Adapted, weeks: Weeks) -> Tuple[float, float]:
    """Return the share of tracks that taught, and of those named the share named rightly."""
    said = done.found.named()
    named = done.taught & (said >= 0)
    return float(done.taught.mean()), float((said == weeks.truth)[named].mean()) if named.any() else float("nan")


class Judged(NamedTuple):
    """What one head says; by domain."""

    person: Dict[str, Ints]
    """(N,) person of each probe of a resident."""
    mate: Dict[str, Numbers]
    """(N,) similarity where the nearest resident is the right one, else -1."""
    named: Dict[str, Numbers]
    """(N,) whether the product would name the right one."""
    stranger: Dict[str, Ints]
    """(S,) person of each stranger's probe."""
    score: Dict[str, Numbers]
    """(S,) similarity to the nearest resident."""
    threshold: float
    predicted: float
    """Share of fresh virtual strangers over the threshold."""


def _judge(
    pool: Pool, door: _Door, people: Tuple[int, ...], weeks: Weeks, features: Floats, heads: Mapping[str, bytes]
) -> Judged:
    project = partial(door.project, heads)
    enrolled = [(f"p{k}", v, False) for k, rows in enumerate(weeks.enrolled) for v in project(features[rows])]
    drawn = project(door.drawn)
    identifier = Identifier(Household.of(enrolled), [drawn], IdentifyConfig(), Recognizability(drawn[0]))
    threshold = identifier.calibration.threshold
    out = Judged({}, {}, {}, {}, {}, threshold, float((_top(identifier, project(door.fresh)) >= threshold).mean()))
    rows = np.concatenate(weeks.judged)
    owner = np.repeat(np.arange(len(people)), [len(r) for r in weeks.judged])
    ringing = np.flatnonzero(np.isin(pool.person, pool.strangers))
    for domain in ("night", "clean"):
        mine = (pool.look[rows] > 0) == (domain == "night")
        scores = identifier.scores(project(features[rows[mine]]))
        right = scores.argmax(axis=1) == owner[mine]
        out.person[domain] = np.array(people)[owner[mine]]
        out.mate[domain] = np.where(right, scores.max(axis=1), -1.0)
        out.named[domain] = (out.mate[domain] >= threshold).astype(np.float64)
        theirs = ringing[(pool.look[ringing] > 0) == (domain == "night")]
        out.stranger[domain] = pool.person[theirs]
        out.score[domain] = _top(identifier, project(features[theirs]))
    return out


def _top(identifier: Identifier, vectors: Floats) -> Numbers:
    best: Numbers = identifier.scores(vectors).max(axis=1)
    return best


# --- figures ----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """One household of one seed."""

    people: Tuple[int, ...]
    judged: Tuple[Judged, Judged]
    """Before and after."""
    trainings: int
    reason: str
    taught: float
    rightly: float

    def tpir(self, domain: str, tuned: int, w: Optional[Numbers] = None) -> float:
        """Return the share of residents' probes above the similarity that 1 % of the strangers exceed."""
        own = self.judged[tuned]
        level = threshold_at(own.score[domain], EQUAL_FPIR, None if w is None else w[own.stranger[domain]])
        return _mean((own.mate[domain] > level).astype(np.float64), own.person[domain], w)

    def named(self, domain: str, tuned: int, w: Optional[Numbers] = None) -> float:
        """Return the share named rightly at the household's own threshold."""
        return _mean(self.judged[tuned].named[domain], self.judged[tuned].person[domain], w)

    def fpir(self, domain: str, tuned: int, w: Optional[Numbers] = None) -> float:
        """Return the share of strangers over the household's own threshold."""
        own = self.judged[tuned]
        return _mean((own.score[domain] >= own.threshold).astype(np.float64), own.stranger[domain], w)

    def row(self, household: int, seed: int, domain: str, *, tuned: bool) -> Row:
        """Return the row of one head; the interval is of `tpir`, its people resampled."""
        identities = 1 + int(max(p.max() for p in (self.judged[0].person[domain], self.judged[0].stranger[domain])))
        found = bootstrap(identities, lambda w: self.tpir(domain, int(tuned), w), rounds=100)
        return {
            "household": household,
            "seed": seed,
            "domain": domain,
            "tuned": tuned,
            "tpir": round(self.tpir(domain, int(tuned)), 4),
            "fpir": round(self.fpir(domain, int(tuned)), 5),
            "ci95": None if found is None else [round(v, 4) for v in found],
            "named": round(self.named(domain, int(tuned)), 4),
            "threshold": round(self.judged[int(tuned)].threshold, 4),
            "predicted_fpir": round(self.judged[int(tuned)].predicted, 5),
            "taught": round(self.taught, 3),
            "labels_right": round(self.rightly, 3),
            "trainings": self.trainings,
        }


def _mean(values: Numbers, person: Ints, w: Optional[Numbers]) -> float:
    weights = np.ones(len(values)) if w is None else w[person]
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total else float("nan")


def summary(outcomes: Sequence[Outcome], identities: int, kind: str) -> Iterator[Row]:
    """Yield, by domain, each figure before and after and its paired gain; whole people are resampled."""
    figures: List[Tuple[str, Callable[..., float]]] = [
        ("tpir_at_fpir_1%", Outcome.tpir),
        ("named_at_own_threshold", Outcome.named),
        ("strangers_named", Outcome.fpir),
    ]
    for domain in ("night", "clean"):
        for metric, figure in figures:

            def mean(w: Numbers, tuned: int, figure: Any = figure, domain: str = domain) -> float:
                values = np.array([figure(o, domain, tuned, w) for o in outcomes])
                weights = np.array([w[list(o.people)].sum() for o in outcomes])
                there = ~np.isnan(values)
                return float(np.average(values[there], weights=weights[there])) if weights[there].any() else np.nan

            ones = np.ones(identities)
            before, after = mean(ones, 0), mean(ones, 1)
            found = bootstrap(identities, lambda w, mean=mean: mean(w, 1) - mean(w, 0))  # type: ignore[misc]
            yield {
                "summary": metric,
                "encoder": kind,
                "domain": domain,
                "before": round(before, 5),
                "after": round(after, 5),
                "gain": round(after - before, 5),
                "ci95": None if found is None else [round(v, 5) for v in found],
                "households": len(outcomes),
            }
    predicted = [float(np.mean([o.judged[tuned].predicted for o in outcomes])) for tuned in (0, 1)]
    yield {
        "summary": "predicted_fpir",
        "encoder": kind,
        "before": round(predicted[0], 5),
        "after": round(predicted[1], 5),
        "gain": round(predicted[1] - predicted[0], 5),
        "households": len(outcomes),
        "tuned": sum(not o.reason for o in outcomes),
        "taught": round(float(np.mean([o.taught for o in outcomes])), 3),
        "labels_right": round(float(np.nanmean([o.rightly for o in outcomes])), 3),
    }


# --- what the constants were chosen by --------------------------------------------------------------------------------

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "blend 1": {"blend": 1.0},
    "blend 0.7": {"blend": 0.7},
    "blend 0.5": {"blend": 0.5},
    "blend 0.3": {"blend": 0.3},
    "blend 0.2": {"blend": 0.2},
    "blend 0.1": {"blend": 0.1},
    "blend 0": {"blend": 0.0},
    "blend 1, L2-SP 10": {"blend": 1.0, "stay": 10.0},
    "blend 1, L2-SP 100": {"blend": 1.0, "stay": 100.0},
    "blend 1, like base": {"blend": 1.0, "like_base": 2.0},
    "no triplets": {"triplets": 0.0},
    "nobody 0.3": {"nobody": 0.3},
    "nobody 0.1": {"nobody": 0.1},
    "ten epochs": {"epochs": 10},
}
"""Of the training, on the even people; the rest as by default."""


def main() -> int:
    """Print the summaries of `CHOICES` on the people that constants are chosen by."""
    parser = argparse.ArgumentParser(description="choose the training's constants on the calibration half")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--encoder", choices=("fused", "facenet", "sface"), default="fused")
    parser.add_argument("--households", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=tuple(CHOICES), default=tuple(CHOICES))
    args = parser.parse_args()
    start = Options(args.data, cache=args.cache, encoder=args.encoder, households=args.households, half="even")
    bench = open_bench()
    pool, door = read_pool(start, bench), _Door.of(start, bench)
    for name in args.only:
        options = replace(start, train=replace(start.train, **CHOICES[name]))
        for row in nights(options, pool, door):
            if "summary" in row:
                print(json.dumps({"choice": name, **row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
