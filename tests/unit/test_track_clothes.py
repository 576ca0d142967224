"""What somebody wears: the same under another light, another for others, nothing where nothing is seen."""

from __future__ import annotations

import time
from itertools import combinations, count
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import cv2
import numpy as np
import pytest
from PIL import Image as Pictures

from edgecam.config import Config
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import make_stages
from edgecam.track import Tracker, appearance, clothes, mean_clothes
from edgecam.track.clothes import WIDTH
from edgecam.types import Floats, Image

BOX = np.array([280, 80, 80, 90], np.float32)


def door(shirt: str, light: float = 1.0, seed: int = 0) -> Image:
    """Return a picture of somebody in a shirt before a wall, with a camera's noise."""
    rng = np.random.default_rng(seed)
    image = np.full((480, 640, 3), (150, 160, 170), np.float64)
    cv2.ellipse(image, (320, 125), (40, 50), 0, 0, 360, (130, 150, 200), -1)
    area = image[200:420, 230:410]
    area[:] = {"red": (40, 40, 170), "blue": (170, 80, 30), "striped": (170, 80, 30), "black": (35, 35, 35)}[shirt]
    if shirt == "striped":
        area[::8] = area[1::8] = area[2::8] = (230, 230, 230)
    return np.clip(image * light + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def test_a_shirt_is_known_again_in_another_light_and_another_is_not() -> None:
    shirts = ("red", "blue", "striped", "black")
    seen = {shirt: clothes(door(shirt), BOX) for shirt in shirts}
    assert all(row.shape == (WIDTH,) and row.dtype == np.float32 for row in seen.values())
    assert all(float(np.linalg.norm(row)) == pytest.approx(1.0, abs=1e-5) for row in seen.values())
    for shirt in shirts:
        nudged = BOX + np.array([6, -5, 8, 6], np.float32)
        again = clothes(door(shirt, light=0.85, seed=1), nudged)
        alike = {other: float(again @ seen[other]) for other in shirts}
        assert max(alike, key=lambda other: alike[other]) == shirt
        assert alike[shirt] > max(v for other, v in alike.items() if other != shirt) + 0.05


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([280, 380, 80, 90], id="the-face-at-the-lower-border"),
        pytest.param([590, 80, 80, 90], id="half-out-at-the-right"),
        pytest.param([100, 20, 300, 330], id="close-up"),
        pytest.param([900, 900, 80, 90], id="outside"),
        pytest.param([280, 80, 0, 0], id="no-size"),
    ],
)
def test_where_no_torso_is_seen_nothing_is_said(box: List[float]) -> None:
    assert clothes(door("red"), np.array(box, np.float32)).shape == (0,)


def test_the_mean_is_of_what_was_seen() -> None:
    red, blue = clothes(door("red"), BOX), clothes(door("blue"), BOX)
    none = np.zeros(0, np.float32)
    assert mean_clothes([]).shape == mean_clothes([none]).shape == (0,)
    np.testing.assert_allclose(mean_clothes([none, red, none]), red, atol=1e-6)
    both = mean_clothes([red, blue])
    assert float(np.linalg.norm(both)) == pytest.approx(1.0, abs=1e-5)
    assert float(both @ red) == pytest.approx(float(both @ blue), abs=1e-5)


@pytest.mark.data
@pytest.mark.models
def test_two_who_walk_up_side_by_side_are_dressed_unlike(registry: ModelRegistry, data_dir: Path) -> None:
    detector, _ = make_stages(Config(), registry)
    seen: Dict[str, List[Floats]] = {"left": [], "right": []}
    with Pictures.open(data_dir / "videos/multi/intel_head-pose-face-detection-female-and-male.gif") as clip:
        for number in range(0, clip.n_frames, 6):
            clip.seek(number)
            image = cv2.cvtColor(np.array(clip.convert("RGB")), cv2.COLOR_RGB2BGR)
            boxes = detector(image).boxes
            if len(boxes) == 2:
                left, right = boxes[np.argsort(boxes[:, 0])]
                seen["left"].append(clothes(image, left))
                seen["right"].append(clothes(image, right))
    halves = {side: [[row for row in rows if row.size][i::2] for i in (0, 1)] for side, rows in seen.items()}
    one, other = ([mean_clothes(half) for half in both] for both in halves.values())
    assert all(row.size for row in (*one, *other))
    assert (
        min(float(one[0] @ one[1]), float(other[0] @ other[1])) > max(float(a @ b) for a in one for b in other) + 0.05
    )


def pictures(path: Path) -> Iterator[Tuple[float, Image]]:
    """Yield (seconds, picture) of a clip, about five a second."""
    if path.suffix == ".gif":
        at_s = 0.0
        with Pictures.open(path) as clip:
            for number in range(clip.n_frames):
                clip.seek(number)
                at_s += clip.info.get("duration", 100) / 1000
                yield at_s, cv2.cvtColor(np.array(clip.convert("RGB")), cv2.COLOR_RGB2BGR)
        return
    video = cv2.VideoCapture(str(path))
    rate = video.get(cv2.CAP_PROP_FPS)
    for number in count():
        fine, image = video.read()
        if not fine:
            return
        if number % max(1, round(rate / 5)) == 0:
            yield number / rate, np.asarray(image, np.uint8)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.models
def test_on_clips_of_several_people_most_tracks_are_more_like_themselves(
    registry: ModelRegistry, data_dir: Path
) -> None:
    detector, _ = make_stages(Config(), registry)
    within: List[float] = []
    between: List[float] = []
    spent: List[float] = []
    for path in sorted((data_dir / "videos/multi").glob("*.[gm][ip][f4]")):
        tracker = Tracker(Config().track)
        seen: Dict[int, List[Tuple[float, Floats]]] = {}
        for at_s, image in pictures(path):
            faces = detector(image)
            tracks = tracker.update(faces, at_s, appearance(image, faces))
            for number, box in zip(tracks.ids.tolist(), tracks.faces.boxes):
                began_s = time.perf_counter()
                worn = clothes(image, box)
                spent.append(time.perf_counter() - began_s)
                if worn.size:
                    seen.setdefault(number, []).append((at_s, worn))
        rows = [rows for rows in seen.values() if len(rows) >= 3]
        for mine in rows:
            half = len(mine) // 2
            within.append(float(mean_clothes([c for _, c in mine[:half]]) @ mean_clothes([c for _, c in mine[half:]])))
        for a, b in combinations(rows, 2):
            if min(a[-1][0], b[-1][0]) > max(a[0][0], b[0][0]):
                between.append(float(mean_clothes([c for _, c in a]) @ mean_clothes([c for _, c in b])))
    clear = float(np.mean(np.array(within) > max(between)))
    print(f"\n{len(within)} tracks, halves: {min(within):.3f} to {max(within):.3f}, median {np.median(within):.3f}; "
          f"{len(between)} pairs at once: {min(between):.3f} to {max(between):.3f}, median {np.median(between):.3f}; "
          f"{clear:.0%} of the tracks above every pair; {1e3 * np.median(spent):.2f} ms a call")  # fmt: skip
    assert len(within) >= 10
    assert len(between) >= 20
    assert np.median(within) > np.quantile(between, 0.95)
    assert clear > 0.7
