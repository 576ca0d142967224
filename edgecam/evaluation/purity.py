"""`edgecam eval purity`: does tuning on what is free make one person's tracks one cluster (SymTriplet, tables 2 and 3)?

Composed: "scenes" (one day, one light) of four shots, in each one to four of S people, a tracklet each. A tracklet is
one photo, degraded, in the scene's condition and shaken from frame to frame; further shots use further photos. Known
without any label: the faces of a tracklet are one person, tracklets of one shot are two people, and who looks and is
dressed alike on one day is one person. A tenth of the tracklets are a single face; of those in company a twentieth show
no face at all.

frozen: the head as it starts. contrastive, triplet, symtriplet: tuned on tracklets alone, in equal steps, from the same
draws. +context: symtriplet with pairs found by clothing, and what follows from them. +device: its clusters, with the
phones heard in a scene. facenet: the untuned 512 dimensions instead of 64. Every method is clustered alike: the mean
squared distance of all pairs of faces (eq. 12), two people of one shot last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.embed.sface import unit
from edgecam.evaluation.conditions import (
    Condition,
    encode_all,
    frames_of,
    scrambled,
    sign_test,
    small_head,
)
from edgecam.evaluation.faces import say
from edgecam.evaluation.head import Head, load_head
from edgecam.evaluation.world import read_crops
from edgecam.metrics import Numbers, bootstrap
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import FaceCrop, Floats, Ints

Row = Dict[str, Any]
Flags = NDArray[np.bool_]

SCENES, SHOTS, CAST = 60, 4, 6
"""A scene's people are drawn first: who is there in the morning is there again later that morning."""
SHORT, FALSE = 0.10, 0.05
DIM = 64
CLOTHES, CLOTHES_NOISE, SAME_CLOTHES = 64, 0.1, 0.1
"""Length of a clothing vector, its noise relative to it; share of the scenes in which two are dressed alike."""
MISSED = 0.2
"""Rate at which a person's phone is not heard."""
STRENGTH = 1.25
METHODS = ("frozen", "contrastive", "triplet", "symtriplet", "+context", "+device")
_FALSE_PICTURES = 40
_CERTAIN = 0.999
_NEVER = 1e3
_DEVICE = 0.1
"""Weight of the phones in a squared distance; chosen with `Tuning`."""
_EPS = 0.01


@dataclass(frozen=True)
class Tuning:
    """How the 64-D head is tuned; chosen on seeds 100 to 102, which are in no table (docs/representation.md)."""

    steps: int = 200
    batch: int = 64
    rate: float = 1e-3
    """Of Adam."""
    margin: float = 1.0
    """The papers', although these vectors have length 1."""
    hard: int = 5
    """A negative is the nearest of so many: the hardest 20 %."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    seeds: int = 5

    @property
    def styles(self) -> int:
        """Return how many kinds of light and distance there are."""
        return 12 if self.full else 6

    @property
    def frames(self) -> int:
        """Return how many faces of a tracklet are encoded; eight are kept of a real one."""
        return 5 if self.full else 3


class Pool(NamedTuple):
    """Encoded pictures."""

    features: Floats
    """(N, K)."""
    rows: Tuple[Ints, ...]
    """By person: (photos, styles, frames) rows of the features."""
    false: Ints
    """(pictures, frames) rows of what is no face."""


class World(NamedTuple):
    """n tracklets."""

    person: Ints
    """(n,) 0..S-1; -1 shows nobody."""
    identity: Ints
    """(S,) person of the pool."""
    scene: Ints
    """(n,)."""
    shot: Ints
    """(n,) numbered over all scenes."""
    rows: Tuple[Ints, ...]
    """n times rows of the pool's features."""
    clothing: Floats
    """(n, 64) unit vectors."""
    heard: NDArray[np.float64]
    """(scenes, S) whose phone was heard."""


class Known(NamedTuple):
    """What is known without a label."""

    group: Ints
    """(n,) tracklets of one group are one person."""
    apart: Flags
    """(G, G) groups that are two people."""
    precision: Optional[float] = None
    """Share of the pairs found by clothing that are one person."""
    pairs: int = 0
    """How many were found."""


