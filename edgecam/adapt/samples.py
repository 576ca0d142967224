"""What a night learns from: faces as trunk features, with what is known of who they are, and of who they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.errors import ShapeError
from edgecam.types import Floats, Ints

SURE = 0.8
"""A group with so much of one person's share is that person's; with so little of anybody's as is left, nobody's."""


@dataclass(frozen=True, eq=False)
class Track:
    """A kept track, as the night sees it."""

    id: str
    visit: str
    camera: str
    place: str
    day: int
    """Local calendar day of its visit (ordinal); -1 if the clock was not set."""

    first_s: float
    last_s: float
    """Seconds (source clock); comparable within the visit."""

    mean: Floats
    """(K,) float32 its features' mean by quality."""

    features: NDArray[np.float16]
    """(N, K) of its faces, the best first."""

    qualities: Floats
    """(N,) 0..1."""

    infrared: bool
    live: bool
    """Proven; what is unproven is associated and asked about, but teaches nothing."""

    clothes: Floats
    """(C,) unit, or empty."""

    taken_for: Optional[str]
    """Person id that the last word about it named."""

    person_id: Optional[str]
    """Who the user said it is."""

    nobody: bool
    """The user said: none of the house's people."""

    grouped: bool
    """The user said it of a whole visitor, not of this track."""

    @property
    def verified(self) -> bool:
        """Whether the user looked at this very track and said who it is: it is judged by, and teaches nothing."""
        return self.nobody or (self.person_id is not None and not self.grouped)


@dataclass(frozen=True, eq=False)
class Samples:
    """N faces of G groups; the faces of a group are surely one person."""

    features: Floats
    """(N, K) float32 trunk features."""

    group: Ints
    """(N,) int64 group of each face, 0..G-1: a track, or one person's enrolment photos."""

    shares: Floats
    """(G, P) float32 how far each group is each of `people`; a row sums to at most 1, the rest is somebody else."""

    people: Tuple[str, ...]
    """P person ids."""

    apart: Ints
    """(C, 2) int64 pairs of groups that are surely two people."""

    domain: Ints
    """(N,) int64 what the face was seen with: 0 enrolment by day, from 1 on a camera by day or in infrared, grey
    enrolment."""

    enrolled: NDArray[np.bool_]
    """(N,) whether it is an enrolment photo: replayed every night, and never doubted."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        n, groups = len(self.features), len(self.shares)
        if not self.group.shape == self.domain.shape == self.enrolled.shape == (n,):
            raise ShapeError(f"want {n} groups, domains and flags")
        if self.shares.shape != (groups, len(self.people)) or self.apart.shape[1:] != (2,):
            raise ShapeError(f"shares {self.shares.shape}, apart {self.apart.shape}")
        if n and not 0 <= self.group.min() <= self.group.max() < groups:
            raise ShapeError(f"groups outside 0..{groups - 1}")

    def of_groups(self, kept: Ints) -> Samples:
        """Return the samples of these groups alone; group i of the result is group kept[i]."""
        number = np.full(len(self.shares), -1, np.int64)
        number[kept] = np.arange(len(kept))
        faces = number[self.group] >= 0
        both = (number[self.apart] >= 0).all(axis=1)
        return Samples(
            features=self.features if faces.all() else self.features[faces],
            group=number[self.group[faces]],
            shares=self.shares[kept],
            people=self.people,
            apart=number[self.apart[both]],
            domain=self.domain[faces],
            enrolled=self.enrolled[faces],
        )
