"""`edgecam eval poison`: does a poisoned night do harm?

Composed from a folder of people: five are enrolled by clear photos, come for a week at night, and a machine labels what
it sees. Some labels are poisoned. The night is played with neither protection, with each, and with both; what counts is
whether the version that would go into service then names the stranger in pictures that nobody has seen before.

labels: 30 % of one resident's labels are another's (a resident's or a stranger's, by turns).
clone: a stranger with a resident's phone comes on three days, and each picture is labelled as the resident.
look-alike: the same by that outsider who looks most like the resident.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam import quality
from edgecam.adapt.apart import Job, Kind, require_torch
from edgecam.adapt.apart import Options as TrainOptions
from edgecam.adapt.gate import Gallery, GateReport, Project, Strangers, Verified, Version, judge
from edgecam.adapt.quarantine import Evidence, locked_faces, quarantine
from edgecam.adapt.samples import Samples
from edgecam.capture.photo import read_photo
from edgecam.config import EmbedConfig, QualityConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder
from edgecam.embed.sface import unit
from edgecam.errors import EdgecamError, InputError
from edgecam.evaluation.faces import WORKERS, Bench, Doors, open_bench, photos_of, say
from edgecam.evaluation.night import night_look
from edgecam.evaluation.strangers import largest_face, padded
from edgecam.identify import Identifier, StrangerModel
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import _CHUNK, _DRAWS, strangers_of
from edgecam.types import FaceCrop, Floats, Ints, Verdict

Row = Dict[str, Any]
Tune = Callable[[Samples, int], Project]
"""Learns from samples with a seed and returns the tuned head."""

ATTACKS = ("none", "labels", "clone", "look-alike")
HOME = 5
ENROLLED = 5
_PHOTOS_MIN = 14
_LOOKS = 2
"""Faces of a track: one photo in the dark (`eval night`), and nearer, under a lamp."""
_PEOPLE_MIN = HOME + 2
_CONFIRMED, _TESTED = 3, 2
"""Pictures of each resident that a person confirms, and that nobody sees before the end; a machine labels the rest."""
_POISON_SHARE = 0.3
_SHOWN = 8
"""Pictures that the stranger leaves within three days."""
_DAYS = 7
_TAUGHT = 2000
"""Virtual strangers that training sees."""


class Pool(NamedTuple):
    """Faces of N photos: as they are, and in looks of the night (`eval night`)."""

    people: Tuple[str, ...]
    rows: Tuple[Ints, ...]
    """By person: numbers of the photos."""
    clear: Floats
    """(N, K)."""
    night: Floats
    """(N, L, K)."""


def read_pool(
    data: Path,
    detector: Detector,
    encoder: Encoder,
    people: int = 60,
    pad: float = 0.25,
    cache: Optional[Path] = None,
    photos: int = 24,
) -> Pool:
    """Encode the photos of the people who have most.

    Args:
        data: one folder of photos a person.
        detector: of faces.
        encoder: as installed.
        people: so many at most.
        pad: border replicated around tight crops.
        cache: an .npz of an earlier run.
        photos: so many of each at most.

    Raises:
        InputError: too few people with enough photos.
    """
    by_person: Dict[str, List[Path]] = {}
    for person, path in photos_of(data):
        by_person.setdefault(person, []).append(path)
    rich = sorted((p for p in by_person if len(by_person[p]) >= _PHOTOS_MIN), key=lambda p: (-len(by_person[p]), p))
    if len(rich) < _PEOPLE_MIN:
        raise InputError(f"{data}: {len(rich)} people with {_PHOTOS_MIN} photos, {_PEOPLE_MIN} are needed")
    plan = [(person, path) for person in rich[:people] for path in by_person[person][:photos]]
    good, features = _encoded(plan, detector, encoder, pad, cache)
    who = np.array([person for person, _ in plan])
    rows = [(p, np.flatnonzero((who == p) & good)) for p in rich[:people]]
    enough = [(p, r) for p, r in rows if len(r) >= _PHOTOS_MIN]
    say(f"{len(plan)} photos, {len(enough)} people with {_PHOTOS_MIN} usable ones")
    if len(enough) < _PEOPLE_MIN:
        raise InputError(f"{data}: {len(enough)} people with {_PHOTOS_MIN} usable photos, {_PEOPLE_MIN} are needed")
    return Pool(tuple(p for p, _ in enough), tuple(r for _, r in enough), features[:, 0], features[:, 1:])


def lamp_look(crop: FaceCrop, rng: np.random.Generator) -> FaceCrop:
    """Return the face as a cheap camera sees it under a weak lamp: its picture 36 to 60 pixels high, dim, noisy."""
    height, width = crop.image.shape[:2]
    scale = int(rng.integers(36, 60)) / height
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(cv2.cvtColor(crop.image, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
    light = small.astype(np.float32) * rng.uniform(0.35, 0.7)
    dim = np.clip(light + rng.normal(0.0, rng.uniform(3.0, 8.0), light.shape), 0.0, 255.0).astype(np.uint8)
    grey = cv2.resize(dim, (width, height), interpolation=cv2.INTER_CUBIC)
    return replace(crop, image=cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))


def _encoded(
    plan: Sequence[Tuple[str, Path]], detector: Detector, encoder: Encoder, pad: float, cache: Optional[Path]
) -> Tuple[NDArray[np.bool_], Floats]:
    """Return (N,) whether the photo passes the quality gate and (N, 1 + L, K) features of it and its night looks."""
    key = np.array([f"{encoder.version} {pad:g} {_LOOKS}", *(path.name for _, path in plan)])
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            if np.array_equal(kept["key"], key):
                return kept["good"], kept["features"].astype(np.float32)

    def one(number: int) -> Optional[Floats]:
        crop = largest_face(padded(read_photo(plan[number][1]), pad), detector)
        if crop is None or not quality.assess(crop, QualityConfig()).ok:
            return None
        rng = np.random.default_rng((5, number))
        return encoder.features([crop, night_look(crop, rng), lamp_look(crop, rng)])

    good = np.zeros(len(plan), np.bool_)
    rows: List[Floats] = []
    with ThreadPoolExecutor(WORKERS) as workers:
        for n, faces in enumerate(workers.map(one, range(len(plan)))):
            if faces is not None:
                good[n] = True
                rows.append(faces)
            if (n + 1) % 200 == 0 or n + 1 == len(plan):
                say(f"{n + 1} of {len(plan)} photos")
    features: Floats = np.zeros((len(plan), *rows[0].shape), np.float32) if rows else np.zeros((0, 1, 1), np.float32)
    features[good] = rows
    if cache is not None:
        np.savez(cache, key=key, good=good, features=features.astype(np.float16))
    return good, features


# --- one night --------------------------------------------------------------------------------------------------------


class Night(NamedTuple):
    """What a box would have before the night, and who comes afterwards."""

    gallery: Gallery
    samples: Samples
    evidence: Evidence
    poisoned: NDArray[np.bool_]
    """(G,) whether the group's label is wrong."""
    verified: Verified
    tests: Floats
    """(L * T, K) later pictures of the residents."""
    test_owner: Ints
    later: Floats
    """(L * S, K) later pictures of whoever was mistaken for the first resident."""


