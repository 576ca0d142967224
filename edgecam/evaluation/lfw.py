"""`edgecam eval lfw`: verification, open set, look-alikes and the check of the virtual strangers on a folder of people.

Nothing that the product was tuned on takes part: its statistics of strangers and its constants come from people whose
name's sha256 is even, what is reported comes from the odd ones. A folder too small to be halved is used whole, and the
run says so. A photo without a face is a miss: it identifies nobody and accepts nobody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.evaluation.faces import KINDS, Album, Bench, Doors, View, open_bench, photos_of, read_album, say
from edgecam.evaluation.strangers import half_of
from edgecam.identify import Household, Identifier, clopper_pearson
from edgecam.identify.identifier import _MEAN, _TAIL  # the product's own constants
from edgecam.metrics import Numbers, auc, bootstrap, fold_accuracy, share, threshold_at
from edgecam.types import FaceCrop, Floats, Verdict

Row = Dict[str, Any]
Pair = Tuple[int, int, int]
"""Photo, photo, fold."""

FARS = (0.01, 0.001)
TARGETS = (0.01, 0.003, 0.001)
ENROLLED = 10
HOME = 5
_RICH_MIN = 10
"""So many people with enough photos are wanted before a half is used alone."""
_CHUNK = 100_000
"""Pairs compared at a time."""
_STRANGERS_MIN = 100
"""With fewer strangers than this every photo of theirs is shown."""
_PAIR_ENROLLED = 5
_GENUINE_MAX = 20
"""Genuine pairs a person in the all-pairs figures: a president's 60 photos would be a third of all pairs."""


class Home(NamedTuple):
    """A household and who comes to its door; numbers are positions in the album."""

    people: Tuple[str, ...]
    enrol: Tuple[Tuple[int, ...], ...]
    """Photos of each person, in the order in which they are used."""
    probes: Tuple[Tuple[int, int], ...]
    """(photo, index into people)."""
    strangers: Tuple[int, ...]
    """One photo of each other person; all of them where there are few people."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    """Border replicated around tight crops, in shares of their height."""
    cache: Optional[Path] = None
    """Where features are kept between runs."""
    half: Optional[str] = "odd"
    """None: everybody."""
    strangers: Optional[Path] = None
    """A folder of other people, to be shown to the households as strangers."""
    seed: int = 0
    kinds: Tuple[str, ...] = KINDS
    homes: Optional[int] = None
    """Households; None: 60, or 200 with `full`."""


def run(options: Options) -> Iterator[Row]:
    """Yield the table's rows."""
    bench = open_bench()
    photos = photos_of(options.data)
    half = _half(photos, options.half)
    wanted = [p for p in photos if half is None or options.full or half_of(p[0]) == half]
    album = read_album(wanted, bench, options.pad, options.cache)
    tested = {p for p in album.people if half is None or half_of(p) == half}
    say(f"{len(album.people)} photos, {len(set(album.people))} people, {len(tested)} of them tested")
    others = _others(options, bench)
    pairs = listed_pairs(options.data / "pairs.txt", album) or made_pairs(album, options.seed)
    count = options.homes or (200 if options.full else 60)
    homes, enrolled = homes_of(album, tested, count, options.seed)
    if not homes:
        say("too few people with several photos for an open set")
    for kind in options.kinds:
        doors = bench.doors(kind)
        view = album.seen_by(bench, kind, doors)
        yield from verification(view, pairs, tested, kind)
        if homes:
            yield from open_set(view, doors, homes, _counts(enrolled, full=options.full), kind)
            yield from validation(view, doors, homes, enrolled, kind)
            if others is not None:
                yield from other_strangers(view, others.seen_by(bench, kind, doors), doors, homes, enrolled, kind)
        yield from look_alikes(view, doors, tested, kind, 20 if options.full else 10)
        yield speed(bench, kind)


def _half(photos: Sequence[Tuple[str, Path]], half: Optional[str]) -> Optional[str]:
    counts: Dict[str, int] = {}
    for person, _ in photos:
        counts[person] = counts.get(person, 0) + 1
    rich = [p for p, n in counts.items() if n >= ENROLLED + 2 and half is not None and half_of(p) == half]
    if half is not None and len(rich) < _RICH_MIN:
        say(
            f"{len(rich)} people of the {half} half have {ENROLLED + 2} photos, {_RICH_MIN} are wanted: "
            "everybody is used, also people whose statistics the thresholds may rest on"
        )
        return None
    return half


