"""How recognisable a face is at all, by its distance from the faces that nobody could recognise.

Encoders send faces degraded beyond recognition to one corner of their space, whoever they are (Deng et al. 2023). A
face near that corner looks like everybody else there: its likeness to an enrolled person says nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecam.types import Floats, Quality

_CLEAR, _LOST = 0.1, 0.4
"""Cosine to the centre: up to the first a face is as good as any, from the second it is beyond recognition. Of the
calibration faces that are still recognised 0.3 % lie beyond, of those that are not a third."""


class Recognizability:
    """Rates embedded faces.

    Args:
        centre: (D,) unit vector, the mean of unrecognisable faces.
    """

    def __init__(self, centre: Floats) -> None:
        self._centre = centre

    def __call__(self, vectors: Floats) -> Floats:
        """Return (N,) 0..1 for (N, D) unit vectors; 0 is beyond recognition."""
        rated: Floats = np.clip((_LOST - vectors @ self._centre) / (_LOST - _CLEAR), 0.0, 1.0).astype(np.float32)
        return rated

    def rate(self, quality: Quality, vector: Floats) -> Quality:
        """Return the quality with this part taken in."""
        part = float(self(vector[None])[0])
        reason = quality.reason if part > 0 or quality.reason else "beyond recognition"
        parts = {**quality.parts, "recognizability": part}
        return replace(quality, score=quality.score * part, parts=parts, reason=reason)