class Cast(NamedTuple):
    """Who plays what; numbers are rows of the pool."""

    home: Tuple[int, ...]
    """Positions in the pool of those who are enrolled; the first is the victim."""
    enrol: List[Ints]
    confirmed: List[Ints]
    tests: List[Ints]
    learn: List[Ints]
    """What the machine labels rightly."""
    poison: Ints
    """What it labels as the victim, and is another."""
    later: Ints
    """Further pictures of that other."""


def cast(pool: Pool, attack: str, seed: int, likeness: Floats) -> Cast:
    """Draw a household and, for an attack, the pictures that are mistaken for its first member's.

    Args:
        pool: of pictures.
        attack: of `ATTACKS`.
        seed: of all that is drawn.
        likeness: (P, P) cosine of everybody's mean clear face to everybody's.
    """
    rng = np.random.default_rng((11, seed))
    home = tuple(int(i) for i in rng.choice(len(pool.people), HOME, replace=False))
    mine = [rng.permutation(pool.rows[i]) for i in home]
    second, third = ENROLLED + _CONFIRMED, ENROLLED + _CONFIRMED + _TESTED
    learn, tests = [rows[third:] for rows in mine], [rows[second:third] for rows in mine]
    enrol, confirmed = [rows[:ENROLLED] for rows in mine], [rows[ENROLLED:second] for rows in mine]
    nothing = np.zeros(0, np.int64)
    if attack == "none":
        return Cast(home, enrol, confirmed, tests, learn, nothing, nothing)
    others = [i for i in range(len(pool.people)) if i not in home]
    other = (
        max(others, key=lambda i: float(likeness[i, home[0]])) if attack == "look-alike" else int(rng.choice(others))
    )
    theirs = rng.permutation(pool.rows[other])
    shown = min(_SHOWN, len(theirs) - _TESTED)
    if attack == "labels":
        shown = max(1, min(shown, round(_POISON_SHARE * len(learn[0]))))
        learn[0] = learn[0][: len(learn[0]) - shown]
    if attack == "labels" and seed % 2:  # another resident's
        shown = min(shown, len(learn[1]) - 1)
        poison, learn[1] = learn[1][:shown], learn[1][shown:]
        return Cast(home, enrol, confirmed, tests, learn, poison, tests[1])
    return Cast(home, enrol, confirmed, tests, learn, theirs[:shown], theirs[shown:])