def _others(options: Options, bench: Bench) -> Optional[Album]:
    if options.strangers is None:
        return None
    folder = options.strangers
    flat = [
        p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower() in (".jpg", ".jpeg", ".png", ".pgm")
    ]
    photos = [(p.stem, p) for p in flat] or photos_of(folder)
    return read_album(photos, bench, options.pad)


def speed(bench: Bench, kind: str, faces: int = 30) -> Row:
    """Return the time of one face, one thread, and the interval of its median."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (256, 256, 3)).astype(np.uint8)
    landmarks = np.array([[100, 110], [156, 110], [128, 140], [105, 170], [151, 170]], np.float32)
    crop = FaceCrop(image, np.array([60, 60, 136, 136], np.float32), landmarks)
    encoder, took = bench.kinds[kind], np.zeros(faces)
    for i in range(faces):
        start = time.process_time()
        encoder.project(encoder.features([crop]))
        took[i] = (time.process_time() - start) * 1000.0
    ranked, spread = np.sort(took), int(np.sqrt(faces))
    low, high = ranked[faces // 2 - spread], ranked[faces // 2 + spread]
    return _row("cpu_ms_per_face", kind, float(np.median(took)), (float(low), float(high)))


# --- verification -----------------------------------------------------------------------------------------------------


def verification(view: View, pairs: Sequence[Pair], tested: Set[str], kind: str) -> Iterator[Row]:
    """Yield accuracy by ten folds, AUC and TAR at FAR, of the listed pairs and of all pairs of tested people."""
    album = view.album
    a, b, folds = (np.array(column) for column in zip(*pairs))
    scores = _cosine(view, a, b)
    ids = np.unique(np.array(album.people), return_inverse=True)[1]
    same = ids[a] == ids[b]
    yield from _pair_rows("verification", kind, scores, same, ids[a], ids[b], int(ids.max()) + 1)
    if len(np.unique(folds)) > 1:
        found = fold_accuracy(scores, same, folds)
        interval = bootstrap(len(found), lambda w: float(np.average(found, weights=w)))
        yield _row("verification_accuracy", kind, float(found.mean()), interval, pairs=len(same))
    keep = [i for i, person in enumerate(album.people) if person in tested]
    a, b = _all_pairs(album, keep)
    scores, same = _cosine(view, a, b), ids[a] == ids[b]
    yield from _pair_rows("all_pairs", kind, scores, same, ids[a], ids[b], int(ids.max()) + 1)


def _cosine(view: View, a: NDArray[np.int64], b: NDArray[np.int64]) -> Floats:
    out: Floats = np.empty(len(a), np.float32)
    for start in range(0, len(a), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.einsum("ij,ij->i", view.vectors[a[part]], view.vectors[b[part]])
    out[~(view.album.found[a] & view.album.found[b])] = -1.0
    return out


def _pair_rows(
    task: str,
    kind: str,
    scores: Floats,
    same: NDArray[np.bool_],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    identities: int,
) -> Iterator[Row]:
    order = np.argsort(-scores[~same], kind="stable")
    genuine, impostor = scores[same], scores[~same][order]
    if not len(genuine) or not len(impostor):
        return
    first, second, own = left[~same][order], right[~same][order], left[same]
    counts = {"genuine": len(genuine), "impostor": len(impostor)}

    def tar(rate: float, w: Numbers) -> float:
        weights = w[first] * w[second]
        if not weights.any():
            return float("nan")
        return share(genuine > threshold_at(impostor, rate, weights), w[own])

    for rate in FARS:
        if rate * len(impostor) < 1:  # not even one false accept could be told
            continue
        value = tar(rate, np.ones(identities))
        interval = bootstrap(identities, lambda w, rate=rate: tar(rate, w), 100)  # type: ignore[misc]
        yield _row(f"{task}_tar_at_far_{rate:.1%}", kind, value, interval, **counts)
    if task == "verification":
        yield _row(f"{task}_auc", kind, auc(genuine, impostor), _auc_interval(genuine, impostor, own, identities))


def _auc_interval(
    genuine: Floats, impostor: Floats, own: NDArray[np.int64], identities: int
) -> Optional[Tuple[float, float]]:
    ranked = np.sort(impostor)
    each = (np.searchsorted(ranked, genuine, "left") + np.searchsorted(ranked, genuine, "right")) / 2.0 / len(ranked)
    return bootstrap(identities, lambda w: float(np.average(each, weights=w[own])) if w[own].any() else float("nan"))


def listed_pairs(path: Path, album: Album) -> List[Pair]:
    """Return (photo, photo, fold) of `fold<TAB>line` or plain LFW lines whose photos are in the album."""
    if not path.exists():
        return []
    at = {(person, _stem(name)): i for i, (person, name) in enumerate(zip(album.people, album.names))}
    out = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        cells = line.split()
        fold = int(cells.pop(0)) if len(cells) in (4, 5) and cells[0].isdigit() else n * 10 // 6000
        if len(cells) == 3:
            cells = [cells[0], cells[1], cells[0], cells[2]]
        if len(cells) != 4 or not (cells[1].isdigit() and cells[3].isdigit()):
            continue
        keys = [(cells[i], f"{cells[i]}_{int(cells[i + 1]):04d}") for i in (0, 2)]
        if all(key in at for key in keys):
            out.append((at[keys[0]], at[keys[1]], fold))
    return out


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def made_pairs(album: Album, seed: int) -> List[Pair]:
    """Return as many pairs of one person as of two, spread over ten folds; for folders without a list."""
    rng = np.random.default_rng(seed)
    persons = list(album.by_person().values())
    several = [p for p in persons if len(p) > 1]
    genuine = [
        tuple(rng.choice(p, 2, replace=False)) for p in several for _ in range(min(10, len(p) * (len(p) - 1) // 2))
    ]
    impostor = []
    for _ in range(len(genuine) if len(persons) > 1 else 0):
        one, other = rng.choice(len(persons), 2, replace=False)
        impostor.append((rng.choice(persons[one]), rng.choice(persons[other])))
    say(f"no pairs.txt: {len(genuine)} + {len(impostor)} pairs drawn")
    return [(int(p[0]), int(p[1]), i % 10) for group in (genuine, impostor) for i, p in enumerate(group)]


def _all_pairs(album: Album, keep: Sequence[int]) -> Tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return up to 20 pairs of photos of each person, and one photo of everybody against everybody else's."""
    rng = np.random.default_rng(0)
    wanted, pairs, singles = set(keep), [], []
    for photos in album.by_person().values():
        mine = [i for i in photos if i in wanted]
        if not mine:
            continue
        singles.append(int(rng.choice(mine)))
        own = [(p, q) for n, p in enumerate(mine) for q in mine[n + 1 :]]
        chosen = rng.permutation(len(own))[:_GENUINE_MAX]
        pairs += [own[int(i)] for i in chosen]
    first, second = np.triu_indices(len(singles), 1)
    one = np.array(singles, np.int64)
    own_pairs = np.array(pairs, np.int64).reshape(-1, 2)
    return np.concatenate([own_pairs[:, 0], one[first]]), np.concatenate([own_pairs[:, 1], one[second]])


