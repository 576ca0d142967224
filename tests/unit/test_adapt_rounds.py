"""The night's loop over values: who teaches, in which order, and when it ends. Training itself is stood in for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecam.adapt.apart import Trained
from edgecam.adapt.rounds import Looks, Material, adapt, pick
from edgecam.adapt.samples import Samples
from edgecam.associate import Options, Scene
from edgecam.errors import ShapeError

if TYPE_CHECKING:
    from typing import Mapping

    from edgecam.types import Floats, Ints

PEOPLE, EVENTS, FACES, DIM = 3, 30, 2, 16
STRANGERS = 10


def material(spread: float = 0.15, *, missed: float = 0.2, seed: int = 0) -> Material:
    """Return thirty visits of one resident each, ten of strangers without a device; two faces a track."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[:PEOPLE]
    who = np.concatenate([np.arange(EVENTS) % PEOPLE, np.full(STRANGERS, -1)])
    base = np.where((who >= 0)[:, None], centres[who], np.eye(DIM)[PEOPLE + np.arange(len(who)) % (DIM - PEOPLE)])
    tracks = base + rng.standard_normal(base.shape) * spread
    enrolled = np.repeat(centres, FACES, axis=0) + rng.standard_normal((PEOPLE * FACES, DIM)) * 0.05
    features = np.concatenate([enrolled, np.repeat(tracks, FACES, axis=0)]).astype(np.float32)
    groups = PEOPLE + len(who)
    shares = np.zeros((groups, PEOPLE), np.float32)
    shares[:PEOPLE] = np.eye(PEOPLE)
    heard = np.zeros((len(who), PEOPLE))
    heard[np.arange(EVENTS), who[:EVENTS]] = rng.random(EVENTS) >= missed
    is_enrolled = np.arange(len(features)) < PEOPLE * FACES
    group = np.repeat(np.arange(groups), FACES)
    apart = np.array([[PEOPLE, PEOPLE + 1]])
    samples = Samples(features, group, shares, ("a", "b", "c"), apart, is_enrolled.astype(np.int64), is_enrolled)
    scene = Scene(np.zeros((len(who), 1), np.float32), np.arange(len(who)), heard)
    of_track = np.arange(PEOPLE, groups)
    return Material(samples, scene, of_track, tracks.astype(np.float32), ("a", "b", "c"), np.arange(len(who)))


TRUTH = np.concatenate([np.arange(EVENTS) % PEOPLE, np.full(STRANGERS, -1)])


class Trainer:
    """Notes what it is given; its head number n takes noise off the features, more with every training."""

    def __init__(self) -> None:
        self.given: list[tuple[Samples, Ints, str]] = []

    def train(self, samples: Samples, groups: Ints, how: str = "whole") -> Trained:
        self.given.append((samples, groups, how))
        return Trained({"n": bytes([len(self.given)])})

    def sketch(self, samples: Samples, groups: Ints) -> Trained:
        return self.train(samples, groups, "sketch")

    @staticmethod
    def project(heads: Mapping[str, bytes], features: Floats) -> Floats:
        rows = features.astype(np.float64)
        rows[:, PEOPLE:] *= 0.7 ** (heads["n"][0] if heads else 0)
        out: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return out


def test_the_sure_teach_and_are_named_rightly() -> None:
    trainer = Trainer()
    night = material()
    done = adapt(night, trainer.train, trainer.project)
    taught = np.flatnonzero(done.taught)
    named = done.found.named()
    assert done.taught[:EVENTS].mean() > 0.8
    assert (named[taught] == np.where(TRUTH[taught] >= 0, TRUTH[taught], -1)).all()
    last = done.samples
    live = last.shares[np.unique(last.group[~last.enrolled])]
    assert np.allclose(live, done.found.labels[taught, 1:], atol=1e-6)
    assert len(last.features) == (PEOPLE + len(taught)) * FACES, "the others are left out"
    assert last.enrolled.sum() == PEOPLE * FACES, "enrolment is replayed"
    _, groups, _ = trainer.given[-1]
    assert groups.tolist() == [*range(PEOPLE), *(PEOPLE + taught)]


