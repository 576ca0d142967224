"""SFace (Zhong et al. 2021) as OpenCV Zoo distributes it: 128-D vectors of 5-point aligned faces."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np

from edgecam.align import arcface_input
from edgecam.embed.base import head_session
from edgecam.nn.session import Session
from edgecam.types import FaceCrop, Floats


class SFace:
    """SFace; its features are its raw outputs, its head as installed only normalises.

    Args:
        net: (N, 3, 112, 112) float32 RGB 0..255 -> (N, 128).
        version: model version of net and head together.
        head: (N, 128) -> (N, 128) unit vectors; None normalises.
        installed: the encoder whose net this is, if there is a head.
    """

    dim = 128

    def __init__(
        self, net: Session, version: str, head: Optional[Session] = None, installed: Optional[SFace] = None
    ) -> None:
        self._net, self.version, self._head = net, version, head
        self.installed: SFace = installed or self
        self.base = self.installed.version

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """See `Encoder`: (N, 128)."""
        rows = np.zeros((len(crops), self.dim), np.float32)
        for row, crop in zip(rows, crops):  # one by one: a batch of eight takes 50 MB more and no less time a face
            image = arcface_input(crop)[:, :, ::-1]
            blob = np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32)
            row[:] = self._net.run({"input": blob})[0].reshape(self.dim)
        return rows

    def project(self, features: Floats) -> Floats:
        """See `Encoder`."""
        if self._head is None or not len(features):
            return unit(features)
        return self._head.run({"features": np.ascontiguousarray(features, np.float32)})[0]

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> SFace:
        """See `Encoder`."""
        return SFace(self._net, version, head_session(heads, "sface_head"), self.installed)


def unit(rows: Floats) -> Floats:
    """Return rows of length 1; a zero row becomes the first axis.

    >>> unit(np.float32([[3, 4], [0, 0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [1.0, 0.0]]
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    out[(norms == 0).ravel(), :1] = 1.0
    return out
