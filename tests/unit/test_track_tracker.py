from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecam.config import TrackConfig
from edgecam.errors import ShapeError
from edgecam.track import StillPlace, Tracker
from edgecam.types import Faces, Floats, Tracks

ALL_FPS = [2.0, 5.0, 15.0, 30.0]
SHAPE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
RED = np.eye(8, dtype=np.float32)[0]
BLUE = np.eye(8, dtype=np.float32)[1] * np.float32(0.75) + np.eye(8, dtype=np.float32)[0] * np.float32(0.66)


def faces(*boxes: Sequence[float], jitter: float = 0.0, seed: Any = 0) -> Faces:
    """Faces of these x, y, w, h, landmarks off by `jitter` face widths."""
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    points = rows[:, None, :2] + SHAPE * rows[:, None, 2:]
    points += np.random.default_rng(seed).normal(0, 1, points.shape) * jitter * rows[:, None, 2:3]
    return Faces(rows, np.ones(len(rows), np.float32), points.astype(np.float32))


def times(fps: float, until_s: float) -> Floats:
    return np.arange(0, until_s, 1 / fps).astype(np.float32)


@pytest.mark.parametrize("fps", ALL_FPS)
def test_one_walker_is_one_track_at_any_rate(fps: float) -> None:
    tracker = Tracker(TrackConfig())
    ids = [tracker.update(faces((100 + 150 * t, 80, 60 + 10 * t, 75)), t).ids.tolist() for t in times(fps, 4)]
    assert all(found == [1] for found in ids)


@pytest.mark.parametrize("fps", ALL_FPS)
def test_two_who_cross_keep_their_ids(fps: float) -> None:
    """The one behind is not seen while they overlap; clothes and motion tell them apart."""
    tracker = Tracker(TrackConfig())
    seen: dict[str, set[int]] = {"red": set(), "blue": set()}
    for t in times(fps, 4):
        red, blue = (50 + 150 * t, 100, 60, 75), (650 - 150 * t, 105, 58, 72)
        hidden = abs(red[0] - blue[0]) < 50
        boxes, looks, names = ([red], [RED], ["red"]) if hidden else ([red, blue], [RED, BLUE], ["red", "blue"])
        found = tracker.update(faces(*boxes, jitter=0.01, seed=int(t * 100)), float(t), np.array(looks, np.float32))
        for name, track in zip(names, found.ids.tolist()):
            seen[name].add(track)
    assert {name: len(ids) for name, ids in seen.items()} == {"red": 1, "blue": 1}
    assert seen["red"] != seen["blue"]


def test_appearance_decides_where_position_cannot() -> None:
    """Two faces swap places while nobody looks: without appearance that cannot be seen."""
    a, b = (100, 100, 60, 60), (140, 100, 60, 60)
    for looks, expected in ((np.stack([BLUE, RED]), [2, 1]), (None, [1, 2])):
        tracker = Tracker(TrackConfig())
        tracker.update(faces(a, b), 0.0, None if looks is None else looks[::-1])
        assert tracker.update(faces(a, b), 0.5, looks).ids.tolist() == expected


def test_a_face_elsewhere_is_another_person() -> None:
    tracker = Tracker(TrackConfig())
    tracker.update(faces((100, 100, 50, 60)), 0.0)
    assert tracker.update(faces((900, 100, 50, 60)), 0.1).ids.tolist() == [2]
    assert tracker.update(faces((100, 100, 250, 300)), 0.2).ids.tolist() == [3]


def test_a_track_ends_once_it_was_lost_for_long_enough() -> None:
    tracker = Tracker(TrackConfig(lost_after_s=1.0))
    tracker.update(faces((100, 100, 50, 60)), 0.0)
    assert tracker.update(Faces.empty(), 1.0).ended == ()
    assert tracker.update(Faces.empty(), 1.01).ended == (1,)
    assert tracker.update(faces((100, 100, 50, 60)), 1.02).ids.tolist() == [2]


def test_a_lost_face_is_found_again_in_time() -> None:
    tracker = Tracker(TrackConfig(lost_after_s=1.0))
    tracker.update(faces((100, 100, 50, 60)), 0.0)
    tracker.update(Faces.empty(), 0.5)
    assert tracker.update(faces((110, 100, 50, 60)), 0.9).ids.tolist() == [1]


def test_predicted_boxes_hold_the_face_and_grow_with_time() -> None:
    tracker = Tracker(TrackConfig())
    for t in times(10, 1):
        tracker.update(faces((100 + 200 * t, 100, 50, 60)), float(t))
    (soon,), (later,) = tracker.predicted_boxes(1.0), tracker.predicted_boxes(1.4)
    assert soon[0] < 300
    assert soon[0] + soon[2] > 350
    assert later[2] > soon[2]
    assert tracker.predicted_boxes(9.0).shape == (0, 4)


def test_trackers_do_not_share_ids_and_reset_forgets() -> None:
    one, other = Tracker(TrackConfig()), Tracker(TrackConfig())
    assert one.update(faces((0, 0, 50, 50)), 0.0).ids.tolist() == [1]
    assert other.update(faces((0, 0, 50, 50)), 0.0).ids.tolist() == [1]
    one.reset()
    assert one.predicted_boxes(0.0).shape == (0, 4)
    assert one.update(faces((0, 0, 50, 50)), 0.1).ids.tolist() == [2]


