"""What the night minimises: PyTorch losses of soft labels, of pairs known the same or apart, of several datasets.

Vectors are unit vectors unless said; every loss is a mean over its batch. Equations are numbered as in
AutoTune (Lu et al. 2019), SymTriplet (Zhang et al., Tracking Persons-of-Interest), dataset-aware training
(EP4179476A1).

The dataset-aware mask, crossing dropout and the reversed gradient are the subject of a pending patent application. They
are off unless switched on. Where people may be in two datasets, the default is to merge classes known to be one person
and to pass `masked_cross_entropy` a mask of the classes known to be another one.
"""

from __future__ import annotations

import math
from typing import Literal, Optional

import torch
from torch import Tensor
from torch.nn import functional

Margin = Literal["softmax", "arcface", "cosface", "sphereface", "elasticface"]

ELASTIC_SD = 0.0125
"""Radians by which ElasticFace's margin varies from sample to sample (Boutros et al. 2022)."""

STAGE_ONE = 1 / 3
"""Share of the steps before the gradient is reversed; it then grows over as many steps more."""

ENOUGH_SHARED = 0.3
"""Share of people in more than one dataset below which a dataset tells who somebody is; then nothing is reversed."""

_INSIDE = 1.0 - 1e-6
"""Cosines are kept this far from 1, where the angle has no slope."""


# --- soft labels (AutoTune) -------------------------------------------------------------------------------------------


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Return the mean of -sum_k y_ik log p_ik (AutoTune, eq. 5 with soft labels).

    Args:
        logits: (B, P).
        shares: (B, P) y, at least 0; a row that sums to less than 1 counts less.
    """
    return -(shares * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def centres_of(vectors: Tensor, shares: Tensor) -> Tensor:
    """Return (P, D) unit centres o_k = sum_i y_ik z_i / sum_i y_ik, scaled to length 1 (AutoTune, eq. 3); no gradient.

    Args:
        vectors: (B, D).
        shares: (B, P) y; a person without any share has the centre 0.
    """
    return functional.normalize(shares.detach().T @ vectors.detach(), dim=1)


def stochastic_centre(vectors: Tensor, shares: Tensor, centres: Tensor) -> Tensor:
    """Return the mean of sum_k y_ik ||z_i - o_k||^2 (AutoTune, eq. 4), of slope 2 (z_i - sum_k y_ik o_k) / B.

    Args:
        vectors: (B, D) z.
        shares: (B, P) y.
        centres: (P, D) o, held fixed.
    """
    apart = (vectors[:, None, :] - centres.detach()[None]).square().sum(dim=2)
    return (shares * apart).sum(dim=1).mean()


# --- the same and apart (SymTriplet) ----------------------------------------------------------------------------------


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) squared distances D of the rows of a and b, (B, D) each (SymTriplet, eq. 3)."""
    return (a - b).square().sum(dim=1)


