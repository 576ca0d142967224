"""`edgecam eval doorbell`: the report's three approaches as printed, and the product, on two known people.

Every trial knows two people; the others are split into people that train, people that calibrate and people that ring,
none in two parts. Each person's photos are split before they are degraded, so that no photo is on both sides, and known
and unknown are degraded alike. Distances are squared L2 between unit vectors (0..4).

1: SVM (RBF) with a class of unknowns. 2: linear SVM over the known, accepted within tau of a known mean, tau being the
smallest distance of an unknown of training. 2-leaked: the same with tau from the very unknowns that ring: no false
accept by construction. 3: 2 after tuning FaceNet's head on the people that train, tau from those that calibrate.
ours: the product, whose threshold comes from virtual strangers; it sees no unknown of this folder. ours-tuned: the same
after a night's training on the enrolled photos and on the people that train, as visitors known to be nobody, and with
the people that calibrate as strangers seen here; no gate. Only if asked for: it needs PyTorch and
more time than all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.adapt.apart import Job, Kind, require_torch
from edgecam.adapt.apart import Options as Night
from edgecam.adapt.samples import Samples
from edgecam.capture.photo import read_photo
from edgecam.config import EmbedConfig, IdentifyConfig
from edgecam.embed import Encoder
from edgecam.errors import InputError
from edgecam.evaluation.degrade import degrade
from edgecam.evaluation.faces import Bench, Doors, columns, encode, open_bench, photos_of, say
from edgecam.evaluation.head import Head, TuneOptions, load_head, tune
from edgecam.evaluation.lfw import interval_of, nearest_pairs
from edgecam.evaluation.strangers import padded
from edgecam.identify import Household, Identifier
from edgecam.metrics import Numbers, bootstrap, threshold_at
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import IdentifierFactory
from edgecam.types import Floats, Image, Verdict

Row = Dict[str, Any]
Rows = NDArray[np.int64]

KNOWN_TRAIN, KNOWN_TEST = (139, 97), (23, 98)
UNKNOWN_TRAIN, UNKNOWN_TEST = 37, 12
"""Pictures a person; with 13 people 481 and 156, the report has 479 and 158."""
TRACK = 10
EQUAL_FPIR = 0.01
_TRAIN_SHARE = 0.7
_PEOPLE_MIN = 5
_PEOPLE_WANTED = 40
_TUNING = TuneOptions(epochs=4)


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    cache: Optional[Path] = None
    strength: float = 1.0
    seed: int = 0
    tuned: bool = False
    """Also `ours-tuned`."""


class Pool(NamedTuple):
    """Degraded pictures of everybody; numbers are rows of the features."""

    people: Tuple[str, ...]
    train: Tuple[Rows, ...]
    test: Tuple[Rows, ...]
    features: Floats
    """Joint trunk features."""
    usable: Dict[str, NDArray[np.bool_]]
    """By kind of encoder: what the product's quality gate lets through."""
    vectors: Dict[str, Floats]


class Split(NamedTuple):
    """One trial."""

    known: Tuple[int, int]
    train: Tuple[int, ...]
    calibrate: Tuple[int, ...]
    ring: Tuple[int, ...]


class Answers(NamedTuple):
    """What one approach says to a set of probes."""

    name: NDArray[np.int64]
    """(N,) 0 or 1, -1 unknown."""
    nearest: NDArray[np.int64]
    """(N,) 0 or 1."""
    score: Numbers
    """(N,) higher is more known; comparable within a trial."""


Approach = Callable[[Sequence[Rows]], Answers]
"""Judge tracks: rows of each."""


def run(options: Options) -> Iterator[Row]:
    """Yield a row an approach, mode (random pairs, lookalikes) and unit (frame, visit)."""
    bench = open_bench()
    pool = read_pool(options, bench)
    kinds: Tuple[Kind, ...] = ("fused", "facenet") if options.full else ("fused",)
    houses = {kind: House.of(bench, kind, tuned=options.tuned) for kind in kinds}
    head = load_head(ModelRegistry(default_folder()).path("facenet_head"))
    for mode in ("random", "lookalikes"):
        splits = list(draw_splits(pool, mode, options))
        say(f"{mode}: {len(splits)} trials, {_words(splits[0][0])}")
        tallies: Dict[Tuple[str, str, str], List[Tally]] = {}
        for n, (split, seed) in enumerate(splits):
            for key, tally in trial(pool, split, seed, head, houses):
                tallies.setdefault(key, []).append(tally)
            if (n + 1) % 10 == 0:
                say(f"{n + 1} of {len(splits)} trials")
        yield from _rows(tallies, mode, len(pool.people))


