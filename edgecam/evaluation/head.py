"""FaceNet's head (1792 -> 512, batch norm as an affine map) tuned in plain numpy on cached trunk features.

Cosine softmax over the people at hand plus centre loss (Wen et al. 2016), Adam, a pull to the weights it started from.
It stands here so that the report's third approach runs without PyTorch; the night's tuning is `edgecam tune`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.embed.sface import unit
from edgecam.types import Floats

_EPS_BN = 1e-3
_TINY = 1e-30
_BETA_1, _BETA_2, _EPS_ADAM = 0.9, 0.999, 1e-8


@dataclass(frozen=True, eq=False)
class Head:
    """vector = unit(scale * (weight @ features) + shift)."""

    weight: Floats
    """(D, K)."""
    scale: Floats
    """(D,) gamma / sqrt(variance + eps) of the batch norm; fixed."""
    shift: Floats
    """(D,)."""

    def project(self, features: Floats) -> Floats:
        """Return (N, D) unit vectors of (N, K) trunk features."""
        return unit(self.scale * (features @ self.weight.T) + self.shift)


def load_head(path: Path) -> Head:
    """Read `facenet_head.onnx`."""
    import onnx

    parts = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}
    norm = {name: parts[f"bottleneck_bn.{name}"].astype(np.float64) for name in ("gamma", "beta", "mean", "var")}
    scale = norm["gamma"] / np.sqrt(norm["var"] + _EPS_BN)
    shift = norm["beta"] - norm["mean"] * scale
    return Head(parts["bottleneck.weight"].astype(np.float32), scale.astype(np.float32), shift.astype(np.float32))


@dataclass(frozen=True)
class TuneOptions:
    """How the head is tuned."""

    epochs: int = 8
    batch: int = 64
    rate: float = 3e-4
    sharpness: float = 16.0
    """Cosines are multiplied by this before the softmax."""
    centre: float = 0.1
    """Weight of the centre loss."""
    stay: float = 1e-3
    """Pull of each weight towards where it started."""
    seed: int = 0


def tune(head: Head, features: Floats, people: NDArray[np.int64], options: TuneOptions) -> Head:
    """Return the head tuned to tell these people apart.

    Args:
        head: where to start.
        features: (N, K) trunk features.
        people: (N,) 0..P-1, every number in use.
        options: of the training.
    """
    return tune_soft(head, features, np.eye(int(people.max()) + 1, dtype=np.float32)[people], options)


def tune_soft(head: Head, features: Floats, shares: Floats, options: TuneOptions) -> Head:
    """Return the head tuned on soft labels, with stochastic centres (AutoTune, eq. 3-5).

    Args:
        head: where to start.
        features: (N, K) trunk features.
        shares: (N, P) how far each row is each person, rows sum to at most 1; every person has some share.
        options: of the training.
    """
    rng = np.random.default_rng(options.seed)
    params = {"weight": head.weight, "shift": head.shift, "classes": _means(head.project(features), shares)}
    start = params["weight"]
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
    step = 0
    for _ in range(options.epochs):
        now = replace(head, weight=params["weight"], shift=params["shift"])
        centres = _means(now.project(features), shares)
        order = rng.permutation(len(features))
        for first in range(0, len(order), options.batch):
            rows = order[first : first + options.batch]
            step += 1
            _, slopes = loss(params, head.scale, features[rows], shares[rows], centres, options)
            slopes["weight"] += options.stay * (params["weight"] - start)
            params = {n: _adam(params[n], slopes[n], moments[n], step, options.rate) for n in params}
    return replace(head, weight=params["weight"], shift=params["shift"])


def loss(
    params: Dict[str, Floats],
    scale: Floats,
    features: Floats,
    shares: Floats,
    centres: Floats,
    options: TuneOptions,
) -> Tuple[float, Dict[str, Floats]]:
    """Return the mean loss of a batch and its gradients.

    Args:
        params: `weight` (D, K), `shift` (D,), `classes` (P, D; any length).
        scale: (D,).
        features: (N, K).
        shares: (N, P) soft labels over `classes`; a row that sums to less than 1 counts less.
        centres: (P, D) unit centres, held fixed.
        options: sharpness and centre weight.
    """
    count = len(features)
    raw = scale * (features @ params["weight"].T) + params["shift"]
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    vectors = raw / lengths
    widths = np.linalg.norm(params["classes"], axis=1, keepdims=True)
    classes = params["classes"] / widths
    logits = options.sharpness * (vectors @ classes.T)
    logits -= logits.max(axis=1, keepdims=True)
    chances = np.exp(logits)
    chances /= chances.sum(axis=1, keepdims=True)
    mass = shares.sum(axis=1, keepdims=True)
    apart = mass * vectors - shares @ centres  # sum_k y_k (z - o_k)
    squared = mass[:, 0] + shares @ (centres**2).sum(axis=1) - 2.0 * (vectors * (shares @ centres)).sum(axis=1)
    value = -(shares * np.log(chances + _TINY)).sum() / count + options.centre / 2 * squared.mean()
    slope = (mass * chances - shares) * (options.sharpness / count)
    to_vectors = slope @ classes + options.centre / count * apart
    to_raw = (to_vectors - vectors * (vectors * to_vectors).sum(axis=1, keepdims=True)) / lengths
    to_classes = slope.T @ vectors
    to_classes = (to_classes - classes * (classes * to_classes).sum(axis=1, keepdims=True)) / widths
    return float(value), {"weight": (to_raw * scale).T @ features, "shift": to_raw.sum(axis=0), "classes": to_classes}


def _adam(value: Floats, slope: Floats, moments: Tuple[Floats, Floats], step: int, rate: float) -> Floats:
    first, second = moments
    first *= _BETA_1
    first += (1 - _BETA_1) * slope
    second *= _BETA_2
    second += (1 - _BETA_2) * slope * slope
    ahead = rate * (1 - _BETA_2**step) ** 0.5 / (1 - _BETA_1**step)
    moved: Floats = value - (ahead * first / (np.sqrt(second) + _EPS_ADAM)).astype(value.dtype)
    return moved


def _means(vectors: Floats, shares: Floats) -> Floats:
    """Return (P, D) unit class means, rows counted by their shares."""
    return unit(shares.T @ vectors)
