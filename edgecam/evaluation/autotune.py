"""`edgecam eval autotune`: names from device presence (AutoTune sec. 7.4) in a composed office, against its rivals.

`f1` is the mean over all classes seen among the labelled pictures, as the paper's code counts: a stranger who is given
a name is a class with 0. `f1_poi` is the mean over the POIs and all pictures: an unnamed picture is missed, a named
stranger is a false one. `coverage` is the share of all pictures, strangers' too, that got a name; `leak` the share of
the strangers'.

ours: likelihood ratio, completion, tuning. beta0: the same without attendance in the tree. oa: the paper's association
once, untuned. paper, code: the paper's loop as printed, and with the published code's numbers (its sixteen iterations
cut at eight). d-autotune: the paper's with hard labels. tm: clusters by the nearest of one clean photo each; it is
given what the others have to find out. spectral, gmm: oa on another clustering. oracle: tuned on the true names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edgecam.associate import Association, Options, Scene, associate
from edgecam.associate.attendance import brier
from edgecam.evaluation import rivals
from edgecam.evaluation.faces import say
from edgecam.evaluation.head import Head, TuneOptions, load_head, tune_soft
from edgecam.evaluation.world import (
    HARD_STRENGTH,
    PERSONS,
    POOL,
    STRENGTH,
    Looks,
    Noise,
    World,
    draw,
    frozen_purity,
    make_looks,
    sizes,
)
from edgecam.metrics import Numbers, bootstrap
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Floats, Ints

Row = Dict[str, Any]

_PAPER = Options(
    "paper", 0.02, rule="squared", complete=False, update="paper", name_from=1e-9, min_events=0, gamma_up=0.05
)
METHODS: Dict[str, Options] = {
    "ours": Options(),
    "oa": replace(_PAPER, iterations=1),
    "paper": _PAPER,
    "code": replace(_PAPER, mode="code", beta=0.15, beta_step=0.01, rule="norm", update="code", corrected_tree=False),
    "d-autotune": replace(_PAPER, hard=True),
    "beta0": Options("plain", 0.0),
}
_OTHERS = ("tm", "ours_enrolled", "spectral", "gmm", "oracle")
"""`ours_enrolled` is given what `tm` is: one plain photo a person, as a face that somebody has named."""
_TUNING = TuneOptions(epochs=4)
_RANKS = (1, 3, 10)


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    data: Path
    full: bool = False
    pad: float = 0.25
    seeds: int = 5
    figures: Optional[Path] = None
    rivals: bool = False
    first_seed: int = 0

    @property
    def pictures(self) -> int:
        """Return how many pictures there are of a person, on average; the paper's faces are 168 a person."""
        return 168 if self.full else 50

    @property
    def looks(self) -> int:
        """Return how often each of about ten photos is degraded."""
        return 35 if self.full else 10

    @property
    def hard_looks(self) -> int:
        """Return the same for the worse cameras, of which the quick grid needs few."""
        return 35 if self.full else 10 if self.rivals else 4


class Cell(NamedTuple):
    """A place in the table."""

    noise: str
    level: float
    drawn: Noise
    methods: Tuple[str, ...]
    hard: bool = False
    gamma: Optional[float] = None


class Outcome(NamedTuple):
    """One method, one seed."""

    f1: float
    by_person: Dict[int, float]
    """F1 of each POI, by its number in the data."""
    coverage: float
    leak: float
    iterations: int
    brier: Optional[Tuple[float, float]] = None
    ranks: Optional[Tuple[float, ...]] = None
    twins: Optional[Tuple[float, float]] = None
    """Shares of pairs reported as a group, and of pairs in which a picture got one name."""


class Bed(NamedTuple):
    """What every cell is measured on."""

    looks: Looks
    hard: Looks
    head: Head
    easy_vectors: Floats
    hard_vectors: Floats


def run(plan: Plan) -> Iterator[Row]:
    """Yield a row a noise, level and method."""
    looks = make_looks(plan.data, STRENGTH, plan.looks, plan.pad)
    people = len(looks.people)
    if people < PERSONS + POOL:
        m, strangers = sizes(people, POOL)
        say(f"{people} people instead of the protocol's {PERSONS + POOL}: {m} with a device, {strangers} strangers")
    hard = make_looks(plan.data, HARD_STRENGTH, plan.hard_looks, plan.pad)
    head = load_head(ModelRegistry(default_folder()).path("facenet_head"))
    bed = Bed(looks, hard, head, head.project(looks.features), head.project(hard.features))
    rows: List[Row] = []
    for cell in cells(plan):
        own = bed if not cell.hard else bed._replace(looks=hard, easy_vectors=bed.hard_vectors)
        seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
        worlds = [draw(own.looks, seed, cell.drawn, plan.pictures) for seed in seeds]
        purity = _purity(own, worlds[0])
        for method in cell.methods:
            outcomes = [_outcome(own, world, cell, method, seed) for seed, world in zip(seeds, worlds)]
            rows.append(_row(cell, method, outcomes, purity))
            yield rows[-1]
    if plan.figures is not None:
        from edgecam.evaluation.autotune_figures import draw_figures

        for path in draw_figures(rows, plan.figures):
            say(str(path))


