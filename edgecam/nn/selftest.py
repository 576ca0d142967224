"""Does a net compute what it did when the manifest was written?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgecam.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgecam.nn.manifest import SelfTest

    Arrays = Mapping[str, NDArray[np.float32]]

_MAX_SAMPLES: Final = 64


def pattern(shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float32]:
    """Return a smooth (N,C,H,W) or (N,F) wave between low and high, the same everywhere.

    >>> pattern((1, 3), 0.0, 1.0).astype(float).round(3).tolist()
    [[0.5, 0.673, 0.327]]
    """
    batch = np.arange(shape[0], dtype=np.float64).reshape(-1, *[1] * (len(shape) - 1))
    wave = 0.15 * np.sin(batch)
    for axis in range(1, len(shape)):
        place = np.arange(shape[axis], dtype=np.float64) / shape[axis]
        turn = place.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        wave = wave + np.sin(2 * np.pi * turn * (axis + batch) + 0.4 * (axis - 1)) / (len(shape) + 0.5)
    peak = np.abs(wave).max()
    unit = 0.5 + wave * (0.5 / max(float(peak), 1.0))
    values: NDArray[np.float32] = (low + (high - low) * unit).astype(np.float32)
    return values


def feeds(test: SelfTest) -> dict[str, NDArray[np.float32]]:
    """Return the input of the self-test."""
    return {name: pattern(shape, test.low, test.high) for name, shape in test.inputs.items()}


def sample(values: NDArray[np.float32], count: int = _MAX_SAMPLES) -> NDArray[np.float32]:
    """Return at most `count` values at evenly spaced places of the flattened array."""
    flat = values.reshape(-1)
    places = np.linspace(0, flat.size - 1, min(count, flat.size)).round().astype(np.int64)
    picked: NDArray[np.float32] = flat[places]
    return picked


def check(test: SelfTest, outputs: Arrays) -> None:
    """Compare a net's outputs with the stored ones.

    Raises:
        ModelError: an output is missing or differs; says by how much.
    """
    for name, stored in test.outputs.items():
        if name not in outputs:
            raise ModelError(f"self-test failed: no output {name}")
        want = np.array(stored, np.float32)
        got = sample(outputs[name], len(want))
        if got.shape != want.shape or not np.all(np.isfinite(got)):
            raise ModelError(f"self-test failed: {name} is {got.shape} or not finite")
        cosine = similarity(want, got)
        error = float(np.abs(want - got).max())
        if cosine < test.min_cosine:
            raise ModelError(f"self-test failed: {name} has cosine {cosine:.5f}, needs {test.min_cosine}")
        if test.max_error and error > test.max_error:
            raise ModelError(f"self-test failed: {name} is off by {error:.2g}, at most {test.max_error}")


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the cosine of two flattened arrays; 1 if both are zero."""
    one, two = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    if norm == 0.0:
        return float(np.array_equal(one, two))
    return float(one @ two) / norm