def _words(split: Split) -> str:
    return f"unknown people {len(split.train)} train, {len(split.calibrate)} calibrate, {len(split.ring)} ring"


# --- pictures ---------------------------------------------------------------------------------------------------------


def read_pool(options: Options, bench: Bench) -> Pool:
    """Degrade and encode everybody's photos.

    Raises:
        InputError: fewer than five people with two photos.
    """
    by_person: Dict[str, List[Path]] = {}
    for person, path in photos_of(options.data):
        by_person.setdefault(person, []).append(path)
    several = {p: paths[:10] for p, paths in by_person.items() if len(paths) > 1}
    if len(several) > _PEOPLE_WANTED:  # those with most photos
        rich = sorted(several, key=lambda p: (-len(several[p]), p))[:_PEOPLE_WANTED]
        several = {p: several[p] for p in several if p in rich}
    if len(several) < _PEOPLE_MIN:
        raise InputError(f"{options.data}: {len(several)} people with two photos; the protocol needs {_PEOPLE_MIN}")
    if len(several) < _PEOPLE_WANTED:
        say(f"{len(several)} people instead of the protocol's {_PEOPLE_WANTED}: the parts are scaled")
    looks = (12, 24) if options.full else (4, 10)
    plan = list(_plan(several, looks, options.seed))
    pictures = (partial(_picture, path, options, n) for n, (_, _, path) in enumerate(plan))
    found, good, features = _encoded(options, bench, pictures, len(plan))
    who = np.array([person for person, _, _ in plan])
    part = np.array([test for _, test, _ in plan])
    people = tuple(
        p for p in several if np.any((who == p) & ~part & found) and np.any((who == p) & part & found)
    )  # fmt: skip
    say(f"{len(plan)} degraded pictures, {1 - found.mean():.1%} without a face are left out")
    vectors, usable = {}, {}
    for kind in ("facenet", "fused"):
        own = np.ascontiguousarray(features[:, columns(kind)])
        vectors[kind] = np.concatenate([bench.kinds[kind].project(own[i : i + 500]) for i in range(0, len(own), 500)])
        usable[kind] = good & (bench.doors(kind).recognizability(vectors[kind]) > 0)
    train = tuple(np.flatnonzero((who == p) & ~part & found) for p in people)
    test = tuple(np.flatnonzero((who == p) & part & found) for p in people)
    return Pool(people, train, test, features, usable, vectors)


def _plan(people: Dict[str, List[Path]], looks: Tuple[int, int], seed: int) -> Iterator[Tuple[str, bool, Path]]:
    """Yield (person, whether for testing, photo), as often as it is to be degraded."""
    rng = np.random.default_rng(seed)
    for person, paths in people.items():
        order = rng.permutation(len(paths))
        last = min(len(paths) - 1, max(1, round(_TRAIN_SHARE * len(paths))))
        for n, i in enumerate(order):
            yield from [(person, n >= last, paths[i])] * looks[n >= last]


def _picture(path: Path, options: Options, number: int) -> Image:
    rng = np.random.default_rng((options.seed, number))
    return padded(degrade(read_photo(path), rng, options.strength), options.pad)


def _encoded(
    options: Options, bench: Bench, pictures: Iterator[Callable[[], Image]], count: int
) -> Tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
    key = (
        f"{bench.encoder.version} {options.data.resolve().name} {count} {options.pad} {options.strength} {options.seed}"
    )
    if options.cache is not None and options.cache.exists():
        with np.load(options.cache) as data:
            if "pool" in data and str(data["pool"]) == key:
                return data["found"], data["good"], data["features"].astype(np.float32)
    found, good, features = encode(pictures, count, bench)
    if options.cache is not None:
        np.savez(options.cache, pool=np.array(key), found=found, good=good, features=features.astype(np.float16))
    return found, good, features


# --- trials -----------------------------------------------------------------------------------------------------------


