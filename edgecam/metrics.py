"""Scores of recognition: ROC, open set, and intervals by resampling whole identities. Pure numpy."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
Interval = Tuple[float, float]


def threshold_at(impostor: Numbers, rate: float, weights: Optional[Numbers] = None) -> float:
    """Return the lowest threshold that at most `rate` of the impostors exceed.

    Args:
        impostor: (N,) scores, N >= 1.
        rate: 0..1.
        weights: (N,) how often each counts; once each if None.

    >>> threshold_at(np.array([.1, .4, .2, .3]), .25)
    0.3
    """
    order = np.argsort(-impostor, kind="stable")
    counted = np.ones(len(impostor)) if weights is None else weights[order]
    so_far = np.cumsum(counted)
    # Rounding must not turn "1 of 4" into "none of 4".
    first = int(np.searchsorted(so_far, rate * so_far[-1] * (1 + 1e-9), side="right"))
    return float(impostor[order[min(first, len(order) - 1)]])


def auc(genuine: Numbers, impostor: Numbers) -> float:
    """Return the chance that a genuine score exceeds an impostor's; ties count half.

    >>> auc(np.array([.9, .5]), np.array([.1, .5]))
    0.875
    """
    ranked = np.sort(impostor)
    below = np.searchsorted(ranked, genuine, side="left") + np.searchsorted(ranked, genuine, side="right")
    return float(below.mean() / 2.0 / len(impostor))


def fold_accuracy(scores: Numbers, same: NDArray[np.bool_], folds: NDArray[np.int64]) -> Numbers:
    """Return the accuracy of each fold at the threshold that is best on the others.

    Args:
        scores: (N,) one a pair.
        same: (N,) whether the pair shows one person.
        folds: (N,) fold of each pair; two folds at least.
    """
    ids = np.unique(folds)
    out = np.zeros(len(ids))
    for n, fold in enumerate(ids):
        test = folds == fold
        out[n] = np.mean((scores[test] >= best_threshold(scores[~test], same[~test])) == same[test])
    return out


def best_threshold(scores: Numbers, same: NDArray[np.bool_]) -> float:
    """Return the threshold that most of the pairs are judged right at; (N,) scores, (N,) whether it is one person."""
    order = np.argsort(scores)
    ranked, truth = scores[order], same[order]
    right = np.concatenate([[truth.sum()], truth.sum() - np.cumsum(truth) + np.cumsum(~truth)])
    best = int(np.argmax(right))
    low = ranked[best - 1] if best else ranked[0] - 1.0
    high = ranked[best] if best < len(ranked) else ranked[-1] + 1.0
    return float((low + high) / 2.0)


def bootstrap(
    identities: int, statistic: Callable[[Numbers], float], rounds: int = 300, seed: int = 0
) -> Optional[Interval]:
    """Return the 95 % percentile interval of a statistic under resampling of whole identities.

    Args:
        identities: how many there are.
        statistic: of (identities,) multiplicities; NaN rounds are left out.
        rounds: resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        drawn = rng.integers(0, identities, identities)
        found.append(statistic(np.bincount(drawn, minlength=identities).astype(np.float64)))
    values = np.array(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def share(hits: NDArray[np.bool_], weights: Numbers) -> float:
    """Return the weighted share of hits; NaN without weight.

    >>> share(np.array([True, False]), np.array([3.0, 1.0]))
    0.75
    """
    total = float(weights.sum())
    return float(weights[hits].sum()) / total if total else float("nan")
