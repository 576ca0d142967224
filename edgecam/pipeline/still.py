"""Faces of a still picture, for enrolment and `identify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import numpy as np

from edgecam import align, quality
from edgecam.config import QualityConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder, embed
from edgecam.types import FaceCrop, Floats, Image, Quality


@dataclass(frozen=True, eq=False)
class StillFace:
    """One face of a photo."""

    box: Floats
    """(4,) float32 x, y, w, h in the photo's pixels."""

    crop: FaceCrop
    quality: Quality
    vector: Floats
    """(D,) float32 unit vector."""

    features: Floats
    """(K,) float32 trunk features."""


def find_faces(
    image: Image, detector: Detector, encoder: Encoder, config: QualityConfig, *, only_good: bool = False
) -> List[StillFace]:
    """Return the faces of a photo, largest first; with `only_good`, those that pass the quality gate."""
    faces = detector(image)
    order = np.argsort(-faces.boxes[:, 2] * faces.boxes[:, 3], kind="stable")
    crops = [align.make_crop(image, faces.boxes[i], faces.landmarks[i]) for i in order]
    rated = [(i, c, quality.assess(c, config)) for i, c in zip(order, crops)]
    rated = [r for r in rated if r[2].ok or not only_good]
    vectors = embed(encoder, [c for _, c, _ in rated])
    return [
        StillFace(faces.boxes[i], crop, q, vectors.vectors[n], vectors.features[n])
        for n, (i, crop, q) in enumerate(rated)
    ]