def draw_splits(pool: Pool, mode: str, options: Options) -> Iterator[Tuple[Split, int]]:
    """Yield the trials of a mode with a seed each."""
    count = len(pool.people)
    pairs_wanted, seeds = (100, 5) if options.full else (20, 1)
    rng = np.random.default_rng(options.seed)
    if mode == "lookalikes":
        means = {str(i): pool.vectors["fused"][rows] for i, rows in enumerate(pool.train)}
        pairs = [(int(a), int(b)) for a, b in nearest_pairs(means, min(20, count))]
    else:
        drawn = [rng.choice(count, 2, replace=False) for _ in range(pairs_wanted)]
        pairs = [(int(p[0]), int(p[1])) for p in drawn]
    for seed in range(seeds):
        for n, known in enumerate(pairs):
            rest = [int(i) for i in rng.permutation(count) if i not in known]
            one = round(len(rest) * 13 / 38)
            two = len(rest) - one
            yield Split(known, tuple(rest[:one]), tuple(rest[one:two]), tuple(rest[two:])), seed * len(pairs) + n


class Tally(NamedTuple):
    """One trial's counts by identity."""

    mate: Rows
    """(2, 5): identity, probes, misses, wrong names, misses at equal FPIR."""
    met: Rows
    """(R, 3): identity, probes, accepted."""


def trial(
    pool: Pool, split: Split, seed: int, head: Head, houses: Dict[Kind, House]
) -> Iterator[Tuple[Tuple[str, str, str], Tally]]:
    """Yield the counts of every approach and unit, keyed (approach, unit, encoder)."""
    rng = np.random.default_rng((7, seed))

    def some(rows: Rows, count: int) -> Rows:
        """Draw without repeats as far as there are rows."""
        whole, rest = divmod(count, len(rows))
        return np.concatenate([np.tile(rows, whole), rng.permutation(rows)[:rest]])

    known = [some(pool.train[k], count) for k, count in zip(split.known, KNOWN_TRAIN)]
    strangers = [some(pool.train[k], UNKNOWN_TRAIN) for k in split.train]
    calibrate = np.concatenate([some(pool.train[k], UNKNOWN_TRAIN) for k in split.calibrate])
    probes = [(k, some(pool.test[k], count)) for k, count in zip(split.known, KNOWN_TEST)]
    probes += [(k, some(pool.test[k], UNKNOWN_TEST)) for k in split.ring]
    ringing = np.concatenate([rows for _, rows in probes[2:]])

    fixed = pool.vectors["facenet"]
    every = [*known, *strangers]
    labels = np.concatenate([np.full(len(rows), n) for n, rows in enumerate(every)])
    facenet = columns("facenet")
    tuned_head = tune(head, pool.features[np.concatenate(every), facenet], labels, _TUNING)
    needed = np.unique(np.concatenate([*every, calibrate, *(rows for _, rows in probes)]))
    tuned = np.zeros_like(fixed)
    tuned[needed] = tuned_head.project(pool.features[needed, facenet])

    makers: List[Tuple[str, str, Approach]] = [
        ("1", "facenet", with_unknown_class(fixed, known, np.concatenate(strangers))),
        ("2", "facenet", with_tau(fixed, known, np.concatenate(strangers))),
        ("2-leaked", "facenet", with_tau(fixed, known, ringing)),
        ("3", "facenet", with_tau(tuned, known, calibrate)),
    ]
    for kind, house in houses.items():
        usable, vectors = pool.usable[kind], pool.vectors[kind]
        makers.append(("ours", kind, product(vectors, usable, known, house.door.make)))
        if house.factory is not None:
            head_tuned = night(house, pool.features, known, strangers)
            vectors = np.zeros_like(vectors)
            vectors[needed] = head_tuned.project(np.ascontiguousarray(pool.features[needed, columns(kind)]))
            make = partial(house.factory.make, local=vectors[calibrate], encoder=head_tuned)
            makers.append(("ours-tuned", kind, product(vectors, usable, known, make)))
    for name, encoder, approach in makers:
        for unit, size in (("frame", 1), ("visit", TRACK)):
            yield (name, unit, encoder), _tally(approach, probes, size)


def with_unknown_class(vectors: Floats, known: Sequence[Rows], strangers: Rows) -> Approach:
    """Return approach 1."""
    from sklearn.svm import SVC

    labels = np.concatenate([np.full(len(rows), n) for n, rows in enumerate((*known, strangers))])
    svm = SVC(C=10.0, gamma="scale").fit(vectors[np.concatenate([*known, strangers])], labels)

    def judge(tracks: Sequence[Rows]) -> Answers:
        rows = np.concatenate(tracks)
        decision = svm.decision_function(vectors[rows])
        said = svm.predict(vectors[rows])
        frames = Answers(
            np.where(said == 2, -1, said), decision[:, :2].argmax(1), decision[:, :2].max(1) - decision[:, 2]
        )
        return _any_frame(frames, tracks)

    return judge