def cells(plan: Plan) -> Iterator[Cell]:
    """Yield the grid: quick, the same with every rival and harder pictures, or everything."""
    all_methods = plan.full or plan.rivals
    every = tuple(METHODS) + _OTHERS if all_methods else ("ours", "oa", "tm")
    some = tuple(METHODS) if all_methods else ("ours", "oa")
    yield Cell("none", 0.0, Noise(), every if all_methods else ("ours", "oa", "tm", "oracle"))
    for rate in (0.1, 0.2, 0.3, 0.4, 0.5) if plan.full else (0.3, 0.5):
        yield Cell("faces", rate, Noise(faces=rate), every if rate < 0.5 or all_methods else (*every, "ours_enrolled"))
    for rate in (0.1, 0.2, 0.3, 0.4, 0.5) if plan.full else (0.5,):
        yield Cell("devices", rate, Noise(devices=rate), every)
    for count in (2, 4, 6, 8, 10) if plan.full else (4, 10):
        yield Cell("non_poi", count, Noise(strangers=count), every)
    yield Cell("mixed", 0.2, Noise(faces=0.2, devices=0.2, strangers=4), every)
    for count in (1, 2) if plan.full else (1,):
        yield Cell("room", count, Noise(rooms=count), some)
    yield Cell("twins", 3, Noise(twins=3), ("ours",))
    if not all_methods:
        return
    for share in (0.2, 0.4, 0.6, 0.8) if plan.full else ():
        yield Cell("days", share, Noise(days=share), some)
    for gamma in (0.05, 0.1, 0.15, 0.2) if plan.full else ():
        yield Cell("gamma", gamma, Noise(faces=0.3), ("ours", "paper"), gamma=gamma)
    for name, drawn in (
        ("none", Noise()),
        ("faces", Noise(faces=0.3)),
        ("devices", Noise(devices=0.5)),
        ("non_poi", Noise(strangers=4)),
        ("mixed", Noise(faces=0.2, devices=0.2, strangers=4)),
    ):
        level = max(drawn.faces, drawn.devices, float(drawn.strangers) if name == "non_poi" else 0.0)
        yield Cell(f"hard_{name}", level, drawn, some, hard=True)


# --- one run ----------------------------------------------------------------------------------------------------------


