"""The composed door of `eval track`: where faces are, how much of them shows, who follows them, and what is counted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

import cv2
import numpy as np
import pytest

from edgecam.__main__ import main
from edgecam.bench.scene import FPS, HEIGHT, WIDTH, Scene, Visitor
from edgecam.detect import Detector
from edgecam.embed import Encoder
from edgecam.embed.sface import unit
from edgecam.errors import InputError
from edgecam.evaluation import door_shots, tracking
from edgecam.evaluation.door_shots import Actor, Cutout, Person, Shot, Truth, compose, cut_out, read_people, truth_at
from edgecam.evaluation.tracking import Seen, Stages, Take
from edgecam.types import FaceCrop, Faces, Floats, Image, Quality

FACE = (20, 30, 40, 50)
"""x, y, w, h of the red face in a picture of 80 x 120."""
OK = Quality(0.8, {}, 0.0, 0.0, 0.0, infrared=False)
POOR = Quality(0.1, {}, 0.0, 0.0, 0.0, infrared=False, reason="blurred")


def cutout() -> Cutout:
    picture: Image = np.full((120, 80, 3), (200, 0, 0), np.uint8)
    x, y, w, h = FACE
    picture[y : y + h, x : x + w] = (0, 0, 255)
    return Cutout((picture,), np.array([FACE], np.float32), np.array([True]))


def actor(person: int, x: float, y: float, height: int = 240) -> Actor:
    own = cutout()
    visitor = Visitor(lambda _: own.pictures[0], 0.0, 7.0, height_px=height, path=lambda _: (x, y))
    return Actor(person, own, visitor)


def pillar(x: float) -> Visitor:
    picture: Image = np.full((HEIGHT, 180, 3), 80, np.uint8)
    return Visitor(lambda _: picture, 0.0, 7.0, height_px=HEIGHT, path=lambda _: (x, 0.0))


def truth(shot: Shot) -> Truth:
    return truth_at(shot, 5)


# --- where faces are --------------------------------------------------------------------------------------------------


def test_the_true_box_is_where_the_scene_shows_the_face() -> None:
    shot = Shot(0, "door", (actor(4, 500, 200), actor(9, 900, 333, height=180)), None)
    image = door_shots.scene_of(shot).at(5).astype(int)
    found = truth(shot)
    assert found.people.tolist() == [4, 9]
    assert found.seen.tolist() == [1, 1]
    red = (image[:, :, 2] > 200) & (image[:, :, 0] < 50)
    assert red.sum() == pytest.approx(sum(w * h for _, _, w, h in found.boxes.tolist()), rel=0.03)
    for x, y, w, h in found.boxes.round().astype(int).tolist():
        assert red[y + 2 : y + h - 2, x + 2 : x + w - 2].all()


@pytest.mark.parametrize(
    ("others", "hides", "seen"),
    [
        pytest.param([], None, 1.0, id="free"),
        pytest.param([actor(2, 500, 200)], None, 0.0, id="behind somebody"),
        pytest.param([actor(2, 580, 200)], None, 0.5, id="half behind somebody"),
        pytest.param([], pillar(590), 0.5, id="half behind the pillar"),
    ],
)
def test_what_is_before_a_face_hides_it(others: List[Actor], hides: Optional[Visitor], seen: float) -> None:
    shot = Shot(0, "door", (actor(1, 500, 200), *others), hides)
    assert truth(shot).seen[0] == pytest.approx(seen, abs=0.02)
    if others:
        behind = Shot(0, "door", (*others, actor(1, 500, 200)), None)
        assert truth(behind).seen[-1] == 1


def test_a_face_is_cut_off_by_the_border_and_by_its_own_picture() -> None:
    assert truth(Shot(0, "door", (actor(1, WIDTH, 200),), None)).seen[0] == pytest.approx(0.5, abs=0.02)
    assert truth(Shot(0, "door", (actor(1, -300, 200),), None)).seen[0] == 0
    one = actor(1, 500, 200)
    outside = one.cutout._replace(faces=np.array([[60, 30, 40, 50]], np.float32))
    assert truth(Shot(0, "door", (one._replace(cutout=outside),), None)).seen[0] == pytest.approx(0.5, abs=0.02)


def test_where_no_face_was_found_none_is_asked_for() -> None:
    one = actor(1, 500, 200)
    unsure = one._replace(cutout=one.cutout._replace(sure=np.array([False])))
    assert truth(Shot(0, "door", (unsure,), None)).seen.tolist() == [0]


def test_pictures_run_backwards_after_the_last() -> None:
    own = cutout()._replace(pictures=cutout().pictures * 3)
    assert [own.at(n / FPS) for n in range(7)] == [0, 1, 2, 1, 0, 1, 2]
    assert {cutout().at(n / FPS) for n in range(5)} == {0}


def test_a_cutout_holds_the_face_wherever_it_goes() -> None:
    frames: List[Image] = [np.zeros((300, 400, 3), np.uint8) for _ in range(3)]
    boxes = [np.array([x, 100, 40, 50], np.float32) for x in (100, 150, 200)]
    for frame, (x, y, w, h) in zip(frames, [box.astype(int) for box in boxes]):
        frame[y : y + h, x : x + w] = 255
    own = cut_out(frames, [boxes[0], None, boxes[2]], Path("x"))
    assert own.sure.tolist() == [True, False, True]
    for picture, (x, y, w, h) in zip(own.pictures, own.faces.round().astype(int)):
        assert picture[y : y + h, x : x + w].min() == 255
    with pytest.raises(InputError, match="no face"):
        cut_out(frames, [None, None, None], Path("x"))


# --- who there is -----------------------------------------------------------------------------------------------------


def one_face(image: Image, _regions: Optional[Floats] = None) -> Faces:
    box = np.array([[image.shape[1] * 0.3, image.shape[0] * 0.2, 60, 80]], np.float32)
    return Faces(box, np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))


def no_face(_image: Image, _regions: Optional[Floats] = None) -> Faces:
    return Faces.empty()


def album(folder: Path, people: int, photos: int = 4) -> Path:
    for n in range(people):
        (folder / f"p{n}").mkdir(parents=True)
        for k in range(photos):
            cv2.imwrite(str(folder / f"p{n}" / f"{k}.png"), np.full((200, 160, 3), 40 * n + k, np.uint8))
    return folder


def film(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Scene().write(path, 1.0)


def test_clips_of_one_face_and_folders_of_photos_are_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album(tmp_path / "lfw_colour_10x10", 2)
    album(tmp_path / "other", 5)
    for name in ("cap1_a", "cap2", "ann_real", "ann_fake"):
        film(tmp_path / "videos" / "x" / f"{name}.mp4")
    (tmp_path / "videos" / "torn.mp4").write_bytes(b"not a clip")
    (tmp_path / "lfw_colour_10x10" / "p0" / "torn.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    people = read_people(tmp_path, cast("Detector", one_face))
    assert [(one.name, len(one.sources), one.film) for one in people] == [
        ("ann_real", 1, True),
        ("cap", 2, True),
        ("p0", 4, False),
        ("p1", 4, False),
    ]
    err = capsys.readouterr().err
    assert "torn.mp4: left out" in err
    assert "torn.jpg: left out" in err
    assert "fewer people than wanted" in err


def test_photos_of_two_are_left_out(tmp_path: Path) -> None:
    def faces_of(image: Image, _regions: Optional[Floats] = None) -> Faces:
        return faces(A, B) if image[0, 0, 0] in (1, 41, 42) else faces(A)

    people = read_people(album(tmp_path, 4, photos=5), cast("Detector", faces_of))
    assert [(one.name, [path.stem for path in one.sources]) for one in people] == [
        ("p0", ["0", "2", "3", "4"]),
        ("p2", ["0", "1", "2", "3", "4"]),
        ("p3", ["0", "1", "2", "3", "4"]),
    ]


def test_two_people_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 people, want 3"):
        read_people(album(tmp_path / "two", 2), cast("Detector", one_face))
    film(tmp_path / "two" / "ann.mp4")
    assert len(read_people(tmp_path / "two", cast("Detector", one_face))) == 3
    with pytest.raises(InputError, match="0 people"):
        read_people(tmp_path / "two", cast("Detector", no_face))


def test_a_household_comes_again_in_other_pictures(tmp_path: Path) -> None:
    album(tmp_path, 5)
    people = [Person(f"p{n}", tuple(sorted((tmp_path / f"p{n}").iterdir())), film=False) for n in range(5)]
    detector = cast("Detector", one_face)
    shots = list(compose(people, 12, 3, detector))
    assert [(shot.visit, shot.camera) for shot in shots if shot.visit < 3] == [
        (0, "door"),
        (0, "side"),
        (1, "door"),
        (2, "door"),
        (2, "side"),
    ]
    shown: Dict[int, List[int]] = {}
    for shot in shots:
        there = [one.person for one in shot.actors]
        assert len(set(there)) == len(there)
        if shot.camera == "door":
            for one in shot.actors:
                shown.setdefault(one.person, []).append(int(one.cutout.pictures[0][0, 0, 0]))
    assert len(shown) == 3  # households of photos alone
    for pictures in shown.values():
        assert len(pictures) >= 5
        assert len(set(pictures[:4])) == 4
    again = list(compose(people, 12, 3, detector))
    assert [one.person for s in shots for one in s.actors] == [one.person for s in again for one in s.actors]
    assert np.array_equal(door_shots.scene_of(shots[3]).at(20), door_shots.scene_of(again[3]).at(20))
    other = list(compose(people, 12, 4, detector))
    assert [one.person for s in shots for one in s.actors] != [one.person for s in other for one in s.actors]


def test_who_crosses_meets(tmp_path: Path) -> None:
    album(tmp_path, 3)
    people = [Person(f"p{n}", tuple(sorted((tmp_path / f"p{n}").iterdir())), film=False) for n in range(3)]
    shots = {
        door_shots.KINDS[s.visit][0]: s for s in compose(people, 6, 0, cast("Detector", one_face)) if s.camera == "door"
    }
    seen = {kind: np.stack([truth_at(shot, n).seen for n in range(70)]) for kind, shot in shots.items()}
    for kind in ("cross", "pillar", "three"):
        hidden = [np.flatnonzero(column < 0.3) for column in seen[kind].T]
        assert any(
            len(at) and column[: at[len(at) // 2]].max() == 1 == column[at[len(at) // 2] :].max()
            for at, column in zip(hidden, seen[kind].T)
        ), kind
    gone = np.flatnonzero(seen["back"][:, 0] == 0)
    away = gone[(gone > 10) & (gone < 60)]
    assert len(away) / FPS > 1.5  # the tracker's patience
    assert seen["back"][away[0] - 8, 0] == seen["back"][-1, 0] == 1


# --- following --------------------------------------------------------------------------------------------------------


def faces(*boxes: Sequence[float]) -> Faces:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    marks = rows[:, None, :2] + rows[:, None, 2:] * np.array(
        [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
    )
    return Faces(rows, np.ones(len(rows), np.float32), marks.astype(np.float32))


def frame(
    at_s: float,
    found: Sequence[Sequence[float]],
    true: Sequence[Tuple[int, Sequence[float], float]] = (),
    features: Sequence[Optional[Floats]] = (),
) -> Seen:
    """A frame: found boxes, (person, box, share seen), and the features of usable faces."""
    own = faces(*found)
    given = [*features, *[None] * (len(own) - len(features))]
    crop = np.zeros((1, 1, 3), np.uint8)
    return Seen(
        at_s,
        Truth(
            np.array([one[0] for one in true], np.int64),
            np.array([one[1] for one in true], np.float32).reshape(-1, 4),
            np.array([one[2] for one in true], np.float32),
        ),
        own,
        unit(np.ones((len(own), 272), np.float32)) if len(own) else np.zeros((0, 272), np.float32),
        tuple(FaceCrop(crop.copy(), box, marks) for box, marks in zip(own.boxes, own.landmarks)),
        tuple(POOR if one is None else OK for one in given),
        tuple(np.zeros(0, np.float32) for _ in given),
        tuple(None if one is None else (one, OK) for one in given),
    )


A, B = (100.0, 100.0, 100.0, 120.0), (600.0, 100.0, 100.0, 120.0)


def shifted(box: Sequence[float], x: float) -> Tuple[float, ...]:
    return (box[0] + x, *box[1:])


def lists(ids: Sequence[Any]) -> List[List[int]]:
    return [row.tolist() for row in ids]


def test_overlap_goes_on_while_boxes_meet_and_patience_lasts() -> None:
    near = [frame(0.0, [A, B]), frame(0.1, [shifted(B, 10), shifted(A, 10)]), frame(0.2, []), frame(0.3, [A])]
    assert lists(tracking.by_overlap(near)) == [[1, 2], [2, 1], [], [1]]
    assert lists(tracking.by_overlap([frame(0.0, [A]), frame(0.1, [shifted(A, 90)])])) == [[1], [2]]
    assert lists(tracking.by_overlap([frame(0.0, [A]), frame(1.4, [A])])) == [[1], [1]]
    assert lists(tracking.by_overlap([frame(0.0, [A]), frame(1.6, [A])])) == [[1], [2]]


def test_the_products_tracks_are_told_of_each_face_in_its_place() -> None:
    swapped = [frame(n / 10, [shifted(A, 8 * n), B] if n % 2 else [B, shifted(A, 8 * n)]) for n in range(6)]
    assert lists(tracking.by_tracker(swapped)) == [[1, 2] if n % 2 == 0 else [2, 1] for n in range(6)]


def test_a_picture_on_the_wall_is_nobodys_track() -> None:
    wall = [frame(n / 2, [A, shifted(B, 15 * (n % 3))]) for n in range(30)]
    ids = lists(tracking.by_tracker(wall))
    assert ids[0] == [1, 2]
    assert ids[-1] == [0, 2]


def test_each_face_alone() -> None:
    assert lists(tracking.each_alone([frame(0, [A, B]), frame(1, []), frame(2, [A])])) == [[1, 2], [], [3]]


def feature(n: int, noise: float = 0.0) -> Floats:
    row = np.zeros(16, np.float32)
    row[n] = 1.0
    row[15] = noise
    return row


class Plain:
    """An encoder whose head does nothing."""

    base = "plain"

    def project(self, features: Floats) -> Floats:
        return unit(features)


def stages() -> Stages:
    rng = np.random.default_rng(0)
    strangers = rng.normal(0, 1, (200, 16)).astype(np.float32) * 0.1
    strangers[np.arange(200), np.arange(200) % 15] += 1
    return Stages(cast("Detector", one_face), cast("Encoder", Plain()), cast("Any", None), strangers[:15])


def walk(visit: int, *people: int, camera: str = "door", count: int = 6) -> Take:
    """People who stand beside each other, each with features of their own."""
    places = [(100.0 + 300 * k, 100.0, 100.0, 120.0) for k in range(len(people))]
    true = [(who, box, 1.0) for who, box in zip(people, places)]
    own = [feature(who) for who in people]
    return Take(visit, camera, tuple(frame(n / FPS, places, true, own) for n in range(count)))


def test_only_usable_faces_are_kept_of_a_track() -> None:
    take = Take(0, "door", tuple(frame(n / FPS, [A, B], features=[feature(1, 0.3 * n), None]) for n in range(3)))
    kept = tracking.kept_of(take, [np.array([7, 8])] * 3)
    assert list(kept) == [7]
    assert kept[7].features.shape == (2, 16)  # of the three one is nearly the same as another
    assert (kept[7].first_s, kept[7].last_s) == pytest.approx((0.0, 0.2))
    assert not tracking.kept_of(take, [np.array([0, 8])] * 3)


def test_linking_knows_people_again_and_never_makes_two_of_one_frame_one() -> None:
    takes = [walk(0, 1, 2), walk(1, 1), walk(1, 1, camera="side"), walk(2, 3, 3)]
    rows = [row for take in takes for row in tracking.kept_of(take, tracking.by_tracker(take.frames)).values()]
    group, stop = tracking.linked(rows, stages())
    assert group[0] == group[2] == group[3] != group[1]
    assert group[4] != group[5]
    assert 0 < stop < 2


def test_single_faces_of_one_frame_are_known_to_be_two_people() -> None:
    take = walk(0, 1, 1, count=3)
    rows = list(tracking.kept_of(take, tracking.each_alone(take.frames)).values())
    group, _ = tracking.linked(rows, stages())
    assert all(group[2 * n] != group[2 * n + 1] for n in range(3))
    assert len(set(group.tolist())) == 2


# --- counting ---------------------------------------------------------------------------------------------------------

counted = pytest.mark.skipif(importlib.util.find_spec("motmetrics") is None, reason="needs motmetrics")


@counted
def test_a_perfect_household() -> None:
    takes = [walk(0, 1, 2), walk(1, 2)]
    found = tracking.judge("ours", takes, stages())
    assert {found[key] for key in ("recall", "precision", "f1", "idf1", "mota")} == {1.0}
    assert (found["ids"], found["frag"], found["identities"], found["faces"]) == (0, 0, 2, 18)


@counted
def test_without_linking_a_person_is_somebody_else_at_the_next_visit() -> None:
    takes = [walk(0, 1, 2), walk(1, 2)]
    found = tracking.judge("noC", takes, stages())
    assert (found["ids"], found["identities"], found["recall"]) == (1, 3, 1.0)
    assert found["mota"] == pytest.approx(1 - 1 / 18)
    assert found["idf1"] == pytest.approx(12 / 18)


@counted
def test_without_tracks_what_cannot_be_recognised_is_lost() -> None:
    spoilt = [frame(n / FPS, [A], [(1, A, 1.0)], [feature(1) if n < 8 else None]) for n in range(12)]
    take = Take(0, "door", tuple(spoilt))
    assert tracking.judge("noT", [take], stages())["recall"] == pytest.approx(8 / 12)
    assert tracking.judge("ours", [take], stages())["recall"] == 1


@counted
def test_exchanged_names_count_twice() -> None:
    take = walk(0, 1, 2)
    named = [np.array([5, 6]) if n < 3 else np.array([6, 5]) for n in range(6)]
    found = tracking.measure([take.frames], [named])
    assert (found["ids"], found["recall"]) == (2, 1.0)
    assert found["mota"] == pytest.approx(1 - 2 / 12)


@counted
def test_a_hidden_face_is_neither_found_nor_missed() -> None:
    for seen, faces_wanted in ((tracking.SEEN, 2), (tracking.SEEN - 0.01, 1)):
        one = frame(0.0, [A, B], [(1, A, 1.0), (2, B, seen)])
        for who in ([3, 4], [3, 0]):
            found = tracking.measure([[one]], [[np.array(who)]])
            assert found["faces"] == faces_wanted
            assert found["precision"] == 1
            assert found["recall"] == (0.5 if faces_wanted == 2 and not who[1] else 1)
    nowhere = frame(0.0, [A, B], [(1, A, 1.0)])
    assert tracking.measure([[nowhere]], [[np.array([3, 4])]])["precision"] == 0.5


@counted
def test_a_box_beside_the_face_is_wrong() -> None:
    found = tracking.measure([[frame(0.0, [shifted(A, 60)], [(1, A, 1.0)])]], [[np.array([3])]])
    assert (found["recall"], found["precision"]) == (0, 0)


def test_a_glimpse_is_dropped_unless_it_is_of_somebody_seen_elsewhere() -> None:
    short = walk(0, 1, count=2)
    other = walk(1, 1, count=2)
    ones = [np.array([3])] * 2
    assert lists(tracking.without_glimpses([short], [ones])[0]) == [[0], [0]]
    assert lists(tracking.without_glimpses([short, other], [ones, ones])[0]) == [[3], [3]]
    assert lists(tracking.without_glimpses([walk(0, 1, count=3)], [[np.array([3])] * 3])[0]) == [[3], [3], [3]]


def test_rivals_are_told_with_the_paired_difference() -> None:
    def rows(*mota: float) -> List[Dict[str, Any]]:
        return [{"recall": 1.0, "idf1": 0.5, "mota": value, "ids": 1, "stop": 0.5} for value in mota]

    row = tracking.summed_up("noC", 10, rows(0.5, 0.7, 0.9), rows(0.6, 0.8, 1.0))
    assert row["mota"] == pytest.approx(0.7)
    assert row["ci95"]["mota"] == pytest.approx([0.5, 0.9], abs=0.01)
    assert row["ours_less_this"]["mota"] == pytest.approx([0.1, 0.1, 0.1])
    assert row["ours_less_this"]["ids"] == [0, 0, 0]
    one = tracking.summed_up("ours", 10, rows(0.5), rows(0.5))
    assert one["ci95"]["mota"] is None
    assert "ours_less_this" not in one


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@counted
@pytest.mark.data
@pytest.mark.models
def test_a_short_visit_of_real_people(
    data_dir: Path, models_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(door_shots, "SHOT_S", 1.2)
    monkeypatch.setattr(tracking, "SHOT_S", 1.2)
    stay = tuple((lambda top, x=x: door_shots._stay(x, top)) for x in (400, 900))
    monkeypatch.setattr(door_shots, "KINDS", (("stay", stay), ("stay", stay)))
    monkeypatch.setattr(tracking, "KINDS", door_shots.KINDS)
    monkeypatch.setattr(door_shots, "FILM_PEOPLE", 2)
    monkeypatch.setattr(door_shots, "PHOTO_PEOPLE", 1)
    assert main(["eval", "track", "--data", str(data_dir), "--seeds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = {row["method"]: row for row in map(json.loads, out.splitlines())}
    assert tuple(rows) == tracking.METHODS
    for row in rows.values():
        assert list(row)[:8] == ["method", "recall", "precision", "f1", "idf1", "mota", "ids", "frag"]
        assert row["faces"] == rows["ours"]["faces"] > 40
        assert row["precision"] > 0.9
    assert rows["ours"]["recall"] > 0.9
    assert rows["ours"]["idf1"] > rows["noC"]["idf1"]
    assert rows["ours"]["ids"] < rows["noC"]["ids"]
    assert "household 1 of 1: 3 shots" in err


def test_without_the_library_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["eval", "track", "--data", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "pip install motmetrics" in err
    assert "Traceback" not in err


@counted
def test_no_seeds_and_no_people_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], models_dir: Path) -> None:
    assert main(["eval", "track", "--data", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err
    assert main(["eval", "track", "--data", str(tmp_path)]) == 1
    assert "0 people, want 3" in capsys.readouterr().err
    assert main(["eval", "track", "--data", str(tmp_path / "none")]) == 1
    assert "not a folder" in capsys.readouterr().err
