"""What the liveness tables count: attacks, people, slices, blinks and cues."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import pytest

from edgecam import detect
from edgecam.errors import InputError
from edgecam.evaluation import blink, pad
from edgecam.evaluation.cues import Track, flatness, rigid, row_of
from edgecam.evaluation.presented import Presentation, exact_interval, worn
from edgecam.liveness.blink import Blinks
from edgecam.liveness.vote import Standing
from edgecam.nn.registry import ModelRegistry
from edgecam.types import Floats, Frame, Liveness

LIVE, SPOOF, UNPROVEN = Liveness.LIVE, Liveness.SPOOF, Liveness.UNPROVEN


@pytest.mark.parametrize(
    ("k", "n", "expected"), [(0, 20, [0.0, 0.1684]), (1, 1, [0.025, 1.0]), (2, 3, [0.0943, 0.9916]), (0, 0, None)]
)
def test_intervals_are_clopper_and_pearsons(k: int, n: int, expected: Any) -> None:
    assert exact_interval(k, n) == expected


def test_glasses_are_known_only_where_they_are_written_down(tmp_path: Path) -> None:
    assert worn(tmp_path).slice_of(tmp_path / "a_real.mp4") == ()
    (tmp_path / "a_real.mp4").touch()
    (tmp_path / "glasses.txt").write_text("# seen by eye\na_real.mp4  # reading glasses\n\n")
    known = worn(tmp_path)
    assert known.slice_of(tmp_path / "a_real.mp4") == ("glasses",)
    assert known.slice_of(tmp_path / "b_real.mp4") == ("without glasses",)
    (tmp_path / "glasses.txt").write_text("c_real.mp4\n")
    with pytest.raises(InputError, match=r"no such file: c_real\.mp4"):
        worn(tmp_path)


def pad_rows(data: Path, told: Dict[str, List[Liveness]], monkeypatch: pytest.MonkeyPatch) -> List[Dict[str, Any]]:
    """Return the rows of `eval pad` if the nets said this of the files."""

    def verdicts(_unit: str, path: Path, condition: str, *_: object) -> List[Liveness]:
        return told.get(path.name, []) if condition == "as is" else []

    monkeypatch.setattr(pad, "_verdicts", verdicts)
    monkeypatch.setattr(detect, "make", lambda *_: None)
    monkeypatch.setattr(pad, "make", lambda *_: None)
    monkeypatch.setattr(ModelRegistry, "path", lambda *_: None)
    return [row for row in pad.run(pad.Options(data)) if row["condition"] == "as is"]


def test_pad_counts_tracks_and_looks_by_source_species_and_glasses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "ann_real.mp4": [LIVE, SPOOF], "bob_real.mp4": [UNPROVEN], "ann_fake.mp4": [SPOOF],
        "ann_fake-phone.mp4": [LIVE, SPOOF], "bob_fake-phone.mp4": [SPOOF], "nobody_real.mp4": [],
        "1.jpg": [LIVE], "2.png": [SPOOF],
    }  # fmt: skip
    for name in [*told, "holiday.mp4", "_real.mp4"]:
        folder = {"1.jpg": "real", "2.png": "fake/print"}.get(name, "")
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).touch()
    (tmp_path / "glasses.txt").write_text("ann_real.mp4\nreal/1.jpg\n")
    rows = pad_rows(tmp_path, told, monkeypatch)
    by = {(r["unit"], r["source"], r["species"]): r for r in rows}

    def counts(*key: str) -> Sequence[int]:
        row = by[key[0], key[1], key[2]]
        return [row[k] for k in ("attacks", "accepted", "bona_fide", "rejected", "no_answer")]

    assert counts("track", "ann", "real") == [0, 0, 2, 1, 0]
    assert counts("track", "nobody", "real") == [0, 0, 0, 0, 0]
    assert counts("track", "ann", "phone") == [2, 1, 0, 0, 0]
    assert counts("track", "all", "real") == [0, 0, 3, 1, 1]
    assert counts("track", "all", "phone") == [3, 1, 0, 0, 0]
    assert by["track", "all", "phone"]["error_ci95"] == exact_interval(1, 3)
    assert counts("track", "all", "fake") == [1, 0, 0, 0, 0]
    assert counts("track", "glasses", "real") == [0, 0, 2, 1, 0]
    assert counts("track", "without glasses", "real") == [0, 0, 1, 0, 1]
    assert counts("look", "glasses", "real") == [0, 0, 1, 0, 0]
    assert counts("look", "all", "print") == [1, 0, 0, 0, 0]
    assert not {source for _, source, _ in by} & {"holiday", ""}


def test_pad_has_no_slice_of_glasses_that_nobody_wrote_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ann_real.mp4").touch()
    rows = pad_rows(tmp_path, {"ann_real.mp4": [LIVE]}, monkeypatch)
    assert {row["source"] for row in rows} == {"ann", "all"}


def blinking(at_s: Sequence[float], reason: str = "") -> Presentation:
    standing = Standing(UNPROVEN, "", "", waiting=False)
    return Presentation(0.0, 9.0, 90, standing, Blinks(tuple(at_s), (), 8.0, reason))


def clip_row(found: Sequence[float], truth: Any, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    nothing: Any = None
    monkeypatch.setattr(blink, "frames_of", lambda *_: iter(()))
    monkeypatch.setattr(blink, "follow", lambda *_: [blinking(found)])
    return blink._clip_row(Path("a.mp4"), "as is", None, truth, nothing, nothing)


def test_a_blink_counts_once_and_long_closures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = blink.Truth(((1.0, 1.2), (3.0, 3.2), (5.0, 5.2)), ((7.0, 8.5),), 0.1)
    row = clip_row([1.1, 1.15, 3.25, 4.0, 7.5], truth, monkeypatch)
    assert (row["events"], row["hits"], row["truth"]) == (5, 2, 3)
    assert (row["precision"], row["recall"]) == (2 / 5, 2 / 3)
    assert (row["long_closures"], row["long_closures_called_blinks"]) == (1, 1)
    assert row["recall_ci95"] == exact_interval(2, 3)
    row = clip_row([], truth, monkeypatch)
    assert (row["precision"], row["recall"]) == (None, 0.0)
    assert "truth" not in clip_row([1.0], None, monkeypatch)
    assert blink.matched([1.25], [(1.0, 1.2), (1.3, 1.5)], 0.1) == 1


def test_a_slice_sums_what_was_counted_and_tells_who_never_seemed_to_blink(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = blink.Truth(((1.0, 1.2), (3.0, 3.2)), (), 0.1)
    clips = [clip_row([1.1], truth, monkeypatch), clip_row([], None, monkeypatch), clip_row([2.0], None, monkeypatch)]
    row = blink._slice_row("glasses", "as is", clips)
    assert (row["clips"], row["no_blink"], row["events"]) == (3, 1, 2)
    assert (row["precision"], row["recall"]) == (1.0, 0.5)
    assert row["no_blink_ci95"] == exact_interval(1, 3)
    assert blink._slice_row("glasses", "as is", clips[1:])["recall"] is None


def test_traces_have_the_blinks_that_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, samples = blink.trace(np.random.default_rng(3), 100.0)
    shut = [at for at, value in samples if value < 0.5]
    assert all(0.1 <= b - a <= 0.4 for a, b in spans)
    assert all(any(a <= at <= b for at in shut) for a, b in spans)
    assert len(shut) / 100 > sum(b - a for a, b in spans)  # there are long closures besides


def turning(depth: float, plane: bool) -> Floats:
    """Return landmarks of a head, or of a picture of one, that turns up to 45 degrees."""
    head = np.array([[-30, -30, 0], [30, -30, 0], [0, 0, depth], [-25, 30, 0], [25, 30, 0]], np.float64)
    if plane:
        head[:, 2] = 0
    angles = np.radians(np.linspace(0, 45, 8))
    turned = [head[:, 0] * np.cos(a) + head[:, 2] * np.sin(a) for a in angles]
    return np.array([np.stack([x, head[:, 1]], axis=1) + 100 for x in turned], np.float32)


def a_track(landmarks: Floats, frames: Sequence[Frame] = ()) -> Track:
    boxes = np.tile(np.array([60, 60, 80, 80], np.float32), (max(len(landmarks), len(frames)), 1))
    return Track("t", "real", tuple(frames), boxes, landmarks)


def test_a_picture_that_turns_is_flat_and_a_head_is_not() -> None:
    assert flatness(a_track(turning(30, plane=True))) > 0.99
    assert flatness(a_track(turning(30, plane=False))) < 0.5
    assert np.isnan(flatness(a_track(np.repeat(turning(30, plane=True)[:1], 8, axis=0))))


def test_a_card_moves_with_what_is_around_the_face_and_a_person_does_not() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (260, 260, 3), dtype=np.uint8)
    inner = rng.integers(0, 255, (260, 260, 3), dtype=np.uint8)

    def shown(together: bool) -> float:
        frames = []
        for i in range(16):
            image = np.roll(scene, 2 * i, axis=1) if together else scene.copy()
            if not together:
                image[60:140, 60:140] = np.roll(inner, 2 * i, axis=1)[60:140, 60:140]
            frames.append(Frame(np.ascontiguousarray(image[:200, :200]), 0.2 * i))
        return rigid(a_track(np.zeros((16, 5, 2), np.float32), frames))

    assert shown(together=True) == 1.0
    assert shown(together=False) == 0.0


def test_a_cue_may_only_deny() -> None:
    real, fake = (
        Track("t", species, (), np.zeros((0, 4), np.float32), turning(30, plane=True)) for species in ("real", "print")
    )
    said = [(fake, LIVE, True), (fake, LIVE, False), (fake, UNPROVEN, True), (fake, SPOOF, False), (real, LIVE, True),
            (real, SPOOF, False), (real, UNPROVEN, False)]  # fmt: skip
    row = row_of("border", "clip", "dark", said)
    assert (row["attacks"], row["accepted"], row["accepted_with"]) == (4, 2, 1)
    assert (row["not_denied"], row["not_denied_with"]) == (3, 1)
    assert (row["bona_fide"], row["rejected"], row["rejected_with"]) == (3, 1, 2)
    assert row["rejected_with_ci95"] == exact_interval(2, 3)
