"""Identification on made-up vectors with known geometry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecam.config import IdentifyConfig
from edgecam.errors import ModelError, ShapeError
from edgecam.identify import (
    Household,
    Identifier,
    Recognizability,
    clopper_pearson,
    fit_strangers,
    load_strangers,
)
from edgecam.identify.light import learn_light
from edgecam.identify.svm import fit_linear_svm
from edgecam.pipeline.enrol import Candidate, Report, warn
from edgecam.types import FaceCrop, Floats, Quality, Verdict

DIM = 32
CONFIG = IdentifyConfig(target_fpir=0.01, min_margin=0.05)


def unit(rows: NDArray[Any]) -> Floats:
    out: Floats = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return out


def faces_of(centre: Floats, count: int, seed: int, noise: float = 0.05) -> Floats:
    return unit(centre + np.random.default_rng(seed).normal(0, noise, (count, DIM)))


def strangers(count: int = 4000, seed: int = 9) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=(count, DIM)))


RUIN = Recognizability(unit(np.eye(DIM)[-1:])[0])


def household(people: int, faces: int = 5, noise: float = 0.05) -> Tuple[Household, Floats]:
    centres = unit(np.random.default_rng(1).normal(size=(people, DIM)))
    rows = [(f"p{i}", v, False) for i in range(people) for v in faces_of(centres[i], faces, 10 + i, noise)]
    return Household.of(rows), centres


def test_everybody_is_known_by_their_own_name_and_strangers_are_not() -> None:
    home, centres = household(5)
    identifier = Identifier(home, [strangers()], CONFIG, RUIN)
    for i, centre in enumerate(centres):
        match = identifier.match(faces_of(centre, 1, 100 + i))
        assert (match.verdict, match.person_id) == (Verdict.KNOWN, f"p{i}")
    fresh = strangers(2000, seed=77)
    named = sum(identifier.match(v[None]).verdict is Verdict.KNOWN for v in fresh)
    assert named <= 0.02 * len(fresh)


def test_the_threshold_follows_the_target() -> None:
    home, _ = household(5)
    strict = Identifier(home, [strangers()], IdentifyConfig(target_fpir=0.001), RUIN).calibration
    loose = Identifier(home, [strangers()], IdentifyConfig(target_fpir=0.1), RUIN).calibration
    assert strict.threshold > loose.threshold
    assert strict.early_threshold > strict.threshold


@pytest.mark.parametrize("people", [0, 1, 2, 500])
def test_any_number_of_people(people: int) -> None:
    home, centres = household(people, faces=2)
    identifier = Identifier(home, [strangers(1000)], CONFIG, RUIN)
    match = identifier.match(faces_of(centres[0] if people else strangers(1)[0], 1, 3))
    assert match.person_id == ("p0" if people else None)
    if not people:
        assert (match.verdict, match.similarity, match.nearest_id) == (Verdict.UNKNOWN, -1.0, None)


def test_between_two_lookalikes_both_names_are_told() -> None:
    a = unit(np.ones(DIM))
    b = unit(np.ones(DIM) + np.eye(DIM)[0] * 0.5)
    home = Household.of([("a", v, False) for v in faces_of(a, 5, 1)] + [("b", v, False) for v in faces_of(b, 5, 2)])
    match = Identifier(home, [strangers()], CONFIG, RUIN).match(unit(a + b)[None])
    assert match.verdict is Verdict.UNCERTAIN
    assert set(match.candidates) == {"a", "b"}
    assert match.person_id is None


def test_a_track_is_judged_by_its_mean_not_its_best_face() -> None:
    home, centres = household(3)
    identifier = Identifier(home, [strangers()], CONFIG, RUIN)
    good, bad = faces_of(centres[0], 1, 5), strangers(9, seed=4)
    assert identifier.match(good).verdict is Verdict.KNOWN
    assert identifier.match(np.concatenate([good, bad])).verdict is Verdict.UNKNOWN
    weights = np.array([1.0] + [0.001] * 9, np.float32)
    assert identifier.match(np.concatenate([good, bad]), weights).verdict is Verdict.KNOWN


LAMP = unit(np.eye(DIM)[3])


def at_night(vectors: Floats, seed: int, noise: float = 0.1) -> Floats:
    """As a lamp shows them: less of each, and the same of all."""
    return unit(0.5 * vectors + 0.6 * LAMP + np.random.default_rng(seed).normal(0, noise, vectors.shape))


def two_lights(lights: Sequence[str], noise: float = 0.15) -> Tuple[Household, Floats]:
    """Enrol a person for each item: d four faces by day, n five at night, dn both."""
    centres = unit(np.random.default_rng(1).normal(size=(len(lights), DIM)))
    rows = []
    for i, (centre, seen) in enumerate(zip(centres, lights)):
        by_day = faces_of(centre, 9, 10 + i, noise)
        rows += [(f"p{i}", v, False) for v in by_day[:4] if "d" in seen]
        rows += [(f"p{i}", v, True) for v in at_night(by_day[4:], 30 + i) if "n" in seen]
    return Household.of(rows), centres


def named(identifier: Identifier, vectors: Floats) -> float:
    return float(np.mean([identifier.match(v[None]).verdict is Verdict.KNOWN for v in vectors]))


@pytest.mark.parametrize("lights", [["dn"] * 5, ["dn", "dn", "d"], ["dn", "d", "d"], ["n", "dn", "dn", "dn"]])
def test_strangers_at_night_are_not_who_was_enrolled_at_night(lights: List[str]) -> None:
    identifier = Identifier(two_lights(lights)[0], [strangers()], CONFIG, RUIN)
    assert named(identifier, at_night(strangers(1500, seed=77), 5)) <= 0.02
    assert named(identifier, strangers(1500, seed=78)) <= 0.02


def test_faces_in_both_lights_help_at_night() -> None:
    def rate(lights: str, person: int) -> float:
        home, centres = two_lights([lights] * 5)
        identifier = Identifier(home, [strangers()], CONFIG, RUIN)
        return named(identifier, at_night(faces_of(centres[person], 100, 50, 0.1), 70))

    blind, seeing = (np.mean([rate(lights, person) for person in range(5)]) for lights in ("d", "dn"))
    assert seeing > blind + 0.1


def test_infrared_faces_of_one_person_alone_change_nothing() -> None:
    (some, centres), (none, _) = two_lights(["d", "dn", "d"]), two_lights(["d", "d", "d"])
    one, other = (Identifier(home, [strangers()], CONFIG, RUIN) for home in (some, none))
    faces = np.concatenate([faces_of(centre, 20, 50, 0.15) for centre in centres])
    assert one.calibration == other.calibration
    assert [one.match(v[None]) for v in at_night(faces, 5)] == [other.match(v[None]) for v in at_night(faces, 5)]


def test_what_a_light_does_is_learnt_without_what_the_people_are() -> None:
    people = faces_of(unit(np.ones(DIM)), 6, 4, 0.2)
    light = learn_light(people, 0.4 * people + 0.3 * LAMP, np.zeros(DIM, np.float32))
    assert light.kept == pytest.approx(0.4, abs=1e-3)
    assert np.allclose(light.shift, 0.3 * LAMP, atol=1e-3)
    assert np.allclose(light.without(people) @ LAMP, 0.0, atol=1e-3)
    assert np.allclose(light.cast(people), unit(0.4 * people + 0.3 * LAMP), atol=1e-3)


def test_grey_photos_alone_are_as_good_as_colour() -> None:
    home, centres = household(4)
    grey = Household(home.people, home.owner, home.vectors, ~home.infrared)
    faces = np.concatenate([faces_of(centres[0], 20, 3), strangers(200, seed=5)])
    one, other = (Identifier(h, [strangers()], CONFIG, RUIN) for h in (home, grey))
    assert (one.calibration.by_night, other.calibration.by_night) == ((), home.people)
    assert one.calibration == replace(other.calibration, by_night=())
    assert np.array_equal(one.scores(faces), other.scores(faces))


def test_whom_a_camera_saw_in_infrared_alone_is_not_named_before_a_light_is_known() -> None:
    (alone, _), (lit, _) = two_lights(["n", "d"]), two_lights(["n", "dn", "dn"])
    for home, by_night, unsure in ((alone, (), False), (alone, ("p0",), True), (lit, ("p0",), False)):
        identifier = Identifier(replace(home, by_night=by_night), [strangers()], CONFIG, RUIN)
        match = identifier.match(home.vectors[home.owner == 0])
        assert match.nearest_id == "p0"
        assert (match.verdict is Verdict.UNCERTAIN) == unsure
        assert match.candidates == (("p0",) if unsure else ())


def test_enrolment_without_a_face_in_colour_is_told_of() -> None:
    homes = [two_lights(lights)[0] for lights in (["n", "d"], ["dn", "d"])]
    doors = [Identifier(home, [strangers()], CONFIG, RUIN) for home in homes]
    crop = FaceCrop(np.zeros((8, 8, 3), np.uint8), np.zeros(4, np.float32), np.zeros((5, 2), np.float32))
    for door, owner, infrared, told in (
        (doors[0], None, True, True),
        (doors[0], None, False, False),
        (doors[0], "p0", True, True),
        (doors[0], "p0", False, False),
        (doors[0], "p1", True, False),
        (doors[1], "p0", True, False),
    ):
        face = Candidate(crop, Quality(0.8, {}, 0.0, 0.0, 0.0, infrared=infrared), "", -LAMP, LAMP)
        report = Report([face])
        warn(report, door, owner, {})
        assert any("enrol colour ones" in warning for warning in report.warnings) == told
        assert any("light alone" in warning for warning in report.warnings) == (owner is not None and infrared)


def test_local_strangers_raise_a_threshold_that_they_disprove() -> None:
    home, centres = household(3)
    alike = np.concatenate([faces_of(centres[0], 20, 8, noise=0.13), strangers(80, seed=5)])
    before = Identifier(home, [strangers()], CONFIG, RUIN)
    after = Identifier(home, [strangers()], CONFIG, RUIN, local=alike)
    assert after.calibration.threshold > before.calibration.threshold
    assert after.calibration.local_fpir is not None
    kept = Identifier(home, [strangers()], CONFIG, RUIN, local=strangers(100, seed=6))
    assert kept.calibration.threshold == before.calibration.threshold


def test_faces_and_owners_must_agree() -> None:
    with pytest.raises(ShapeError, match="want 2 owners"):
        Household(("a",), np.zeros(1, np.int64), np.zeros((2, DIM), np.float32), np.zeros(2, np.bool_))


def test_exact_intervals() -> None:
    assert clopper_pearson(0, 299)[1] == pytest.approx(0.01226, abs=1e-4)
    assert clopper_pearson(5, 5)[1] == 1.0


def public_features(people: int, photos: int, seed: int = 0) -> Tuple[Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    latent = rng.normal(size=(people, 6))[who] + 0.3 * rng.normal(size=(len(who), 6))
    rows = latent @ rng.normal(size=(6, 40)) + 0.1 * rng.normal(size=(len(who), 40)) + 3.0
    return np.abs(rows).astype(np.float32), who


def test_virtual_strangers_have_the_statistics_of_real_ones() -> None:
    rows, who = public_features(800, 3)
    model = fit_strangers(rows, who, rows[:5], {0: 40}, rooted=0, rank=6, dof=200.0)
    drawn = model.draw(6000)
    assert np.allclose(drawn.mean(axis=0), rows.mean(axis=0), atol=0.15)
    assert np.corrcoef(np.cov(drawn.T).ravel(), np.cov(rows.T).ravel())[0, 1] > 0.98
    assert not np.array_equal(model.draw(3, seed=1), model.draw(3, seed=2))
    assert np.array_equal(model.draw(3, seed=1), model.draw(3, seed=1))


def test_the_statistics_survive_the_file_and_a_broken_file_is_named(tmp_path: Path) -> None:
    rows, who = public_features(60, 3)
    model = fit_strangers(rows, who, rows[:5], {0: 25, 25: 40}, rooted=25, rank=4)
    path = tmp_path / "s.npz"
    model.save(path)
    again = load_strangers(path)
    assert (again.people, again.photos, again.rooted) == (60, 180, 25)
    assert np.allclose(again.draw(5), model.draw(5), rtol=0.05, atol=0.05)
    assert (model.draw(50)[:, :25] >= 0).all()
    assert np.allclose(again.part(25, 40).mean, again.mean[25:])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"s\.npz"):
        load_strangers(path)


def test_faces_near_the_unrecognisable_are_worth_nothing() -> None:
    q = Quality(0.8, {"size": 0.8}, 0.0, 0.0, 0.0, infrared=False)
    lost, clear = RUIN.rate(q, unit(np.eye(DIM)[-1])), RUIN.rate(q, unit(np.eye(DIM)[0]))
    assert (lost.score, lost.reason) == (0.0, "beyond recognition")
    assert (clear.score, clear.reason) == (0.8, None)
    assert clear.parts == {"size": 0.8, "recognizability": 1.0}
    assert 0 < RUIN.rate(q, unit(np.eye(DIM)[0] + 0.25 * np.eye(DIM)[-1])).score < 0.8


def test_the_svm_is_scikit_learns() -> None:
    from sklearn.svm import LinearSVC

    home, _ = household(6, faces=7, noise=0.25)
    planes, offsets = fit_linear_svm(home.vectors, home.owner, 6)
    reference = LinearSVC(C=1.0, tol=1e-8, max_iter=100_000).fit(home.vectors, home.owner)
    assert np.allclose(planes, reference.coef_, atol=2e-3)
    assert np.allclose(offsets, reference.intercept_, atol=2e-3)
    assert planes.dtype == offsets.dtype == np.float32


def test_the_live_path_does_without_scipy_and_scikit_learn() -> None:
    code = (
        "import sys, edgecam.pipeline.camera, edgecam.pipeline.build, edgecam.daemon.app;"
        "sys.exit(' '.join(m for m in ('scipy', 'sklearn', 'torch', 'onnx') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nobody_is_accepted_from_too_far_whatever_the_virtual_strangers_say() -> None:
    home, centres = household(2)
    opposite = faces_of(-unit(centres.sum(axis=0)), 2000, 3)  # strangers unlike any real ones
    identifier = Identifier(home, [opposite], CONFIG, RUIN)
    assert min(identifier.calibration.radius.values()) >= 0.38 - 1e-6
    mean = unit(home.vectors[home.owner == 0].mean(axis=0))
    random = np.random.default_rng(2).normal(size=DIM)
    side = unit(random - (random @ mean) * mean)
    at_30, at_50 = (unit(c * mean + np.sqrt(1 - c * c) * side)[None] for c in (0.30, 0.50))
    assert identifier.match(at_30).verdict is Verdict.UNKNOWN
    assert identifier.match(at_50).verdict is not Verdict.UNKNOWN
