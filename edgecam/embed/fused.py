"""Two encoders as one: the cosine of the joint vector is the weighted sum of both cosines."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np

from edgecam.embed.base import Encoder
from edgecam.types import FaceCrop, Floats


class Fused:
    """Concatenation of two encoders' vectors, scaled so that cosines add as `share` : 1 - `share`.

    Args:
        first: its features come first in `features`.
        second: the other encoder.
        first_width: K of the first encoder.
        share: weight of the first encoder's cosine, 0..1.
        version: model version; None makes one of both.
    """

    def __init__(
        self, first: Encoder, second: Encoder, first_width: int, share: float, version: Optional[str] = None
    ) -> None:
        self._first, self._second, self._width, self._share = first, second, first_width, share
        self._scales = float(np.sqrt(share)), float(np.sqrt(1.0 - share))
        self.base = f"{first.base}+{second.base}@{share:g}"
        self.version = version or self.base
        tuned = version is not None
        self.installed: Fused = Fused(first.installed, second.installed, first_width, share) if tuned else self
        self.dim = first.dim + second.dim

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """See `Encoder`: both encoders' features side by side."""
        return np.concatenate([self._first.features(crops), self._second.features(crops)], axis=1)

    def project(self, features: Floats) -> Floats:
        """See `Encoder`."""
        left, right = features[:, : self._width], features[:, self._width :]
        parts = [self._scales[0] * self._first.project(left), self._scales[1] * self._second.project(right)]
        joint: Floats = np.concatenate(parts, axis=1).astype(np.float32)
        return joint

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> Fused:
        """See `Encoder`."""
        both = self._first.with_heads(heads, version), self._second.with_heads(heads, version)
        return Fused(*both, self._width, self._share, version)
