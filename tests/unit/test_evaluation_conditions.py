"""Conditions of a scene, frames of a track, and the sign test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecam.evaluation.conditions import Condition, frames_of, scrambled, seen_in, sign_test, small_head
from edgecam.types import FaceCrop


def picture() -> Any:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(40, 200, (16, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def crop() -> FaceCrop:
    marks = np.array([[40, 50], [60, 50], [50, 60], [42, 75], [58, 75]], np.float32)
    return FaceCrop(picture(), np.array([20, 30, 56, 70], np.float32), marks, 1.0)


def shown(condition: Condition) -> Any:
    return seen_in(picture(), condition, np.random.default_rng(0)).astype(float)


def test_no_condition_changes_nothing() -> None:
    assert np.abs(shown(Condition()) - picture()).max() <= 1


def test_each_part_does_what_it_says() -> None:
    plain = picture().astype(float)
    grey = shown(Condition(grey=True))
    assert np.abs(grey[..., 0] - grey[..., 2]).max() <= 1
    assert shown(Condition(gamma=1.8)).mean() < plain.mean() - 10
    assert shown(Condition(gain=1.3)).mean() > plain.mean() + 10
    assert shown(Condition(contrast=0.5)).std() == pytest.approx(plain.std() / 2, rel=0.05)
    assert (shown(Condition(noise=10.0)) - plain).std() == pytest.approx(10.0, rel=0.1)
    for softer in (Condition(blur=3.0), Condition(small=12)):
        assert np.abs(np.diff(shown(softer), axis=1)).max() < np.abs(np.diff(plain, axis=1)).max() / 2


def test_frames_of_a_track_are_one_look_shaken_a_little() -> None:
    def track(seed: int) -> Any:
        frames = frames_of(crop(), Condition(), 3, 1.0, np.random.default_rng(seed))
        return np.stack([f.image.astype(float) for f in frames])

    one, two = track(0), track(1)
    assert np.array_equal(one, track(0))
    assert not np.array_equal(one[0], one[1])
    within = np.abs(one[0] - one[1]).mean()
    assert within < np.abs(one[0] - two[0]).mean() / 2


def test_what_is_scrambled_is_no_face_any_more_but_the_same_picture() -> None:
    before, after = crop(), scrambled(crop(), np.random.default_rng(0))
    assert after.image.shape == before.image.shape
    assert after.image.mean() == pytest.approx(before.image.mean(), abs=2)
    assert np.abs(after.image.astype(float) - before.image).mean() > 20


@pytest.mark.models
def test_the_small_head_keeps_the_cosines_that_it_can(models_dir: Path) -> None:
    from edgecam.evaluation.head import load_head

    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(0, 1, (40, 1792))).astype(np.float32)
    whole = load_head(models_dir / "facenet_head.onnx").project(features)
    small = small_head(features, 64).project(features)  # 40 pictures span 40 directions
    assert small.shape == (40, 40)
    assert np.abs(small @ small.T - whole @ whole.T).max() < 1e-4
    few = small_head(features, 5).project(features)
    assert few.shape == (40, 5)
    assert np.linalg.norm(few, axis=1) == pytest.approx(np.ones(40), abs=1e-5)


def test_signs() -> None:
    assert sign_test([1, 2, 1, 3, 1]) == pytest.approx(1 / 32)
    assert sign_test([1, 2, -1, 3, 1]) == pytest.approx(6 / 32)
    assert sign_test([-1, -1]) == 1.0
    assert sign_test([0.0, 0.0, 1.0]) == 0.5
    assert sign_test([0.0]) == 1.0
