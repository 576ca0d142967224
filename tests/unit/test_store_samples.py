"""Values the store's tests share, and the proof that they survive being packed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgecam.store.records import pack_crop, pack_decision, unpack_crop, unpack_decision
from edgecam.types import Decision, Embeddings, FaceCrop, Liveness, Phase, Verdict

NOW = 1_800_000_000.0
DAY = 86400.0
HOUR = 3600.0


class Watch:
    """A clock that stands where it is put."""

    def __init__(self, wall_s: float = NOW) -> None:
        self.now_s = wall_s
        self.trusted = True

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    def wall_trusted(self) -> bool:
        return self.trusted

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def crop(seed: int = 0, height: int = 90, width: int = 70) -> FaceCrop:
    """Return noise, the hardest picture to store without loss."""
    rng = np.random.default_rng(seed)
    return FaceCrop(
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        rng.random(4).astype(np.float32),
        rng.random((5, 2)).astype(np.float32),
        0.25,
    )


def embedding(seed: int = 0, model: str = "m1", dim: int = 128, features: int = 256) -> Embeddings:
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=(1, dim)).astype(np.float32)
    return Embeddings(vector / np.linalg.norm(vector), rng.normal(size=(1, features)).astype(np.float32), model)


_DECISION = Decision(
    id="d1",
    visit="v1",
    track=1,
    verdict=Verdict.UNKNOWN,
    phase=Phase.FINAL,
    person_id=None,
    candidates=(),
    similarity=0.25,
    liveness=Liveness.UNPROVEN,
    reason="",
    camera="front",
    place="door",
    model="m1",
    t_first_s=1.0,
    t_named_s=None,
    wall_s=NOW,
    clock_trusted=True,
)


def decision(decision_id: str = "d1", visit: str = "v1", track: int = 1, **changes: Any) -> Decision:
    return replace(_DECISION, id=decision_id, visit=visit, track=track, **changes)


def known(decision_id: str, visit: str, track: int, person_id: Optional[str], **changes: Any) -> Decision:
    return decision(decision_id, visit, track, verdict=Verdict.KNOWN, person_id=person_id, **changes)


def all_bytes(*folders: Path) -> bytes:
    """Return the bytes of every file below these folders, names included."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\0".join(part for path in files for part in (str(path).encode(), path.read_bytes()))


@given(st.integers(1, 256), st.integers(1, 256), st.floats(0.01, 1.0))
def test_a_crop_comes_back_to_the_bit(height: int, width: int, scale: float) -> None:
    before = replace(crop(height * width, height, width), scale=scale)
    after = unpack_crop(pack_crop(before))
    assert np.array_equal(after.image, before.image)
    assert np.array_equal(after.box, before.box)
    assert np.array_equal(after.landmarks, before.landmarks)
    assert after.scale == before.scale


def test_a_decision_comes_back_equal() -> None:
    before = known("d", "v", 3, "p", candidates=("p", "q"), blinks_s=(0.5, 1.25), t_named_s=2.5, liveness=Liveness.LIVE)
    assert unpack_decision(pack_decision(before)) == before