def with_tau(vectors: Floats, known: Sequence[Rows], strangers: Rows) -> Approach:
    """Return approach 2 with tau from these strangers."""
    from sklearn.svm import LinearSVC

    labels = np.repeat([0, 1], [len(rows) for rows in known])
    svm = LinearSVC(C=1.0, random_state=0).fit(vectors[np.concatenate(known)], labels)
    means = np.stack([vectors[rows].mean(axis=0) for rows in known])
    tau_squared_l2 = squared_l2(vectors[strangers], means).min()

    def judge(tracks: Sequence[Rows]) -> Answers:
        rows = np.concatenate(tracks)
        nearest = svm.predict(vectors[rows])
        distance = squared_l2(vectors[rows], means).min(axis=1)
        return _any_frame(Answers(np.where(distance < tau_squared_l2, nearest, -1), nearest, -distance), tracks)

    return judge


def squared_l2(rows: Floats, means: Floats) -> Floats:
    """Return (N, M) squared L2 distances."""
    result: Floats = ((rows[:, None, :] - means[None]) ** 2).sum(axis=2)
    return result


def _any_frame(frames: Answers, tracks: Sequence[Rows]) -> Answers:
    """Return the answers for whole tracks as the report counts: known as soon as one frame is accepted."""
    names, nearest, scores, start = [], [], [], 0
    for track in tracks:
        part = slice(start, start + len(track))
        start += len(track)
        accepted = frames.name[part][frames.name[part] >= 0]
        best = int(np.argmax(frames.score[part]))
        names.append(int(np.bincount(accepted).argmax()) if len(accepted) else -1)
        nearest.append(int(frames.nearest[part][best]))
        scores.append(float(frames.score[part][best]))
    return Answers(np.array(names), np.array(nearest), np.array(scores))


class House(NamedTuple):
    """What makes the product for one kind of encoder."""

    kind: Kind
    encoder: Encoder
    door: Doors
    factory: Optional[IdentifierFactory]
    """For tuned heads, if there are to be any."""
    file: bytes
    """`facenet_head.onnx`."""

    @staticmethod
    def of(bench: Bench, kind: Kind, *, tuned: bool) -> House:
        """Return it.

        Raises:
            TuneError: there is no PyTorch to tune with.
        """
        config, encoder = EmbedConfig.model_validate({"kind": kind}), bench.kinds[kind]
        if tuned:
            require_torch()
        factory = IdentifierFactory(encoder, config, IdentifyConfig()) if tuned else None
        file = ModelRegistry(default_folder()).path("facenet_head").read_bytes()
        return House(kind, encoder, bench.doors(kind), factory, file)


def night(house: House, features: Floats, known: Sequence[Rows], strangers: Sequence[Rows]) -> Encoder:
    """Return the encoder after a night's training.

    Args:
        house: the encoder as installed.
        features: joint trunk features.
        known: rows of each of the household, as enrolled photos.
        strangers: rows of people known to be nobody, as visits of `TRACK` frames.
    """
    from edgecam.adapt.train import train

    tracks = [rows[i : i + TRACK] for rows in strangers for i in range(0, len(rows), TRACK)]
    groups = [*known, *tracks]
    group = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups])
    shares = np.eye(len(groups), len(known), dtype=np.float32)
    enrolled = group < len(known)
    own = np.ascontiguousarray(features[np.concatenate(groups), columns(house.kind)])
    people = tuple(map(str, range(len(known))))
    samples = Samples(own, group, shares, people, np.zeros((0, 2), np.int64), enrolled.astype(np.int64), enrolled)
    return house.encoder.with_heads(train(Job(house.kind, house.file, samples, own[:0], Night())).heads, "tuned")


