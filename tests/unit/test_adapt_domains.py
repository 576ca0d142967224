"""What a light adds to faces: found without knowing who most of them are, and undone by the head itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecam.adapt.domains import DomainShift, domain_shift
from edgecam.adapt.samples import Samples

if TYPE_CHECKING:
    from edgecam.types import Floats

WIDTH, PEOPLE, PHOTOS, TRACKS, FACES, VISITORS = 64, 5, 4, 6, 3, 12
KEPT = 0.4
"""What the night keeps of a face."""
MEAN = np.full(WIDTH, 0.2, np.float32)


class Door:
    """Residents who are alike in something, and the light they are seen in."""

    def __init__(self, strength: float = 3.0, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        alike = 2.0 * self.rng.standard_normal(WIDTH) / WIDTH**0.5
        self.residents = alike + self.rng.standard_normal((PEOPLE, WIDTH)) / WIDTH**0.5
        turn = self.rng.standard_normal(WIDTH)
        self.light = (strength * turn / np.linalg.norm(turn)).astype(np.float32)

    def day(self, who: Floats, count: int) -> Floats:
        return (MEAN + who + 0.03 * self.rng.standard_normal((count, WIDTH))).astype(np.float32)

    def night(self, who: Floats, count: int) -> Floats:
        return (self.day(KEPT * who, count) + self.light).astype(np.float32)

    def somebody(self) -> Floats:
        who: Floats = self.rng.standard_normal(WIDTH).astype(np.float32) / WIDTH**0.5
        return who

    def samples(self, people: int = PEOPLE, visitors: int = VISITORS) -> Samples:
        """Return enrolment photos by day, tracks at night, and visits of nobody."""
        photos = [self.day(self.residents[k], PHOTOS) for k in range(people)]
        tracks = [(k, self.night(self.residents[k], FACES)) for k in range(people) for _ in range(TRACKS)]
        tracks += [(-1, self.night(self.somebody(), FACES)) for _ in range(visitors)]
        sizes = [PHOTOS] * people + [FACES] * len(tracks)
        owner = np.array([*range(people), *(k for k, _ in tracks)])
        shares = np.zeros((len(sizes), people), np.float32)
        shares[np.flatnonzero(owner >= 0), owner[owner >= 0]] = 1.0
        enrolled = np.arange(sum(sizes)) < PHOTOS * people
        return Samples(
            features=np.concatenate([*photos, *(rows for _, rows in tracks)]),
            group=np.repeat(np.arange(len(sizes)), sizes),
            shares=shares,
            people=tuple(f"p{k}" for k in range(people)),
            apart=np.zeros((0, 2), np.int64),
            domain=(~enrolled).astype(np.int64),
            enrolled=enrolled,
        )


def found(samples: Samples) -> DomainShift:
    shift = domain_shift(samples, slice(None), MEAN)
    assert shift is not None
    return shift


def undone(shift: DomainShift, rows: Floats) -> Floats:
    logits = rows @ shift.weight.T + shift.bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: Floats = rows - shares / shares.sum(axis=1, keepdims=True) @ shift.shift
    return out


def test_it_finds_what_the_light_adds_and_not_what_the_residents_have_in_common() -> None:
    door = Door()
    samples = door.samples()
    shift = found(samples).shift[1]
    assert np.linalg.norm(shift - door.light) < 0.12 * np.linalg.norm(door.light)
    live = samples.features[~samples.enrolled].mean(axis=0) - MEAN
    assert np.linalg.norm(shift - door.light) < 0.7 * np.linalg.norm(live - door.light), "the plain mean is worse"


def test_faces_at_night_are_moved_and_faces_by_day_are_not() -> None:
    door = Door()
    shift = found(door.samples())
    stranger = door.somebody()
    night, day = door.night(stranger, 50), door.day(stranger, 50)
    left = np.linalg.norm(undone(shift, night) - MEAN - KEPT * stranger, axis=1)
    assert left.mean() < 0.25 * np.linalg.norm(door.light)
    moved = np.linalg.norm(undone(shift, day) - day, axis=1)
    assert moved.max() < 0.1 * np.linalg.norm(door.light)


def test_named_people_alone_are_enough_if_there_are_five() -> None:
    door = Door()
    shift = found(door.samples(visitors=0)).shift[1]
    assert np.linalg.norm(shift - door.light) < 0.1 * np.linalg.norm(door.light)


@pytest.mark.parametrize(("people", "visitors"), [(4, 0), (1, 12), (2, 2)])
def test_of_too_few_people_it_learns_nothing(people: int, visitors: int) -> None:
    assert domain_shift(Door().samples(people, visitors), slice(None), MEAN) is None


def test_a_light_that_a_face_does_not_tell_is_left_alone() -> None:
    assert domain_shift(Door(strength=0.05).samples(), slice(None), MEAN) is None


def test_faces_that_are_all_the_same_have_no_light() -> None:
    samples = Door().samples()
    same = replace(samples, features=np.tile(MEAN, (len(samples.features), 1)))
    assert domain_shift(same, slice(None), MEAN) is None


def test_without_photos_by_day_there_is_nothing_to_go_back_to() -> None:
    samples = Door().samples()
    grey = replace(samples, domain=np.where(samples.enrolled, 2, samples.domain))
    assert domain_shift(grey, slice(None), MEAN) is None


def test_each_camera_has_a_light_of_its_own() -> None:
    one, other = Door(), Door(seed=1)
    other.residents = one.residents
    a, b = one.samples(), other.samples()
    live = ~b.enrolled
    both = Samples(
        features=np.concatenate([a.features, b.features[live]]),
        group=np.concatenate([a.group, b.group[live] - PEOPLE + len(a.shares)]),
        shares=np.concatenate([a.shares, b.shares[PEOPLE:]]),
        people=a.people,
        apart=a.apart,
        domain=np.concatenate([a.domain, 2 * b.domain[live]]),
        enrolled=np.concatenate([a.enrolled, b.enrolled[live]]),
    )
    shift = found(both)
    assert shift.shift.shape == (3, WIDTH)
    stranger = one.somebody()
    for door in (one, other):
        left = np.linalg.norm(undone(shift, door.night(stranger, 20)) - MEAN - KEPT * stranger, axis=1)
        assert left.mean() < 0.3 * np.linalg.norm(door.light)