def _outcome(bed: Bed, world: World, cell: Cell, method: str, seed: int) -> Outcome:
    features, vectors = bed.looks.features[world.rows], bed.easy_vectors[world.rows]
    if world.hard.any():
        worse = bed.hard.twin_of(bed.looks, world.rows[world.hard])
        features[world.hard], vectors[world.hard] = bed.hard.features[worse], bed.hard_vectors[worse]
    scene = Scene(vectors, world.events, world.heard)
    m, photos = scene.persons, bed.looks.plain[world.template]
    if method == "ours_enrolled":
        features = np.concatenate([features, photos])
        scene = _with_photos(scene, bed.head.project(photos))
    kept = _Tuning(bed.head, features, seed)
    found: Optional[Association] = None
    if method == "tm":
        said = rivals.by_template(scene, bed.head.project(photos))
    elif method == "oracle":
        said = np.where(world.person < m, world.person, -1)
        kept(np.eye(m + 1)[said + 1])
    elif method in ("spectral", "gmm"):
        said = rivals.by_clustering(scene, rivals.spectral if method == "spectral" else rivals.mixture)
    else:
        options = METHODS["ours" if method == "ours_enrolled" else method]
        if cell.gamma is not None:
            options = replace(options, gamma_up=cell.gamma)
        found = associate(scene, options, None if options.iterations == 1 else kept)
        said = found.named()[: len(world.rows)]
    outcome = _score(world, said)
    if found is not None:
        outcome = outcome._replace(
            iterations=len(found.rounds),
            brier=(brier(world.heard, world.attended), brier(found.attendance, world.attended)),
        )
        if cell.drawn.twins:
            outcome = outcome._replace(twins=_twins(min(cell.drawn.twins, m // 2), found, world, said))
    if cell.noise in ("none", "mixed") and (said >= 0).any():
        outcome = outcome._replace(ranks=_ranks(kept.head, features[: len(said)], said, bed.looks, world))
    return outcome


def _with_photos(scene: Scene, photos: Floats) -> Scene:
    """Return the scene with a face of each person that somebody has named, of no event."""
    count = len(scene.vectors)
    return replace(
        scene,
        vectors=np.concatenate([scene.vectors, photos]),
        events=np.concatenate([scene.events, np.full(len(photos), -1)]),
        verified=np.concatenate([np.zeros(count, np.int64), np.arange(1, 1 + len(photos))]),
    )


class _Tuning:
    """Tunes the head on soft labels, always from the untuned one; remembers the last."""

    def __init__(self, start: Head, features: Floats, seed: int) -> None:
        self._start, self.head, self._features = start, start, features
        self._options = replace(_TUNING, seed=seed)

    def __call__(self, labels: Numbers) -> Floats:
        shares = labels[:, 1:].astype(np.float32)
        rows, used = shares.sum(axis=1) > 0.5, shares.sum(axis=0) > 1.0
        if not (rows.any() and used.any()):
            return self._start.project(self._features)
        self.head = tune_soft(self._start, self._features[rows], shares[rows][:, used], self._options)
        return self.head.project(self._features)


def _score(world: World, said: Ints) -> Outcome:
    """Return the paper's F1 and the honest one; `said` -1 or -2 where no single name was given."""
    m, truth = world.heard.shape[1], world.person
    labelled, stranger = said >= 0, truth >= m
    own = [_f1((said == j), (truth == j)) for j in range(m)]
    classes = np.unique(np.concatenate([truth[labelled], said[labelled]]))
    paper = [_f1(said[labelled] == j, truth[labelled] == j) for j in classes]
    return Outcome(
        float(np.mean(paper)) if paper else 0.0,
        {int(world.identity[j]): value for j, value in enumerate(own)},
        float(labelled.mean()),
        float(labelled[stranger].mean()) if stranger.any() else 0.0,
        1,
    )


def _f1(said: Any, true: Any) -> float:
    both = int((said & true).sum())
    return 2.0 * both / max(int(said.sum() + true.sum()), 1)


def _twins(pairs: int, found: Association, world: World, said: Ints) -> Tuple[float, float]:
    flagged = sum(any({2 * k, 2 * k + 1} <= set(group) for group in found.groups) for k in range(pairs))
    guessed = sum(bool((said[(world.person // 2) == k] >= 0).any()) for k in range(pairs))
    return flagged / pairs, guessed / pairs


def _ranks(head: Head, features: Floats, said: Ints, looks: Looks, world: World) -> Tuple[float, ...]:
    """Return the shares of held-out pictures whose person is among the first 1, 3 and 10 of a linear SVM."""
    from sklearn.svm import LinearSVC

    named = said >= 0
    classes, owner = np.unique(said[named], return_inverse=True)
    if len(classes) < 3:
        return (float("nan"),) * len(_RANKS)
    svm = LinearSVC(random_state=0).fit(head.project(features[named]), owner)
    order = np.argsort(-svm.decision_function(head.project(looks.features[world.test])), axis=1)
    poi = {int(who): j for j, who in enumerate(world.identity)}
    truth = np.array([poi[int(who)] for who in looks.person[world.test]])
    hit = classes[order] == truth[:, None]
    return tuple(float(hit[:, :rank].any(axis=1).mean()) for rank in _RANKS)


def _purity(bed: Bed, world: World) -> float:
    plain = ~world.hard & (world.person < world.heard.shape[1])
    return frozen_purity(bed.easy_vectors[world.rows[plain]], world.person[plain])


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(cell: Cell, method: str, outcomes: Sequence[Outcome], purity: float) -> Row:
    row: Row = {"noise": cell.noise, "level": cell.level, "method": method}
    poi = [float(np.mean(list(o.by_person.values()))) for o in outcomes]
    row["f1"] = round(float(np.mean([o.f1 for o in outcomes])), 4)
    row["f1_poi"] = round(float(np.mean(poi)), 4)
    row["coverage"] = round(float(np.mean([o.coverage for o in outcomes])), 4)
    row["leak"] = round(float(np.mean([o.leak for o in outcomes])), 4)
    row["iterations"] = float(np.median([o.iterations for o in outcomes]))
    row["seeds"] = len(outcomes)
    row["f1_min"] = round(min(o.f1 for o in outcomes), 4)
    row["f1_poi_min"] = round(min(poi), 4)
    row["ci95"] = _interval(outcomes)
    row["frozen_purity"] = round(purity, 3)
    briers = [o.brier for o in outcomes if o.brier is not None]
    if briers:
        row["brier"] = [round(float(v), 4) for v in np.mean(briers, axis=0)]
    ranks = [o.ranks for o in outcomes if o.ranks is not None]
    if ranks:
        row["ranks"] = dict(zip(map(str, _RANKS), (round(float(v), 4) for v in np.mean(ranks, axis=0))))
    twins = [o.twins for o in outcomes if o.twins is not None]
    if twins:
        flagged, guessed = np.mean(twins, axis=0)
        row.update(flagged=round(float(flagged), 4), guessed=round(float(guessed), 4))
    return row


def _interval(outcomes: Sequence[Outcome]) -> Optional[List[float]]:
    """Return the 95 % interval of f1_poi, whole people resampled over all seeds."""
    people = max(max(o.by_person) for o in outcomes) + 1

    def mean(weights: Numbers) -> float:
        values = np.array([v for o in outcomes for v in o.by_person.values()])
        own = np.array([weights[who] for o in outcomes for who in o.by_person])
        return float((values * own).sum() / own.sum()) if own.sum() else float("nan")

    found = bootstrap(people, mean)
    return None if found is None else [round(v, 4) for v in found]
