"""A dark door by what its household was enrolled with: what infrared faces in a gallery gain, and what they cost.

Households of five of the residents of `eval night`, whose faces these are. A person is enrolled by day (d) with four
clean photos, at night (n) with three to six faces as a cheap camera sees them then, each of another photo and such that
the quality gate lets it pass, or with four grey photos (g), which count as infrared; dn is both. All are judged on the
same further photos, each face alone: by day, at night, and at night those alone that pass the gate. Other people ring.
Intervals: whole people resampled.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.evaluation.faces import Doors, columns, open_bench, say
from edgecam.evaluation.night import ENROLLED, EQUAL_FPIR, HOME, Options, Pool, read_pool
from edgecam.identify import Household, Identifier
from edgecam.metrics import Numbers, share, threshold_at
from edgecam.types import Floats, Ints, Verdict

HOMES = (
    "d d d d d",
    "dn d d d d",
    "dn dn d d d",
    "dn dn dn dn dn",
    "n d d d d",
    "n dn dn d d",
    "n dn dn dn dn",
    "n n n n n",
    "g dn dn dn dn",
)
DARK = (3, 6)
_JUDGED = 4
"""Photos of everybody that are enrolled nowhere, at least."""
_LOOKS = 2
"""Night looks at a photo that are judged."""
_ROUNDS = 200
FIGURES = ("tpir_at_fpir_1%", "named", "wrong", "strangers_named")
_STRANGER = -1
_BATCH = 500


class Member(NamedTuple):
    """Rows of the pool of somebody of a household."""

    day: Ints
    night: Ints
    judged: Ints


def compose(pool: Pool, person: int, rng: np.random.Generator) -> Member:
    """Draw the photos that a person is enrolled by and judged on."""
    mine = pool.person == person
    photos = rng.permutation(np.unique(pool.photo[mine]))
    night: List[int] = []
    used = list(photos[:ENROLLED])
    wanted = int(rng.integers(DARK[0], DARK[1] + 1))
    for photo in photos[ENROLLED:-_JUDGED]:
        looks = np.flatnonzero((pool.photo == photo) & (pool.look > 0) & (pool.good > 0))
        if len(looks) and len(night) < wanted:
            night.append(int(rng.choice(looks)))
            used.append(photo)
    day = np.flatnonzero(mine & np.isin(pool.photo, photos[:ENROLLED]) & (pool.look == 0))
    judged = np.flatnonzero(mine & ~np.isin(pool.photo, used) & (pool.look <= _LOOKS))
    return Member(day, np.array(night, np.int64), judged)


class Judged(NamedTuple):
    """What one household says of one kind of faces, N of them."""

    members: Tuple[int, ...]
    person: Ints
    """(N,) position in the pool's people."""
    at_home: NDArray[np.bool_]
    """(N,) whether that is somebody of the household."""
    score: Numbers
    """(N,) similarity to whoever is nearest; of the household's own -1 where that is somebody else."""
    known: NDArray[np.bool_]
    """(N,) whether a name is told."""
    right: NDArray[np.bool_]
    """(N,) whether the nearest is the right one."""

    def shares(self, weights: Numbers) -> List[float]:
        """Return the figures, in the order of `FIGURES`, with everybody counted `weights` times; NaN of nobody."""
        own, other = weights[self.person] * self.at_home, weights[self.person] * ~self.at_home
        level = threshold_at(self.score[~self.at_home], EQUAL_FPIR, other[~self.at_home])
        return [
            share(self.score > level, own),
            share(self.known & self.right, own),
            share(self.known & ~self.right, own),
            share(self.known, other),
        ]