def test_each_round_looks_anew_and_the_last_training_is_the_one_that_counts() -> None:
    trainer = Trainer()
    done = adapt(material(), trainer.train, trainer.project, sketch=trainer.sketch)
    assert [how for *_, how in trainer.given] == ["sketch"] * (done.trainings - 1) + ["whole"]
    assert done.trained.heads == {"n": bytes([done.trainings])}
    assert len(done.found.rounds) == done.trainings >= 2
    assert np.allclose(done.found.vectors, trainer.project({"n": bytes([done.trainings - 1])}, material().features))


def test_there_are_eight_rounds_at_most() -> None:
    trainer = Trainer()
    never_calm = Options(calm_churn=0.0, calm_rms=-1.0)
    assert adapt(material(), trainer.train, trainer.project, never_calm).trainings == 8


def test_without_devices_it_trains_once_on_what_is_known() -> None:
    night = material()
    count = len(TRUTH)
    said = np.zeros(count, np.int64)
    said[:2] = -1  # somebody without a device, and nobody
    scene = Scene(np.zeros((count, 1), np.float32), night.scene.events, np.zeros((count, 0)), verified=said)
    shares = night.samples.shares.copy()
    shares[PEOPLE, 0] = 1.0
    night = replace(night, scene=scene, persons=(), samples=replace(night.samples, shares=shares))
    trainer = Trainer()
    done = adapt(night, trainer.train, trainer.project)
    assert done.trainings == 1
    assert "no device" in done.found.reason
    assert np.flatnonzero(done.taught).tolist() == [0, 1]
    live = done.samples.shares[PEOPLE:]
    assert live.tolist() == [[1, 0, 0], [0, 0, 0]], "the one named, and the one said to be nobody"
    assert done.samples.apart.tolist() == [[PEOPLE, PEOPLE + 1]]


def test_a_face_that_looks_like_another_resident_does_not_teach() -> None:
    night = material()
    labels = np.zeros((len(TRUTH), 1 + PEOPLE))
    labels[np.arange(len(TRUTH)), 1 + TRUTH] = 1.0
    one = int(np.flatnonzero(TRUTH == 0)[-1])
    swapped = night.features.copy()
    swapped[one] = night.features[TRUTH == 1][0]  # b is seen, a's phone is there
    night = replace(night, features=swapped)
    picked = pick(night, labels, Looks.at(night, Trainer.project, {}))
    assert np.flatnonzero(~picked.taught).tolist() == [one]


def test_strangers_teach_only_where_everybody_of_the_house_has_a_device() -> None:
    night = material()
    done = adapt(night, Trainer().train, Trainer.project)
    assert done.taught[EVENTS:].any(), "else the test proves nothing"
    kid = replace(night.samples, people=("a", "b", "c", "kid"), shares=np.pad(night.samples.shares, ((0, 0), (0, 1))))
    done = adapt(replace(night, samples=kid), Trainer().train, Trainer.project)
    assert not done.taught[EVENTS:].any()
    assert done.taught[:EVENTS].any()


def test_what_the_user_said_is_never_overruled() -> None:
    night = material()
    said = np.zeros(len(TRUTH), np.int64)
    said[0] = 2  # the user says b of a's face
    shares = night.samples.shares.copy()
    shares[PEOPLE] = 0.0, 1.0, 0.0
    night = replace(
        night, scene=replace(night.scene, verified=said), samples=replace(night.samples, shares=shares)
    )  # fmt: skip
    done = adapt(night, Trainer().train, Trainer.project)
    assert done.taught[0]
    assert done.samples.shares[PEOPLE].tolist() == [0, 1, 0]


@pytest.mark.parametrize("persons", [("a", "b"), ("a", "b", "x")])
def test_devices_of_somebody_else_are_refused(persons: tuple[str, ...]) -> None:
    with pytest.raises(ShapeError, match="persons"):
        replace(material(), persons=persons)


def test_nothing_of_pytorch_is_needed() -> None:
    import subprocess
    import sys

    words = "import sys, edgecam.adapt.rounds, edgecam.adapt.apart; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
