"""What every face encoder can do; no other stage knows which one it is."""

from __future__ import annotations

from typing import Protocol, Sequence

from edgecam.types import Embeddings, FaceCrop, Floats


class Encoder(Protocol):
    """Face crops to unit vectors, in two steps: a fixed trunk and a head that the night may tune."""

    @property
    def version(self) -> str:
        """Model version; changes whenever vectors stop being comparable."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        ...

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """Return (N, K) float32 trunk features; N may be 0."""
        ...

    def project(self, features: Floats) -> Floats:
        """Return (N, D) float32 unit vectors of (N, K) trunk features."""
        ...


def embed(encoder: Encoder, crops: Sequence[FaceCrop]) -> Embeddings:
    """Return the embeddings of these crops, in order."""
    features = encoder.features(crops)
    return Embeddings(encoder.project(features), features, encoder.version)
