"""Faces of a still picture, for enrolment and `identify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import cv2
import numpy as np

from edgecam import align, quality
from edgecam.config import QualityConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder, as_installed, embed
from edgecam.identify import Recognizability
from edgecam.types import FaceCrop, Faces, Floats, Image, Quality

_ENLARGE = 1.5
_ENLARGE_UP_TO_PX = 2_000_000
_MIRRORED = [1, 0, 2, 4, 3]
"""Eyes and mouth corners change places in a mirror."""


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
    image: Image, detector: Detector, encoder: Encoder, recognizability: Recognizability, config: QualityConfig
) -> List[StillFace]:
    """Return the faces of a photo, largest first."""
    faces = _look(image, detector)
    order = np.argsort(-faces.boxes[:, 2] * faces.boxes[:, 3], kind="stable")
    crops = [align.make_crop(image, faces.boxes[i], faces.landmarks[i]) for i in order]
    rated = [(i, c, quality.assess(c, config)) for i, c in zip(order, crops)]
    made = embed(encoder, [c for _, c, _ in rated])
    return [
        StillFace(faces.boxes[i], crop, recognizability.rate(q, plain), vector, features)
        for (i, crop, q), vector, features, plain in zip(
            rated, made.vectors, made.features, as_installed(encoder, made)
        )
    ]


def _look(image: Image, detector: Detector) -> Faces:
    """Return the faces; where none is found, look again at the mirrored and at an enlarged picture.

    A video gives a second look by itself, a photo has to be turned: this finds 10 of 12 calibration photos that the
    first look misses.
    """
    faces = detector(image)
    if not len(faces):
        faces = _unmirrored(detector(np.ascontiguousarray(image[:, ::-1])), image.shape[1])
    if not len(faces) and image.shape[0] * image.shape[1] <= _ENLARGE_UP_TO_PX:
        found = detector(cv2.resize(image, None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_LINEAR))
        scale = np.float32(_ENLARGE)
        faces = Faces(found.boxes / scale, found.scores, found.landmarks / scale)
    return faces


def _unmirrored(faces: Faces, width: int) -> Faces:
    boxes, landmarks = faces.boxes.copy(), faces.landmarks[:, _MIRRORED].copy()
    boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2]
    landmarks[:, :, 0] = width - landmarks[:, :, 0]
    return Faces(boxes, faces.scores, landmarks)
