"""Poisoned nights on real faces with real training: the promoted version does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

import cv2
import numpy as np
import pytest

from edgecam.errors import InputError
from edgecam.evaluation import poison
from edgecam.evaluation.faces import Bench, open_bench
from edgecam.evaluation.poison import HOME, Box, Outcome, Pool
from edgecam.nn.registry import ModelRegistry


@pytest.fixture(scope="module")
def bench(registry: ModelRegistry) -> Bench:
    assert registry
    return open_bench()


@pytest.fixture(scope="module")
def pool(data_dir: Path, bench: Bench) -> Pool:
    return poison.read_pool(data_dir / "lfw_gray", bench.detector, bench.kinds["facenet"], people=8, photos=16)


@pytest.fixture(scope="module")
def box(bench: Bench) -> Box:
    pytest.importorskip("torch")
    return poison.make_box("facenet", bench)


def made_up(people: int = 9, photos: int = 20, width: int = 5) -> Pool:
    rows = np.arange(people * photos).reshape(people, photos)
    clear = np.arange(people * photos * width, dtype=np.float32).reshape(-1, width)
    night = np.stack([clear + 0.1, clear + 0.2], axis=1)
    return Pool(tuple(f"P{i}" for i in range(people)), tuple(rows), clear, night)


LIKENESS = np.eye(9, dtype=np.float32)


@pytest.mark.parametrize("attack", poison.ATTACKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_photo_is_in_two_parts(attack: str, seed: int) -> None:
    roles = poison.cast(made_up(), attack, seed, LIKENESS)
    parts = [*roles.enrol, *roles.confirmed, *roles.learn, roles.poison]
    every = np.concatenate(parts)
    assert len(np.unique(every)) == len(every)
    assert not np.isin(np.concatenate([roles.later, *roles.tests]), every).any()
    whose = {int(row) // 20 for row in roles.poison}
    assert len(whose) == (0 if attack == "none" else 1)
    assert roles.home[0] not in whose
    if attack == "labels":
        assert len(roles.poison) / (len(roles.poison) + len(roles.learn[0])) == pytest.approx(0.3, abs=0.03)
        assert (roles.home[1] in whose) == (seed == 1)
    elif attack != "none":
        assert not whose & set(roles.home)


def test_the_look_alike_is_the_one_most_like_the_victim() -> None:
    victim = poison.cast(made_up(), "look-alike", 3, LIKENESS).home[0]
    others = [i for i in range(9) if i not in poison.cast(made_up(), "none", 3, LIKENESS).home]
    likeness = LIKENESS.copy()
    likeness[others[-1], victim] = 0.9
    roles = poison.cast(made_up(), "look-alike", 3, likeness)
    assert {int(row) // 20 for row in roles.poison} == {others[-1]}


def test_the_night_labels_the_poison_as_the_victim_within_three_days() -> None:
    roles = poison.cast(made_up(), "clone", 0, LIKENESS)
    night = poison.compose(made_up(), roles, 0)
    assert night.samples.shares[night.poisoned].argmax(axis=1).tolist() == [0] * 8
    assert set(night.evidence.day[night.poisoned]) == {0, 1, 2}
    assert night.samples.enrolled.sum() == HOME * poison.ENROLLED
    first = night.samples.features[night.samples.group == np.flatnonzero(night.poisoned)[0]]
    np.testing.assert_array_equal(first, made_up().night[roles.poison[0]])
    assert not night.verified.learnt.any()


def outcome(newly_named: int = 0, verified_lost: int = 0, *, promoted: bool = True) -> Outcome:
    return Outcome(8, 8, 1, 40, promoted, ("gain: better",), newly_named, 5, verified_lost, 7, 8, 10)


def test_harm_is_a_wrong_name_or_a_verified_face_lost_in_service() -> None:
    assert not outcome().harmful
    assert outcome(newly_named=1).harmful
    assert outcome(verified_lost=1).harmful
    assert not outcome(newly_named=1, promoted=False).harmful
    row = poison.row_of("clone", "both", "fused", [outcome(), outcome(newly_named=2), outcome(promoted=False)])
    assert (row["refused"], row["harmless"], row["harmful"], row["named"]) == (1, 1, 1, [2, 15])
    assert row["tpir"] == [0.7, 0.8]


def test_too_few_people_are_said(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "ann").mkdir()
    cv2.imwrite(str(tmp_path / "ann" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="0 people with 14 photos, 7 are needed"):
        poison.read_pool(tmp_path, bench.detector, bench.kinds["facenet"])


def nights(pool: Pool, box: Box, attacks: Tuple[str, ...], seeds: int, *, bare: int) -> Dict[str, List[Outcome]]:
    likeness = poison.likeness_of(pool, box)
    played: Dict[str, List[Outcome]] = {}
    for attack in attacks:
        for seed in range(seeds):
            night = poison.compose(pool, poison.cast(pool, attack, seed, likeness), seed)
            for protection, one in poison.play(box, night, seed, bare=seed < bare).items():
                played.setdefault(protection, []).append(one)
    return played


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.models
def test_a_few_poisoned_nights_do_no_harm(pool: Pool, box: Box) -> None:
    played = nights(pool, box, ("labels", "clone"), 2, bare=0)
    assert not any(one.harmful for one in played["both"])
    bad = sum(one.taken_poison for one in played["both"]) / sum(one.poison for one in played["both"])
    good = sum(one.taken_honest for one in played["both"]) / sum(one.honest for one in played["both"])
    assert bad > 0.7
    assert good < 0.5 * bad


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.models
@pytest.mark.timeout(3600)
def test_sixty_of_sixty(data_dir: Path, bench: Bench) -> None:
    pytest.importorskip("torch")
    box = poison.make_box("fused", bench)
    pool = poison.read_pool(data_dir / "lfw_gray", bench.detector, bench.kinds["fused"])
    for attack in ("labels", "clone"):
        both = nights(pool, box, (attack,), 60, bare=0)["both"]
        assert len(both) == 60
        assert [seed for seed, one in enumerate(both) if one.harmful] == []
