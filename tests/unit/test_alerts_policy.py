"""Who is announced when, and that a correction always is."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_alerts_message import KNOWN, NOW

from edgecam.alerts.message import finish
from edgecam.alerts.policy import AlertPolicy, Announcement, within
from edgecam.config import AlertsConfig, QuietHours
from edgecam.types import Decision, Phase, Role, Verdict

NOON = dt.time(12, 0)
NIGHT = dt.time(23, 30)
QUIET = QuietHours(start="22:00", end="06:30")


class House:
    """A policy with a clock and people."""

    def __init__(self, **config: Any) -> None:
        self.policy = AlertPolicy(AlertsConfig(**{"box": "box", "cooldown_s": 60.0, **config}))
        self.local: Optional[dt.time] = NOON

    def sees(self, decision: Decision, role: Optional[Role] = Role.RESIDENT) -> Announcement:
        return self.policy.announce(
            decision, role=role, person_name="Ann", candidate_names=(), local=self.local, now=NOW
        )

    def says(self, decision: Decision, role: Optional[Role] = Role.RESIDENT) -> bool:
        found = self.sees(decision, role)
        assert bool(found.alerts) != bool(found.held_back)
        return bool(found.alerts)


def seen(
    at_s: float,
    verdict: Verdict = Verdict.KNOWN,
    phase: Phase = Phase.FINAL,
    *,
    visit: str = "",
    track: int = 1,
    person: str = "ann",
    place: str = "door",
) -> Decision:
    known = verdict is Verdict.KNOWN
    return replace(
        KNOWN,
        id=f"id-{at_s}",
        visit=visit or f"visit-{at_s}",
        track=track,
        verdict=verdict,
        phase=phase,
        person_id=person if known else None,
        wall_s=NOW.wall_s + at_s,
        place=place,
    )


def kinds(found: Announcement) -> List[str]:
    return [alert.topic.rpartition("/")[2] for alert in found.alerts]


def test_named_and_final_are_one_announcement() -> None:
    house = House()
    assert kinds(house.sees(seen(0, phase=Phase.NAMED, visit="v"))) == ["event", "trigger"]
    assert kinds(house.sees(seen(9, phase=Phase.FINAL, visit="v"))) == ["event"]


def test_cooldown_is_for_a_person_at_a_place() -> None:
    house = House()
    assert house.says(seen(0))
    assert not house.says(seen(30))
    assert house.says(seen(31, person="ben"))
    assert house.says(seen(32, place="garden"))
    assert not house.says(seen(59))
    assert house.says(seen(61))


def test_what_was_held_back_does_not_prolong_the_cooldown() -> None:
    house = House()
    answers = [house.says(seen(at_s)) for at_s in range(0, 130, 10)]
    assert [at * 10 for at, said in enumerate(answers) if said] == [0, 60, 120]


def test_a_reappearance_in_a_visit_is_merged_whatever_the_cooldown() -> None:
    house = House(cooldown_s=0)
    assert house.says(seen(0, visit="v", track=1))
    assert house.sees(seen(200, visit="v", track=2)).held_back == "merged: announced in this visit"
    assert house.says(seen(201, visit="w", track=1))


def test_a_track_held_back_stays_so_until_it_is_somebody_else() -> None:
    house = House()
    house.says(seen(0))
    assert not house.says(seen(50, phase=Phase.NAMED, visit="v"))
    assert not house.says(seen(70, phase=Phase.FINAL, visit="v"))
    assert house.says(seen(71, Verdict.UNKNOWN, Phase.CORRECTED, visit="v"), None)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_correction_is_never_held_back(verdict: Verdict) -> None:
    never = dict.fromkeys(("known", "unknown", "uncertain", "spoof", "poor", "no_face"), "never")
    house = House(rules={**never, "resident": "always"}, quiet_hours=(QUIET,))
    assert house.says(seen(0, phase=Phase.NAMED, visit="v"))
    house.local = NIGHT
    found = house.sees(seen(5, verdict, Phase.CORRECTED, visit="v", person="ben"), Role.KNOWN)
    assert found.alerts
    assert found.alerts[0].critical


def test_a_corrected_name_leaves_no_cooldown_behind() -> None:
    """Ann was named by mistake: when she really comes, she is announced."""
    house = House()
    house.says(seen(0, phase=Phase.NAMED, visit="v"))
    house.says(seen(5, Verdict.UNKNOWN, Phase.CORRECTED, visit="v"), None)
    assert house.says(seen(20))


def test_a_correction_fires_the_trigger_again() -> None:
    house = House()
    house.sees(seen(0, phase=Phase.NAMED, visit="v"))
    found = house.sees(seen(5, Verdict.UNKNOWN, Phase.CORRECTED, visit="v"), None)
    assert kinds(found) == ["event", "trigger"]
    assert json.loads(finish(found.alerts[1].topic, found.alerts[1].payload, NOW))["type"] == "unknown"


def test_strangers_are_always_announced_and_never_merged() -> None:
    house = House()
    for track in range(1, 5):
        found = house.sees(seen(track, Verdict.UNKNOWN, visit="v", track=track), None)
        assert found.alerts
        assert found.alerts[0].critical


def test_critical_is_what_must_not_be_lost() -> None:
    house = House()
    critical = {
        "blocked": house.sees(seen(0, person="b"), Role.BLOCKED),
        "spoof": house.sees(seen(1, Verdict.SPOOF), None),
        "unknown": house.sees(seen(2, Verdict.UNKNOWN), None),
        "resident": house.sees(seen(3), Role.RESIDENT),
        "poor": house.sees(seen(4, Verdict.POOR), None),
    }
    found = {name: all(alert.critical for alert in value.alerts) for name, value in critical.items() if value.alerts}
    assert found == {"blocked": True, "spoof": True, "unknown": True, "resident": False, "poor": False}


@pytest.mark.parametrize(
    ("verdict", "role", "said"),
    [
        pytest.param(Verdict.KNOWN, Role.RESIDENT, False, id="resident"),
        pytest.param(Verdict.KNOWN, Role.STAFF, True, id="staff-let-through"),
        pytest.param(Verdict.KNOWN, Role.BLOCKED, True, id="blocked"),
        pytest.param(Verdict.UNKNOWN, None, True, id="unknown"),
        pytest.param(Verdict.NO_FACE, None, False, id="no-face"),
        pytest.param(Verdict.SPOOF, None, False, id="spoof-not-listed"),
    ],
)
def test_quiet_hours(verdict: Verdict, role: Optional[Role], said: bool) -> None:
    hours = replace_hours(("unknown", "blocked", "staff"))
    house = House(quiet_hours=(hours,), rules={"staff": "always"})
    house.local = NIGHT
    assert house.says(seen(0, verdict), role) is said
    house.local = NOON
    assert house.says(seen(1, verdict), role)


def replace_hours(let_through: Tuple[str, ...]) -> QuietHours:
    return QuietHours(start=QUIET.start, end=QUIET.end, let_through=let_through)


def test_no_hour_is_quiet_until_the_clock_is_set() -> None:
    house = House(quiet_hours=(QuietHours(start="00:00", end="00:00"),))
    assert not house.says(seen(0))
    house.local = None
    assert house.says(seen(1))


@pytest.mark.parametrize(
    ("start", "end", "at", "inside"),
    [
        ("22:00", "06:30", "22:00", True),
        ("22:00", "06:30", "03:00", True),
        ("22:00", "06:30", "06:29", True),
        ("22:00", "06:30", "06:30", False),
        ("22:00", "06:30", "21:59", False),
        ("13:00", "15:00", "14:00", True),
        ("13:00", "15:00", "15:00", False),
        ("13:00", "15:00", "03:00", False),
        ("08:00", "08:00", "20:00", True),
    ],
)
def test_within(start: str, end: str, at: str, inside: bool) -> None:
    assert within(QuietHours(start=start, end=end), dt.time.fromisoformat(at)) is inside


def test_rules() -> None:
    house = House(rules={"resident": "never", "known": "always"})
    assert house.sees(seen(0)).held_back == "rule: resident is never announced"
    assert house.says(seen(1), Role.KNOWN)
    assert house.says(seen(2), Role.KNOWN)
    assert house.says(seen(3), None), "a person who is gone is `known`"


def test_a_clock_set_back_does_not_silence() -> None:
    house = House()
    assert house.says(seen(1000))
    assert house.says(seen(10))


def test_names_can_be_kept_at_home() -> None:
    (alert, _) = House(names=False).sees(seen(0)).alerts
    assert b"Ann" not in alert.payload


DECISIONS = st.lists(
    st.builds(
        lambda at, verdict, phase, visit, track, person: seen(
            at, verdict, phase, visit=f"v{visit}", track=track, person=person
        ),
        st.integers(0, 200),
        st.sampled_from(Verdict),
        st.sampled_from(Phase),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from(["ann", "ben"]),
    ),
    max_size=30,
)


@given(DECISIONS, st.integers(0, 30))
def test_a_restart_changes_nothing(decisions: List[Decision], at: int) -> None:
    """The memory rebuilt from the decisions decides as the one that was there all the time."""
    stays, before = House(quiet_hours=(QUIET,)), decisions[:at]
    for decision in before:
        stays.sees(decision)
    restarted = House(quiet_hours=(QUIET,))
    restarted.policy.recall([(decision, Role.RESIDENT, NOON) for decision in before])
    for decision in decisions[at:]:
        assert stays.sees(decision) == restarted.sees(decision)


@given(DECISIONS)
def test_what_was_announced_is_always_taken_back(decisions: List[Decision]) -> None:
    """After each decision, the last word sent about an announced track is the last word decided."""
    house = House(rules=dict.fromkeys(("unknown", "spoof"), "never"))
    announced: Dict[Tuple[str, int], Verdict] = {}
    for decision in decisions:
        key = (decision.visit, decision.track)
        if house.says(decision):
            announced[key] = decision.verdict
        else:
            assert key not in announced
