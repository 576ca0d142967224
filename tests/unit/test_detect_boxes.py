from __future__ import annotations

from typing import Any, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecam.detect.boxes import nms, search_areas, square


def rows(*values: Any) -> Any:
    return np.array(values, np.float32)


def test_nms_keeps_the_best_of_a_heap_and_what_stands_apart() -> None:
    corners = rows([0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10])
    assert nms(corners, rows(0.5, 0.9, 0.3, 0.1), 0.5).tolist() == [1, 2]


def test_nms_of_smaller_drops_a_box_within_a_box() -> None:
    corners = rows([0, 0, 100, 100], [10, 10, 30, 30])
    assert nms(corners, rows(0.9, 0.8), 0.7).tolist() == [0, 1]
    assert nms(corners, rows(0.9, 0.8), 0.7, of_smaller=True).tolist() == [0]


def test_nms_of_nothing() -> None:
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).tolist() == []


def test_square_keeps_the_centre() -> None:
    assert square(rows([0, 10, 20, 20])).tolist() == [[0, 5, 20, 25]]


@given(st.lists(st.tuples(*[st.floats(-300, 900)] * 2, *[st.floats(0, 400)] * 2), max_size=8))
def test_areas_hold_their_regions_lie_inside_and_do_not_overlap(regions: List[Any]) -> None:
    areas = search_areas(np.array(regions, np.float32).reshape(-1, 4), 640, 480, 40)
    cover = np.zeros((480, 640), int)
    for x1, y1, x2, y2 in areas:
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 480
        cover[y1:y2, x1:x2] += 1
    assert cover.max() <= 1
    for x, y, w, h in regions:
        x1, y1 = int(np.clip(x, 0, 640)), int(np.clip(y, 0, 480))
        x2, y2 = int(np.clip(x + w, 0, 640)), int(np.clip(y + h, 0, 480))
        assert (cover[y1:y2, x1:x2] == 1).all()


@pytest.mark.parametrize("bad", [[np.nan, 0, 5, 5], [0, 0, -1, 5], [9999, 0, 5, 5]])
def test_regions_that_are_none_give_no_area(bad: List[float]) -> None:
    assert search_areas(rows(bad), 640, 480, 40).shape == (0, 4)


def test_regions_that_fill_the_picture_become_the_picture() -> None:
    regions = rows([0, 0, 640, 200], [0, 280, 640, 200])
    assert search_areas(regions, 640, 480, 40).tolist() == [[0, 0, 640, 480]]
