"""A linear SVM for tens of people, by dual coordinate descent (Hsieh et al. 2008, algorithm 1).

It solves what scikit-learn's `LinearSVC` solves (squared hinge, one against the rest, bias as one more feature) and is
tested against it. scikit-learn itself stays off the live path: importing it costs 95 MB and seconds on a small board.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.types import Floats

_EPOCHS = 200
_TOLERANCE = 1e-3


def fit_linear_svm(vectors: Floats, owner: NDArray[np.int64], classes: int, c: float = 1.0) -> Tuple[Floats, Floats]:
    """Fit one plane a class against the rest.

    Args:
        vectors: (N, D) float32 rows.
        owner: (N,) class 0..classes-1 of each row; every class occurs.
        classes: number of classes, at least 2.
        c: penalty of the squared hinge.

    Returns:
        (classes, D) planes and (classes,) offsets; the class with the highest `plane @ x + offset` wins.
    """
    count = len(vectors)
    rows = np.concatenate([vectors, np.ones((count, 1), np.float32)], axis=1).astype(np.float64)
    sign = np.where(owner[:, None] == np.arange(classes)[None], 1.0, -1.0)  # (N, P)
    damping = 1.0 / (2.0 * c)  # D_ii of the paper, for the squared hinge
    curvature = np.sum(rows**2, axis=1) + damping
    alpha = np.zeros_like(sign)
    planes = np.zeros((classes, rows.shape[1]))
    rng = np.random.default_rng(0)
    for _ in range(_EPOCHS):
        worst = 0.0
        for i in rng.permutation(count):  # every class is a problem of its own: all take this row at once
            gradient = sign[i] * (planes @ rows[i]) - 1.0 + damping * alpha[i]
            projected = np.where(alpha[i] > 0, gradient, np.minimum(gradient, 0.0))
            worst = max(worst, float(np.max(np.abs(projected))))
            fresh = np.maximum(alpha[i] - gradient / curvature[i], 0.0)
            planes += ((fresh - alpha[i]) * sign[i])[:, None] * rows[i][None]
            alpha[i] = fresh
        if worst < _TOLERANCE:
            break
    return planes[:, :-1].astype(np.float32), planes[:, -1].astype(np.float32)
