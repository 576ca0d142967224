"""What is known of faces without a label."""

from __future__ import annotations

from typing import List, Optional, Sequence, Set, Tuple

import numpy as np
import pytest

from edgecam.adapt.constraints import constrain, dressed_alike, together
from edgecam.adapt.samples import Track
from edgecam.embed.sface import unit
from edgecam.types import Floats

NAKED = np.zeros(0, np.float32)


def track(
    visit: str = "V1",
    first_s: float = 0.0,
    last_s: float = 4.0,
    *,
    camera: str = "front",
    place: str = "door",
    day: int = 1,
    clothes: Floats = NAKED,
    person_id: Optional[str] = None,
    nobody: bool = False,
    grouped: bool = False,
) -> Track:
    face = np.ones((1, 4), np.float16)
    return Track(
        "", visit, camera, place, day, first_s, last_s, np.ones(4, np.float32), face, np.ones(1, np.float32),
        infrared=False, live=True, clothes=clothes, taken_for=None, person_id=person_id, nobody=nobody, grouped=grouped,
    )  # fmt: skip


def flat(count: int) -> Floats:
    return np.tile(np.array([1.0, 0.0], np.float32), (count, 1))


def pairs(tracks: Sequence[Track]) -> Set[Tuple[int, int]]:
    return {(a, b) for a, b in together(tracks).tolist()}


def test_two_faces_at_once_before_one_camera_are_two_people() -> None:
    tracks = [
        track("V1", 0, 4),
        track("V1", 3, 6),  # both are there from 3 to 4
        track("V1", 6, 8),  # comes when the second has gone
        track("V1", 3, 4, camera="side"),  # perhaps the first, seen from the side
        track("V2", 0, 9),
    ]
    assert pairs(tracks) == {(0, 1)}


def test_what_the_user_said_makes_one_and_two() -> None:
    tracks = [
        track("V1", person_id="ann"),
        track("V2", person_id="ann"),
        track("V3", person_id="ben"),
        track("V4", nobody=True),
        track("V5", nobody=True),
        track("V6", person_id="ann", grouped=True),  # of a whole visitor: no proof of this one
    ]
    known = constrain(tracks, flat(6))
    assert known.group[0] == known.group[1]
    assert len(set(known.group.tolist())) == 5
    assert {tuple(p) for p in known.apart.tolist()} == {
        (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4),
    }  # fmt: skip
    assert (known.joined, known.dropped) == (0, 0)


def test_what_is_the_same_inherits_who_it_is_not() -> None:
    # Ann with B in V1; Ann again in V2 with C: B and C are not Ann, in either visit; whether B is C nobody knows.
    tracks = [track("V1", person_id="ann"), track("V1"), track("V2", person_id="ann"), track("V2")]
    known = constrain(tracks, flat(4))
    assert {tuple(p) for p in known.apart.tolist()} == {(0, 1), (1, 2), (2, 3), (0, 3)}


def test_one_name_for_two_faces_at_once_is_a_contradiction() -> None:
    tracks = [track("V1", person_id="ann"), track("V1", person_id="ann"), track("V2", person_id="ann")]
    known = constrain(tracks, flat(3))
    assert known.dropped == 1
    assert known.group[0] != known.group[1]
    assert (0, 1) in {tuple(p) for p in known.apart.tolist()}


# Clothes.