# --- open set ---------------------------------------------------------------------------------------------------------


def _counts(enrolled: int, *, full: bool) -> List[int]:
    return [enrolled, *(n for n in (3, 1) if full and n < enrolled)]


def open_set(view: View, doors: Doors, homes: Sequence[Home], counts: Sequence[int], kind: str) -> Iterator[Row]:
    """Yield the households' rows, by the number of photos enrolled."""
    for enroll in counts:
        say(f"{kind}: {len(homes)} households of {len(homes[0].people)}, {enroll} photos each")
        yield from judge(view, doors, homes, enroll).rows(kind, enroll)


def homes_of(album: Album, tested: Set[str], count: int, seed: int) -> Tuple[List[Home], int]:
    """Draw households; return them and how many photos a person enrols (10, or what the folder allows)."""
    rng = np.random.default_rng(seed)
    persons = {p: photos for p, photos in album.by_person().items() if p in tested}
    rich: List[str] = []
    enroll = ENROLLED
    for enroll in range(ENROLLED, 0, -1):
        rich = [p for p, photos in persons.items() if len(photos) >= enroll + min(2, enroll)]
        if len(rich) > HOME or (len(rich) > 2 and len(rich) == len(persons)):
            break
    size = min(HOME, len(rich) - 1)
    if size < 1:
        return [], 0
    if (size, enroll) != (HOME, ENROLLED):
        say(f"scaled to households of {size} with {enroll} photos each: {len(rich)} people have enough photos")
    homes = []
    for _ in range(count):
        people = tuple(str(p) for p in rng.choice(rich, size, replace=False))
        shuffled = [tuple(int(i) for i in rng.permutation(persons[p])) for p in people]
        probes = tuple((i, k) for k, photos in enumerate(shuffled) for i in photos[enroll:])
        rest = [photos for p, photos in persons.items() if p not in people]
        few = len(rest) < _STRANGERS_MIN
        others = tuple(int(i) for photos in rest for i in (photos if few else [rng.choice(photos)]))
        homes.append(Home(people, tuple(photos[:enroll] for photos in shuffled), probes, others))
    return homes, enroll


