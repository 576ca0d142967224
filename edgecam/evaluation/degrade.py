"""Degradations of a face picture, as a bad camera at a bad hour would give it."""

from __future__ import annotations

import cv2
import numpy as np

from edgecam.types import Image

_BORDER = cv2.BORDER_REPLICATE


def degrade(image: Image, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """Return another look at the same face; the input is not altered.

    Flip, turn up to 10 degrees, scale and shift, gain 25 %, gamma 0.6-1.8, blur up to sigma 1.5, noise up to sigma 8,
    now and then a small far face or something held before it. `strength` scales each; 0 only flips.
    """
    height, width = image.shape[:2]

    def upto(limit: float) -> float:
        return float(rng.uniform(-limit, limit)) * strength

    out = image[:, ::-1] if rng.random() < 0.5 else image
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), upto(10.0), 1.0 + upto(0.1))
    matrix[:, 2] += upto(0.06 * width), upto(0.06 * height)
    out = cv2.warpAffine(np.ascontiguousarray(out), matrix, (width, height), borderMode=_BORDER)
    if rng.random() < 0.2 * strength:
        out = _covered(out, rng)
    light = np.clip(out.astype(np.float32) / 255.0 * (1.0 + upto(0.25)), 0.0, 1.0)
    gamma = float(np.exp(rng.uniform(np.log(0.6), np.log(1.8)) * strength))
    light = np.power(light, gamma, dtype=np.float32)
    sigma = float(rng.uniform(0.0, 1.5)) * strength
    if sigma > 0.1:
        light = cv2.GaussianBlur(light, (0, 0), sigma)
    if rng.random() < 0.3 * strength:
        small = int(rng.integers(32, 65))
        shape = (max(8, small * width // max(height, width)), max(8, small * height // max(height, width)))
        light = cv2.resize(cv2.resize(light, shape, interpolation=cv2.INTER_AREA), (width, height))
    # One draw for the three channels: a grey picture stays grey.
    noise = rng.normal(0.0, rng.uniform(0.0, 8.0) * strength / 255.0, (height, width, 1))
    result: Image = (np.clip(light + noise, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result


def _covered(image: Image, rng: np.random.Generator) -> Image:
    """Return the picture with a grey bar over at most 15 % of it."""
    height, width = image.shape[:2]
    area = float(rng.uniform(0.03, 0.15)) * height * width
    w = int(min(width, np.sqrt(area * rng.uniform(0.4, 2.5))))
    h = int(min(height, area / max(w, 1)))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    out = image.copy()
    out[y : y + h, x : x + w] = int(rng.integers(0, 256))
    return out
