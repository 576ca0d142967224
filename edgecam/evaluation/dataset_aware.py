"""`edgecam eval dataset-aware`: one head for several cameras, when nobody knows who was seen by both (EP4179476A1).

People are split into those that train and those, never seen, on whom same or different is judged. A dataset is a
condition (normal, infrared-like, far); a share of the people, the overlap, is in every dataset, each time under another
label and from other photos; the others are in one. The head is 64-D, starts as FaceNet's and is tuned in equal steps.

naive: all labels as if they were people. da: a sample is pushed away from its own dataset's classes alone. +grl: a
classifier of datasets is fooled besides, in the second stage. +cd1, +cd2: one or two foreign classes are expected among
the negatives; +cd1e-4: the paper's chance, which does nothing to so few classes. oracle: the true people as labels.
merge: what edgecam does: half of the people in several datasets are known (confirmed by their user) and made one
class, and a sample is pushed away from those alone that are known to be somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.evaluation.conditions import Condition, encode_all, frames_of, sign_test, small_head
from edgecam.evaluation.faces import say
from edgecam.evaluation.head import Head
from edgecam.evaluation.world import read_crops
from edgecam.metrics import Numbers, best_threshold, bootstrap, threshold_at
from edgecam.types import FaceCrop, Floats, Ints

Row = Dict[str, Any]
Flags = NDArray[np.bool_]
Kind = Literal["softmax", "arcface", "cosface", "sphereface", "elasticface"]

CONDITIONS = (
    Condition(),
    Condition(grey=True, gamma=1.8, contrast=0.5, blur=1.0, noise=10.0),  # infrared-like
    Condition(small=32),  # far
)
UNSEEN = 0.25
"""Share of the people who are kept for judging: 10 of 40."""
MERGED = 0.5
"""Share of the people in several datasets whom the user has confirmed."""
DIM = 64
STRENGTH = 1.0
_PAIRS = 3000
_FOLDS = 10
_FAR = 0.01


class Method(NamedTuple):
    """How labels are used."""

    only: Optional[int] = None
    """Train on this dataset alone."""
    labels: str = "dataset"
    """A class is a person of a dataset, or `merged` where people are confirmed, or the `true` person."""
    aware: bool = False
    """A sample is pushed away only from classes known to be other people."""
    negatives: float = 0.0
    """Foreign classes expected among the negatives."""
    p: float = 0.0
    """Chance of a foreign class, if it is not said by `negatives`."""
    reverse: bool = False
    against: str = "naive"
    """What it is compared with."""


METHODS: Dict[str, Method] = {
    "merge": Method(labels="merged", aware=True),
    "a-only": Method(only=0),
    "b-only": Method(only=1),
    "naive": Method(against="frozen"),
    "da": Method(aware=True),
    "da+grl": Method(aware=True, reverse=True, against="da"),
    "da+grl+cd1": Method(aware=True, reverse=True, negatives=1, against="da+grl"),
    "da+grl+cd2": Method(aware=True, reverse=True, negatives=2, against="da+grl"),
    "da+grl+cd1e-4": Method(aware=True, reverse=True, p=1e-4, against="da+grl"),
    "oracle": Method(labels="true"),
}
MARGINS: Dict[Kind, float] = {"softmax": 0.0, "arcface": 0.2, "cosface": 0.2, "sphereface": 2.0, "elasticface": 0.2}


@dataclass(frozen=True)
class Tuning:
    """How the head is tuned; chosen on seeds 100 and 101, which are in no table (docs/representation.md)."""

    steps: int = 300
    batch: int = 64
    rate: float = 3e-3
    """Of Adam; a tenth after a third of the steps, a hundredth after two."""
    scale: float = 16.0
    reversal: float = 0.1
    """lambda_d."""
    kind: Kind = "softmax"


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    seeds: int = 5

    @property
    def looks(self) -> int:
        """Return how often each photo is degraded."""
        return 8 if self.full else 3


class Cell(NamedTuple):
    """A place in the table."""

    overlap: float
    datasets: int = 2
    kind: Kind = "softmax"
    reversal: float = 0.1
    methods: Tuple[str, ...] = tuple(METHODS)

    def tuning(self) -> Tuning:
        """Return how its heads are tuned; a margin wants sharper cosines."""
        tuning = Tuning(kind=self.kind, reversal=self.reversal)
        return tuning if self.kind == "softmax" else replace(tuning, scale=2.0 * tuning.scale)


class Pool(NamedTuple):
    """Encoded pictures."""

    features: Floats
    """(N, K)."""
    rows: Tuple[Ints, ...]
    """By person: (photos, conditions, looks) rows of the features."""


class World(NamedTuple):
    """One drawn training, N pictures."""

    rows: Ints
    """(N,) of the pool's features."""
    person: Ints
    """(N,)."""
    dataset: Ints
    """(N,)."""
    confirmed: Ints
    """People in several datasets whom the user has confirmed."""
    shared: Ints
    """People in several datasets."""
    unseen: Ints
    """People kept for judging."""
    share: float
    """Of the training people who are in several datasets."""


