"""FaceNet (Schroff et al. 2015), Inception-ResNet-v1: 1792 trunk features, 512-D vectors."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np

from edgecam.align import facenet_input
from edgecam.embed.base import head_session
from edgecam.nn.session import Session
from edgecam.types import FaceCrop, Floats

_BATCH = 2
"""More at once only costs memory on a CPU."""


class FaceNet:
    """FaceNet cut at its 1792 pooled features.

    Args:
        trunk: `input` (N, 3, 160, 160) float32 RGB (x - 127.5) / 128 -> (N, 1792).
        head: (N, 1792) -> (N, 512) unit vectors.
        version: model version of trunk and head together.
        installed: the encoder whose trunk this is, if the head is another.
    """

    dim = 512
    width = 1792

    def __init__(self, trunk: Session, head: Session, version: str, installed: Optional[FaceNet] = None) -> None:
        self._trunk, self._head, self.version = trunk, head, version
        self.installed: FaceNet = installed or self
        self.base = self.installed.version

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """See `Encoder`: (N, 1792), each >= 0."""
        rows = [np.zeros((0, self.width), np.float32)]
        for start in range(0, len(crops), _BATCH):
            images = np.stack([facenet_input(c) for c in crops[start : start + _BATCH]]).astype(np.float32)
            blob = np.ascontiguousarray(((images - 127.5) / 128.0).transpose(0, 3, 1, 2))
            rows.append(self._trunk.run({"input": blob})[0].reshape(-1, self.width))
        return np.concatenate(rows).astype(np.float32)

    def project(self, features: Floats) -> Floats:
        """See `Encoder`."""
        if not len(features):
            return np.zeros((0, self.dim), np.float32)
        vectors: Floats = self._head.run({"features": np.ascontiguousarray(features, np.float32)})[0]
        return vectors

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> FaceNet:
        """See `Encoder`."""
        return FaceNet(self._trunk, head_session(heads, "facenet_head"), version, self.installed)
