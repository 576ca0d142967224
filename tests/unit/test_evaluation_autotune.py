"""The composed office: what is drawn, how F1 is counted, and the command on a few real people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from edgecam.__main__ import main
from edgecam.evaluation import autotune, world
from edgecam.evaluation.autotune_figures import draw_figures
from edgecam.evaluation.world import Looks, Noise, World, draw, sizes


def looks(people: int = 40, photos: int = 10, times: int = 4) -> Looks:
    """Return looks without pictures: a feature tells which photo it is of."""
    photo = np.repeat(np.arange(people * photos), times)
    plain = np.arange(people * photos, dtype=np.float32)[:, None]
    return Looks(
        tuple(f"P{n}" for n in range(people)), photo // photos, photo, photo[:, None].astype(np.float32), plain
    )


def test_pictures_of_one_photo_are_never_on_both_sides() -> None:
    pool = looks()
    for seed in range(3):
        drawn = draw(pool, seed, Noise(), 28)
        assert not set(pool.photo[drawn.rows]) & set(pool.photo[drawn.test])
        assert set(drawn.template) <= set(pool.photo[drawn.rows]) | set(pool.photo)
        assert not set(drawn.template) & set(pool.photo[drawn.test])
        assert np.array_equal(drawn.identity[drawn.person], pool.person[drawn.rows])


def test_faces_lie_where_their_people_were() -> None:
    for noise in (Noise(), Noise(devices=0.5), Noise(rooms=2), Noise(twins=3)):
        drawn = draw(looks(), 1, noise, 28)
        assert drawn.attended[drawn.events, drawn.person].all()
        assert drawn.hard.any() == bool(noise.rooms)
        assert len(drawn.heard) == 100 + 30 * noise.rooms
        assert not (drawn.events[drawn.hard] < 100).any()


def test_the_same_photo_from_a_worse_camera() -> None:
    pool, worse = looks(times=4), looks(times=3)
    rows = np.array([0, 3, 4, 1599])
    assert np.array_equal(worse.photo[worse.twin_of(pool, rows)], pool.photo[rows])


def test_the_grid_has_what_is_promised() -> None:
    quick, full = (list(autotune.cells(autotune.Plan(Path("x"), full))) for full in (False, True))
    assert all(cell.methods[0] == "ours" for cell in quick + full)
    assert {c.noise for c in quick} == {"none", "faces", "devices", "non_poi", "mixed", "room", "twins"}
    assert {c.noise for c in full} - {c.noise for c in quick} >= {"days", "gamma", "hard_none"}
    assert {(c.noise, c.level) for c in quick} <= {(c.noise, c.level) for c in full}
    others = {"tm", "ours_enrolled", "spectral", "gmm", "oracle"}
    assert {m for c in full for m in c.methods} == {*autotune.METHODS, *others}
    rivals = list(autotune.cells(autotune.Plan(Path("x"), rivals=True)))
    assert [c[:3] for c in rivals if not c.hard] == [c[:3] for c in quick]
    assert all({*autotune.METHODS} <= {*c.methods} for c in rivals if c.noise != "twins")
    assert {c.noise for c in rivals if c.hard} == {c.noise for c in full if c.hard}


def test_noise_has_the_rate_that_was_asked() -> None:
    clean = draw(looks(), 2, Noise(), 28)
    assert np.array_equal(clean.heard, clean.attended)
    assert clean.attended.mean() == pytest.approx(0.3, abs=0.03)
    missed = draw(looks(), 2, Noise(faces=0.4), 28)
    assert missed.heard.sum() / missed.attended.sum() == pytest.approx(0.6, abs=0.05)
    assert not (missed.heard > missed.attended).any()
    empty = draw(looks(times=30), 2, Noise(devices=0.5), 200)
    shown = np.zeros(empty.attended.shape)
    shown[empty.events, empty.person] = 1
    assert shown.sum() / empty.attended.sum() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(empty.heard, empty.attended)
    strangers = draw(looks(), 2, Noise(strangers=10), 28)
    assert strangers.person.max() == 39
    assert strangers.heard.shape == (100, 30)
    assert len(draw(looks(), 2, Noise(days=0.2), 28).heard) == 20
    twins = draw(looks(), 2, Noise(twins=2, faces=0.3), 28).heard
    assert np.array_equal(twins[:, [0, 2]], twins[:, [1, 3]])


def test_the_same_seed_draws_the_same_office() -> None:
    one, two, other = (draw(looks(), seed, Noise(faces=0.2), 28) for seed in (5, 5, 6))
    assert np.array_equal(one.rows, two.rows)
    assert np.array_equal(one.heard, two.heard)
    assert not np.array_equal(one.heard, other.heard)


def test_fewer_people_are_scaled() -> None:
    assert sizes(40, 4) == (30, 4)
    assert sizes(100, 10) == (30, 10)
    assert sizes(8, 10) == (6, 2)
    assert sizes(8, 4) == (6, 1)
    assert sizes(8, 0) == (6, 0)


def small(person: List[int], persons: int) -> World:
    none = np.zeros(0, np.int64)
    heard = np.zeros((2, persons))
    count = len(person)
    return World(
        none, np.zeros(count, bool), np.array(person), np.zeros(count, np.int64), heard, heard, np.arange(9), none, none
    )


def test_the_papers_f1_and_the_honest_one() -> None:
    office = small([0, 0, 1, 1, 2, 3], 2)  # 2 and 3 are strangers
    told = autotune._score(office, np.array([0, -1, 1, 1, -1, -2]))
    assert told.f1 == 1.0  # what has no name does not count
    assert told.by_person == {0: pytest.approx(2 / 3), 1: 1.0}
    assert told.coverage == 0.5
    assert told.leak == 0.0
    told = autotune._score(office, np.array([0, 0, 1, 1, 1, -1]))
    assert told.f1 == pytest.approx((1.0 + 0.8 + 0.0) / 3)  # the stranger is a class
    assert told.by_person[1] == pytest.approx(0.8)
    assert told.leak == 0.5
    nothing = autotune._score(office, np.full(6, -1))
    assert (nothing.f1, sum(nothing.by_person.values()), nothing.coverage) == (0.0, 0.0, 0.0)


def test_figures_are_drawn_for_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = {"f1": 0.9, "f1_poi": 0.8, "coverage": 0.7}
    rows: List[Dict[str, Any]] = [
        {"noise": "none", "level": 0.0, "method": "ours", "ranks": {"1": 0.9, "3": 1.0}, **row},
        {"noise": "faces", "level": 0.5, "method": "ours", **row},
        {"noise": "faces", "level": 0.3, "method": "oa", **row},
    ]
    names = sorted(path.name for path in draw_figures(rows, tmp_path / "new"))
    assert names == ["fig10a_false_alarm_faces.png", "fig5_labelling.png", "fig9_online.png"]
    assert all((tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG") for name in names)


@pytest.mark.data
@pytest.mark.models
def test_a_few_real_people(
    data_dir: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = tmp_path / "people"
    for n in range(1, 7):
        shutil.copytree(data_dir / "orl_faces" / f"s{n}", folder / f"s{n}")
        for photo in sorted((folder / f"s{n}").iterdir())[5:]:
            photo.unlink()
    monkeypatch.setattr(autotune.Plan, "looks", 5)
    monkeypatch.setattr(autotune.Plan, "hard_looks", 2)
    grid = [c for c in autotune.cells(autotune.Plan(folder)) if c.noise in ("none", "room", "twins")]
    grid[0] = grid[0]._replace(methods=(*autotune.METHODS, *autotune._OTHERS))
    monkeypatch.setattr(autotune, "cells", lambda plan: iter(grid))
    monkeypatch.setattr(autotune.Plan, "pictures", 18)
    assert main(["eval", "autotune", "--data", str(folder), "--seeds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert "6 people instead of the protocol's 40: 4 with a device, 2 strangers" in err
    for row in rows:
        assert list(row)[:8] == ["noise", "level", "method", "f1", "f1_poi", "coverage", "leak", "iterations"]
        assert row["seeds"] == 1
        assert 0 <= row["f1_poi"] <= 1
    assert rows[0]["method"] == "ours"
    assert rows[0]["noise"] == "none"
    assert {row["method"] for row in rows if row["noise"] == "none"} == {*autotune.METHODS, *autotune._OTHERS}
    assert all(row["f1_poi"] > 0.6 for row in rows if row["noise"] == "none")
    assert rows[0]["f1_poi"] > 0.8
    assert {row["noise"] for row in rows} == {"none", "room", "twins"}
    assert rows[-1]["flagged"] == 1
    assert rows[-1]["guessed"] == 0


@pytest.mark.parametrize(("folders", "word"), [(0, "not a folder"), (2, "no photos")], ids=["missing", "no-photos"])
def test_a_folder_without_people_is_one_line(
    folders: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], models_dir: Path
) -> None:
    data = tmp_path / "data"
    for n in range(folders):
        (data / f"p{n}").mkdir(parents=True)
    assert main(["eval", "autotune", "--data", str(data)]) == 1
    err = capsys.readouterr().err
    assert word in err
    assert "Traceback" not in err


def test_no_seeds_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "autotune", "--data", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err


def test_purity_counts_the_majority() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    assert world.frozen_purity(vectors, np.array([0, 0, 1, 1, 0]), 2) == pytest.approx(0.8)