class Classes(NamedTuple):
    """Labels of a training with C classes."""

    label: Ints
    """(N,)."""
    dataset: Ints
    """(C,) of a class of one dataset."""
    apart: Flags
    """(C, C) known to be two people: both were in one dataset."""


class Outcome(NamedTuple):
    """One method in one world."""

    within: Tuple[float, ...]
    """Accuracy within each dataset."""
    cross: float
    """Accuracy between datasets."""
    tar: float
    """Same people between datasets that are accepted at a false-accept rate of 1 %."""
    probe: float
    """Accuracy of a linear guess which dataset a vector is from, people held out."""
    centre: Optional[float]
    """Cosine of the centres, in two datasets, of the training people who are in several."""
    right: Flags
    """(M,) pairs between datasets that were judged right, for the interval."""
    pairs: Ints
    """(M, 2) their people."""


def run(plan: Plan) -> Iterator[Row]:
    """Yield a row a method and overlap."""
    pool = make_pool(plan)
    for cell in cells(plan):
        found: Dict[str, List[Outcome]] = {}
        for seed in range(plan.seeds):
            for method, outcome in trial(pool, cell, seed, cell.tuning()):
                found.setdefault(method, []).append(outcome)
            say(f"overlap {cell.overlap:g}, {cell.kind}: seed {seed}")
        yield from _rows(found, cell)


def cells(plan: Plan) -> Iterator[Cell]:
    """Yield the grid: quick, or everything."""
    for overlap in (0.0, 0.25, 0.5, 0.75, 1.0) if plan.full else (0.0, 0.5, 1.0):
        yield Cell(overlap)
    if not plan.full:
        return
    for kind in list(MARGINS)[1:]:
        yield Cell(0.5, kind=kind)
    for reversal in (0.0, 0.03, 0.3):
        yield Cell(0.5, reversal=reversal, methods=("da", "da+grl"))
    yield Cell(0.5, datasets=3)


def make_pool(plan: Plan) -> Pool:
    """Encode every photo in every condition.

    Raises:
        InputError: see `read_crops`.
    """
    encoder, crops = read_crops(plan.data, plan.pad)
    if len(crops) < 40:
        say(f"{len(crops)} people instead of the protocol's 40: {_unseen(len(crops))} are kept for judging")
    conditions = CONDITIONS if plan.full else CONDITIONS[:2]
    counts = [len(own) for own in crops.values()]
    each = len(conditions) * plan.looks

    def pictures() -> Iterator[FaceCrop]:
        for n, crop in enumerate(crop for own in crops.values() for crop in own):
            for k, condition in enumerate(conditions):
                for look in range(plan.looks):
                    yield from frames_of(crop, condition, 1, STRENGTH, np.random.default_rng((n, k, look)))

    features = encode_all(encoder, pictures(), sum(counts) * each)
    starts = np.cumsum([0, *counts]) * each
    rows = tuple(
        np.arange(start, start + count * each).reshape(count, len(conditions), plan.looks)
        for start, count in zip(starts, counts)
    )
    return Pool(features, rows)


def _unseen(people: int) -> int:
    return max(2, round(UNSEEN * people))


