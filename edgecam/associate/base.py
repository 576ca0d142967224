"""What association is given and what it gives back.

Persons are columns 0..m-1 of everything about devices; in soft labels column 0 means "unknown" and person j is column
j + 1. Events are rows 0..h-1: one place and one stretch of time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, List, Literal, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.errors import ShapeError
from edgecam.types import Floats, Ints

Numbers = NDArray[np.float64]
Mode = Literal["plain", "paper", "code", "prior"]
Rule = Literal["likelihood", "squared", "norm"]
Update = Literal["ours", "paper", "code"]
Tuner = Callable[[Numbers], Floats]
"""(N, m + 1) soft labels -> (N, D) unit vectors of the tuned encoder, started from the untuned one."""


@dataclass(frozen=True, eq=False)
class Scene:
    """N tracklets, h events, m persons with a device each."""

    vectors: Floats
    """(N, D) float32 unit vectors, one a tracklet."""

    events: Ints
    """(N,) event of each tracklet; -1 if its time cannot be trusted."""

    heard: Numbers
    """(h, m) 0..1: the person's device was there."""

    weight: Optional[Numbers] = None
    """(h, m) 0..1: what that says; 1 if None. A device that is always there says little (0.2)."""

    barred: Optional[NDArray[np.bool_]] = None
    """(h, m) the person is known to be elsewhere: no face of this event is theirs."""

    apart: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(C, 2) pairs of tracklets that are two people: seen at once."""

    verified: Optional[Ints] = None
    """(N,) what the user said: person 1..m, -1 nobody of them, 0 not asked; never changed."""

    quality: Optional[Numbers] = None
    """(N,) 0..1; 1 if None."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree; N, h and m may be 0."""
        n, (h, m) = len(self.vectors), self.heard.shape
        _fits("events", self.events, (n,))
        for name in ("weight", "barred"):
            _fits(name, getattr(self, name), (h, m))
        for name in ("verified", "quality"):
            _fits(name, getattr(self, name), (n,))
        _fits("apart", self.apart, (len(self.apart), 2))
        if n and not -1 <= int(self.events.min()) <= int(self.events.max()) < h:
            raise ShapeError(f"events: want -1..{h - 1}, got {self.events.min()}..{self.events.max()}")

    @property
    def persons(self) -> int:
        """Return m."""
        return int(self.heard.shape[1])

    def told(self) -> Numbers:
        """Return (h, m) how far each sighting counts."""
        return np.ones(self.heard.shape) if self.weight is None else self.weight

    def seen(self, clusters: Ints, count: int) -> Numbers:
        """Return (count, h) 0 or 1: the cluster has a tracklet of the event; clusters (N,), -1 for none."""
        out = np.zeros((count, len(self.heard)))
        timed = (self.events >= 0) & (clusters >= 0)
        out[clusters[timed], self.events[timed]] = 1.0
        return out


def _fits(name: str, array: Optional[NDArray[Any]], shape: Tuple[int, ...]) -> None:
    if array is not None and array.shape != shape:
        raise ShapeError(f"{name}: want {shape}, got {array.shape}")


@dataclass(frozen=True)
class Options:
    """How faces and devices are matched; the defaults are the product's, the rest are the paper's and its rivals."""

    mode: Mode = "prior"
    """What attendance adds to the distance of two faces (see `cluster`)."""
    beta: float = 0.10
    """How much."""
    beta_step: float = 0.0
    """Taken off beta at each iteration (the published code: 0.01)."""
    rule: Rule = "likelihood"
    """What a cluster and a device have to do with each other (see `assign`)."""
    cuts: Optional[Tuple[int, ...]] = None
    """Numbers of clusters; 31 from 2 m to 5 m if None."""
    complete: bool = True
    """Whether faces no cut has named are compared with the persons' centres."""
    hard: bool = False
    """Votes are rounded to one name (D-AutoTune)."""
    update: Update = "ours"
    corrected_tree: bool = True
    """Whether the corrected attendance joins the tree, too (the published code: no)."""
    gamma_up: float = 0.10
    gamma_down: float = 0.05
    """An absent face is not an absent person."""
    iterations: int = 8
    calm_rms: float = 0.01
    """Stop when the belief moves less, root mean square per entry."""
    calm_churn: float = 0.01
    """Stop when a smaller share of the labels changes."""
    min_events: int = 20
    """Fewer events with faces: nobody is named."""
    min_regret_events: float = 4.0
    """Swapping two persons must cost so many events, or they are one group."""
    name_from: float = 0.5
    """A label is given from this mass."""
    strangers: float = 6.0
    """Prior weight of "nobody" for a cluster of faces, one person weighing 1: naming somebody takes this likelihood
    ratio at least."""
    unknown: float = 0.10
    """Share of faces expected to be nobody's, where single faces are compared with the persons' centres."""


