"""What a track remembers."""

from __future__ import annotations

from typing import Optional, cast

import numpy as np

from edgecam.embed import SFace
from edgecam.nn.session import Session
from edgecam.pipeline.track import TrackRecord
from edgecam.types import FaceCrop, Quality

CROP = FaceCrop(np.zeros((64, 64, 3), np.uint8), np.array([12, 12, 40, 40], np.float32), np.zeros((5, 2), np.float32))

NO_NET = cast(Session, None)
HEAD, OTHER = SFace(NO_NET, "m1"), SFace(NO_NET, "m2")


def quality(score: float, reason: Optional[str] = None) -> Quality:
    return Quality(score, {}, 0.0, 0.0, 0.0, infrared=False, reason=reason)


def embedded(record: TrackRecord) -> None:
    for look in record.waiting:
        look.vector, look.model = np.array([1.0, 0.0], np.float32), HEAD.version
        look.features = np.array([3.0, 4.0], np.float32)


def test_the_first_faces_are_embedded_at_once_later_ones_now_and_then() -> None:
    record = TrackRecord(1, 0.0, best_k=8)
    asked = [record.add(CROP, quality(0.5 + 0.001 * i), 0.1 * i) for i in range(30)]
    assert asked[:4] == [True] * 4
    later = [0.1 * i for i, ask in enumerate(asked) if ask and i >= 4]
    assert later
    assert np.diff(later).min() >= 0.5 - 1e-9


def test_a_clearly_better_face_is_embedded_without_waiting() -> None:
    record = TrackRecord(1, 0.0, best_k=8)
    for i in range(6):
        record.add(CROP, quality(0.3), 0.01 * i)
    assert not record.add(CROP, quality(0.31), 0.07)
    assert record.add(CROP, quality(0.9), 0.08)


def test_only_the_best_are_kept() -> None:
    record = TrackRecord(1, 0.0, best_k=3)
    for i, score in enumerate([0.9, 0.1, 0.5, 0.7, 0.2, 0.8]):
        record.add(CROP, quality(score), float(i))
    assert sorted(look.quality.score for look in record.looks) == [0.7, 0.8, 0.9]
    assert record.usable == record.seen == 6


def test_unusable_faces_leave_their_commonest_reason_and_a_picture() -> None:
    record = TrackRecord(1, 0.0, best_k=3)
    for reason in ("too small (20 px, need 40)", "too small (22 px, need 40)", "blurred"):
        assert not record.add(CROP, quality(0.1, reason), 0.0)
    vectors, _ = record.evidence(HEAD)
    assert len(vectors) == 0
    assert record.complaint == "too small"
    assert record.picture is CROP


def test_faces_beyond_recognition_are_no_evidence() -> None:
    record = TrackRecord(1, 0.0, best_k=3)
    record.add(CROP, quality(0.5), 0.0)
    record.add(CROP, quality(0.6), 0.1)
    embedded(record)
    record.looks[1].quality = quality(0.0, "beyond recognition")
    vectors, weights = record.evidence(HEAD)
    assert len(vectors) == len(weights) == 1


def test_a_head_that_comes_into_service_sees_the_earlier_faces_too() -> None:
    record = TrackRecord(1, 0.0, best_k=3)
    record.add(CROP, quality(0.5), 0.0)
    embedded(record)
    np.testing.assert_array_equal(record.evidence(HEAD)[0], [[1.0, 0.0]])
    np.testing.assert_allclose(record.evidence(OTHER)[0], [[0.6, 0.8]])
    assert record.looks[0].model == "m2"