def draw(pool: Pool, overlap: float, datasets: int, seed: int) -> World:
    """Draw who is in which dataset, with disjoint photos in each.

    Args:
        pool: to draw from.
        overlap: share of the training people who are in every dataset.
        datasets: K.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    people = rng.permutation(len(pool.rows))
    unseen, train = np.split(people, [_unseen(len(people))])
    shared = train[: round(overlap * len(train))]
    rows: List[Ints] = []
    person: List[int] = []
    dataset: List[int] = []
    for n, who in enumerate(train):
        photos = np.array_split(rng.permutation(len(pool.rows[who])), datasets)
        for k in range(datasets):
            if n < len(shared) or n % datasets == k:
                own = pool.rows[who][photos[k], k].reshape(-1)
                rows.append(own)
                person += [int(who)] * len(own)
                dataset += [k] * len(own)
    confirmed = shared[: round(MERGED * len(shared))]
    owner, of = np.array(person), np.array(dataset)
    return World(np.concatenate(rows), owner, of, confirmed, shared, unseen, len(shared) / len(train))


def classes_of(world: World, labels: str) -> Classes:
    """Return the classes of a training: people of a dataset, confirmed people merged, or true people."""
    in_dataset = world.person * (int(world.dataset.max()) + 1) + world.dataset + int(world.person.max()) + 1
    one = np.isin(world.person, world.confirmed) if labels == "merged" else np.full(len(world.rows), labels == "true")
    names, label = np.unique(np.where(one, world.person, in_dataset), return_inverse=True)
    datasets = np.zeros((len(names), int(world.dataset.max()) + 1), np.bool_)
    datasets[label, world.dataset] = True
    apart: Flags = (datasets[:, None] & datasets[None]).any(axis=2)
    np.fill_diagonal(apart, False)
    return Classes(label, datasets.argmax(axis=1), apart)


# --- tuning -----------------------------------------------------------------------------------------------------------


def tune(start: Head, features: Floats, world: World, method: Method, seed: int, tuning: Tuning) -> Head:
    """Return the head tuned on the world's pictures.

    Args:
        start: the 64-D head.
        features: (N, K) of the world's rows.
        world: labels and datasets.
        method: how they are used.
        seed: of the draws.
        tuning: of the training.
    """
    import torch
    from torch.nn import functional

    from edgecam.adapt import losses

    torch.set_num_threads(1)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    classes = classes_of(world, method.labels)
    batches = _batches(world, method, rng, tuning)
    weight = torch.from_numpy(start.weight.copy()).requires_grad_()
    shift = torch.from_numpy(start.shift.copy()).requires_grad_()
    count, kinds = len(classes.dataset), int(world.dataset.max()) + 1
    centres = torch.from_numpy(_centres(start.project(features), classes.label, count)).requires_grad_()
    guess = torch.zeros(kinds, len(start.shift), requires_grad=True)
    optimiser = torch.optim.Adam([weight, shift, centres, guess], lr=tuning.rate)
    table, own = torch.from_numpy(features), torch.from_numpy(world.dataset)
    label, of, apart = (torch.from_numpy(part) for part in classes)
    for step, picked in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = tuning.rate * 0.1 ** (3 * step // tuning.steps)
        rows = torch.from_numpy(picked)
        vectors = functional.normalize(table[rows] @ weight.T + shift, dim=1)
        cosines = vectors @ functional.normalize(centres, dim=1).T
        logits = losses.margin_logits(tuning.kind, cosines, label[rows], tuning.scale, MARGINS[tuning.kind], generator)
        if method.labels == "merged":
            mask = apart[label[rows]]
        elif method.aware:
            foreign = count - int(np.bincount(classes.dataset).mean())
            p = losses.crossing_chance(method.negatives, foreign) if method.negatives else method.p
            mask = losses.dataset_mask(own[rows], of, p, generator)
        else:
            mask = torch.ones_like(logits, dtype=torch.bool)
        loss = losses.masked_cross_entropy(logits, label[rows], mask)
        if method.reverse:
            turn = losses.reversal_weight(step, tuning.steps, world.share, tuning.reversal)
            guessed = losses.reverse_gradient(vectors, turn) @ guess.T * tuning.scale
            loss = loss + functional.cross_entropy(guessed, own[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Head(weight.detach().numpy(), start.scale, shift.detach().numpy())


def _batches(world: World, method: Method, rng: np.random.Generator, tuning: Tuning) -> Iterator[Ints]:
    """Yield rows, as many of each dataset."""
    datasets = np.unique(world.dataset) if method.only is None else np.array([method.only])
    of = [np.flatnonzero(world.dataset == k) for k in datasets]
    for _ in range(tuning.steps):
        yield np.concatenate([rng.choice(own, tuning.batch // len(of)) for own in of])


def _centres(vectors: Floats, label: Ints, count: int) -> Floats:
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    np.add.at(sums, label, vectors)
    return sums


# --- judging ----------------------------------------------------------------------------------------------------------


def trial(pool: Pool, cell: Cell, seed: int, tuning: Tuning) -> Iterator[Tuple[str, Outcome]]:
    """Yield every method's outcome, the untuned head's first."""
    world = draw(pool, cell.overlap, cell.datasets, seed)
    features = pool.features[world.rows]
    start = small_head(features, DIM)
    yield "frozen", judged(pool, world, start, cell.datasets, seed)
    for name in cell.methods:
        head = tune(start, features, world, METHODS[name], seed, tuning)
        yield name, judged(pool, world, head, cell.datasets, seed)


def judged(pool: Pool, world: World, head: Head, datasets: int, seed: int) -> Outcome:
    """Judge a head on the unseen people."""
    rng = np.random.default_rng(seed)
    rows = [pool.rows[who][:, :datasets] for who in world.unseen]
    person = np.concatenate([np.full(r.size, n) for n, r in enumerate(rows)])
    photo = np.concatenate([np.indices(r.shape)[0].reshape(-1) for r in rows])
    dataset = np.concatenate([np.indices(r.shape)[1].reshape(-1) for r in rows])
    vectors = head.project(pool.features[np.concatenate([r.reshape(-1) for r in rows])])
    within = []
    for k in range(datasets):
        pairs = _pairs(person, photo, (dataset == k)[:, None] & (dataset == k)[None], rng)
        within.append(float(_right(vectors, person, pairs, rng)[0].mean()))
    pairs = _pairs(person, photo, dataset[:, None] != dataset[None], rng)
    right, scores, same = _right(vectors, person, pairs, rng)
    tar = float((scores[same] > threshold_at(scores[~same], _FAR)).mean())
    return Outcome(
        tuple(within),
        float(right.mean()),
        tar,
        _probe(vectors, person, dataset),
        _apart(head.project(pool.features[world.rows]), world),
        right,
        world.unseen[person[pairs]],
    )


def _pairs(person: Ints, photo: Ints, allowed: Flags, rng: np.random.Generator) -> Ints:
    """Return (M, 2) pairs of different photos, half of them of one person, at most 3000 of each."""
    same = person[:, None] == person[None]
    upper = np.triu(allowed & ~(same & (photo[:, None] == photo[None])), 1)
    sets = [np.argwhere(upper & wanted) for wanted in (same, ~same)]
    count = min(_PAIRS, *map(len, sets))
    return np.concatenate([found[rng.permutation(len(found))[:count]] for found in sets])


def _right(vectors: Floats, person: Ints, pairs: Ints, rng: np.random.Generator) -> Tuple[Flags, Numbers, Flags]:
    """Return whether each pair is judged right, 10-fold; its cosine; and whether it is one person."""
    scores = np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]]).astype(np.float64)
    same = person[pairs[:, 0]] == person[pairs[:, 1]]
    folds = rng.permutation(len(pairs)) % _FOLDS
    right = np.zeros(len(pairs), np.bool_)
    for fold in range(_FOLDS):
        test = folds == fold
        right[test] = (scores[test] >= best_threshold(scores[~test], same[~test])) == same[test]
    return right, scores, same


def _probe(vectors: Floats, person: Ints, dataset: Ints) -> float:
    """Return how often a linear classifier guesses the dataset, fitted on every other person."""
    from sklearn.linear_model import LogisticRegression

    found = []
    for half in (0, 1):
        test = person % 2 == half
        guess = LogisticRegression(C=10.0, max_iter=300).fit(vectors[~test], dataset[~test])
        found.append(float(guess.score(vectors[test], dataset[test])))
    return float(np.mean(found))


def _apart(vectors: Floats, world: World) -> Optional[float]:
    """Return the mean cosine of the centres in the first two datasets of the people in several."""
    found = []
    for who in world.shared:
        a, b = (vectors[(world.person == who) & (world.dataset == k)].mean(axis=0) for k in (0, 1))
        found.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return float(np.mean(found)) if found else None


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(found: Dict[str, List[Outcome]], cell: Cell) -> Iterator[Row]:
    for method, own in found.items():
        row: Row = {"method": method, "overlap": cell.overlap}
        row["within"] = _mean([float(np.mean(o.within)) for o in own])
        row["cross"] = _mean([o.cross for o in own])
        row["probe"] = _mean([o.probe for o in own])
        row.update(head=cell.kind, datasets=cell.datasets, seeds=len(own), ci95=_interval(own))
        row["tar"] = _mean([o.tar for o in own])
        row["within_each"] = [_mean(values) for values in zip(*(o.within for o in own))]
        centres = [o.centre for o in own if o.centre is not None]
        row["centre"] = _mean(centres) if centres else None
        if cell.reversal != 0.1:
            row["lambda"] = cell.reversal
        against = METHODS[method].against if method in METHODS else ""
        if against in found:
            gains = [o.cross - other.cross for o, other in zip(own, found[against])]
            row.update(against=against, gain=_mean(gains), better=sum(g > 0 for g in gains))
            row["sign_p"] = round(sign_test(gains), 4)
        if {"oracle", "naive"} <= set(found):
            low, high = (float(np.mean([o.cross for o in found[name]])) for name in ("naive", "oracle"))
            row["gap_closed"] = round((row["cross"] - low) / (high - low), 3) if high - low > 0.002 else None
        yield row


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _interval(outcomes: Sequence[Outcome]) -> Optional[List[float]]:
    """Return the 95 % interval of the accuracy between datasets, whole people resampled over all seeds."""
    right = np.concatenate([o.right for o in outcomes])
    pairs = np.concatenate([o.pairs for o in outcomes])
    same = pairs[:, 0] == pairs[:, 1]

    def statistic(weights: Numbers) -> float:
        own = np.where(same, weights[pairs[:, 0]], weights[pairs[:, 0]] * weights[pairs[:, 1]])
        return float(own[right].sum() / own.sum()) if own.sum() else float("nan")

    found = bootstrap(int(pairs.max()) + 1, statistic)
    return None if found is None else [round(v, 4) for v in found]