def judge(pool: Pool, vectors: Floats, identifier: Identifier, people: Sequence[int], rows: Ints) -> Judged:
    """Show faces to a household, one by one.

    Args:
        pool: of the faces.
        vectors: (M, D) unit vectors of the whole pool.
        identifier: of people p0, p1, ... in this order.
        people: who these are.
        rows: (N,) of the pool; of strangers and of the household.
    """
    order = [identifier.people.index(f"p{k}") for k in range(len(people))]
    scores = identifier.scores(vectors[rows])[:, order]
    place = {person: k for k, person in enumerate(people)}
    owner = np.array([place.get(int(person), _STRANGER) for person in pool.person[rows]])
    right, top = scores.argmax(axis=1) == owner, scores.max(axis=1)
    known = np.array([bool(identifier.match(vectors[[row]]).verdict is Verdict.KNOWN) for row in rows])
    at_home = owner != _STRANGER
    return Judged(tuple(people), pool.person[rows], at_home, np.where(right | ~at_home, top, -1.0), known, right)


def run(options: Options, households: int) -> Iterator[Dict[str, Any]]:
    """Yield a row for each way to enrol and kind of faces: figures, and gains over daylight alone, with intervals.

    Raises:
        InputError: too few people or photos.
    """
    bench = open_bench()
    pool, doors = read_pool(options, bench), bench.doors(options.encoder)
    features = np.ascontiguousarray(pool.features[:, columns(options.encoder)])
    project = bench.kinds[options.encoder].project
    vectors = np.concatenate([project(features[i : i + _BATCH]) for i in range(0, len(features), _BATCH)])
    found: Dict[Tuple[str, str], List[Judged]] = {}
    for number in range(households):
        rng = np.random.default_rng((13, number))
        people = [int(p) for p in rng.choice(pool.residents, HOME, replace=False)]
        members = [compose(pool, person, rng) for person in people]
        for lights in HOMES:
            for domain, judged in _household(pool, vectors, doors, people, members, lights).items():
                found.setdefault((lights, domain), []).append(judged)
        say(f"{number + 1} of {households} households")
    rng, count = np.random.default_rng(0), len(pool.people)
    draws = [np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64) for _ in range(_ROUNDS)]
    tables = {key: np.array([_mean(of, w) for w in (np.ones(count), *draws)]) for key, of in found.items()}
    for (lights, domain), table in tables.items():
        gain = table - tables[HOMES[0], domain]
        yield {
            "enrolled": lights,
            "domain": domain,
            **dict(zip(FIGURES, _told(table))),
            **dict(zip((f"gain_{name}" for name in FIGURES[:2]), _told(gain))),
        }


def _household(
    pool: Pool, vectors: Floats, doors: Doors, people: Sequence[int], members: Sequence[Member], lights: str
) -> Dict[str, Judged]:
    enrolled = [
        (f"p{k}", vectors[row], light != "d")
        for k, (member, seen) in enumerate(zip(members, lights.split()))
        for light in seen
        for row in (member.night if light == "n" else member.day)
    ]
    identifier = doors.make(Household.of(enrolled))
    own = np.concatenate([member.judged for member in members])
    rows = np.concatenate([own, np.flatnonzero(np.isin(pool.person, pool.strangers))])
    night, good = pool.look[rows] > 0, pool.good[rows] > 0
    kinds = {"night": night, "night, gate": night & good, "day": ~night}
    return {name: judge(pool, vectors, identifier, people, rows[kind]) for name, kind in kinds.items()}


def _mean(outcomes: Sequence[Judged], weights: Numbers) -> Numbers:
    """Return the figures' means over the households, each counted as often as its people are."""
    values = np.array([judged.shares(weights) for judged in outcomes])
    counts = np.array([weights[list(judged.members)].sum() for judged in outcomes])[:, None] * ~np.isnan(values)
    out: Numbers = np.nansum(values * counts, axis=0) / counts.sum(axis=0)
    return out


def _told(table: Numbers) -> List[List[float]]:
    """Return value, low and high of each column of (1 + rounds, figures)."""
    low, high = np.nanquantile(table[1:], (0.025, 0.975), axis=0)
    return [[round(float(v), 4) for v in three] for three in zip(table[0], low, high)]


def main() -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="what infrared faces in a gallery gain at night, and cost")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, metavar="FILE.npz", help="features; `eval night --cache` writes the same")
    parser.add_argument("--half", choices=("odd", "even"), default="odd")
    parser.add_argument("--households", type=int, default=20)
    args = parser.parse_args()
    for row in run(Options(args.data, cache=args.cache, half=args.half), args.households):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
