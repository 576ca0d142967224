from __future__ import annotations

import numpy as np
import pytest

from edgecam.capture.picture import Upright
from edgecam.config import CameraConfig
from edgecam.types import Image


def corner() -> Image:
    """Black, wider than high, white at its top left."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:10, :10] = 255
    return image


def white_at(image: Image) -> str:
    height, width = image.shape[:2]
    rows, columns = np.nonzero(image[:, :, 0])
    return ("top" if rows.mean() < height / 2 else "bottom") + " " + ("left" if columns.mean() < width / 2 else "right")


@pytest.mark.parametrize(
    ("rotate_deg", "flip", "own_deg", "where", "size"),
    [
        (0, False, 0, "top left", (40, 80)),
        (90, False, 0, "top right", (80, 40)),
        (180, False, 0, "bottom right", (40, 80)),
        (270, False, 0, "bottom left", (80, 40)),
        (0, True, 0, "top right", (40, 80)),
        (90, True, 0, "top left", (80, 40)),
        (0, False, 90, "top right", (80, 40)),
        (270, False, 90, "top left", (40, 80)),
    ],
)
def test_turned_then_mirrored(rotate_deg: int, flip: bool, own_deg: int, where: str, size: object) -> None:
    config = CameraConfig.model_validate({"url": "x", "rotate_deg": rotate_deg, "flip": flip})
    image = Upright(config)(corner(), own_deg)
    assert white_at(image) == where
    assert image.shape[:2] == size


def test_privacy_zones_are_black_in_the_upright_picture_and_only_there() -> None:
    right_half = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    upright = Upright(CameraConfig(url="x", rotate_deg=90, privacy_zones=(right_half,)))
    for size in ((40, 80), (100, 60)):
        image = upright(np.full((*size, 3), 200, np.uint8))
        middle = image.shape[1] // 2
        assert np.all(image[:, middle + 1 :] == 0)
        assert np.all(image[:, : middle - 1] == 200)


def test_a_frozen_picture_is_blackened_too() -> None:
    everywhere = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    image = np.full((40, 80, 3), 200, np.uint8)
    image.flags.writeable = False
    assert not Upright(CameraConfig(url="x", privacy_zones=(everywhere,)))(image).any()