@dataclass(frozen=True)
class Question:
    """One thing the user could settle."""

    persons: Tuple[int, ...]
    """Who it could be, 0..m-1; empty: nobody known."""
    tracklets: Tuple[int, ...]
    """Faces it is about, the most typical first."""
    worth: float
    """Ambiguity times the events it would settle."""


@dataclass(frozen=True)
class Round:
    """One iteration."""

    churn: float
    """Share of tracklets whose label changed; 1 at first."""
    rms: float
    """Movement of the attendance belief per entry."""
    coverage: float
    missed: float
    """Estimated rate at which a device is silent though its owner is seen; NaN where the rule has none."""


@dataclass(frozen=True, eq=False)
class Association:
    """Who each tracklet is, as far as the devices can say."""

    labels: Numbers
    """(N, m + 1) rows sum to 1; column 0 is unknown."""
    groups: Tuple[Tuple[int, ...], ...]
    """Persons who cannot be told apart; their mass is split evenly."""
    contested: Tuple[int, ...]
    """Persons whose device was carried by two faces: left unnamed."""
    together: Ints
    """(m, 2) events in which the person was seen with the device heard, and without."""
    attendance: Numbers
    """(h, m) corrected belief."""
    vectors: Floats
    """(N, D) as tuned last."""
    questions: Tuple[Question, ...]
    rounds: Tuple[Round, ...]
    reason: str = ""
    """Why nobody was named; empty otherwise."""
    name_from: float = 0.5

    def named(self) -> Ints:
        """Return (N,) person 0..m-1; -1 unknown, -2 one of a group."""
        return named(self.labels, self.groups, self.name_from)

    def candidates(self) -> List[Tuple[int, ...]]:
        """Return for each tracklet who it may be: one person, those of a group, or nobody."""
        found: List[Tuple[int, ...]] = [(int(person),) if person >= 0 else () for person in self.named()]
        for group in self.groups:
            for i in np.flatnonzero(_of_group(self.labels, group, self.name_from)):
                found[i] = group
        return found

    @property
    def coverage(self) -> float:
        """Return the share of tracklets given one name; 0 without tracklets."""
        return float((self.named() >= 0).mean()) if len(self.labels) else 0.0


def named(labels: Numbers, groups: Tuple[Tuple[int, ...], ...], name_from: float) -> Ints:
    """Return (N,) person 0..m-1 where its mass is at least `name_from`; -1 unknown, -2 one of a group."""
    if labels.shape[1] < 2:
        return np.full(len(labels), -1, np.int64)
    best = labels[:, 1:].argmax(axis=1)
    out = np.where(labels[:, 1:].max(axis=1, initial=0.0) >= name_from, best, -1).astype(np.int64)
    for group in groups:
        out[_of_group(labels, group, name_from)] = -2
    return out


def _of_group(labels: Numbers, group: Tuple[int, ...], name_from: float) -> NDArray[np.bool_]:
    """Return (N,) whether the group's mass suffices for a name."""
    enough: NDArray[np.bool_] = labels[:, [1 + j for j in group]].sum(axis=1) >= name_from
    return enough