def compose(pool: Pool, roles: Cast, seed: int) -> Night:
    """Return the night of one household."""
    rng = np.random.default_rng((13, seed))

    def tracks(photos: Ints) -> Floats:
        """Return (L * T, K) features of a track a photo."""
        rows = pool.night[photos]
        return rows.reshape(len(photos) * _LOOKS, rows.shape[2])

    people = tuple(pool.people[i] for i in roles.home)
    enrolled, locked, tests = (np.concatenate(part) for part in (roles.enrol, roles.confirmed, roles.tests))
    photos = pool.clear[enrolled]
    owner = np.repeat(np.arange(HOME), ENROLLED)
    seen = np.concatenate([*roles.learn, roles.poison])
    victim = np.zeros(len(roles.poison), np.int64)
    label = np.concatenate([np.repeat(np.arange(HOME), [len(part) for part in roles.learn]), victim])
    day = np.concatenate([rng.integers(0, _DAYS, len(seen) - len(victim)), np.arange(len(victim)) % 3])
    groups = HOME + len(seen)
    samples = Samples(
        features=np.concatenate([photos, tracks(seen)]),
        group=np.concatenate([owner, np.repeat(HOME + np.arange(len(seen)), _LOOKS)]),
        shares=np.eye(HOME, dtype=np.float32)[np.concatenate([np.arange(HOME), label])],
        people=people,
        apart=np.zeros((0, 2), np.int64),
        domain=np.repeat([0, 1], [len(photos), len(seen) * _LOOKS]),
        enrolled=np.repeat([True, False], [len(photos), len(seen) * _LOOKS]),
    )
    verified = Verified(
        features=tracks(locked),
        track=np.repeat(np.arange(len(locked)), _LOOKS),
        owner=np.repeat(np.arange(HOME), _CONFIRMED),
        learnt=np.zeros(len(locked), np.bool_),
        ids=tuple(f"v{i}" for i in locked),
    )
    asked, days = np.full(groups, -1, np.int64), np.concatenate([np.zeros(HOME, np.int64), day])
    return Night(
        gallery=Gallery(people, owner, photos, np.zeros(len(photos), np.bool_), tuple(f"f{i}" for i in enrolled)),
        samples=samples,
        evidence=Evidence(asked, days, np.full(HOME, np.nan, np.float32), *locked_faces(verified, people, people)),
        poisoned=np.arange(groups) >= groups - len(victim),
        verified=verified,
        tests=tracks(tests),
        test_owner=np.repeat(np.arange(HOME), _TESTED),
        later=tracks(roles.later),
    )


class Outcome(NamedTuple):
    """What became of one night under one protection."""

    taken_poison: int
    poison: int
    taken_honest: int
    honest: int
    promoted: bool
    reasons: Tuple[str, ...]
    newly_named: int
    """Later pictures of the mistaken person that are named as the victim, and were not before."""
    later: int
    verified_lost: int
    right_before: int
    """Later pictures of residents that the version in service names rightly."""
    right_after: int
    """The same with the version that is in service afterwards."""
    tests: int

    @property
    def harmful(self) -> bool:
        """Whether a version went into service that names the wrong person or loses a verified face."""
        return self.promoted and (self.newly_named > 0 or self.verified_lost > 0)


