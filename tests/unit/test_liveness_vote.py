"""The vote over single looks: live, spoof or unproven."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import pytest

from edgecam.liveness.vote import Standing, Vote
from edgecam.types import Liveness


def voted(scores: Sequence[float], every_s: float = 0.25, weight: float = 0.8) -> Vote:
    vote = Vote()
    for i, score in enumerate(scores):
        vote.add(i * every_s, score, weight)
    return vote


def standing(scores: Sequence[float], every_s: float = 0.25) -> Standing:
    return voted(scores, every_s).standing


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([1.0, 0.9, 0.8], Liveness.LIVE),
        ([0.0, 0.1, 0.2], Liveness.SPOOF),
        ([0.0, 0.9, 0.6], Liveness.UNPROVEN),
        ([1.0, 1.0], Liveness.UNPROVEN),
        ([0.0, 0.0], Liveness.UNPROVEN),
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.9], Liveness.LIVE),
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], Liveness.SPOOF),
    ],
)
def test_three_agreeing_looks_decide(scores: Sequence[float], verdict: Liveness) -> None:
    assert standing(scores).verdict is verdict


def test_two_looks_or_looks_within_a_moment_decide_nothing() -> None:
    assert standing([1.0] * 2, every_s=1.0).verdict is Liveness.UNPROVEN
    assert standing([1.0] * 6, every_s=0.04).verdict is Liveness.UNPROVEN
    assert standing([0.0] * 6, every_s=0.04).verdict is Liveness.UNPROVEN


def test_a_verdict_is_kept_until_the_mean_crosses_the_half() -> None:
    live = voted([1.0, 1.0, 1.0])
    live.add(0.75, 0.0, 0.8)
    live.add(1.0, 0.0, 0.8)
    kept = live.standing
    assert kept.verdict is Liveness.LIVE  # 0.6: below the threshold, above the half
    live.add(1.25, 0.0, 0.8)
    live.add(1.5, 0.0, 0.8)
    lost = live.standing
    assert (lost.verdict, lost.doubt) == (Liveness.UNPROVEN, "may be a picture")


def test_a_spoof_never_becomes_live() -> None:
    vote = voted([0.0] * 10)
    for i in range(20):
        vote.add(3.0 + i, 1.0, 1.0)
    assert vote.standing.verdict is Liveness.UNPROVEN
    assert "before" in vote.standing.doubt


def test_a_bad_start_is_made_good() -> None:
    """Three looks within half a second see the same turned head."""
    assert standing([0.0] * 3 + [1.0] * 10).verdict is Liveness.LIVE


def test_many_looks_at_one_bad_moment_count_no_more_than_the_time_they_took() -> None:
    vote = voted([0.9] * 8, every_s=1.0)
    for i in range(12):
        vote.add(7.25 + 0.25 * i, 0.1, 0.9)
    assert vote.standing.verdict is Liveness.LIVE


def test_what_was_long_ago_is_forgotten() -> None:
    assert standing([1.0] * 20 + [0.0] * 11, every_s=1.0).verdict is Liveness.SPOOF


def test_a_live_face_that_is_exchanged_for_a_picture_becomes_a_spoof() -> None:
    assert standing([1.0] * 5 + [0.0] * 16).verdict is Liveness.SPOOF


def test_poor_faces_weigh_less() -> None:
    vote = Vote()
    for i, (score, weight) in enumerate([(1.0, 0.9), (0.0, 0.1), (1.0, 0.9), (0.0, 0.1)]):
        vote.add(i * 0.25, score, weight)
    assert vote.standing.verdict is Liveness.LIVE


def test_an_early_name_waits_for_two_looks_and_for_the_last_two_not_to_say_spoof() -> None:
    assert Vote().standing.waiting
    assert standing([1.0]).waiting
    assert not standing([1.0, 1.0]).waiting
    assert standing([1.0, 1.0, 1.0, 1.0, 0.1, 0.1]).waiting
    assert not standing([1.0, 1.0, 1.0, 0.1, 1.0]).waiting


def test_what_cannot_be_judged_is_unproven_with_its_commonest_reason_and_nobody_waits() -> None:
    vote = Vote()
    for reason in ("too small", "no colour", "no colour"):
        vote.abstain(reason)
    assert vote.standing == Standing(Liveness.UNPROVEN, "no colour", "", waiting=False)
    assert vote.standing.note == "not proven to be alive: no colour"


@pytest.mark.parametrize(("score", "most"), [(0.0, 14), (1.0, 14), (0.5, 52)])
@pytest.mark.parametrize("fps", [2, 5, 10, 30])
def test_looks_are_rationed(fps: int, score: float, most: int) -> None:
    """Two nets cost 15 ms a look; on average a face may cost 8."""
    vote, faces = Vote(), 12 * fps
    for at_s in np.arange(faces) / fps:
        if vote.due(float(at_s)):
            vote.add(float(at_s), score, 1.0)
    assert 3 <= vote.looks <= min(most, 2 + faces / 2)


def test_the_verdict_comes_within_half_a_second_at_ten_frames_a_second() -> None:
    vote = Vote()
    for at_s in np.arange(6) / 10:
        if vote.due(float(at_s)):
            vote.add(float(at_s), 1.0, 1.0)
    assert vote.standing.verdict is Liveness.LIVE