class Outcome(NamedTuple):
    """One method in one world."""

    purity: float
    pairwise_f1: float
    curve: Tuple[float, ...]
    """Purity at 1, 2 .. 5 times as many clusters as people, what is no face being one more."""
    area: float
    """Mean purity over all numbers of clusters between."""
    at_theta: int
    """Clusters where linking would stop by itself."""
    right: Flags
    """(tracklets that show somebody,) whether the cluster's most frequent person is the own one."""
    who: Ints
    """The same tracklets' person of the pool."""


def run(plan: Plan) -> Iterator[Row]:
    """Yield a row a method, number of people and share of single shots."""
    pool = make_pool(plan)
    whole = load_head(ModelRegistry(default_folder()).path("facenet_head"))
    for people, single in cells(plan, len(pool.rows)):
        found: Dict[str, List[Outcome]] = {}
        knowns: List[Known] = []
        for seed in range(plan.seeds):
            world = draw(pool, people, single, seed)
            outcomes, known = trial(pool, world, seed, Tuning())
            outcomes["facenet"] = judged(world, pool, whole, cannot(world))
            knowns.append(known)
            for method, outcome in outcomes.items():
                found.setdefault(method, []).append(outcome)
        alone = "" if any(k.apart.any() for k in knowns) else "; nobody is known to be two people: nothing is tuned"
        say(f"{people} people, single shots {single:g}: {plan.seeds} seeds{alone}")
        yield from _rows(found, knowns, people, single)


def cells(plan: Plan, people: int) -> Iterator[Tuple[int, float]]:
    """Yield (people, share of shots with one person); numbers of people beyond the folder's are left out."""
    wanted = (6, 13, 19, 40) if plan.full else (6, 13)
    fit = [size for size in wanted if size <= people] or [people]
    if len(fit) < len(wanted):
        say(f"{people} people in the folder: {', '.join(map(str, fit))} instead of {', '.join(map(str, wanted))}")
    singles = (0.0, 0.25, 0.5, 0.75, 1.0) if plan.full else (0.25, 0.75, 1.0)
    for size in fit:
        for single in singles if plan.full or size == fit[-1] else (0.25,):
            yield size, single


# --- the composed scenes ----------------------------------------------------------------------------------------------


def make_pool(plan: Plan) -> Pool:
    """Encode every photo in every style.

    Raises:
        InputError: see `read_crops`.
    """
    encoder, crops = read_crops(plan.data, plan.pad)
    rng = np.random.default_rng(0)
    styles = [_style(rng) for _ in range(plan.styles)]
    counts = [len(own) for own in crops.values()]
    each = plan.styles * plan.frames
    total = sum(counts) * each

    def pictures() -> Iterator[FaceCrop]:
        for n, crop in enumerate(crop for own in crops.values() for crop in own):
            for k, style in enumerate(styles):
                yield from frames_of(crop, style, plan.frames, STRENGTH, np.random.default_rng((n, k)))
        every = [crop for own in crops.values() for crop in own]
        for n in range(_FALSE_PICTURES):
            own_rng = np.random.default_rng((n, 1000))
            junk = scrambled(every[own_rng.integers(len(every))], own_rng)
            yield from frames_of(junk, styles[n % plan.styles], plan.frames, STRENGTH, own_rng)

    features = encode_all(encoder, pictures(), total + _FALSE_PICTURES * plan.frames)
    starts = np.cumsum([0, *counts]) * each
    rows = tuple(
        np.arange(start, start + count * each).reshape(count, plan.styles, plan.frames)
        for start, count in zip(starts, counts)
    )
    return Pool(features, rows, total + np.arange(_FALSE_PICTURES * plan.frames).reshape(-1, plan.frames))