@dataclass(frozen=True, eq=False)
class Remembered(StrangerModel):
    """A model that draws each seed's people once: hundreds of gates ask for the same."""

    kept: Dict[Tuple[int, int], Floats] = field(default_factory=dict)

    def draw(self, count: int, seed: int = 0) -> Floats:
        """See `StrangerModel`."""
        if (count, seed) not in self.kept:
            self.kept[count, seed] = super().draw(count, seed)
        return self.kept[count, seed]


def remembering(project: Project, model: Remembered) -> Project:
    """Return a head that projects the drawn people once; for the one in service."""
    known: Dict[int, Floats] = {}

    def once(features: Floats) -> Floats:
        if not any(features is drawn for drawn in model.kept.values()):
            return project(features)
        if id(features) not in known:
            known[id(features)] = project(features)
        return known[id(features)]

    return once


@dataclass(frozen=True)
class Box:
    """What stays the same from night to night."""

    kind: Kind
    project: Project
    """Of the head in service."""
    doors: Doors
    model: Remembered
    tune: Tune


def play(box: Box, night: Night, seed: int, *, bare: bool) -> Dict[str, Outcome]:
    """Return the outcome by protection: quarantine, both; if `bare`, also none and gate."""
    now = Version("now", box.project)
    in_service = _identifier(box.doors, now.project, night.gallery)
    cleaned = quarantine(night.samples, night.evidence, in_service, now.project)
    strangers = Strangers(box.model, night.gallery.features[:0], night.gallery.features[:0])
    out: Dict[str, Outcome] = {}
    nights = [("quarantine", cleaned.samples, cleaned.kept)]
    if bare:
        nights.append(("none", night.samples, np.arange(len(night.poisoned))))
    for name, samples, kept in nights:
        new = Version("new", remembering(box.tune(samples, seed), box.model))
        report = judge(now, new, night.gallery, night.verified, strangers, box.doors.config)
        free = _outcome(box, night, now, new, report, kept)
        out[name] = free
        gated = free if report.accepted else free._replace(promoted=False, right_after=free.right_before)
        out["both" if name == "quarantine" else "gate"] = gated
    return out


