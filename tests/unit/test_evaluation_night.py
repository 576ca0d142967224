"""The composed nights: nothing is on two sides, and what the night is given holds no truth."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edgecam.evaluation import night
from edgecam.types import FaceCrop

RESIDENTS, PHOTOS, LOOKS = 4, 14, 6


def pool() -> night.Pool:
    """Return four residents with fourteen photos, ten visitors and twenty strangers with one; features are noise."""
    plan = [(n, photo, LOOKS) for n in range(RESIDENTS) for photo in range(PHOTOS)]
    plan += [(n, 0, 3) for n in range(RESIDENTS, RESIDENTS + 10)]
    plan += [(n, 0, 1) for n in range(RESIDENTS + 10, RESIDENTS + 30)]
    rows = [(n, i, look) for i, (n, _, looks) in enumerate(plan) for look in range(looks + 1)]
    person, photo, look = (np.array(column) for column in zip(*rows))
    features = np.random.default_rng(0).random((len(rows), 8)).astype(np.float32)
    people = tuple(f"n{n}" for n in range(RESIDENTS + 30))
    visitors = tuple(range(RESIDENTS, RESIDENTS + 10))
    strangers = tuple(range(RESIDENTS + 10, RESIDENTS + 30))
    good = np.ones(len(rows), np.float32)
    return night.Pool(
        people, tuple(range(RESIDENTS)), strangers, visitors, person, photo, look, features, good
    )  # fmt: skip


def weeks(seed: int = 0) -> night.Weeks:
    return night.compose(pool(), range(RESIDENTS), np.random.default_rng(seed))


def test_no_photo_is_on_two_sides_and_nobody_who_is_judged_as_a_stranger_ever_came() -> None:
    whole, seen = pool(), weeks()
    sides = [np.concatenate(rows) for rows in (seen.enrolled, seen.tracks, seen.judged)]
    photos = [set(whole.photo[rows].tolist()) for rows in sides]
    assert not photos[0] & photos[1]
    assert not photos[1] & photos[2]
    assert not photos[0] & photos[2]
    assert not set(whole.person[np.concatenate(sides)].tolist()) & set(whole.strangers)
    assert (whole.look[sides[0]] == 0).all(), "enrolled are clean photos"
    assert (whole.look[sides[1]] > 0).all(), "visits are at night"


def test_a_track_is_one_persons_and_visits_have_the_stated_rates() -> None:
    whole = pool()
    missed, wrong, visits, calls, together = [], [], 0, 0, 0
    for seed in range(20):
        seen = weeks(seed)
        for rows, who in zip(seen.tracks, seen.truth):
            (person,) = set(whole.person[rows].tolist())
            assert (person == who) if who >= 0 else person in whole.visitors
        for n, heard in enumerate(seen.heard):
            there = seen.truth[seen.visits == n]
            present = np.isin(np.arange(RESIDENTS), there)
            missed += (1 - heard[present]).tolist()
            wrong += heard[~present].tolist()
            visits, calls, together = visits + 1, calls + int((there < 0).any()), together + int(len(there) > 1)
    assert np.mean(missed) == pytest.approx(night.MISSED, abs=0.03)
    assert np.mean(wrong) == pytest.approx(night.WRONG, abs=0.02)
    assert calls / visits == pytest.approx(night.VISITORS, abs=0.02)
    assert together / (visits - calls) == pytest.approx(night.TOGETHER, abs=0.05)


def test_the_night_is_given_no_truth() -> None:
    seen = weeks()
    material = night.material_of(pool(), seen, pool().features)
    assert material.samples.shares[RESIDENTS:].sum() == 0
    assert material.scene.verified is None
    assert len(material.group) == len(seen.tracks)
    together = [tuple(pair) for pair in material.scene.apart]
    assert together
    assert all(seen.visits[a] == seen.visits[b] for a, b in together)
    assert [tuple(pair) for pair in material.samples.apart - RESIDENTS] == together


def test_a_face_at_night_is_small_dark_and_grey() -> None:
    image = np.full((200, 160, 3), (40, 160, 220), np.uint8)
    crop = FaceCrop(image, np.array([30, 40, 100, 120], np.float32), np.full((5, 2), 80, np.float32))
    looks = [night.night_look(crop, np.random.default_rng(seed)) for seed in range(20)]
    widths = [float(look.box[2]) for look in looks]
    assert night.WIDTH_PX[0] - 0.5 <= min(widths) < max(widths) <= night.WIDTH_PX[1] + 0.5
    brightness = 0.114 * 40 + 0.587 * 160 + 0.299 * 220
    assert all(look.image.mean() < 0.5 * brightness for look in looks)
    assert all((look.image[..., 0] == look.image[..., 2]).all() for look in looks)
    assert all(np.allclose(look.landmarks[0] / look.box[2], 0.8, atol=0.05) for look in looks)
    assert len({look.image.tobytes() for look in looks}) == 20


def judged(score: float, threshold: float) -> night.Judged:
    domains = ("night", "clean")
    return night.Judged(
        {d: np.array([0, 0, 1, 1]) for d in domains},
        {d: np.array([score, 0.2, score, 0.2]) for d in domains},
        {d: np.array([1.0, 0.0, 1.0, 0.0]) for d in domains},
        {d: np.arange(2, 12) for d in domains},
        {d: np.linspace(0.1, 0.3, 10) for d in domains},
        threshold,
        0.01,
    )


def test_the_summary_is_paired() -> None:
    outcome = night.Outcome((0, 1), (judged(0.1, 0.5), judged(0.9, 0.25)), 1, "", 1.0, 1.0)
    rows = {(row["summary"], row.get("domain")): row for row in night.summary([outcome], 12, "sface")}
    gain = rows[("tpir_at_fpir_1%", "night")]
    assert (gain["before"], gain["after"], gain["gain"]) == (0.0, 0.5, 0.5)
    assert gain["ci95"] == [0.5, 0.5], "both people gained the same"
    strangers = rows[("strangers_named", "clean")]
    assert (strangers["before"], strangers["after"]) == (0.0, 0.3)
    assert strangers["gain"] == 0.3
    assert 0 <= strangers["ci95"][0] < 0.3 < strangers["ci95"][1]