def product(
    vectors: Floats, usable: NDArray[np.bool_], known: Sequence[Rows], make: Callable[[Household], Identifier]
) -> Approach:
    """Return the product: quality gate, prototypes, virtual strangers, one decision a track."""
    rows = [(str(n), vectors[i], False) for n, mine in enumerate(known) for i in mine if usable[i]]
    identifier = make(Household.of(rows))

    def judge(tracks: Sequence[Rows]) -> Answers:
        names, nearest, scores = [], [], []
        for track in tracks:
            good = track[usable[track]]
            if not len(good):
                name, near, score = -1, 0, -1.0
            else:
                match = identifier.match(vectors[good])
                name = int(match.person_id or 0) if match.verdict is Verdict.KNOWN else -1
                near, score = int(match.nearest_id or 0), match.similarity
            names.append(name)
            nearest.append(near)
            scores.append(score)
        return Answers(np.array(names), np.array(nearest), np.array(scores))

    return judge


def _tally(approach: Approach, probes: Sequence[Tuple[int, Rows]], size: int) -> Tally:
    tracks: List[Rows] = []
    owner: List[int] = []
    for n, (_, rows) in enumerate(probes):
        # A rest shorter than a track is left out, unless it is all there is.
        starts = range(0, max(1, len(rows) - size + 1), size)
        tracks += [rows[i : i + size] for i in starts]
        owner += [n] * len(starts)
    said, who = approach(tracks), np.array(owner)
    level = threshold_at(said.score[who >= 2], EQUAL_FPIR)
    mate, met = [], []
    for n, (person, _) in enumerate(probes):
        mine = who == n
        if n < 2:
            misses = said.name[mine] != n
            wrong = misses & (said.name[mine] >= 0)
            late = ~((said.nearest[mine] == n) & (said.score[mine] > level))
            mate.append((person, mine.sum(), misses.sum(), wrong.sum(), late.sum()))
        else:
            met.append((person, mine.sum(), (said.name[mine] >= 0).sum()))
    return Tally(np.array(mate, np.int64), np.array(met, np.int64))


# --- rows -------------------------------------------------------------------------------------------------------------

_COLUMNS = {"fnir": 2, "misidentified": 3, "fnir_at_equal_fpir": 4}


def _rows(tallies: Dict[Tuple[str, str, str], List[Tally]], mode: str, identities: int) -> Iterator[Row]:
    order = {"frame": 0, "visit": 1}
    for (name, unit, encoder), own in sorted(tallies.items(), key=lambda item: order[item[0][1]]):
        mate, met = np.concatenate([t.mate for t in own]), np.concatenate([t.met for t in own])
        statistics = {key: partial(_rate, mate, column) for key, column in _COLUMNS.items()}
        statistics["fpir"] = partial(_rate, met, 2)
        row: Row = {"approach": name, "mode": mode, "unit": unit}
        ones = np.ones(identities)
        for key in ("fnir", "fpir", "fnir_at_equal_fpir", "misidentified"):
            row[key] = round(statistics[key](ones), 5)
        people = {key: len(np.unique((met if key == "fpir" else mate)[:, 0])) for key in statistics}
        intervals = {key: interval_of(statistics[key], identities, people[key]) for key in statistics}
        row["ci95"] = {key: None if i is None else [round(v, 5) for v in i] for key, i in intervals.items()}
        row.update(encoder=encoder, trials=len(own), equal_fpir=EQUAL_FPIR)
        row["trials_with_false_accept"] = round(float(np.mean([t.met[:, 2].any() for t in own])), 3)
        row["errors_in_median_trial"] = float(np.median([t.mate[:, 2].sum() + t.met[:, 2].sum() for t in own]))
        for other in {"3": ("2",), "ours": ("2", "3"), "ours-tuned": ("2", "3")}.get(name, ()):
            theirs = np.concatenate([t.mate for t in tallies[other, unit, "facenet"]])
            row[f"gain_over_{other}"] = _gain(mate, theirs, identities)
        yield row


def _rate(counts: Rows, column: int, w: Numbers) -> float:
    weights = w[counts[:, 0]]
    total = float((weights * counts[:, 1]).sum())
    return float((weights * counts[:, column]).sum()) / total if total else float("nan")


def _gain(mine: Rows, theirs: Rows, identities: int) -> Dict[str, Any]:
    """Return by how much FNIR at equal FPIR is lower, over the same trials."""

    def gain(w: Numbers) -> float:
        return _rate(theirs, 4, w) - _rate(mine, 4, w)

    interval = bootstrap(identities, gain)
    ci95 = None if interval is None else [round(v, 5) for v in interval]
    return {"value": round(gain(np.ones(identities)), 5), "ci95": ci95}
