"""Who is enrolled in which light: no photo is on two sides, and the figures count what they say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edgecam.evaluation import night
from edgecam.evaluation import night_gallery as gallery

PHOTOS, LOOKS = 16, 6


def test_no_photo_is_both_enrolled_and_judged_and_the_gate_lets_the_dark_ones_pass() -> None:
    photo, look = np.repeat(np.arange(PHOTOS), LOOKS + 1), np.tile(np.arange(LOOKS + 1), PHOTOS)
    person, good = np.zeros(len(photo), np.int64), (look % 2).astype(np.float32)
    pool = night.Pool(("n",), (0,), (), (), person, photo, look, np.zeros((len(photo), 4), np.float32), good)
    for seed in range(20):
        member = gallery.compose(pool, 0, np.random.default_rng(seed))
        sides = [set(photo[rows].tolist()) for rows in member]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert (len(member.day), len(sides[1])) == (4, len(member.night))
        assert 3 <= len(member.night) <= 6
        assert (look[member.day] == 0).all()
        assert (good[member.night] > 0).all()
        assert len(sides[2]) >= 4


def test_everybody_counts_as_often_as_they_are_drawn() -> None:
    judged = gallery.Judged(
        members=(0, 1),
        person=np.array([0, 0, 1, 2, 3]),
        at_home=np.array([True, True, True, False, False]),
        score=np.array([0.9, 0.3, -1.0, 0.5, 0.2]),
        known=np.array([True, False, True, True, False]),
        right=np.array([True, True, False, False, False]),
    )
    assert judged.shares(np.ones(4)) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2])
    assert judged.shares(np.array([1.0, 0.0, 0.0, 3.0])) == pytest.approx([1.0, 0.5, 0.0, 0.0])