class Days:
    """People who come several times a day, two at a time now and then, in what they wear that day."""

    def __init__(
        self, seed: int, people: int = 6, days: int = 12, *, together: float = 0.5, collide: float = 0.1
    ) -> None:
        rng = np.random.default_rng(seed)
        faces = unit(rng.normal(size=(people, 64)).astype(np.float32))
        self.tracks: List[Track] = []
        self.person: List[int] = []
        vectors = []
        for day in range(days):
            worn = np.abs(rng.normal(size=(people, 64)))
            for i in range(1, people):
                if rng.random() < collide:
                    worn[i] = worn[i - 1]
            for shot in range(8):
                count = 2 if rng.random() < together else 1
                for who in rng.choice(people, count, replace=False):
                    look = unit((worn[who] + 0.1 * rng.normal(size=64))[None].astype(np.float32))[0]
                    self.tracks.append(track(f"D{day}S{shot}", day=day, clothes=look))
                    self.person.append(int(who))
                    vectors.append(faces[who] + 0.08 * rng.normal(size=64))
        self.vectors = unit(np.array(vectors, np.float32))
        self.who = np.array(self.person)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_found_by_clothes_are_one_person(seed: int) -> None:
    # 7B.4: the precision of context positives must be at least .98; clothes collide as in 7B.3.
    days = Days(seed)
    known = constrain(days.tracks, days.vectors)
    assert known.joined >= 10
    same = known.group[:, None] == known.group[None]
    left, right = np.nonzero(np.triu(same, 1))
    assert np.mean(days.who[left] == days.who[right]) >= 0.98
    assert np.mean(days.who[known.apart[:, 0]] != days.who[known.apart[:, 1]]) >= 0.98
    assert len(known.apart) > len(together(days.tracks))
    # No day is joined with another: clothes change.
    assert {days.tracks[i].day == days.tracks[j].day for i, j in zip(left, right)} == {True}


def test_clothes_say_nothing_without_enough_pairs_to_measure_by() -> None:
    days = Days(0, together=0.0)
    alike, found = dressed_alike(days.tracks, days.vectors, together(days.tracks))
    assert np.isnan(alike).all()
    assert len(found) == 0
    assert constrain(days.tracks, days.vectors).joined == 0
    enough = Days(0)
    sides = together(enough.tracks)
    assert np.isnan(dressed_alike(enough.tracks, enough.vectors, sides[:19])[0]).all()
    assert np.isfinite(dressed_alike(enough.tracks, enough.vectors, sides[:20])[0]).all()


def test_grey_pictures_and_unset_clocks_are_not_compared() -> None:
    days = Days(1)
    alone = [t for t in days.tracks if t.visit.startswith("D0")]
    bare = [track(t.visit, day=t.day) if i < len(alone) else t for i, t in enumerate(days.tracks)]
    lost = [track(t.visit, day=-1, clothes=t.clothes) if i < len(alone) else t for i, t in enumerate(days.tracks)]
    for tracks in (bare, lost):
        _, found = dressed_alike(tracks, days.vectors, together(tracks))
        assert len(found)
        assert found.min() >= len(alone)
    elsewhere = [track(t.visit, day=t.day, place=t.visit, clothes=t.clothes) for t in days.tracks]
    assert len(dressed_alike(elsewhere, days.vectors, together(elsewhere))[1]) == 0


def test_clothes_never_overrule_what_was_seen() -> None:
    # Two who look and are dressed nearly alike, side by side in one visit; one of them again on that day.
    days = Days(2)
    worn = unit(np.abs(np.random.default_rng(0).normal(size=(1, 64))).astype(np.float32))[0]
    sides = [track("BOTH", clothes=worn, day=99), track("BOTH", clothes=worn, day=99)]
    tracks = [*days.tracks, *sides, track("LATER", clothes=worn, day=99)]
    faces = np.tile(days.vectors[:1], (3, 1))
    faces[1] += 0.02 * np.random.default_rng(1).normal(size=64)
    known = constrain(tracks, unit(np.concatenate([days.vectors, faces])))
    a, b, c = known.group[-3:].tolist()
    assert known.dropped == 2  # the two of each other, and the other one of whoever came later
    assert a != b
    assert c == a  # the likest first
    assert (len(tracks) - 2, len(tracks) - 1) in {tuple(p) for p in known.apart.tolist()}


def test_no_tracks_are_no_constraints() -> None:
    known = constrain([], np.zeros((0, 1), np.float32))
    assert (known.group.shape, known.apart.shape) == ((0,), (0, 2))