def test_one_appearance_a_face_is_needed() -> None:
    with pytest.raises(ShapeError, match="want 1 rows, got 2"):
        Tracker(TrackConfig()).update(faces((0, 0, 50, 50)), 0.0, np.zeros((2, 8), np.float32))


box = st.tuples(st.floats(-50, 700), st.floats(-50, 400), st.floats(0, 300), st.floats(0, 300))


@given(st.lists(st.tuples(st.lists(box, max_size=5), st.floats(-1, 3)), max_size=12))
@settings(max_examples=80, deadline=None)
def test_ids_are_unique_in_a_frame_and_never_come_back(frames: List[Tuple[List[Any], float]]) -> None:
    """Whatever is seen, whenever (a clock that goes back included)."""
    tracker, at_s, gone = Tracker(TrackConfig()), 100.0, set()
    for boxes, step in frames:
        at_s += step
        tracks = tracker.update(faces(*boxes), at_s)
        gone |= {*tracks.ended}
        assert len(tracks.faces) == len(boxes)
        assert len({*tracks.ids.tolist()}) == len(boxes)
        assert not gone & {*tracks.ids.tolist()}
        assert np.isfinite(tracker.predicted_boxes(at_s)).all()


def watch(
    tracker: Tracker, fps: float, from_s: float, until_s: float, jitter: float, sway: float = 0.0, x: float = 200
) -> List[Tracks]:
    """One face of 80 px; `sway` face widths of slow movement."""
    result = []
    for t in times(fps, until_s - from_s) + np.float32(from_s):
        at = x + 80 * sway * float(np.sin(1.9 * t) + np.sin(0.7 * t))
        result.append(tracker.update(faces((at, 100, 80, 100), jitter=jitter, seed=int(t * 1000)), float(t)))
    return result


@pytest.mark.parametrize("fps", [5.0, 15.0])
@pytest.mark.parametrize("jitter", [0.0, 0.004, 0.009])
def test_a_poster_before_a_noisy_camera_is_suppressed_after_its_time(fps: float, jitter: float) -> None:
    tracks = watch(Tracker(TrackConfig(still_after_s=10)), fps, 0, 14, jitter)
    first = next(i for i, found in enumerate(tracks) if found.still) / fps
    assert 10 <= first <= 11
    assert tracks[-1].still == (1,)
    assert len(tracks[-1].ids) == len(tracks[-1].faces) == 0


@pytest.mark.parametrize("fps", ALL_FPS)
@pytest.mark.parametrize("jitter", [0.004, 0.008])
def test_a_person_who_stands_still_is_not_suppressed(fps: float, jitter: float) -> None:
    """Sway of 1 % of the face: less than was ever measured on a person at a normal distance."""
    tracks = watch(Tracker(TrackConfig(still_after_s=10)), fps, 0, 40, jitter, sway=0.012)
    assert not any(found.still for found in tracks)


def test_a_known_poster_is_suppressed_at_first_sight_of_the_next_visit() -> None:
    first = Tracker(TrackConfig())
    watch(first, 5, 0, 12, 0.004)
    (place,) = first.still_places
    assert place.first_s == 0
    assert place.last_s == pytest.approx(11.8)
    again = Tracker(TrackConfig())
    again.remember([place])
    assert watch(again, 5, 100, 101, 0.004)[0].still == (1,)
    assert again.still_places[0].last_s == pytest.approx(100.8)
    assert len(again.still_places) == 1


@pytest.mark.parametrize(("x", "grow"), [(215.0, 1.0), (200.0, 1.3)])
def test_a_person_before_a_known_poster_is_not_suppressed(x: float, grow: float) -> None:
    first = Tracker(TrackConfig())
    watch(first, 5, 0, 12, 0.004)
    again = Tracker(TrackConfig())
    again.remember(first.still_places)
    assert again.update(faces((x, 100, 80 * grow, 100 * grow)), 0.0).still == ()


def test_who_moves_is_a_person_even_if_taken_for_a_poster() -> None:
    tracker = Tracker(TrackConfig())
    watch(tracker, 5, 0, 12, 0.004)
    moved = watch(tracker, 5, 12, 13, 0.004, x=220)
    assert all(found.ids.tolist() == [1] and not found.still for found in moved)
    # Coming back to the very place does not make a person a picture at once.
    assert watch(tracker, 5, 13, 14, 0.004, x=200)[-1].ids.tolist() == [1]


def test_places_are_bounded_and_the_latest_are_kept() -> None:
    tracker = Tracker(TrackConfig())
    old: Optional[StillPlace] = None
    for i in range(40):
        one = faces((i * 100, 0, 50, 50))
        old = StillPlace(one.boxes[0], one.landmarks[0], 0.0, float(i))
        tracker.remember([*tracker.still_places, old])
    watch(tracker, 5, 100, 112, 0.004, x=77777)
    assert len(tracker.still_places) == 32
    assert tracker.still_places[-1].box[0] == 77777
