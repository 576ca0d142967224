"""Which face and which device belong to which event; clocks that jump, devices that two people claim."""

from __future__ import annotations

from typing import List

import numpy as np
import pytest

from edgecam.associate.events import SLOT_S, Event, Seen, Sighting, gather, jumps, owners, slots, window

BOUND = [("phone-a", "ann"), ("phone-b", "bob")]
PEOPLE = ("ann", "bob")


def seen(*at_s: float, place: str = "door") -> List[Seen]:
    return [Seen(f"t{n}", place, at) for n, at in enumerate(at_s)]


def test_slots_are_two_hours_and_empty_ones_are_discarded() -> None:
    faces = [Seen("t1", "office", 10.0), Seen("t2", "kitchen", SLOT_S - 1), Seen("t3", "office", 5 * SLOT_S)]
    got = slots(faces, [Sighting("phone-a", 3 * SLOT_S + 1, place="office")], ("office", "kitchen"))
    assert [(e.place, e.start_s / SLOT_S, e.end_s / SLOT_S) for e in got] == [
        ("kitchen", 0, 1),
        ("office", 0, 1),
        ("office", 3, 4),
        ("office", 5, 6),
    ]


def test_who_is_away_makes_no_slot_and_a_device_of_the_house_makes_one_everywhere() -> None:
    assert slots([], [Sighting("phone-a", 5.0, "away")], ("office",)) == ()
    assert {e.place for e in slots([], [Sighting("phone-a", 5.0)], ("office", "kitchen"))} == {"office", "kitchen"}


@pytest.mark.parametrize(("at_s", "inside"), [(879.9, False), (880, True), (1000, True), (1209.9, True), (1210, False)])
def test_a_visit_reaches_two_minutes_back_and_three_on(at_s: float, inside: bool) -> None:
    visit = window("door", 1000, 1030)
    got = gather([visit], [], [Sighting("phone-a", at_s, "join")], BOUND, PEOPLE, visits=True)
    assert bool(got.heard[0, 0]) is inside


def test_steady_presence_counts_little_at_a_door_and_fully_in_an_office() -> None:
    steady, join = Sighting("phone-a", 1000.0), Sighting("phone-b", 1000.0, "join")
    for visits, want in ((True, 0.2), (False, 1.0)):
        got = gather([window("door", 990, 1010)], [], [steady, join], BOUND, PEOPLE, visits=visits)
        assert got.heard.tolist() == [[1.0, 1.0]]
        assert got.weight.tolist() == [[want, 1.0]]


def test_the_strongest_sighting_counts() -> None:
    sightings = [Sighting("phone-a", 1000.0), Sighting("phone-a", 1001.0, "join"), Sighting("phone-a", 1002.0)]
    got = gather([window("door", 990, 1010)], [], sightings, BOUND, PEOPLE, visits=True)
    assert got.weight[0, 0] == 1.0


def test_who_is_away_is_barred_unless_heard() -> None:
    visit = window("door", 990, 1010)
    away = Sighting("phone-a", 1000.0, "away")
    assert gather([visit], [], [away], BOUND, PEOPLE, visits=True).barred.tolist() == [[True, False]]
    both = [away, Sighting("phone-a", 1000.0, "join")]
    assert not gather([visit], [], both, BOUND, PEOPLE, visits=True).barred.any()


def test_places_are_apart() -> None:
    events = (Event("office", 0, SLOT_S), Event("kitchen", 0, SLOT_S))
    got = gather(
        events, seen(5.0, place="kitchen"), [Sighting("phone-a", 5.0, place="office")], BOUND, PEOPLE, visits=False
    )
    assert got.of_tracklet.tolist() == [1]
    assert got.heard.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_a_device_bound_to_two_people_says_nothing() -> None:
    bindings = [*BOUND, ("tablet", "ann"), ("tablet", "bob")]
    assert owners(bindings) == ({"phone-a": "ann", "phone-b": "bob"}, ("tablet",))
    got = gather([window("door", 990, 1010)], [], [Sighting("tablet", 1000.0)], bindings, PEOPLE, visits=True)
    assert got.unusable == ("tablet",)
    assert not got.heard.any()


def test_nobody_elses_device_counts() -> None:
    got = gather([window("door", 990, 1010)], [], [Sighting("stranger", 1000.0)], BOUND, PEOPLE, visits=True)
    assert not got.heard.any()


def test_a_clock_set_back_makes_what_it_ran_through_twice_doubtful() -> None:
    faces = seen(100, 900, 500, 1000, 1100)
    assert jumps(faces) == ((500, 900),)
    events = [Event("door", 0, 300), Event("door", 450, 950), Event("door", 960, 1200)]
    got = gather(events, faces, [Sighting("phone-a", 600.0, "join")], BOUND, PEOPLE, visits=True)
    assert got.of_tracklet.tolist() == [0, -1, -1, 2, 2]
    assert not got.heard.any()
    assert jumps(seen(100, 97, 200)) == ()


def test_an_untrusted_clock_places_nothing_and_loses_nothing() -> None:
    faces = [Seen("t", "door", 1000.0, clock_trusted=False), Seen("u", "door", 1000.0), Seen("v", "door", 9e9)]
    got = gather([window("door", 990, 1010)], faces, [], BOUND, PEOPLE, visits=True)
    assert got.of_tracklet.tolist() == [-1, 0, -1]


def test_of_overlapping_visits_the_later_has_the_face_and_both_the_device() -> None:
    events = [window("door", 1000, 1100), window("door", 1200, 1300)]
    got = gather(events, seen(1150), [Sighting("phone-b", 1150.0, "leave")], BOUND, PEOPLE, visits=True)
    assert got.of_tracklet.tolist() == [1]
    assert got.heard[:, 1].tolist() == [1.0, 1.0]


def test_no_events_no_people() -> None:
    got = gather([], seen(5.0), [Sighting("phone-a", 5.0)], [], [], visits=True)
    assert got.heard.shape == (0, 0)
    assert np.array_equal(got.of_tracklet, [-1])