def _style(rng: np.random.Generator) -> Condition:
    return Condition(
        small=int(rng.integers(36, 90)),
        gain=float(rng.uniform(0.6, 1.4)),
        gamma=float(np.exp(rng.uniform(np.log(0.6), np.log(1.8)))),
        blur=float(rng.uniform(0.0, 1.2)),
        noise=float(rng.uniform(0.0, 8.0)),
    )


def draw(pool: Pool, people: int, single: float, seed: int) -> World:
    """Draw scenes.

    Args:
        pool: to draw from.
        people: S.
        single: share of the shots with one person.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    identity = rng.permutation(len(pool.rows))[:people]
    styles = pool.rows[0].shape[1]
    unused = [list(rng.permutation(len(pool.rows[who]) * styles)) for who in identity]
    person: List[int] = []
    shot: List[int] = []
    rows: List[Ints] = []
    clothing: List[Numbers] = []
    heard = np.zeros((SCENES, people))
    for scene in range(SCENES):
        cast = rng.permutation(people)[:CAST]
        worn = _dressed(rng, len(cast))
        style = int(rng.integers(styles))
        shown: Dict[int, List[int]] = {}
        for n in range(SHOTS):
            count = 1 if rng.random() < single else int(rng.integers(2, min(4, len(cast)) + 1))
            for place in rng.permutation(len(cast))[:count]:
                who = int(cast[place])
                photo = _photo(unused[who], len(pool.rows[identity[who]]), style, styles, shown.setdefault(who, []))
                frames = pool.rows[identity[who]][photo, style]
                rows.append(frames[:1] if rng.random() < SHORT else frames)
                clothing.append(worn[place] + rng.normal(0, CLOTHES_NOISE, CLOTHES))
                person.append(who)
                shot.append(scene * SHOTS + n)
            if count > 1 and rng.random() < FALSE * count:
                rows.append(pool.false[rng.integers(len(pool.false))])
                clothing.append(rng.normal(0, 1, CLOTHES))
                person.append(-1)
                shot.append(scene * SHOTS + n)
        there = np.array(sorted(shown))
        heard[scene, there] = rng.random(len(there)) >= MISSED
    shots = np.array(shot)
    dressed = unit(np.array(clothing, np.float32))
    return World(np.array(person), identity, shots // SHOTS, shots, tuple(rows), dressed, heard)


def _dressed(rng: np.random.Generator, count: int) -> Floats:
    worn: Floats = rng.normal(0, 1, (count, CLOTHES)).astype(np.float32)
    if count > 1 and rng.random() < SAME_CLOTHES:
        one, other = rng.choice(count, 2, replace=False)
        worn[one] = worn[other]
    return worn


def _photo(unused: List[int], photos: int, style: int, styles: int, shown: List[int]) -> int:
    """Return a photo in this style not drawn yet, if there is one, and not shown in this scene."""
    fresh = [n for n in unused if n % styles == style and n // styles not in shown]
    if fresh:
        unused.remove(fresh[0])
        photo = int(fresh[0]) // styles
    else:
        photo = next((p for p in range(photos) if p not in shown), 0)
    shown.append(photo)
    return photo


# --- what is known ----------------------------------------------------------------------------------------------------


def cannot(world: World) -> Flags:
    """Return (n, n): tracklets of one shot."""
    found: Flags = world.shot[:, None] == world.shot[None]
    np.fill_diagonal(found, False)
    return found


def tracks_alone(world: World) -> Known:
    """Return what tracklets and shots say (eq. 1 and 2)."""
    return Known(np.arange(len(world.person)), cannot(world))


def with_context(world: World, vectors: Floats) -> Known:
    """Return also the pairs of one day that look and are dressed alike, and what follows from them.

    Likeness is the cosine of the faces plus that of the clothes; it must exceed that of 99.9 % of the pairs known to be
    two people. Best first; a pair that would make two known people one is left out. `adapt.constraints` wants faces and
    clothes to exceed that each for itself, which finds next to nobody in these scenes (docs/representation.md).

    Args:
        world: the tracklets.
        vectors: (n, D) unit vectors of the tracklets' means, by the head as it starts.
    """
    apart = cannot(world)
    like = vectors @ vectors.T + world.clothing @ world.clothing.T
    day = (world.scene[:, None] == world.scene[None]) & ~apart
    left, right = np.nonzero(np.triu(day, 1))
    if not apart.any():
        return tracks_alone(world)
    sure = like[left, right] > np.quantile(like[apart], _CERTAIN)
    left, right = left[sure], right[sure]
    group = np.arange(len(world.person))
    between = apart.copy()
    taken = []
    for n in np.argsort(-like[left, right]):
        a, b = int(group[left[n]]), int(group[right[n]])
        if a != b and between[a, b]:
            continue
        taken.append(n)
        if a != b:
            group[group == b] = a
            between[a] |= between[b]
            between[:, a] |= between[:, b]
    same = world.person[left[taken]] == world.person[right[taken]]
    names, numbers = np.unique(group, return_inverse=True)
    return Known(numbers, between[np.ix_(names, names)], float(same.mean()) if len(same) else None, len(taken))


# --- tuning -----------------------------------------------------------------------------------------------------------


def tune(start: Head, features: Floats, owner: Ints, known: Known, method: str, seed: int, tuning: Tuning) -> Head:
    """Return the head tuned on triplets: two faces of a group, and one of a group known to be somebody else.

    Args:
        start: the 64-D head.
        features: (N, K) trunk features.
        owner: (N,) tracklet of each.
        known: what is known of the tracklets; with nothing known to be two people the start is returned.
        method: contrastive, triplet or symtriplet.
        seed: of the draws.
        tuning: of the training.
    """
    if not known.apart.any():
        return start
    import torch

    from edgecam.adapt import losses

    torch.set_num_threads(1)
    draws = _Triplets(features, known.group[owner], known.apart, seed, tuning.hard)
    weight = torch.from_numpy(start.weight.copy()).requires_grad_()
    shift = torch.from_numpy(start.shift.copy()).requires_grad_()
    table = torch.from_numpy(features)
    optimiser = torch.optim.Adam([weight, shift], lr=tuning.rate)
    for step in range(tuning.steps):
        if step % 20 == 0:
            draws.vectors = _head(weight, shift).project(features)
        rows = torch.from_numpy(np.concatenate(draws.take(tuning.batch)))
        vectors = torch.nn.functional.normalize(table[rows] @ weight.T + shift, dim=1)
        k, same, m = vectors.chunk(3)
        if method == "contrastive":
            pairs = torch.arange(2 * tuning.batch) < tuning.batch
            loss = losses.contrastive(torch.cat([k, k]), torch.cat([same, m]), pairs, tuning.margin)
        else:
            loss = (losses.triplet if method == "triplet" else losses.symtriplet)(k, same, m, tuning.margin)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _head(weight, shift)


def _head(weight: Any, shift: Any) -> Head:
    return Head(weight.detach().numpy().copy(), np.ones(len(shift), np.float32), shift.detach().numpy().copy())


class _Triplets:
    """Draws rows: two of one group, and one of a group apart, the nearest of a few."""

    def __init__(self, features: Floats, group: Ints, apart: Flags, seed: int, hard: int) -> None:
        self._rng, self._hard = np.random.default_rng(seed), hard
        self._of, self._sizes = _table(group[None] == np.arange(len(apart))[:, None])
        self._others, self._many = _table(apart)
        self._anchors = np.flatnonzero(self._many)
        self.vectors: Floats = np.zeros((len(features), 1), np.float32)

    def take(self, count: int) -> Tuple[Ints, Ints, Ints]:
        """Return k, l, m, (count,) each; l is k where a group has a single face."""
        anchors = self._rng.choice(self._anchors, count)
        sizes = self._sizes[anchors]
        first = self._below(sizes)
        second = (first + np.where(sizes > 1, 1 + self._below(np.maximum(sizes - 1, 1)), 0)) % sizes
        k = self._of[anchors, first]
        several = np.repeat(anchors[:, None], self._hard, axis=1)
        others = self._others[several, self._below(self._many[several])]
        some = self._of[others, self._below(self._sizes[others])]
        near = np.einsum("ihj,ij->ih", self.vectors[some], self.vectors[k])
        return k, self._of[anchors, second], some[np.arange(count), near.argmax(axis=1)]

    def _below(self, limits: Ints) -> Ints:
        return self._rng.integers(limits)


def _table(flags: Flags) -> Tuple[Ints, Ints]:
    """Return the columns set in each row, padded with 0, and how many there are."""
    counts = flags.sum(axis=1)
    out = np.zeros((len(flags), max(1, int(counts.max()))), np.int64)
    rows, columns = np.nonzero(flags)
    out[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = columns
    return out, counts


# --- clusters ---------------------------------------------------------------------------------------------------------


def trial(pool: Pool, world: World, seed: int, tuning: Tuning) -> Tuple[Dict[str, Outcome], Known]:
    """Return every method's outcome in this world, and what the clothes said."""
    features, owner = _faces(pool, world)
    start = small_head(features, DIM)
    alone, apart = tracks_alone(world), cannot(world)
    context = with_context(world, unit(_means(start.project(features), owner)[0]))
    heads = {"frozen": start}
    for method in ("contrastive", "triplet", "symtriplet"):
        heads[method] = tune(start, features, owner, alone, method, seed, tuning)
    heads["+context"] = tune(start, features, owner, context, "symtriplet", seed, tuning)
    out = {method: judged(world, pool, head, apart) for method, head in heads.items()}
    out["+device"] = judged(world, pool, heads["+context"], apart, _phones(world))
    return out, context


