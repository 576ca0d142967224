"""The Hungarian method for a handful of faces.

Tested against `scipy.optimize.linear_sum_assignment`, which costs 44 MB and a second of import on the live path.
"""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np
from numpy.typing import NDArray


def assign(affinity: NDArray[np.floating[Any]]) -> List[Tuple[int, int]]:
    """Return the pairs (row, column) of the largest total affinity, one to one, sorted by row.

    Shortest augmenting paths with dual variables (Jonker & Volgenant 1987), O(n^2 m).

    Args:
        affinity: (R, C) finite; min(R, C) pairs are returned.

    >>> assign(np.array([[0.9, 0.8], [0.7, 0.1]]))
    [(0, 1), (1, 0)]
    """
    if affinity.shape[0] > affinity.shape[1]:
        return sorted((row, column) for column, row in assign(affinity.T))
    cost = -np.asarray(affinity, np.float64)
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for row in range(rows):
        distance = np.full(columns, np.inf)
        before = np.full(columns, -1)
        done = np.zeros(columns, bool)
        current, column, length = row, -1, 0.0
        while True:
            reduced = length + cost[current] - row_price[current] - column_price
            closer = ~done & (reduced < distance)
            distance[closer], before[closer] = reduced[closer], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            length = float(distance[column])
            done[column] = True
            if owner[column] < 0:
                break
            current = int(owner[column])
        settled = np.flatnonzero(done)
        gain = length - distance[settled]
        column_price[settled] -= gain
        row_price[row] += length
        for j, more in zip(settled, gain):
            if owner[j] >= 0:
                row_price[owner[j]] += more
        while column >= 0:
            previous = int(before[column])
            owner[column] = row if previous < 0 else owner[previous]
            column = previous
    return sorted((int(owner[j]), int(j)) for j in range(columns) if owner[j] >= 0)
