"""What infrared light does to faces, learnt from whoever is enrolled in both lights.

At night everybody's vector moves the same way, so a mean of infrared faces is near whoever rings at night. Which way
depends on camera and lamp, so it is learnt from the household's own people. It is taken out of whatever is compared
(nuisance attribute projection, Solomonoff, Campbell & Boardman 2005, of one axis).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecam.types import Floats


@dataclass(frozen=True, eq=False)
class Light:
    """From daylight to infrared: x -> mean + kept * (x - mean) + shift, of unit vectors."""

    mean: Floats
    """(D,) of many people's daylight vectors."""
    kept: float
    """Share of what tells people apart that is left in infrared, 0..1."""
    shift: Floats
    """(D,)."""

    @property
    def axis(self) -> Floats:
        """Return the (D,) unit direction of the shift."""
        return unit(self.shift)

    def cast(self, vectors: Floats) -> Floats:
        """Return (N, D) unit vectors as infrared would show them."""
        return unit(self.mean + self.kept * (vectors - self.mean) + self.shift)

    def without(self, vectors: Floats) -> Floats:
        """Return (N, D) unit vectors without the axis."""
        axis = self.axis
        return unit(vectors - (vectors @ axis)[:, None] * axis)


def learn_light(day: Floats, night: Floats, mean: Floats) -> Light:
    """Learn from people seen in both lights.

    The share that is kept is the slope of night on day over the people. Without it the shift would hold a part of these
    people's own likeness, and taking that out brings strangers nearer to them.

    Args:
        day: (P, D) mean daylight vector of each person, P >= 2.
        night: (P, D) mean infrared vector, likewise.
        mean: (D,) of many people's daylight vectors.
    """
    x, y = day - day.mean(axis=0), night - night.mean(axis=0)
    kept = float(np.clip((x * y).sum() / max(float((x * x).sum()), 1e-9), 0.0, 1.0))
    shift = night.mean(axis=0) - mean - kept * (day.mean(axis=0) - mean)
    return Light(mean, kept, shift.astype(np.float32))


def unit(vectors: Floats) -> Floats:
    """Return (..., D) vectors at length 1."""
    out: Floats = (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)).astype(np.float32)
    return out
