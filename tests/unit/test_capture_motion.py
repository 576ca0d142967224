from __future__ import annotations

import time
from typing import List, Tuple

import motion_clips
import numpy as np
import pytest

from edgecam.capture.background import Background
from edgecam.capture.motion import Motion, MotionGate
from edgecam.capture.preroll import PreRoll
from edgecam.config import MotionConfig
from edgecam.types import Frame, Image

HALF = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))


def scene(seed: int = 0) -> Image:
    """A textured 720p picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (18, 32, 3)).astype(np.uint8)
    return np.repeat(np.repeat(coarse, 40, axis=0), 40, axis=1)


def with_person(image: Image, x: int) -> Image:
    """The picture with a striped figure at this column."""
    image = image.copy()
    for stripe in range(10):
        image[200 + 50 * stripe : 250 + 50 * stripe, x : x + 160] = 30 if stripe % 2 else 230
    return image


def play(gate: MotionGate, images: List[Image], fps: float = 10.0, from_s: float = 0.0) -> List[Motion]:
    return [gate(Frame(image, from_s + i / fps)) for i, image in enumerate(images)]


def calm(gate: MotionGate, seconds: float = 5.0, fps: float = 10.0) -> float:
    play(gate, [scene()] * round(seconds * fps), fps)
    return seconds


def walk(frames: int = 20, step: int = 50) -> List[Image]:
    return [with_person(scene(), 100 + step * i) for i in range(frames)]


@pytest.mark.parametrize("fps", [2.0, 5.0, 10.0, 30.0])
def test_somebody_opens_a_visit_at_any_frame_rate(fps: float) -> None:
    gate = MotionGate(MotionConfig())
    now_s = calm(gate, fps=fps)
    motions = play(gate, walk(round(2 * fps), round(500 / fps)), fps, now_s)
    assert sum(motion.opened for motion in motions) == 1
    assert gate.is_open


def test_nothing_opens_nothing() -> None:
    gate = MotionGate(MotionConfig())
    motions = play(gate, [scene()] * 60)
    assert not any(motion.opened or motion.active for motion in motions)
    assert all(len(motion.boxes) == 0 for motion in motions)


def test_boxes_are_where_the_motion_is() -> None:
    gate = MotionGate(MotionConfig())
    now_s = calm(gate)
    motion = play(gate, [with_person(scene(), 640)] * 5, from_s=now_s)[-1]
    x, y, width, height = motion.boxes[0]
    assert abs(x - 640) <= 48
    assert abs(x + width - 800) <= 48
    assert abs(y - 200) <= 48
    assert y + height <= 720
    assert motion.boxes.dtype == np.float32


def test_the_visit_lasts_a_burst_after_the_last_motion_then_closes_once() -> None:
    gate = MotionGate(MotionConfig(burst_s=3.0))
    now_s = calm(gate)
    motions = play(gate, walk(10) + [scene()] * 60, from_s=now_s)
    last = max(i for i, motion in enumerate(motions) if motion.active)
    (closed,) = [i for i, motion in enumerate(motions) if motion.closed]
    assert closed - last == 30
    assert not gate.is_open


def test_a_face_in_view_keeps_it_open_and_a_button_opens_it() -> None:
    gate = MotionGate(MotionConfig(burst_s=2.0))
    now_s = calm(gate)
    gate.trigger()
    assert play(gate, [scene()], from_s=now_s)[0].opened
    for i in range(50):
        gate.extend()
        assert not play(gate, [scene()], from_s=now_s + 0.1 + i * 0.1)[0].closed
    motions = play(gate, [scene()] * 25, from_s=now_s + 5.1)
    assert [motion.closed for motion in motions].index(True) == 19


def test_a_long_stay_becomes_a_new_visit() -> None:
    gate = MotionGate(MotionConfig(burst_s=2.0, max_visit_s=4.0))
    now_s = calm(gate)
    back_and_forth = [with_person(scene(), 100 + 50 * abs(i % 38 - 19)) for i in range(120)]
    motions = play(gate, back_and_forth, from_s=now_s)
    assert sum(motion.closed for motion in motions) >= 2
    assert sum(motion.opened for motion in motions) >= 3


def test_ignored_zones_count_for_nothing() -> None:
    right_walk = [with_person(scene(), 700 + 20 * i) for i in range(20)]
    assert any(motion.opened for motion in play(MotionGate(MotionConfig()), [scene()] * 50 + right_walk))
    ignoring = MotionGate(MotionConfig(), (HALF,))
    motions = play(ignoring, [scene()] * 50 + right_walk)
    assert not any(motion.opened for motion in motions)
    assert all(motion.share == 0 for motion in motions[50:])
    assert any(motion.opened for motion in play(ignoring, walk(10, 20), from_s=10.0)), "the rest still counts"


def test_a_whole_picture_brighter_or_darker_is_no_motion() -> None:
    images = [scene()] * 50
    for factor in (1.25, 0.5, 0.8, 0.4):
        images += [np.clip(scene() * np.float64(factor), 0, 255).astype(np.uint8)] * 20
    assert not any(motion.active for motion in play(MotionGate(MotionConfig()), images))


def test_somebody_who_comes_with_the_light_is_seen() -> None:
    dark = [(image * 0.4).astype(np.uint8) for image in [scene()] * 50]
    motions = play(MotionGate(MotionConfig()), dark + walk(30, 30))
    assert any(motion.opened for motion in motions[50:80])


def test_a_single_frame_of_anything_opens_nothing() -> None:
    gate = MotionGate(MotionConfig())
    images = [scene()] * 50
    for i in range(5):
        images += [with_person(scene(), 200 * i), *[scene()] * 10]
    assert not any(motion.opened for motion in play(gate, images))


def test_a_gain_that_drifts_is_no_motion() -> None:
    images = [np.clip(scene() * (0.9 + 0.35 * np.sin(i / 15)), 0, 255).astype(np.uint8) for i in range(200)]
    assert not any(motion.active for motion in play(MotionGate(MotionConfig()), images))


def test_gain_is_taken_out_of_the_difference_and_a_body_is_left_in() -> None:
    model = Background()
    cells = np.tile(np.linspace(20.0, 180.0, 80, dtype=np.float32), (45, 1))
    model.compare(np.log(cells + 16), 0.0)
    brighter = 1.3 * cells
    brighter[20:40, 30:40] = 30.0
    difference, _ = model.compare(np.log(brighter + 16), 0.1)
    inside = np.zeros(cells.shape, bool)
    inside[20:40, 30:40] = True
    assert np.abs(difference[~inside]).max() < 0.02
    assert difference[inside].max() < -0.5


def test_a_lamp_at_one_side_is_no_motion() -> None:
    lamp = np.linspace(0.2, 1.0, 1280)[None, :, None]
    images = ([scene()] * 30 + [(scene() * lamp).astype(np.uint8)] * 30) * 2
    assert not any(motion.opened for motion in play(MotionGate(MotionConfig()), images))


def test_a_soft_shadow_that_passes_is_no_motion() -> None:
    images = [scene()] * 50
    column = np.arange(1280)
    for i in range(40):
        shade = 1.0 - 0.4 * np.exp(-(((column - 60 * i + 400) / 400.0) ** 2))
        images.append((scene() * shade[None, :, None]).astype(np.uint8))
    assert not any(motion.active for motion in play(MotionGate(MotionConfig()), images))


def test_what_is_put_down_and_left_becomes_background() -> None:
    """A parcel, a parked car: the visit ends in the end, and what moves before it is seen again."""
    gate = MotionGate(MotionConfig(max_visit_s=3600.0))
    now_s = calm(gate, fps=2.0)
    motions = play(gate, [with_person(scene(), 600)] * 400, 2.0, now_s)
    assert any(motion.active for motion in motions[:10])
    assert not any(motion.active for motion in motions[-40:])
    assert not gate.is_open


def test_a_cell_that_always_varies_must_vary_more_to_count() -> None:
    rng = np.random.default_rng(3)
    model = Background()
    scores: List[float] = []
    for i in range(600):
        cells = np.full((9, 16), 4.0, np.float32)
        cells[4, 4] += rng.normal(0.0, 0.2)
        difference, score = model.compare(cells, i / 10)
        scores.append(float(score[4, 4]))
        model.learn(difference, score > 2.0, i / 10, person=False)
    # Its 0.2 were four of the standard deviations that a cell starts with.
    assert np.mean(scores[-200:]) < 1.3


def test_another_size_starts_the_model_anew() -> None:
    gate = MotionGate(MotionConfig())
    now_s = calm(gate)
    assert not any(motion.active for motion in play(gate, [scene()[:480, :640]] * 20, from_s=now_s))


def test_somebody_who_stands_there_when_a_lost_camera_comes_back_is_seen() -> None:
    gate = MotionGate(MotionConfig())
    now_s = calm(gate)
    assert any(motion.opened for motion in play(gate, [with_person(scene(), 600)] * 10, from_s=now_s + 30.0))


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (1, 500), (9, 3), (1080, 1920), (480, 640)])
def test_any_size_of_picture(shape: Tuple[int, int]) -> None:
    gate = MotionGate(MotionConfig(), (HALF,))
    for i in range(5):
        motion = gate(Frame(np.full((*shape, 3), 255 * (i % 2), np.uint8), i / 10))
        assert motion.boxes.shape[1] == 4


def test_costs_less_than_a_twentieth_of_a_core_at_10_fps() -> None:
    """5 ms a frame would be 5 %: the gate and the pre-roll together."""
    gate, ring = MotionGate(MotionConfig()), PreRoll(1.5)
    rng = np.random.default_rng(1)
    images = [np.clip(scene() + rng.integers(-4, 5, (720, 1280, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    began_s = time.process_time()
    for i in range(100):
        frame = Frame(images[i % 4], i / 10)
        gate(frame)
        ring.add(frame)
    assert (time.process_time() - began_s) / 100 < 0.005


def test_the_pre_roll_gives_back_the_last_seconds_once() -> None:
    ring = PreRoll(1.5, fps=5.0)
    for i in range(60):
        ring.add(Frame(np.full((720, 1280, 3), i * 2, np.uint8), i / 10, "front"))
    assert ring.size_bytes <= 12_000_000
    frames = ring.take(before_s=6.0)
    assert [frame.captured_at_s for frame in frames] == pytest.approx([4.6, 4.8, 5.0, 5.2, 5.4, 5.6, 5.8], abs=0.11)
    assert all(abs(int(frame.image.mean()) - 20 * frame.captured_at_s) <= 3 for frame in frames)
    assert frames[0].camera == "front"
    assert ring.take(before_s=6.0) == []
    assert ring.size_bytes == 0


def test_a_pre_roll_of_nothing_and_of_odd_pictures() -> None:
    none = PreRoll(0.0)
    none.add(Frame(np.zeros((10, 10, 3), np.uint8), 0.0))
    assert none.take(1.0) == []
    odd = PreRoll(1.0)
    odd.add(Frame(np.full((11, 7, 3), 9, np.uint8), 0.5))
    (frame,) = odd.take(1.0)
    assert np.all(frame.image == 9)


@pytest.mark.data
@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(("name", "false_opens"), [("light", 1), ("rain", 0), ("foliage", 2), ("insects", 0)])
def test_bad_light_and_weather_open_little_and_hide_nobody(name: str, false_opens: int) -> None:
    """Half a minute of the `test` scenes, a third of which goes into learning; `test_all_scenes` has the rest."""
    scenes = {one.name: one for one in motion_clips.scenes("test", seconds=32.0)}
    quiet = motion_clips.judge(scenes[name], MotionConfig())
    assert quiet["false_opens"] <= false_opens, quiet
    people = motion_clips.judge(scenes[f"{name} + visits"], MotionConfig())
    assert people["visits"] == 2
    assert people["lost"] == 0, people


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("data_dir")
def test_all_scenes() -> None:
    rows = motion_clips.motion_report("test")
    assert sum(row["visits"] for row in rows) >= 45
    lost = [(row["clip"], row["lost_at_s"]) for row in rows if row["lost"]]
    assert sum(row["lost"] for row in rows) <= 1, lost
    quiet = [row for row in rows if not row["visits"]]
    assert sum(row["detector_s_per_minute"] for row in quiet) / len(quiet) < 6.0