def household(view: View, home: Home, enroll: int) -> Household:
    """Return the household as `enroll` would keep it: photos without a usable face are left out."""
    rows = [
        (person, view.vectors[i], False)
        for person, photos in zip(home.people, home.enrol)
        for i in photos[:enroll]
        if view.usable[i]
    ]
    return Household.of(rows)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the households' doors answered."""

    identities: int
    members: NDArray[np.int64]
    """(H, P) identities of each household."""
    mate: NDArray[np.int64]
    """(N,) identity of each probe of an enrolled person."""
    answer: NDArray[np.str_]
    """(N,) right, wrong, uncertain, unknown, poor or no_face."""
    mate_score: Floats
    """(N,) similarity where the nearest person is the right one, else -1."""
    home: NDArray[np.int64]
    """(S,) household of each stranger's probe."""
    stranger: NDArray[np.int64]
    """(S,) identity."""
    named: NDArray[np.str_]
    """(S,) named, uncertain, unknown, poor or no_face."""
    score: Floats
    """(S,) similarity, -1 without a usable face."""

    def stranger_weights(self, w: Numbers) -> Numbers:
        """Return (S,) weights of the strangers' probes under identity multiplicities: of stranger and household."""
        weights: Numbers = w[self.stranger] * w[self.members].mean(axis=1)[self.home]
        return weights

    def rate_of(self, word: str, w: Numbers) -> float:
        """Return the share of the mates' probes that were answered so."""
        return share(self.answer == word, w[self.mate])

    def rate_of_strangers(self, word: str, w: Numbers) -> float:
        """Return the share of the strangers' probes that were answered so."""
        return share(self.named == word, self.stranger_weights(w))

    def tpir(self, rate: float, w: Numbers, order: NDArray[np.int64]) -> float:
        """Return the share of probes named rightly above the similarity that `rate` of the strangers exceed.

        Args:
            rate: FPIR.
            w: (identities,) multiplicities.
            order: (S,) argsort of the falling `score`.
        """
        weights = self.stranger_weights(w)[order]
        if not weights.any():
            return float("nan")
        return share(self.mate_score > threshold_at(self.score[order], rate, weights), w[self.mate])

    def rows(self, kind: str, enroll: int) -> Iterator[Row]:
        """Yield the rows at the product's threshold, and TPIR at fixed FPIR."""
        extra = {"enroll": enroll, "households": len(self.members), "probes": len(self.answer)}
        extra["strangers"] = len(self.named)
        ones = np.ones(self.identities)
        measured: List[Tuple[str, Callable[[Numbers], float]]] = [
            (metric, partial(self.rate_of, word)) for metric, word in _MATES.items() if len(self.answer)
        ]
        measured += [
            (metric, partial(self.rate_of_strangers, word)) for metric, word in _STRANGERS.items() if len(self.named)
        ]
        order = np.argsort(-self.score, kind="stable")
        for rate in FARS if len(self.named) and len(self.answer) else ():
            if rate * len(self.score) >= 1:
                measured.append((f"tpir_at_fpir_{rate:.1%}", partial(self.tpir, rate, order=order)))
        for metric, statistic in measured:
            people = np.unique(self.stranger if metric in _STRANGERS else self.mate)
            interval = interval_of(statistic, self.identities, len(people))
            yield _row(metric, kind, statistic(ones), interval, **extra)


