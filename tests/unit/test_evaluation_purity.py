"""Scenes of tracklets: what is drawn, what is known without labels, how they are clustered, and the command."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest

from edgecam.__main__ import main
from edgecam.embed.sface import unit
from edgecam.evaluation import purity
from edgecam.evaluation.head import Head
from edgecam.evaluation.purity import Known, Pool, Tuning, World, draw

PEOPLE, PHOTOS, STYLES, FRAMES, WIDTH = 8, 10, 3, 2, 16


def pool(people: int = PEOPLE) -> Pool:
    """Return features that show the person and, more strongly, the style."""
    rng = np.random.default_rng(0)
    count = people * PHOTOS * STYLES * FRAMES
    rows = np.arange(count).reshape(people, PHOTOS, STYLES, FRAMES)
    features = rng.normal(0, 0.2, (count + 8, WIDTH))
    for who in range(people):
        features[rows[who].reshape(-1), who] += 0.7
    for style in range(STYLES):
        features[rows[:, :, style].reshape(-1), 12 + style] += 2.0
    return Pool(features.astype(np.float32), tuple(rows), np.arange(count, count + 8).reshape(4, 2))


def start() -> Head:
    return Head(np.eye(WIDTH, dtype=np.float32), np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32))


def of(world: World, shot: int) -> Any:
    return np.flatnonzero(world.shot == shot)


def test_a_shot_shows_different_people_and_a_scene_no_photo_twice() -> None:
    drawn = draw(pool(), 6, 0.25, 0)
    first = np.array([rows[0] for rows in drawn.rows])
    for shot in np.unique(drawn.shot):
        there = drawn.person[of(drawn, shot)]
        assert len(set(there[there >= 0])) == (there >= 0).sum() <= 4
    for scene in np.unique(drawn.scene):
        mine = (drawn.scene == scene) & (drawn.person >= 0)
        assert len(set(first[mine])) == mine.sum()
        assert len({row // FRAMES % STYLES for row in first[mine]}) == 1
    shown = drawn.person >= 0
    assert np.array_equal(drawn.identity[drawn.person[shown]], first[shown] // (PHOTOS * STYLES * FRAMES))
    alone = np.mean([(drawn.person[of(drawn, s)] >= 0).sum() == 1 for s in np.unique(drawn.shot)])
    assert alone == pytest.approx(0.25, abs=0.08)
    assert np.mean([len(rows) == 1 for rows in drawn.rows]) == pytest.approx(purity.SHORT, abs=0.04)
    assert np.mean(~shown) == pytest.approx(purity.FALSE, abs=0.03)


def test_single_visitors_leave_nothing_known_to_be_apart_and_nothing_is_tuned() -> None:
    drawn = draw(pool(), 6, 1.0, 0)
    assert not purity.cannot(drawn).any()
    known = purity.tracks_alone(drawn)
    features, owner = purity._faces(pool(), drawn)
    assert np.array_equal(
        purity.tune(start(), features, owner, known, "symtriplet", 0, Tuning()).weight, start().weight
    )


def test_the_same_seed_draws_the_same_scenes() -> None:
    one, two, other = (draw(pool(), 6, 0.25, seed) for seed in (1, 1, 2))
    assert np.array_equal(np.concatenate(one.rows), np.concatenate(two.rows))
    assert np.array_equal(one.clothing, two.clothing)
    assert not np.array_equal(one.person[:50], other.person[:50])


def test_phones_of_the_absent_are_not_heard() -> None:
    drawn = draw(pool(), 6, 0.25, 0)
    there = np.zeros(drawn.heard.shape, bool)
    shown = drawn.person >= 0
    there[drawn.scene[shown], drawn.person[shown]] = True
    assert not drawn.heard[~there].any()
    assert drawn.heard[there].mean() == pytest.approx(1 - purity.MISSED, abs=0.08)


def test_days_that_share_a_phone_are_nearer_than_days_that_share_none() -> None:
    drawn = draw(pool(), 6, 0.25, 0)
    heard = np.zeros(drawn.heard.shape)
    heard[0, 0] = heard[1, 0] = heard[2, 1] = heard[3, :2] = 1.0
    far = purity._phones(drawn._replace(heard=heard))
    day = [np.flatnonzero(drawn.scene == n)[0] for n in range(4)]
    assert far[day[0], day[1]] < far[day[0], day[3]] < far[day[0], day[2]]
    assert np.array_equal(far, far.T)


def test_clothes_find_people_again_and_what_follows() -> None:
    bed = pool()
    drawn = draw(bed, 6, 0.25, 0)
    features, owner = purity._faces(bed, drawn)
    means = unit(purity._means(start().project(features), owner)[0])
    found = purity.with_context(drawn, means)
    assert found.pairs > 50
    assert found.precision is not None
    assert found.precision > 0.95
    assert len(found.apart) < len(drawn.person)
    assert not found.apart.diagonal().any()
    direct = purity.cannot(drawn)
    assert found.apart[found.group][:, found.group][direct].all()
    assert found.apart[found.group][:, found.group].sum() > 1.2 * direct.sum()


def test_each_loss_pulls_people_apart_that_one_light_made_alike() -> None:
    bed = pool()
    drawn = draw(bed, 6, 0.25, 0)
    known = purity.tracks_alone(drawn)
    features, owner = purity._faces(bed, drawn)
    before = purity.judged(drawn, bed, start(), known.apart)
    for method in ("contrastive", "triplet", "symtriplet"):
        tuned = purity.tune(start(), features, owner, known, method, 0, Tuning(steps=60, rate=1e-2))
        after = purity.judged(drawn, bed, tuned, known.apart)
        assert after.purity > before.purity + 0.08, method
        assert after.pairwise_f1 > before.pairwise_f1 + 0.1, method


def test_the_same_seed_tunes_to_the_same_head() -> None:
    bed = pool()
    drawn = draw(bed, 6, 0.25, 0)
    features, owner = purity._faces(bed, drawn)
    one, two, other = (
        purity.tune(start(), features, owner, purity.tracks_alone(drawn), "triplet", seed, Tuning(steps=5)).weight
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_triplets_are_of_one_group_and_of_one_known_to_be_apart() -> None:
    group = np.array([0, 0, 1, 2, 2, 2])
    apart = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    draws = purity._Triplets(np.zeros((6, 2), np.float32), group, apart, 0, 5)
    draws.vectors = np.zeros((6, 2), np.float32)
    k, same, m = draws.take(200)
    assert np.array_equal(group[k], group[same])
    assert apart[group[k], group[m]].all()
    assert (k != same)[group[k] == 0].all()
    assert set(k) == {0, 1, 2}


def test_a_negative_is_the_nearest_of_a_few() -> None:
    group = np.array([0, 0, *range(1, 41)])
    apart = np.zeros((41, 41), bool)
    apart[0, 1:] = True
    vectors = np.linspace(0, 1, 42, dtype=np.float32)[:, None]
    vectors[:2] = 1.0
    chosen = []
    for hard in (1, 5):
        draws = purity._Triplets(vectors, group, apart, 0, hard)
        draws.vectors = vectors
        chosen.append(draws.take(400)[2].mean())
    assert chosen[1] > chosen[0] + 8


def points(*at: float) -> Tuple[Any, Any]:
    x = np.array(at)
    return (x[:, None] - x[None]) ** 2, np.ones(len(x), np.int64)


@pytest.mark.parametrize(("at", "barred"), [((0.0, 0.1, 0.2, 5.0), 1), ((0.0, 0.2, 0.1, 5.0), 2)])
def test_two_people_of_one_shot_are_merged_last_whatever_took_them_in(at: Tuple[float, ...], barred: int) -> None:
    distances, counts = points(*at)
    apart = np.zeros((4, 4), bool)
    apart[0, barred] = apart[barred, 0] = True
    labels, heights = purity.linked(distances, counts, apart)
    assert labels[3].tolist() == [0, 1, 1, 2]
    assert labels[2][0] != labels[2][1]
    assert heights[-1] > 1e3 - 1
    free = purity.linked(distances, counts, np.zeros((4, 4), bool))[0]
    assert free[2].tolist() == [0, 0, 0, 1]


def test_without_constraints_it_is_scipys_average_linkage() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (30, 4))
    distances = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    labels, heights = purity.linked(distances, np.ones(30, np.int64), np.zeros((30, 30), bool))
    tree = linkage(squareform(distances, checks=False), "average")
    assert heights == pytest.approx(tree[:, 2])
    for g in (3, 8):
        theirs = fcluster(tree, g, "maxclust")
        assert len(set(zip(labels[g], theirs))) == g


def test_a_tracklet_of_more_faces_counts_more() -> None:
    distances, _ = points(0.0, 1.0, 2.2)
    _, heights = purity.linked(distances, np.array([3, 1, 1]), np.zeros((3, 3), bool))
    assert heights.tolist() == pytest.approx([1.0, (3 * 2.2**2 + 1.2**2) / 4])


def test_purity_and_pairs_are_counted() -> None:
    labels, true = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    assert purity._purity(labels, true) == 0.8
    assert purity._pairwise(labels, true) == pytest.approx(2 * 2 / (4 + 4))


def test_sizes_beyond_the_folder_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    plan = purity.Plan(Path("x"))
    assert list(purity.cells(plan, 40)) == [(6, 0.25), (13, 0.25), (13, 0.75), (13, 1.0)]
    assert not capsys.readouterr().err
    assert {size for size, _ in purity.cells(plan, 7)} == {6}
    assert "7 people in the folder: 6 instead of 6, 13" in capsys.readouterr().err
    assert {size for size, _ in purity.cells(plan, 5)} == {5}
    full = list(purity.cells(purity.Plan(Path("x"), full=True), 40))
    assert len(full) == 20
    assert set(purity.cells(plan, 40)) <= set(full)


def test_nothing_known_is_no_group() -> None:
    assert Known(np.arange(3), np.zeros((3, 3), bool)).precision is None


@pytest.mark.data
@pytest.mark.models
@pytest.mark.slow
def test_a_few_real_people(
    data_dir: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = tmp_path / "people"
    for n in range(1, 6):
        shutil.copytree(data_dir / "orl_faces" / f"s{n}", folder / f"s{n}")
        for photo in sorted((folder / f"s{n}").iterdir())[4:]:
            photo.unlink()
    monkeypatch.setattr(purity, "SCENES", 12)
    monkeypatch.setattr(purity, "Tuning", partial(Tuning, steps=60))
    monkeypatch.setattr(purity, "_FALSE_PICTURES", 4)
    monkeypatch.setattr(purity.Plan, "styles", 2)
    monkeypatch.setattr(purity, "cells", lambda plan, people: iter([(5, 0.25), (5, 1.0)]))
    assert main(["eval", "purity", "--data", str(folder), "--seeds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["method"] for row in rows] == 2 * ["facenet", *purity.METHODS]
    for row in rows:
        assert list(row)[:3] == ["method", "purity", "pairwise_f1"]
        assert 0.5 < row["purity"] <= 1
        assert row["ci95"][0] <= row["purity"] <= row["ci95"][1]
        assert row["curve"] == sorted(row["curve"])
    assert "nothing is tuned" in err
    single = {row["method"]: row for row in rows[len(rows) // 2 :]}
    assert single["symtriplet"]["purity"] == single["frozen"]["purity"] == single["+context"]["purity"]
    assert single["symtriplet"]["reason"] == "no negatives: not tuned"
    assert rows[4]["method"] == "symtriplet"
    assert rows[4]["purity"] != rows[1]["purity"] or rows[4]["area"] != rows[1]["area"]


def test_no_seeds_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "purity", "--data", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err


def test_a_folder_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models_dir: Path
) -> None:
    assert main(["eval", "purity", "--data", str(tmp_path / "none")]) == 1
    err = capsys.readouterr().err
    assert "not a folder" in err
    assert "Traceback" not in err
