"""The report's three approaches: gradients, splits, the leak, and what a frame and a visit count."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import numpy as np
import pytest

from edgecam.evaluation import doorbell
from edgecam.evaluation.degrade import degrade
from edgecam.evaluation.head import Head, TuneOptions, load_head, loss, tune

PEOPLE = 10


def vectors_of(rng: np.random.Generator, spread: float = 0.3) -> Tuple[np.ndarray, doorbell.Pool]:  # type: ignore[type-arg]
    """Return centres and a pool of ten people, 20 pictures to train and 20 to test each."""
    centres = rng.normal(size=(PEOPLE, 16))
    rows = np.repeat(centres, 40, axis=0) + spread * rng.normal(size=(PEOPLE * 40, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    number = np.arange(PEOPLE * 40).reshape(PEOPLE, 40)
    yes = np.ones(len(rows), np.bool_)
    people = tuple(f"P{n}" for n in range(PEOPLE))
    train, test = tuple(number[:, :20]), tuple(number[:, 20:])
    kinds = ("fused", "facenet")
    return centres, doorbell.Pool(
        people, train, test, rows, dict.fromkeys(kinds, yes), dict.fromkeys(kinds, rows)
    )  # fmt: skip


@pytest.mark.parametrize("name", ["weight", "shift", "classes"])
def test_gradients_against_finite_differences(name: str) -> None:
    rng = np.random.default_rng(0)
    params = {"weight": rng.normal(size=(6, 9)), "shift": rng.normal(size=6), "classes": rng.normal(size=(3, 6))}
    scale, features, people = rng.uniform(0.5, 2, 6), rng.normal(size=(7, 9)), np.array([0, 1, 2, 0, 1, 2, 0])
    shares = 0.7 * np.eye(3)[people] + 0.1
    shares[0] = [0.2, 0.3, 0.1]  # the rest is nobody's
    centres = rng.normal(size=(3, 6))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    options = TuneOptions(sharpness=4.0, centre=0.5)

    def value(moved: np.ndarray) -> float:  # type: ignore[type-arg]
        return loss({**params, name: moved}, scale, features, shares, centres, options)[0]  # type: ignore[dict-item, arg-type]

    slopes = loss(params, scale, features, shares, centres, options)[1][name]  # type: ignore[arg-type]
    step = 1e-6
    for index in np.ndindex(*params[name].shape):
        ahead, behind = params[name].copy(), params[name].copy()
        ahead[index] += step
        behind[index] -= step
        assert slopes[index] == pytest.approx((value(ahead) - value(behind)) / (2 * step), abs=1e-5)


def test_tuning_pulls_people_apart_and_leaves_the_start_alone() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(4, 20))
    people = np.repeat(np.arange(4), 25)
    features = (centres[people] + 1.5 * rng.normal(size=(100, 20))).astype(np.float32)
    head = Head(rng.normal(size=(8, 20)).astype(np.float32), np.ones(8, np.float32), np.zeros(8, np.float32))
    before = head.weight.copy()

    def gap(which: Head) -> float:
        cosine = which.project(features) @ which.project(features).T
        same = people[:, None] == people[None]
        return float(cosine[same].mean() - cosine[~same].mean())

    tuned = tune(head, features, people, TuneOptions(epochs=20, rate=1e-2))
    assert gap(tuned) > gap(head) + 0.1
    assert np.array_equal(head.weight, before)
    still = tune(head, features, people, TuneOptions(epochs=0))
    assert np.array_equal(still.weight, head.weight)


@pytest.mark.models
def test_the_head_computes_what_the_model_does(models_dir: Path) -> None:
    from edgecam.nn.session import Session

    path = models_dir / "facenet_head.onnx"
    features = np.random.default_rng(2).gamma(1.0, 0.5, (5, 1792)).astype(np.float32)
    wanted = Session.load(path, ("cpu",), 1).run({"features": features})[0]
    assert load_head(path).project(features) == pytest.approx(wanted, abs=1e-5)


def test_nobody_is_in_two_parts() -> None:
    _, pool = vectors_of(np.random.default_rng(3))
    for split, _ in doorbell.draw_splits(pool, "random", doorbell.Options(Path())):
        everybody = [*split.known, *split.train, *split.calibrate, *split.ring]
        assert sorted(everybody) == list(range(PEOPLE))


def test_forty_people_are_split_as_the_protocol_says() -> None:
    _, pool = vectors_of(np.random.default_rng(3))
    forty = pool._replace(people=tuple(map(str, range(40))), train=pool.train * 4, test=pool.test * 4)
    split, _ = next(doorbell.draw_splits(forty, "random", doorbell.Options(Path())))
    assert (len(split.train), len(split.calibrate), len(split.ring)) == (13, 12, 13)


def test_look_alikes_are_the_nearest() -> None:
    centres, pool = vectors_of(np.random.default_rng(4), spread=0.05)
    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(PEOPLE)
    split, _ = next(doorbell.draw_splits(pool, "lookalikes", doorbell.Options(Path())))
    assert cosine[split.known] == pytest.approx(cosine.max(), abs=0.02)


def test_the_leak_never_accepts_a_stranger_where_honest_taus_sometimes_do() -> None:
    accepted = []
    for seed in range(4):
        _, pool = vectors_of(np.random.default_rng(seed), spread=0.6)
        ringing = np.concatenate(pool.test[5:])
        frames = [ringing[i : i + 1] for i in range(len(ringing))]
        leaked = doorbell.with_tau(pool.vectors["facenet"], pool.train[:2], ringing)(frames)
        assert np.all(leaked.name == -1)
        honest = doorbell.with_tau(pool.vectors["facenet"], pool.train[:2], pool.train[2])(frames)
        accepted.append(np.any(honest.name >= 0))
    assert any(accepted)


def test_the_unknown_class_is_learnt() -> None:
    _, pool = vectors_of(np.random.default_rng(6), spread=0.2)
    approach = doorbell.with_unknown_class(pool.vectors["facenet"], pool.train[:2], np.concatenate(pool.train[2:8]))
    answers = approach([*([row] for row in pool.test[0]), *([row] for row in pool.test[5])])  # type: ignore[list-item]
    assert np.mean(answers.name[:20] == 0) > 0.9
    assert np.mean(answers.name[20:] == -1) > 0.9


def test_a_visit_is_known_by_any_frame() -> None:
    frames = doorbell.Answers(np.array([-1, 1, -1, -1]), np.array([0, 1, 0, 0]), np.array([0.1, 0.9, 0.2, 0.3]))
    visits = doorbell._any_frame(frames, [np.array([0, 1]), np.array([2, 3])])
    assert visits.name.tolist() == [1, -1]
    assert visits.score.tolist() == [0.9, 0.3]


def test_squared_l2_of_unit_vectors() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert doorbell.squared_l2(rows, -rows)[0].tolist() == [4.0, 2.0, 2.0]


def test_degrading_keeps_the_shape_the_input_and_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 255, (112, 92, 3)).astype(np.uint8)
    kept = image.copy()
    one, other = (degrade(image, np.random.default_rng(7)) for _ in range(2))
    assert one.shape == image.shape
    assert one.dtype == np.uint8
    assert np.array_equal(one, other)
    assert np.array_equal(image, kept)
    assert not np.array_equal(one, degrade(image, np.random.default_rng(8)))


def test_a_grey_picture_stays_grey() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (60, 60, 1)), 3, axis=2).astype(np.uint8)
    for seed in range(10):
        out = degrade(grey, np.random.default_rng(seed))
        assert np.array_equal(out[..., 0], out[..., 1])
        assert np.array_equal(out[..., 0], out[..., 2])