_MATES = {
    "identification_rate": "right",
    "wrong_names": "wrong",
    "uncertain": "uncertain",
    "called_unknown": "unknown",
    "poor": "poor",
    "no_face": "no_face",
}
_STRANGERS = {"strangers_named": "named", "strangers_uncertain": "uncertain"}


def judge(view: View, doors: Doors, homes: Sequence[Home], enroll: int, others: Optional[View] = None) -> Outcome:
    """Let every household judge its own people and strangers, each photo by itself.

    Args:
        view: of the households.
        doors: makes their identifiers.
        homes: households.
        enroll: so many photos of each person.
        others: strangers from elsewhere instead of the album's.
    """
    source = view if others is None else others
    at = {p: i for i, p in enumerate(sorted({*view.album.people, *source.album.people}))}
    mates: List[Tuple[int, str, float]] = []
    met: List[Tuple[int, int, str, float]] = []
    for n, home in enumerate(homes):
        identifier = doors.make(household(view, home, enroll))
        for photo, k in home.probes:
            verdict, nearest, score = _look(identifier, view, photo)
            right = nearest == home.people[k]
            word = ("right" if right else "wrong") if verdict == Verdict.KNOWN.value else verdict
            mates.append((at[home.people[k]], word, score if right else -1.0))
        for photo in home.strangers if others is None else range(len(source.album.people)):
            verdict, _, score = _look(identifier, source, photo)
            word = "named" if verdict == Verdict.KNOWN.value else verdict
            met.append((n, at[source.album.people[photo]], word, score))
    return Outcome(
        len(at),
        np.array([[at[p] for p in home.people] for home in homes]),
        np.array([m[0] for m in mates], np.int64),
        np.array([m[1] for m in mates], np.str_),
        np.array([m[2] for m in mates], np.float32),
        np.array([m[0] for m in met], np.int64),
        np.array([m[1] for m in met], np.int64),
        np.array([m[2] for m in met], np.str_),
        np.array([m[3] for m in met], np.float32),
    )


def _look(identifier: Identifier, view: View, photo: int) -> Tuple[str, Optional[str], float]:
    """Return verdict, nearest person and similarity, as `edgecam identify` would give them."""
    if not view.album.found[photo]:
        return Verdict.NO_FACE.value, None, -1.0
    if not view.usable[photo]:
        return Verdict.POOR.value, None, -1.0
    match = identifier.match(view.vectors[photo][None])
    return match.verdict.value, match.nearest_id, match.similarity


def validation(view: View, doors: Doors, homes: Sequence[Home], enroll: int, kind: str) -> Iterator[Row]:
    """Yield, by target, the share of real strangers over the threshold that virtual strangers set, by household."""
    people = sorted(set(view.album.people))
    at = {p: i for i, p in enumerate(people)}
    owner = np.array([at[p] for p in view.album.people])
    members = [np.array([at[p] for p in home.people]) for home in homes]
    rows = [np.array([i for i in home.strangers if view.usable[i]]) for home in homes]
    for target in TARGETS:
        at_target = doors.at(target)
        over: Dict[float, List[NDArray[np.bool_]]] = {_TAIL: [], 1.0: []}
        for home, shown in zip(homes, rows):
            identifier = at_target.make(household(view, home, enroll))
            score = identifier.scores(view.vectors[shown]).max(axis=1)
            level = identifier.calibration.threshold
            over[_TAIL].append(score >= level)
            over[1.0].append(score >= _MEAN + (level - _MEAN) / _TAIL)
        for tail, hits in over.items():
            yield _validated(kind, target, tail, hits, [owner[r] for r in rows], members, len(people))


