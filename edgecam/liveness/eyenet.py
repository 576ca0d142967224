"""Eye state by a small net of our own (models/eye_state.md)."""

from __future__ import annotations

from typing import Final, Sequence

import numpy as np

from edgecam.liveness.eyes import EyeView, equalise, patches
from edgecam.liveness.passive import Net
from edgecam.types import Floats


class EyeNet:
    """See `EyeEstimator`; openness is the probability that the eyes are open.

    Args:
        net: `eyes` (N, 1, 24, 32) -> logits (N, 1), positive for open.
    """

    name: Final = "net"
    closed_below: Final = 0.5
    least_open: Final = 0.5

    def __init__(self, net: Net) -> None:
        self._net = net

    def __call__(self, views: Sequence[EyeView]) -> Floats:
        """Return (N,) 0..1: both eyes together, for a blink closes both."""
        if not views:
            return np.zeros(0, np.float32)
        pairs = [patches(view.grey, view.landmarks) for view in views]
        blob = np.stack([equalise(patch) for pair in pairs for patch in pair])[:, None]
        logits = self._net.run({"eyes": blob})[0].reshape(-1, 2).mean(axis=1)
        result: Floats = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return result
