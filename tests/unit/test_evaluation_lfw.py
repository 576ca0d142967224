"""The open-set and verification tables on made-up people, and once on real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest

from edgecam.config import EmbedConfig, IdentifyConfig
from edgecam.errors import InputError
from edgecam.evaluation import lfw
from edgecam.evaluation.faces import Album, Doors, View, open_bench, photos_of
from edgecam.evaluation.strangers import half_of
from edgecam.identify import Household, Recognizability
from edgecam.pipeline.build import IdentifierFactory
from edgecam.types import Floats

DIM = 32


def unit(rows: Any) -> Floats:
    made: Floats = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return made


def made_doors() -> Doors:
    strangers = unit(np.random.default_rng(5).normal(size=(4000, DIM)))
    return Doors([strangers], Recognizability(np.zeros(DIM, np.float32)), IdentifyConfig())


def made_view(people: int = 8, photos: int = 14, singles: int = 150, spread: float = 0.08) -> View:
    rng = np.random.default_rng(3)
    names: List[Tuple[str, str]] = []
    rows: List[Floats] = []
    for n in range(people + singles):
        centre = unit(rng.normal(size=DIM))
        for i in range(photos if n < people else 1):
            names.append((f"P{n}", f"P{n}_{i + 1:04d}.jpg"))
            rows.append(unit(centre + spread * rng.normal(size=DIM)))
    yes = np.ones(len(rows), np.bool_)
    album = Album(tuple(p for p, _ in names), tuple(f for _, f in names), yes, yes.copy(), np.stack(rows), "v")
    return View(album, np.stack(rows), yes.copy())


def table(rows: Any) -> Dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def judged(view: View) -> Dict[str, float]:
    homes, enroll = lfw.homes_of(view.album, set(view.album.people), 5, 0)
    return table(lfw.judge(view, made_doors(), homes, enroll).rows("fused", enroll))


def test_easy_people_are_all_told() -> None:
    found = judged(made_view())
    assert found["identification_rate"] == 1.0
    assert found["wrong_names"] == 0.0
    assert found["tpir_at_fpir_1.0%"] == 1.0
    assert found["strangers_named"] < 0.02


def test_a_photo_without_a_face_is_a_miss_and_no_false_accept() -> None:
    view = made_view()
    view.album.found[:] = False
    view.usable[:] = False
    view.usable[: 8 * 14] = view.album.found[: 8 * 14] = True  # of the strangers three may be seen ...
    view.usable[: 8 * 14 : 14] = view.album.found[: 8 * 14 : 14] = False  # ... and not one photo of each of the eight
    found = judged(view)
    assert found["strangers_named"] <= 3 / 153
    assert 0 < found["no_face"] < 0.5
    assert found["identification_rate"] == pytest.approx(1.0 - found["no_face"], abs=1e-4)


def test_answers_to_mates_add_up() -> None:
    found = judged(made_view(spread=0.25))
    words = ("identification_rate", "wrong_names", "uncertain", "called_unknown", "poor", "no_face")
    assert sum(found[w] for w in words) == pytest.approx(1.0, abs=1e-4)


def test_households_never_test_what_they_enrolled() -> None:
    view = made_view()
    homes, enroll = lfw.homes_of(view.album, set(view.album.people), 10, 0)
    assert enroll == lfw.ENROLLED
    for home in homes:
        enrolled = {i for photos in home.enrol for i in photos}
        assert not enrolled & {i for i, _ in home.probes}
        assert not {view.album.people[i] for i in home.strangers} & set(home.people)
        assert len(home.strangers) == 8 + 150 - len(home.people)


def test_a_small_folder_is_scaled() -> None:
    homes, enroll = lfw.homes_of(made_view(people=5, photos=11, singles=0).album, {f"P{n}" for n in range(5)}, 3, 0)
    assert (len(homes[0].people), enroll) == (4, 9)
    assert len(homes[0].strangers) == 11  # every photo of the one who is left


def test_nearest_pairs_come_first() -> None:
    angles = {"a": 0.0, "b": 1.0, "c": 1.1}
    vectors = {p: np.array([[np.cos(t), np.sin(t)]], np.float32) for p, t in angles.items()}
    assert lfw.nearest_pairs(vectors, 2) == [("b", "c"), ("a", "b")]


def test_listed_pairs_with_and_without_folds(tmp_path: Path) -> None:
    view = made_view(people=2, photos=3, singles=1)
    (tmp_path / "pairs.txt").write_text("10 300\n0\tP0\t1\t3\n7\tP0\t2\tP1\t1\nP1 1 2\nP9 1 2\n")
    found = lfw.listed_pairs(tmp_path / "pairs.txt", view.album)
    assert found == [(0, 2, 0), (1, 3, 7), (3, 4, 0)]


def test_a_missed_face_fails_its_pairs() -> None:
    view = made_view(people=4, photos=6, singles=120)
    view.album.found[0] = False
    pairs = [(0, 1, 0), (2, 3, 1), (0, 6, 0), (2, 7, 1)]
    found = table(lfw.verification(view, pairs, set(view.album.people), "fused"))
    assert found["verification_auc"] == pytest.approx(0.5 * (0.25 + 1.0), abs=0.13)


def test_halves_do_not_change() -> None:
    assert [half_of(n) for n in ("George_W_Bush", "Tony_Blair", "Hugo_Chavez")] == ["odd", "even", "odd"]


def test_a_folder_without_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one folder of photos a person"):
        photos_of(tmp_path)


@pytest.mark.models
def test_thresholds_are_the_products(models_dir: Path) -> None:
    rng = np.random.default_rng(0)
    home = Household.of([(f"p{n}", v, False) for n, v in enumerate(unit(rng.normal(size=(3, 128))))])
    wanted = IdentifierFactory(open_bench().kinds["sface"], EmbedConfig(kind="sface"), IdentifyConfig()).make(home)
    assert open_bench().doors("sface").make(home).calibration == wanted.calibration


@pytest.mark.data
@pytest.mark.models
@pytest.mark.slow
def test_real_people_are_told_apart(data_dir: Path, models_dir: Path) -> None:
    rows = list(lfw.run(lfw.Options(data_dir / "dlib_johns", half=None, kinds=("fused",), homes=6)))
    fused = table(r for r in rows if r["encoder"] == "fused" and r.get("tail_factor", 0) != 1.0)
    assert fused["verification_accuracy"] > 0.97
    assert fused["identification_rate"] > 0.95
    assert fused["wrong_names"] == 0.0
    assert fused["strangers_named"] < 0.05
    assert all(set(r) >= {"metric", "value", "ci95"} for r in rows)