def _validated(
    kind: str,
    target: float,
    tail: float,
    hits: Sequence[NDArray[np.bool_]],
    strangers: Sequence[NDArray[np.int64]],
    members: Sequence[NDArray[np.int64]],
    identities: int,
) -> Row:
    joined, owner = np.concatenate(hits), np.concatenate(strangers)
    home = np.repeat(np.arange(len(hits)), [len(h) for h in hits])

    def rate(w: Numbers) -> float:
        return share(joined, w[owner] * np.array([w[m].mean() for m in members])[home])

    measured = np.array([h.mean() for h in hits])
    p10, median, p90 = (round(float(q), 5) for q in np.quantile(measured, [0.1, 0.5, 0.9]))
    row = _row(
        f"fpir_at_target_{target:.1%}",
        kind,
        float(joined.mean()),
        interval_of(rate, identities, len(np.unique(owner))),
        target=target,
    )
    return {**row, "tail_factor": tail, "p10": p10, "median": median, "p90": p90, "households": len(hits)}


def other_strangers(
    view: View, others: View, doors: Doors, homes: Sequence[Home], enroll: int, kind: str
) -> Iterator[Row]:
    """Yield how the households judge strangers from another folder."""
    for row in judge(view, doors, homes, enroll, others).rows(kind, enroll):
        if row["metric"].startswith("strangers"):
            yield {**row, "metric": f"other_{row['metric']}"}


# --- look-alikes ------------------------------------------------------------------------------------------------------


def look_alikes(view: View, doors: Doors, tested: Set[str], kind: str, pairs: int) -> Iterator[Row]:
    """Yield what households of the two most similar people get: both enrolled, and one at the other's door."""
    photos = {p: [i for i in rows if view.usable[i]] for p, rows in view.album.by_person().items() if p in tested}
    enroll = next((n for n in (_PAIR_ENROLLED, 3, 1) if sum(len(v) > n + 1 for v in photos.values()) > 2), 0)
    rich = [p for p, rows in photos.items() if len(rows) > enroll + 1]
    if not enroll:
        return
    homes, alone = [], []
    for one, other in nearest_pairs({p: view.vectors[photos[p]] for p in rich}, pairs):
        both = ((one, photos[one]), (other, photos[other]))
        probes = tuple((i, k) for k, (_, rows) in enumerate(both) for i in rows[enroll:])
        homes.append(Home((one, other), tuple(tuple(rows[:enroll]) for _, rows in both), probes, ()))
        for (mine, rows), (_, theirs) in (both, both[::-1]):
            alone.append(Home((mine,), (tuple(rows[:enroll]),), (), tuple(theirs)))
    for outcome in (judge(view, doors, homes, enroll), judge(view, doors, alone, enroll)):
        for row in outcome.rows(kind, enroll):
            if row["metric"] not in ("poor", "no_face", "strangers_uncertain"):
                yield {**row, "metric": f"look_alikes_{row['metric']}", "pairs": len(homes)}


def nearest_pairs(vectors: Dict[str, Floats], count: int) -> List[Tuple[str, str]]:
    """Return the pairs of people whose mean vectors are nearest, nearest first.

    Args:
        vectors: person -> (N, D) unit vectors.
        count: at most so many.
    """
    people = list(vectors)
    means = np.stack([v.mean(axis=0) for v in vectors.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    first, second = np.triu_indices(len(people), 1)
    order = np.argsort(-np.sum(means[first] * means[second], axis=1), kind="stable")[:count]
    return [(people[first[i]], people[second[i]]) for i in order]


def interval_of(statistic: Callable[[Numbers], float], identities: int, people: int) -> Optional[Tuple[float, float]]:
    """Return the bootstrap's interval; what never or always happened gets the exact one of so many people."""
    value = statistic(np.ones(identities))
    if value in (0.0, 1.0):
        return clopper_pearson(round(value) * people, people)
    return bootstrap(identities, statistic)


def _row(metric: str, kind: str, value: float, interval: Optional[Tuple[float, float]], **extra: Any) -> Row:
    ci95 = None if interval is None else [round(v, 5) for v in interval]
    return {"metric": metric, "value": round(value, 5), "ci95": ci95, "encoder": kind, **extra}