def _outcome(box: Box, night: Night, now: Version, new: Version, report: GateReport, kept: Ints) -> Outcome:
    doors = box.doors._replace(drawn=[new.project(box.model.draw(_CHUNK, n)) for n in range(_DRAWS // _CHUNK)])
    in_service, tuned = (
        _identifier(box.doors, now.project, night.gallery),
        _identifier(doors, new.project, night.gallery),
    )
    victim = night.gallery.people[0]
    before, after = (
        [name == victim for name in _names(identifier, version.project(night.later))]
        for identifier, version in ((in_service, now), (tuned, new))
    )
    people = [night.gallery.people[i] for i in night.test_owner]
    right = [
        sum(name == person for name, person in zip(_names(identifier, version.project(night.tests)), people))
        for identifier, version in ((in_service, now), (tuned, new))
    ]
    taken = np.ones(len(night.poisoned), np.bool_)
    taken[kept] = False
    lost = next((check for check in report.checks if check.name == "verified faces lost"), None)
    return Outcome(
        taken_poison=int((taken & night.poisoned).sum()),
        poison=int(night.poisoned.sum()),
        taken_honest=int((taken & ~night.poisoned).sum()),
        honest=int((~night.poisoned).sum()) - HOME,
        promoted=True,
        reasons=report.reasons,
        newly_named=sum(a and not b for b, a in zip(before, after)),
        later=len(after),
        verified_lost=0 if lost is None or lost.passed else 1,
        right_before=right[0],
        right_after=right[1],
        tests=len(people),
    )


def _identifier(doors: Doors, project: Project, gallery: Gallery) -> Identifier:
    everyone = np.ones(len(gallery.owner), np.bool_)
    return doors.make(gallery.household(project(gallery.features), everyone))


def _names(identifier: Identifier, vectors: Floats) -> List[Optional[str]]:
    matches = [identifier.match(vectors[i : i + _LOOKS]) for i in range(0, len(vectors), _LOOKS)]
    return [match.person_id if match.verdict is Verdict.KNOWN else None for match in matches]


# --- rows -------------------------------------------------------------------------------------------------------------


def make_box(kind: Kind, bench: Bench) -> Box:
    """Return the nets and thresholds of one kind of encoder."""
    model = Remembered(**vars(strangers_of(EmbedConfig.model_validate({"kind": kind}))))
    file = ModelRegistry(default_folder()).path("facenet_head").read_bytes()
    drawn, encoder = model.draw(_TAUGHT), bench.kinds[kind]

    def tune(samples: Samples, seed: int) -> Project:
        from edgecam.adapt.train import train

        made = train(Job(kind, file, samples, drawn, TrainOptions(seed=seed)))
        return encoder.with_heads(made.heads, "new").project if made.heads else encoder.project

    return Box(kind, remembering(encoder.project, model), bench.doors(kind), model, tune)


def likeness_of(pool: Pool, box: Box) -> Floats:
    """Return (P, P) the cosine of everybody's mean clear face to everybody's."""
    means = [box.project(pool.clear[rows]).mean(axis=0) for rows in pool.rows]
    vectors = unit(np.stack(means))
    result: Floats = vectors @ vectors.T
    return result


def rows_of(pool: Pool, box: Box, seeds: int, attacks: Sequence[str] = ATTACKS, bare: int = 20) -> Iterator[Row]:
    """Yield a row an attack and protection; without the quarantine only the first `bare` nights are played."""
    likeness = likeness_of(pool, box)
    for attack in attacks:
        played: Dict[str, List[Outcome]] = {}
        for seed in range(seeds):
            night = compose(pool, cast(pool, attack, seed, likeness), seed)
            for protection, outcome in play(box, night, seed, bare=seed < bare).items():
                played.setdefault(protection, []).append(outcome)
            if (seed + 1) % 10 == 0:
                say(f"{attack}: {seed + 1} of {seeds} nights")
        for protection, outcomes in played.items():
            yield row_of(attack, protection, box.kind, outcomes)


def row_of(attack: str, protection: str, kind: str, outcomes: Sequence[Outcome]) -> Row:
    """Return the counts of some nights."""

    def total(key: str) -> int:
        return sum(int(getattr(one, key)) for one in outcomes)

    harmful = sum(one.harmful for one in outcomes)
    return {
        "attack": attack,
        "protection": protection,
        "encoder": kind,
        "seeds": len(outcomes),
        "refused": len(outcomes) - total("promoted"),
        "harmless": total("promoted") - harmful,
        "harmful": harmful,
        "named": [sum(o.newly_named for o in outcomes if o.promoted), total("later")],
        "poison_taken": [total("taken_poison"), total("poison")],
        "honest_taken": [total("taken_honest"), total("honest")],
        "tpir": [round(total(key) / total("tests"), 4) for key in ("right_before", "right_after")],
        "reasons": Counter(reason.split(":")[0] for o in outcomes if not o.promoted for reason in o.reasons),
    }


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    cache: Optional[Path] = None
    encoder: Kind = "fused"
    seeds: Optional[int] = None
    """Nights an attack; None: 12, or 60 with `full`."""
    attacks: Sequence[str] = ATTACKS


def run(options: Options) -> Iterator[Row]:
    """Yield a row an attack and protection."""
    bench = open_bench()
    encoder = bench.kinds[options.encoder]
    pool = read_pool(options.data, bench.detector, encoder, pad=options.pad, cache=options.cache)
    seeds = options.seeds or (60 if options.full else 12)
    yield from rows_of(pool, make_box(options.encoder, bench), seeds, options.attacks)


def main() -> int:
    """Print one JSON object a line; some attacks alone, if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="one folder of photos a person")
    parser.add_argument("--seeds", type=int, default=60, help="nights an attack (default 60)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--encoder", choices=("fused", "facenet", "sface"), default="fused")
    parser.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
    parser.add_argument("--cache", type=Path, metavar="FILE.npz", help="keep the faces' features here between runs")
    args = parser.parse_args()
    options = Options(args.data, False, args.pad, args.cache, args.encoder, args.seeds, args.attacks)
    try:
        require_torch()
        for row in run(options):
            print(json.dumps(row), flush=True)
    except EdgecamError as err:
        print(f"poison: {err}", file=sys.stderr)
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
