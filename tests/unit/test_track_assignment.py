"""The assignment against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from edgecam.track.assignment import assign


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 10_000), st.booleans())
def test_total_affinity_is_scipys(rows: int, columns: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    affinity = rng.integers(0, 3, (rows, columns)) / 2.0 if ties else rng.random((rows, columns))
    pairs = assign(affinity)
    best = linear_sum_assignment(affinity, maximize=True)
    assert len(pairs) == min(rows, columns)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert np.isclose(sum(affinity[i, j] for i, j in pairs), affinity[best].sum())
