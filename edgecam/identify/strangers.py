"""Virtual strangers: people who do not exist, drawn from the statistics of thousands who do.

No image or vector of anybody is kept: the model is a mean, a basis and two small covariances (between and within
people) of an encoder's trunk features, after Prince & Elder 2007 (PLDA's generative view). Features that are never
negative (FaceNet's, behind a rectifier) are square-rooted first, which makes them nearly Gaussian.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from numpy.typing import NDArray

from edgecam.errors import ModelError
from edgecam.types import Floats

_FIELDS = (
    "mean",
    "basis",
    "between",
    "within",
    "residual",
    "scale",
    "unrecognisable",
    "rooted",
    "people",
    "photos",
    "dof",
)


@dataclass(frozen=True, eq=False)
class StrangerModel:
    """Statistics of trunk features over many public people."""

    mean: Floats
    """(K,) of the transformed features."""
    basis: Floats
    """(K, r) orthonormal principal directions."""
    between: Floats
    """(r, r) factor: person = between @ standard normal."""
    within: Floats
    """(r, r) factor: photo of a person = person + within @ standard normal."""
    residual: Floats
    """(K,) standard deviation of what the basis leaves out."""
    scale: Floats
    """(K,) transformed feature = (root of the) feature / scale."""
    unrecognisable: Floats
    """(K,) transformed mean features of faces degraded beyond recognition (Deng et al. 2023, recognizability)."""
    rooted: int
    """So many leading features are square-rooted."""
    people: int
    photos: int
    dof: float
    """Degrees of freedom of the Student-t that the people are drawn from; heavier tails than a Gaussian's."""

    def draw(self, count: int, seed: int = 0) -> Floats:
        """Return (count, K) float32 trunk features of as many virtual people, one photo each."""
        rng = np.random.default_rng(seed)
        rank = self.basis.shape[1]

        def normal(width: int) -> Floats:
            return rng.standard_normal((count, width), dtype=np.float32)

        stretch = np.sqrt(self.dof / rng.chisquare(self.dof, (count, 1))).astype(np.float32)
        latent = normal(rank) @ self.between.T * stretch + normal(rank) @ self.within.T
        rows = normal(len(self.mean)) * self.residual
        rows += latent @ self.basis.T + self.mean
        return backward(rows, self.scale, self.rooted)

    def ruin(self) -> Floats:
        """Return (1, K) trunk features of the centre of unrecognisable faces."""
        return backward(self.unrecognisable[None], self.scale, self.rooted)

    def part(self, start: int, end: int) -> StrangerModel:
        """Return the model of the feature columns start..end alone (one encoder of a fused pair)."""
        cut = {n: getattr(self, n)[start:end] for n in ("mean", "basis", "residual", "scale", "unrecognisable")}
        return replace(self, **cut, rooted=min(max(self.rooted - start, 0), end - start))

    def save(self, path: Path) -> None:
        """Write to an .npz file, large arrays as float16."""
        parts: dict[str, NDArray[Any]] = {name: np.asarray(getattr(self, name)) for name in _FIELDS}
        parts = {n: a.astype(np.float16) if a.size > 1 and n != "scale" else a for n, a in parts.items()}
        np.savez_compressed(path, **parts)


def load_strangers(path: Path) -> StrangerModel:
    """Read a model written by `StrangerModel.save`.

    Raises:
        ModelError: missing or damaged.
    """
    try:
        with np.load(path) as data:
            parts: Mapping[str, Any] = {n: data[n].astype(np.float32) for n in _FIELDS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise ModelError(f"{path}: the statistics of strangers cannot be read ({err}); reinstall edgecam") from err
    whole = {n: int(parts[n]) for n in ("rooted", "people", "photos")}
    return StrangerModel(**{**parts, **whole, "dof": float(parts["dof"])})


def forward(features: Floats, scale: Floats, rooted: int) -> Floats:
    """Return features as the model sees them."""
    out = features.astype(np.float32, copy=True)
    out[:, :rooted] = np.sqrt(np.maximum(out[:, :rooted], 0.0))
    result: Floats = out / scale
    return result


def backward(rows: Floats, scale: Floats, rooted: int) -> Floats:
    """Undo `forward`; what would have been negative becomes 0."""
    out = rows * scale
    out[:, :rooted] = np.square(np.maximum(out[:, :rooted], 0.0))
    result: Floats = out.astype(np.float32)
    return result


def fit_strangers(
    features: Floats,
    people: NDArray[np.int64],
    ruined: Floats,
    groups: Mapping[int, int],
    rooted: int,
    rank: int = 64,
    dof: float = 8.0,
) -> StrangerModel:
    """Estimate the statistics.

    Args:
        features: (N, K) trunk features of public faces.
        people: (N,) person of each row; people with several photos give the within-person covariance.
        ruined: (R, K) features of faces degraded beyond recognition.
        groups: start -> end columns that share one scale (one group an encoder), covering all of K.
        rooted: so many leading features are square-rooted.
        rank: principal directions kept.
        dof: Student-t degrees of freedom of the draws.
    """
    scale = np.ones(features.shape[1], np.float32)
    rows = forward(features, scale, rooted)
    for start, end in groups.items():
        scale[start:end] = np.sqrt(rows[:, start:end].var(axis=0).sum())
    rows = rows / scale
    ids, owner, counts = np.unique(people, return_inverse=True, return_counts=True)
    means = np.zeros((len(ids), rows.shape[1]), np.float64)
    np.add.at(means, owner, rows)
    means /= counts[:, None]
    weight = 1.0 / counts[owner]  # every person counts once
    mean = means.mean(axis=0)
    centred = rows - mean
    _, _, vt = np.linalg.svd(centred * np.sqrt(weight)[:, None], full_matrices=False)
    basis = vt[:rank].T
    several = counts[owner] > 1
    inner = (rows[several] - means[owner[several]]) @ basis
    bessel = counts[owner[several]] / (counts[owner[several]] - 1.0)
    share = weight[several] / weight[several].sum()
    within = (inner * (share * bessel)[:, None]).T @ inner
    outer = (means - mean) @ basis
    noise = np.mean(1.0 / counts)
    between = outer.T @ outer / (len(ids) - 1) - noise * within
    left = centred - (centred @ basis) @ basis.T
    residual = np.sqrt((left**2 * weight[:, None]).sum(axis=0) / weight.sum())
    return StrangerModel(
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float32),
        between=_factor(between).astype(np.float32),
        within=_factor(within).astype(np.float32),
        residual=residual.astype(np.float32),
        scale=scale,
        unrecognisable=forward(ruined, scale, rooted).mean(axis=0),
        rooted=rooted,
        people=len(ids),
        photos=len(rows),
        dof=dof,
    )


def _factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    result: NDArray[np.float64] = vectors * np.sqrt(np.maximum(values, 0.0))
    return result
