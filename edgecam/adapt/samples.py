"""What a night learns from: faces as trunk features, with what is known of who they are, and of who they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.errors import ShapeError
from edgecam.types import Floats, Ints


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
    """(N,) int64 what the face was seen with: camera, day or infrared, enrolment; 0..number of domains - 1."""

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
