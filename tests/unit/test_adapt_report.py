"""The morning report: what it says, what it never says, and that its plots are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Tuple

import numpy as np
import pytest

from edgecam.adapt.gate import Answers, Check, GateReport, Judged
from edgecam.adapt.quarantine import Quarantine, Rule, Taken
from edgecam.adapt.report import Morning, draw
from edgecam.adapt.samples import Samples

NAMES = {"id-a": "Ann", "id-b": "Ben"}
PEOPLE = tuple(NAMES)


def samples() -> Samples:
    """Return two people: two photos and three groups of two faces each."""
    group = np.concatenate([np.repeat([0, 1], 2), np.repeat(np.arange(2, 8), 2)])
    return Samples(
        features=np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32),
        group=group,
        shares=np.eye(2, dtype=np.float32)[[0, 1, 0, 0, 0, 1, 1, 1]],
        people=PEOPLE,
        apart=np.zeros((0, 2), np.int64),
        domain=np.zeros(16, np.int64),
        enrolled=np.arange(16) < 4,
    )


def answers(owner: np.ndarray, named: np.ndarray, seed: int) -> Answers:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    own = np.where(owner >= 0, rng.uniform(0.3, 0.8, len(owner)), -1.0).astype(np.float32)
    threshold = np.full(len(owner), 0.42, np.float32)
    return Answers(named, np.zeros(len(owner), np.bool_), own, np.abs(own), threshold)


def report(*checks: Check, accepted: bool, reasons: Tuple[str, ...]) -> GateReport:
    owner = np.array([0, 0, 1, 1, -1])
    met = np.full(40, -1)
    judged = Judged(
        PEOPLE,
        owner,
        np.array([False, True, False, True, False]),
        (answers(owner, np.array([0, -1, 1, 1, -1]), 1), answers(owner, np.array([0, 0, 1, 1, -1]), 2)),
        {"virtual": (answers(met, met, 3), answers(met, met, 4))},
    )
    return GateReport("v1", "v2", accepted, reasons, checks, judged)


RULES: Tuple[Rule, ...] = ("stranger", "stranger", "young")
TAKEN = tuple(Taken(8 + n, "id-b", rule, "cosine .1") for n, rule in enumerate(RULES))
GOOD = Check("strangers named", True, "3 of 8000 named, at most 0.11 % (95 %)", subject="virtual", n=8000)
BAD = Check("recognised as before", False, "6 lost, 0 won, p 0.016", subject="id-a", n=9, p=0.016)


@pytest.fixture
def promoted() -> Morning:
    kept = Quarantine(samples(), np.arange(8), ())
    return Morning(kept, report(GOOD, accepted=True, reasons=("4 more confirmed visits are recognised",)))


@pytest.fixture
def refused() -> Morning:
    poisoned = Quarantine(samples(), np.arange(8), TAKEN)
    return Morning(poisoned, report(GOOD, BAD, accepted=False, reasons=("recognised as before id-a: 6 lost",)))


def test_the_text_says_what_was_learnt_what_the_gate_saw_and_what_to_do(promoted: Morning) -> None:
    text = promoted.text(NAMES)
    assert "Now in service: v2, in place of v1." in text
    assert "4 more confirmed visits are recognised" in text
    assert "Ann     6 faces and 2 enrolment photos in 4 groups" in text
    assert "ok      strangers named (virtual): 3 of 8000 named" in text
    assert "edgecam versions rollback" in text
    assert "taken out" not in text


def test_a_refusal_says_why_and_whose_visits_to_look_at(refused: Morning) -> None:
    text = refused.text(NAMES)
    assert "Still in service: v1; v2 was refused." in text
    assert "FAILED  recognised as before (Ann): 6 lost, 0 won, p 0.016" in text
    assert "Ben     2 labels: surely somebody else" in text
    assert "look at the visits proposed as Ben" in text
    assert "rollback" not in text
    assert "id-" not in text


@pytest.mark.parametrize(
    ("check", "advice"),
    [
        (Check("faces", False, "1 face", subject="id-b"), "confirm visits of Ben"),
        (Check("confirmed", False, "2 visits"), "answer the open questions: edgecam review"),
        (Check("look-alikes", False, "at .5"), "more photos of both"),
        (GOOD, "nothing; the next night tries again"),
    ],
)
def test_every_lack_has_its_advice(check: Check, advice: str) -> None:
    night = Morning(Quarantine(samples(), np.arange(8), ()), report(check, accepted=False, reasons=("so",)))
    assert advice in night.text(NAMES)


def test_a_night_without_a_candidate_says_why() -> None:
    night = Morning(Quarantine(samples(), np.arange(8), ()), None, "no negatives: every face is one person's")
    assert night.text(NAMES).startswith("Nothing was changed: no negatives: every face is one person's.")
    assert not night.promoted
    assert night.record()["gate"] is None
    assert night.summary()["checks_failed"] == []


def test_the_record_is_json_and_the_summary_has_no_name_unless_allowed(refused: Morning) -> None:
    record = json.loads(json.dumps(refused.record()))
    assert record["learnt"]["id-a"] == {"groups": 4, "faces": 6, "photos": 2}
    assert record["taken_out"] == {"id-b": {"stranger": 2, "young": 1}}
    assert record["gate"]["checks"][1]["p"] == 0.016
    bare = json.dumps(refused.summary())
    assert not any(word in bare for pair in NAMES.items() for word in pair)
    assert json.loads(bare) == {
        "promoted": False, "people": 2, "faces": 12, "taken_out": 3, "checks_failed": ["recognised as before"],
    }  # fmt: skip
    assert refused.summary(NAMES)["taken_out_of"] == {"Ben": 3}


def test_groups_without_a_label_are_nobodys(tmp_path: Path) -> None:
    base = samples()
    shares = base.shares.copy()
    shares[2] = 0.0
    night = Samples(base.features, base.group, shares, base.people, base.apart, base.domain, base.enrolled)
    morning = Morning(Quarantine(night, np.arange(8), ()), None, "so", vectors=(base.features, base.features))
    assert morning.learnt()["id-a"] == {"groups": 3, "faces": 4, "photos": 2}
    assert [path.name for path in draw(morning, NAMES, tmp_path)] == ["map.png"]
    nobody = Samples(base.features, base.group, 0 * shares, base.people, base.apart, base.domain, base.enrolled)
    assert (
        list(draw(Morning(Quarantine(nobody, np.arange(8), ()), None, "so", (base.features,) * 2), NAMES, tmp_path))
        == []
    )


def test_the_plots_are_drawn(refused: Morning, tmp_path: Path) -> None:
    features = refused.quarantine.samples.features
    night = Morning(refused.quarantine, refused.gate, vectors=(features, features[:, ::-1]))
    drawn = list(draw(night, NAMES, tmp_path / "plots"))
    assert [path.name for path in drawn] == ["distances.png", "confusion.png", "versions.png", "map.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in drawn)
    bare = Morning(refused.quarantine, None, "no candidate")
    assert list(draw(bare, NAMES, tmp_path)) == []
