"""A recogniser of the owner's, through insightface's model zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from edgecam.align import arcface_input
from edgecam.embed.sface import unit
from edgecam.errors import ModelError
from edgecam.nn.insightface_zoo import DIM, InsightFaceModel
from edgecam.types import FaceCrop, Floats


class InsightFace:
    """An ArcFace-style net of an insightface pack: 112x112 aligned faces to 512-D.

    Args:
        path: the ONNX file.
        providers: `tensorrt`, `cuda`, `cpu` in order of preference.
    """

    dim = DIM
    width = DIM

    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        self._model = InsightFaceModel(path, providers)
        self.version = self.base = self._model.version
        self.installed: InsightFace = self

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """See `Encoder`: (N, 512) unit vectors."""
        if not crops:
            return np.zeros((0, self.dim), np.float32)
        return self._model.embed(np.stack([arcface_input(c) for c in crops]))

    def project(self, features: Floats) -> Floats:
        """See `Encoder`."""
        return unit(features)

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> InsightFace:
        """See `Encoder`; an encoder of the owner's own is not tuned."""
        raise ModelError(f"{version} tunes {', '.join(heads)}, and {self.base} has no such head")