def _faces(pool: Pool, world: World) -> Tuple[Floats, Ints]:
    owner = np.repeat(np.arange(len(world.rows)), [len(rows) for rows in world.rows])
    return pool.features[np.concatenate(world.rows)], owner


def _means(vectors: Floats, owner: Ints) -> Tuple[Floats, Ints]:
    """Return each tracklet's mean vector (not of unit length) and number of faces."""
    counts = np.bincount(owner)
    sums = np.zeros((len(counts), vectors.shape[1]), np.float32)
    np.add.at(sums, owner, vectors)
    return sums / counts[:, None], counts


def _phones(world: World) -> Numbers:
    """Return (n, n) how unlikely two tracklets are one person by the phones of their scenes (`associate`, prior)."""
    shares = world.heard / np.maximum(world.heard.sum(axis=1, keepdims=True), 1e-9)
    between: Numbers = -np.log(_EPS + shares @ shares.T)[np.ix_(world.scene, world.scene)]
    return between


def judged(world: World, pool: Pool, head: Head, apart: Flags, phones: Optional[Numbers] = None) -> Outcome:
    """Cluster the tracklets in a head's vectors, and count."""
    features, owner = _faces(pool, world)
    means, counts = _means(head.project(features), owner)
    distances: Numbers = 2.0 - 2.0 * (means @ means.T).astype(np.float64)
    known = distances[apart]
    if phones is not None:
        distances = distances + _DEVICE * phones
    people = len(np.unique(world.person))
    labels, heights = linked(distances, counts, apart)
    somebody = world.person >= 0
    true = world.person[somebody]
    purities = {g: _purity(labels[g][somebody], true) for g in range(people, 5 * people + 1) if g in labels}
    theta = np.quantile(known, 0.05) if len(known) else np.inf
    said = labels[people][somebody]
    top = np.array([np.bincount(true[said == c]).argmax() if (said == c).any() else -1 for c in range(people)])
    return Outcome(
        purities[people],
        _pairwise(said, true),
        tuple(purities[g * people] for g in range(1, 6) if g * people in purities),
        float(np.mean(list(purities.values()))),
        int(len(world.person) - np.searchsorted(np.maximum.accumulate(heights), theta)),
        top[said] == true,
        world.identity[true],
    )


