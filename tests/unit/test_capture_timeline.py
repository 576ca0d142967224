from __future__ import annotations

from typing import List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecam.capture.timeline import ClipTimeline, LiveTimeline, Thinner


def times(*pts: Optional[float]) -> List[float]:
    timeline = ClipTimeline(10.0)
    return [round(timeline.next(at_s), 6) for at_s in pts]


@pytest.mark.parametrize(
    ("pts", "expected"),
    [
        pytest.param((5.0, 5.04, 5.5), [0.0, 0.04, 0.5], id="good-ones-are-kept"),
        pytest.param((None, None, None), [0.0, 0.1, 0.2], id="missing-falls-back-to-the-rate"),
        pytest.param((0.0, 0.0, 0.0), [0.0, 0.1, 0.2], id="all-equal-falls-back"),
        pytest.param((1.0, 1.1, 0.2, 0.3), [0.0, 0.1, 0.2, 0.3], id="a-jump-back-goes-on"),
        pytest.param((0.0, 1e9, 1e9 + 0.5), [0.0, 0.1, 0.6], id="an-absurd-jump-goes-on"),
        pytest.param((None, 7.0, 7.5), [0.0, 7.0, 7.5], id="missing-at-first"),
    ],
)
def test_seconds_from_the_first_frame(pts: List[Optional[float]], expected: List[float]) -> None:
    assert times(*pts) == pytest.approx(expected)


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=30))
def test_time_never_runs_back_or_leaps(pts: List[Optional[float]]) -> None:
    found = times(*pts)
    assert all(0 <= later - earlier <= 60.001 for earlier, later in zip(found, found[1:]))


def test_a_loop_goes_on_where_the_clip_ended() -> None:
    timeline = ClipTimeline(10.0)
    first = [timeline.next(at_s) for at_s in (3.0, 3.1, 3.2)]
    again = [timeline.next(at_s) for at_s in (3.0, 3.1, 3.2)]
    assert [*first, *again] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_live_times_follow_the_camera_not_the_network() -> None:
    timeline = LiveTimeline()
    late = [0.0, 0.5, 0.05, 0.3, 0.0]
    found = [timeline.next(i * 0.1, 100.0 + i * 0.1 + late[i]) for i in range(5)]
    assert found == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4], abs=0.01)


def test_live_times_never_run_back_when_the_camera_restarts_its_clock() -> None:
    timeline = LiveTimeline()
    found = [timeline.next(pts_s, 50.0 + i) for i, pts_s in enumerate((900.0, 901.0, 0.0, 1.0, 2.0))]
    assert found == pytest.approx([50.0, 51.0, 52.0, 53.0, 54.0], abs=0.01)


def test_live_times_without_timestamps_are_the_arrival() -> None:
    timeline = LiveTimeline()
    assert [timeline.next(None, at_s) for at_s in (1.0, 2.0, 1.5)] == [1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("camera_fps", "want_fps", "kept"), [(30, 15, 150), (25, 15, 150), (15, 15, 150), (10, 15, 100)]
)
def test_thinned_to_the_wanted_rate(camera_fps: int, want_fps: int, kept: int) -> None:
    thinner = Thinner(want_fps)
    count = sum(thinner.keep(i / camera_fps) for i in range(10 * camera_fps))
    assert count == pytest.approx(kept, abs=2)


def test_jitter_costs_no_frames() -> None:
    thinner = Thinner(15.0)
    assert sum(thinner.keep(i / 15 + (0.004 if i % 2 else -0.004)) for i in range(150)) > 145