def contrastive(a: Tensor, b: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Return the mean of D/2 of pairs that are the same and max(0, margin - D)/2 of the others (SymTriplet, eq. 4).

    Args:
        a: (B, D).
        b: (B, D).
        same: (B,) bool.
        margin: squared distance beyond which two people are left alone; the paper's tau.
    """
    distance = squared(a, b)
    return torch.where(same, distance, functional.relu(margin - distance)).mean() / 2


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """Return the mean of max(0, D(k, l) - D(k, m) + margin)/2 (SymTriplet, eq. 5); k, l, m are (B, D)."""
    return functional.relu(squared(anchor, positive) - squared(anchor, negative) + margin).mean() / 2


def symtriplet(k: Tensor, l: Tensor, m: Tensor, margin: float = 1.0) -> Tensor:  # noqa: E741 - the paper's letters
    """Return the mean of max(0, D(k, l) - (D(k, m) + D(l, m))/2 + margin) (SymTriplet, eq. 8).

    Args:
        k: (B, D).
        l: (B, D) the same people as k.
        m: (B, D) other people.
        margin: alpha.
    """
    return functional.relu(squared(k, l) - (squared(k, m) + squared(l, m)) / 2 + margin).mean()


# --- classes with a margin --------------------------------------------------------------------------------------------


def margin_logits(
    kind: Margin,
    cosines: Tensor,
    targets: Tensor,
    scale: float,
    margin: float,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    """Return (B, C) logits: scale * cosine, the own class's made harder.

    Of the own class, at angle t: softmax cos t; arcface cos(t + margin); cosface cos t - margin; sphereface
    cos(margin t); elasticface arcface with a margin drawn anew for each sample. Where the printed form would rise again
    (t + margin beyond pi, margin t beyond pi) it goes on falling, as in the authors' code.

    Args:
        kind: of margin.
        cosines: (B, C) of vectors and class centres.
        targets: (B,) int64 own classes.
        scale: s.
        margin: radians (arcface, elasticface), a cosine (cosface), a factor from 1 (sphereface); not used by softmax.
        generator: of elasticface's draws.
    """
    if kind == "softmax":
        return scale * cosines
    own = targets[:, None]
    cosine = cosines.gather(1, own)
    if kind == "cosface":
        harder = cosine - margin
    elif kind == "sphereface":
        harder = _multiplied(cosine, margin)
    else:
        margins = torch.full_like(cosine, margin)
        if kind == "elasticface":
            margins = torch.normal(margins, ELASTIC_SD, generator=generator)
        harder = _turned(cosine, margins)
    return scale * cosines.scatter(1, own, harder)


def _turned(cosine: Tensor, margin: Tensor) -> Tensor:
    """Return cos(t + margin); from t = pi - margin on, a line that starts lower and falls with cos t."""
    inside = cosine.clamp(-_INSIDE, _INSIDE)
    turned = inside * margin.cos() - (1.0 - inside.square()).sqrt() * margin.sin()
    return torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())


def _multiplied(cosine: Tensor, factor: float) -> Tensor:
    """Return (-1)^n cos(factor t) - 2n with n = floor(factor t / pi), which falls all the way (Liu et al. 2017)."""
    angle = factor * cosine.clamp(-_INSIDE, _INSIDE).acos()
    turns = (angle.detach() / math.pi).floor()
    return (1.0 - 2.0 * turns.remainder(2.0)) * angle.cos() - 2.0 * turns


# --- several datasets -------------------------------------------------------------------------------------------------


def dataset_mask(
    sample_dataset: Tensor, class_dataset: Tensor, p: float = 0.0, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Return (B, C) bool: which classes a sample is pushed away from (dataset-aware training, eq. 2 and 11).

    Those of its own dataset, and with chance p, drawn for each sample and class, those of another: crossing dropout.
    p = 0 is purely dataset-aware, p = 1 plain softmax.

    Args:
        sample_dataset: (B,) int64.
        class_dataset: (C,) int64.
        p: 0..1; see `crossing_chance`.
        generator: of the draws.
    """
    own = sample_dataset[:, None] == class_dataset[None]
    return own | (torch.rand(own.shape, generator=generator, device=own.device) < p)


def crossing_chance(negatives: float, foreign: int) -> float:
    """Return the p at which so many of the `foreign` classes of other datasets are expected among the negatives.

    The paper's 1e-4 is about 131 of its 1.31 million classes; with a few dozen it would never drop anything.
    """
    return min(1.0, negatives / foreign) if foreign else 0.0


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross-entropy over the own class and the classes that the mask lets in (eq. 3, eq. 4).

    Args:
        logits: (B, C), with any margin.
        targets: (B,) int64 own classes, let in whatever the mask says.
        mask: (B, C) bool; from `dataset_mask`, or rows of a (C, C) table of classes known to be different people.
    """
    allowed = mask.scatter(1, targets[:, None], True)
    return functional.cross_entropy(logits.masked_fill(~allowed, -math.inf), targets)


def reverse_gradient(values: Tensor, weight: float) -> Tensor:
    """Return the same values; what flows back through them is multiplied by -weight (eq. 7).

    Between the vectors and the classifier of datasets: that one learns from its whole loss (eq. 8, eq. 10), the encoder
    to make it fail. Weight 0 holds the encoder still, as in stage one (eq. 9).
    """
    out = values.view_as(values)
    if out.requires_grad:
        out.register_hook(lambda slope: -weight * slope)
    return out


def reversal_weight(step: int, steps: int, shared: float, most: float = 0.1) -> float:
    """Return lambda_d at a step: 0 in stage one, then growing to `most` over as many steps, then staying there.

    Args:
        step: 0..steps - 1.
        steps: of the whole training.
        shared: share of the people who are in more than one dataset; below `ENOUGH_SHARED` always 0.
        most: lambda_d of the paper.
    """
    if shared < ENOUGH_SHARED:
        return 0.0
    return most * min(1.0, max(0.0, step / (steps * STAGE_ONE) - 1.0))