def linked(distances: Numbers, counts: Ints, apart: Flags) -> Tuple[Dict[int, Ints], Numbers]:
    """Merge the nearest two until one is left; those known to be two people only when nothing else is left.

    Args:
        distances: (n, n) mean over the pairs of faces.
        counts: (n,) faces.
        apart: (n, n).

    Returns:
        (n,) labels 0..g-1 by number of clusters g, and the (n - 1,) distances of the merges.
    """
    n = len(distances)
    left, barred, sizes = distances.copy(), apart.copy(), counts.astype(np.float64)
    shown = left + _NEVER * barred
    np.fill_diagonal(shown, np.inf)
    label = np.arange(n)
    out = {n: label.copy()}
    heights = np.empty(n - 1)
    for step in range(n - 1):
        a, b = sorted(divmod(int(shown.argmin()), n))
        heights[step] = shown[a, b]
        left[a] = left[:, a] = (sizes[a] * left[a] + sizes[b] * left[b]) / (sizes[a] + sizes[b])
        barred[a] |= barred[b]
        barred[:, a] = barred[a]
        sizes[a] += sizes[b]
        gone = np.isinf(shown[a]) & (np.arange(n) != a)
        shown[a] = np.where(gone, np.inf, left[a] + _NEVER * barred[a])
        shown[a, a] = np.inf
        shown[:, a] = shown[a]
        shown[b] = shown[:, b] = np.inf
        label[label == b] = a
        out[n - step - 1] = np.unique(label, return_inverse=True)[1]
    return out, heights


