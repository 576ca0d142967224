"""Real faces as other conditions show them (light, blur, distance, night), and the small head that is tuned on them.

Shared by `eval purity` and `eval dataset-aware`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, List, Sequence

import cv2
import numpy as np

from edgecam.embed import Encoder
from edgecam.evaluation.degrade import degrade
from edgecam.evaluation.faces import say
from edgecam.evaluation.head import Head, load_head
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import FaceCrop, Floats, Image

_BATCH = 32
_TURN_DEG, _SHIFT, _SCALE, _GAIN = 2.0, 0.02, 0.02, 0.04
"""How little consecutive frames of one track differ."""


@dataclass(frozen=True)
class Condition:
    """What a camera, a lamp and a distance do to a picture, in this order."""

    grey: bool = False
    small: int = 0
    """Height in pixels that it is scaled down to and back; 0 leaves it."""
    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    """Around middle grey."""
    blur: float = 0.0
    """Sigma in pixels."""
    noise: float = 0.0
    """Standard deviation, of 255."""


def seen_in(image: Image, condition: Condition, rng: np.random.Generator) -> Image:
    """Return the picture under a condition; the input is not altered."""
    height, width = image.shape[:2]
    if condition.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    light = image.astype(np.float32) / 255.0
    if condition.small:
        shape = (max(8, condition.small * width // height), condition.small)
        light = cv2.resize(cv2.resize(light, shape, interpolation=cv2.INTER_AREA), (width, height))
    light = np.clip(light * condition.gain, 0.0, 1.0) ** condition.gamma
    light = 0.5 + (light - 0.5) * condition.contrast
    if condition.blur > 0.1:
        light = cv2.GaussianBlur(light, (0, 0), condition.blur)
    light = light + rng.normal(0.0, condition.noise / 255.0, (height, width, 1))
    out: Image = (np.clip(light, 0.0, 1.0) * 255.0).astype(np.uint8)
    return out


def frames_of(
    crop: FaceCrop, condition: Condition, frames: int, strength: float, rng: np.random.Generator
) -> List[FaceCrop]:
    """Return some frames of one track: one look at the photo, shaken a little from frame to frame.

    Args:
        crop: the photo's face.
        condition: of the scene.
        frames: how many.
        strength: of `degrade`, once for the track.
        rng: of everything.
    """
    look = degrade(crop.image, rng, strength)
    return [replace(crop, image=seen_in(_shaken(look, rng), condition, rng)) for _ in range(frames)]


def _shaken(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    turn, scale, x, y, gain = rng.uniform(-1, 1, 5) * (_TURN_DEG, _SCALE, _SHIFT * width, _SHIFT * height, _GAIN)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(turn), 1.0 + float(scale))
    matrix[:, 2] += x, y
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    out: Image = np.clip(moved.astype(np.float32) * (1.0 + gain), 0, 255).astype(np.uint8)
    return out


def scrambled(crop: FaceCrop, rng: np.random.Generator) -> FaceCrop:
    """Return something that is no face, though a detector might take it for one: the face's 16 tiles, shuffled."""
    image = cv2.resize(crop.image, (160, 160))
    tiles = [image[y : y + 40, x : x + 40] for y in range(0, 160, 40) for x in range(0, 160, 40)]
    order = rng.permutation(16)
    rows = [np.concatenate([tiles[n] for n in order[start : start + 4]], axis=1) for start in range(0, 16, 4)]
    height, width = crop.image.shape[:2]
    return replace(crop, image=cv2.resize(np.concatenate(rows), (width, height)))


def encode_all(encoder: Encoder, crops: Iterable[FaceCrop], count: int) -> Floats:
    """Return (count, K) trunk features; progress on stderr."""
    rows: List[Floats] = []
    waiting: List[FaceCrop] = []
    for done, crop in enumerate(crops, 1):
        waiting.append(crop)
        if len(waiting) == _BATCH or done == count:
            rows.append(encoder.features(waiting))
            waiting = []
        if done % 2000 == 0 or done == count:
            say(f"{done} of {count} pictures encoded")
    return np.concatenate(rows)


def small_head(features: Floats, dim: int) -> Head:
    """Return FaceNet's head followed by the projection on the `dim` directions that keep most of its cosines.

    Args:
        features: (N, K) trunk features, no labels.
        dim: D of the vectors, at most; of fewer pictures as many as they are.
    """
    whole = load_head(ModelRegistry(default_folder()).path("facenet_head"))
    directions = np.linalg.svd(whole.project(features), full_matrices=False)[2][:dim]
    weight = directions @ (whole.scale[:, None] * whole.weight)
    shift = (directions @ whole.shift).astype(np.float32)
    return Head(weight.astype(np.float32), np.ones(len(shift), np.float32), shift)


def sign_test(differences: Sequence[float]) -> float:
    """Return the one-sided p of so many positive signs under chance; ties are left out, 1 with ties alone.

    >>> round(sign_test([1, 2, 1, 3, 1]), 5)
    0.03125
    """
    from math import comb

    signs = [d > 0 for d in differences if d]
    return sum(comb(len(signs), k) for k in range(sum(signs), len(signs) + 1)) / 2.0 ** len(signs)
