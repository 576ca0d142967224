"""The policy on one track."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Optional

import pytest

from edgecam.config import LivenessConfig
from edgecam.decide import Evidence, conclude, may_name
from edgecam.types import Liveness, Match, Verdict

KNOWN = Match(Verdict.KNOWN, "p1", "p1", 0.7, (), "")
SURE = Evidence(KNOWN, sure=True, usable_faces=2, seen_faces=3, complaint="", liveness=Liveness.UNPROVEN)
ANNOUNCE, SENSITIVE = LivenessConfig(policy="announce"), LivenessConfig(policy="sensitive")


@pytest.mark.parametrize(
    ("policy", "liveness", "verdict", "person"),
    [
        (ANNOUNCE, Liveness.LIVE, Verdict.KNOWN, "p1"),
        (ANNOUNCE, Liveness.UNPROVEN, Verdict.KNOWN, "p1"),
        (ANNOUNCE, Liveness.SPOOF, Verdict.SPOOF, None),
        (SENSITIVE, Liveness.LIVE, Verdict.KNOWN, "p1"),
        (SENSITIVE, Liveness.UNPROVEN, Verdict.UNCERTAIN, None),
        (SENSITIVE, Liveness.SPOOF, Verdict.SPOOF, None),
    ],
)
def test_liveness_only_denies(
    policy: LivenessConfig, liveness: Liveness, verdict: Verdict, person: Optional[str]
) -> None:
    outcome = conclude(replace(SURE, liveness=liveness), policy)
    assert (outcome.verdict, outcome.person_id) == (verdict, person)


def test_a_stranger_is_never_made_known_by_being_alive() -> None:
    stranger = Match(Verdict.UNKNOWN, None, "p1", 0.2, (), "unlike everybody enrolled")
    for policy in (ANNOUNCE, SENSITIVE):
        outcome = conclude(replace(SURE, match=stranger, liveness=Liveness.LIVE), policy)
        assert outcome.verdict is Verdict.UNKNOWN


def test_without_a_usable_face_the_complaint_is_the_reason() -> None:
    outcome = conclude(replace(SURE, match=None, sure=False, usable_faces=0, complaint="too small"), ANNOUNCE)
    assert (outcome.verdict, outcome.reason) == (Verdict.POOR, "too small")


def test_an_unproven_face_under_the_sensitive_policy_does_not_learn_whom_it_passes_for() -> None:
    assert "p1" not in str(replace(conclude(SURE, SENSITIVE), similarity=0.0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, True),
        ({"usable_faces": 1}, False),
        ({"sure": False}, False),
        ({"liveness": Liveness.SPOOF}, False),
        ({"match": Match(Verdict.UNCERTAIN, None, "p1", 0.7, ("p1", "p2"), "")}, False),
    ],
)
def test_an_early_name_needs_sure_evidence_from_several_faces(changes: Dict[str, Any], named: bool) -> None:
    assert may_name(replace(SURE, **changes), ANNOUNCE) is named