def _purity(labels: Ints, true: Ints) -> float:
    return float(sum(np.bincount(true[labels == c]).max() for c in np.unique(labels)) / len(true))


def _pairwise(labels: Ints, true: Ints) -> float:
    """Return the F1 of "these two are one person" over all pairs of tracklets."""
    said, is_so = labels[:, None] == labels[None], true[:, None] == true[None]
    upper = np.triu(np.ones(said.shape, np.bool_), 1)
    both = int((said & is_so & upper).sum())
    return 2.0 * both / int((said & upper).sum() + (is_so & upper).sum())


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(found: Dict[str, List[Outcome]], knowns: Sequence[Known], people: int, single: float) -> Iterator[Row]:
    order = ("facenet", *METHODS)
    for method in order:
        own = found[method]
        row: Row = {"method": method, "purity": _mean([o.purity for o in own])}
        row["pairwise_f1"] = _mean([o.pairwise_f1 for o in own])
        row.update(people=people, single=single, seeds=len(own), ci95=_interval(own))
        row["curve"] = [_mean(values) for values in zip(*(o.curve for o in own))]
        row["area"] = _mean([o.area for o in own])
        row["at_theta"] = float(np.median([o.at_theta for o in own]))
        before = {"triplet": "frozen", "symtriplet": "triplet", "+context": "symtriplet", "+device": "+context"}
        against = before.get(method, "frozen")
        if method not in ("facenet", "frozen"):
            gains = [o.purity - other.purity for o, other in zip(own, found[against])]
            row.update(against=against, gain=_mean(gains), better=sum(g > 0 for g in gains))
            row["sign_p"] = round(sign_test(gains), 4)
        if method == "+context":
            sure = [k.precision for k in knowns if k.precision is not None]
            row.update(context_pairs=_mean([float(k.pairs) for k in knowns]))
            row["context_precision"] = _mean(sure) if sure else None
        if not any(k.apart.any() for k in knowns) and method not in ("facenet", "frozen"):
            row["reason"] = "no negatives: not tuned"
        yield row


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _interval(outcomes: Sequence[Outcome]) -> Optional[List[float]]:
    """Return the 95 % interval of the purity, whole people resampled over all seeds."""
    right = np.concatenate([o.right for o in outcomes])
    who = np.concatenate([o.who for o in outcomes])

    def statistic(weights: Numbers) -> float:
        own = weights[who]
        return float(own[right].sum() / own.sum()) if own.sum() else float("nan")

    found = bootstrap(int(who.max()) + 1, statistic)
    return None if found is None else [round(v, 4) for v in found]
