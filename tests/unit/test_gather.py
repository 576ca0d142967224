"""What a night is given: which faces teach, by which it is judged, and that no face is both."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
import pytest
from test_store_samples import NOW, Watch, crop, known

from edgecam.adapt import gather as module
from edgecam.adapt.gather import FACES_A_DAY, Kept, gather, lesson
from edgecam.associate import associate
from edgecam.config import StoreConfig
from edgecam.embed import Encoder
from edgecam.embed.sface import unit
from edgecam.pipeline.operations import execute
from edgecam.store import Store
from edgecam.types import FaceCrop, Floats, Liveness, Person, Sighting, SightingSource, Tracklet, Transition

KEEP = StoreConfig(cluster_unknown=True)
DIM = 48
DAY_S = 86_400.0


class Flat:
    """An encoder whose vectors are its features, made unit; a crop's features are drawn from its pixels."""

    version = base = "flat"
    dim = DIM

    @property
    def installed(self) -> Encoder:
        return self

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        rows = [np.random.default_rng(int(one.image.sum())).normal(size=DIM) for one in crops]
        return np.array(rows, np.float32).reshape(-1, DIM)

    def project(self, features: Floats) -> Floats:
        return unit(features)

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> Encoder:
        return self


ENCODER = Flat()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", KEEP, clock=watch) as opened:
        yield opened


def looks(who: int, seed: int, count: int = 4) -> Floats:
    """Return (count, DIM) features of somebody, unlike each other."""
    centre = 2.0 * np.random.default_rng(1000 + who).normal(size=DIM)
    return np.asarray(centre + np.random.default_rng(seed).normal(size=(count, DIM)), np.float32)


class Door:
    """A store with photos and visits, and what a night gathers of it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.visits = 0
        self.asked: List[str] = []

    def ask(self, op: str, **params: Any) -> Iterator[Dict[str, Any]]:
        self.asked.append(op)
        return iter(list(execute(self.store, {"op": op, **params})))

    def enrol(self, name: str, who: int, photos: int, *, infrared: bool = False) -> Person:
        person = self.store.find_person(name) or self.store.add_person(name)
        for i in range(photos):
            face = self.store.add_face(
                person.id, crop(1000 * who + i, 8, 8), quality=0.9, source=f"{name}{i}.jpg", infrared=infrared
            )
            row = looks(who, 5000 * who + i, 1)
            self.store.put_vectors("flat", {face: (unit(row)[0], row[0])})
        return person

    def visit(self, *who: int, **about: Any) -> str:
        """Let people be seen; see `come`."""
        self.visits += 1
        visit = f"V{self.visits:03}"
        for track, one in enumerate(who, 1):
            self.come(visit, track, one, **about)
        return visit

    def come(
        self,
        visit: str,
        track: int,
        who: int,
        day: int = 0,
        *,
        faces: Optional[Floats] = None,
        live: bool = True,
        infrared: bool = False,
        camera: str = "front",
        base: str = "flat",
        taken_for: Optional[str] = None,
    ) -> None:
        self.store.open_visit(visit, "door", "front", NOW + DAY_S * day + 60.0 * self.visits)
        if taken_for is not None:
            self.store.record(known(f"D{visit}{track}", visit, track, taken_for))
        rows = looks(who, 100 * self.visits + track) if faces is None else faces
        quality = np.linspace(0.9, 0.5, len(rows)).astype(np.float32)
        liveness = Liveness.LIVE if live else Liveness.UNPROVEN
        self.store.add_tracklet(Tracklet(visit, track, camera, base, 0.0, 4.0, rows, quality, infrared, liveness))

    def gathered(self) -> Kept:
        return gather(self.ask, ENCODER)


@pytest.fixture
def door(store: Store) -> Door:
    return Door(store)


def shared(kept: Kept, who: Mapping[str, str]) -> Floats:
    """Return shares of 1: by visit, the person's id."""
    out = np.zeros((len(kept.tracks), len(kept.people)), np.float32)
    for i, track in enumerate(kept.tracks):
        if track.visit in who:
            out[i, kept.people.index(who[track.visit])] = 1.0
    return out


def teaches(rows: Floats, faces: Floats) -> List[bool]:
    """Return which rows are nearly one of these faces."""
    if not len(faces):
        return [False] * len(rows)
    return list((unit(rows) @ unit(faces).T).max(axis=1) > 0.999)


# Read.


def test_tracks_photos_and_devices_are_read_through_operations(door: Door) -> None:
    ann, ben = door.enrol("Ann", 1, 3), door.enrol("Ben", 2, 2)
    cora = door.store.add_person("Cora")
    visit = door.visit(1, 9, taken_for=ann.id, infrared=True)
    door.visit(2, base="other")
    phone = door.store.add_device(ben.id, "wifi", "02:00:00:00:00:01", consent={"said": "yes"})
    sighting = Sighting(phone.id, SightingSource.DHCP, NOW, Transition.JOIN, 1.0)
    door.store.add_sighting(sighting, [(visit, -20.0)])
    kept = door.gathered()
    assert set(door.asked) <= {"gallery", "tracklets.list", "tracklets.attendance", "tracklets.enrolled", "people.list"}
    assert (kept.base, kept.watched.left_out) == ("flat", 1)
    assert kept.people == tuple(sorted([ann.id, ben.id, cora.id]))
    assert kept.watched.owners == (ben.id,)
    assert kept.watched.heard.tolist() == [[1.0]]
    assert [(t.visit, t.taken_for, t.infrared, t.live, t.features.shape) for t in kept.tracks] == [
        (visit, ann.id, True, True, (4, DIM))
    ] * 2
    there = time.localtime(NOW)
    assert kept.tracks[0].day == date(there.tm_year, there.tm_mon, there.tm_mday).toordinal()
    assert kept.known.apart.tolist() == [[0, 1]]
    np.testing.assert_allclose(kept.tracks[0].features[0], looks(1, 101)[0], rtol=2e-3, atol=2e-3)
    assert sorted((p.person_id, p.origin) for p in kept.photos) == sorted(
        [(ann.id, "photo")] * 3 + [(ben.id, "photo")] * 2
    )


def test_photos_without_features_are_embedded_first(door: Door) -> None:
    ann = door.store.add_person("Ann")
    door.store.add_face(ann.id, crop(7), quality=0.9, source="a.jpg")
    (photo,) = door.gathered().photos
    np.testing.assert_allclose(photo.features, ENCODER.features([crop(7)])[0], rtol=1e-6)


def test_nothing_at_all_is_an_empty_night(door: Door) -> None:
    kept = door.gathered()
    assert (kept.tracks, kept.photos, kept.people) == ((), (), ())
    assert len(lesson(kept, np.zeros((0, 0), np.float32)).samples.features) == 0
    assert len(kept.verified().owner) == len(kept.gallery().owner) == 0
    assert associate(kept.scene(ENCODER.project)).reason


def test_before_the_clock_was_set_no_day_is_known(door: Door, watch: Watch) -> None:
    door.store.open_visit("V9", "door", "front", 1000.0)
    door.come("V9", 1, 1)
    assert [track.day for track in door.gathered().tracks] == [-1]


def test_where_the_tracker_was_away_nobody_is_called_so(door: Door) -> None:
    ann = door.enrol("Ann", 1, 2)
    visits = [door.visit(1), door.visit(1)]
    tracker = door.store.add_device(ann.id, "ha", "device_tracker/ann", consent={"said": "yes"})
    for visit, reason in zip(visits, ("", "away")):
        seen = Sighting(tracker.id, SightingSource.TRACKER, NOW, Transition.JOIN, 0.0 if reason else 1.0, reason=reason)
        door.store.add_sighting(seen, [(visit, 0.0)])
    kept = door.gathered()
    assert kept.watched.away.tolist() == [[False], [True]]
    assert kept.scene(ENCODER.project).barred is kept.watched.away
    samples = lesson(kept, np.ones((2, 1), np.float32)).samples
    assert samples.shares[kept.known.group, 0].tolist() == [1.0, 0.0]
    # In an office both are one event, and who was there for a part of it was there.
    assert gather(door.ask, ENCODER, slot_h=24.0).watched.away.tolist() == [[False]]


# Locked.


def test_a_third_of_the_photos_is_locked_and_stays_so(door: Door) -> None:
    few, many = door.enrol("Few", 1, 5), door.enrol("Many", 2, 8)
    kept = door.gathered()

    def locked(kept: Kept, person: Person) -> List[str]:
        return [p.id for p, one in zip(kept.photos, kept.locked) if one and p.person_id == person.id]

    assert locked(kept, few) == []
    before = locked(kept, many)
    assert len(before) == 2
    door.enrol("Many", 2, 4)
    after = locked(door.gathered(), many)
    assert len(after) == 4
    assert set(before) < set(after)
    assert locked(door.gathered(), many) == after


def test_none_of_a_visitor_named_as_a_whole_is_locked(door: Door) -> None:
    visits = [door.visit(1) for _ in range(7)]
    for n, visit in enumerate(visits):
        door.store.add_visit_picture(visit, 1, crop(n))
    door.store.put_visitors([[row.id for row in door.store.tracklets()]])
    door.store.name_visitor(1, "Ann")
    kept = door.gathered()
    assert [photo.origin for photo in kept.photos] == ["visitor"] * 7
    assert not kept.locked.any()
    assert len(kept.verified().owner) == 0


def test_no_face_both_teaches_and_judges(door: Door) -> None:
    """Every way in which one and the same face can get into the house, and into the locked set."""
    ann = door.enrol("Ann", 1, 9)
    named, grouped, asked, nobody, free = (door.visit(1 if n < 3 else 9) for n in range(5))
    rows = {row.seen.visit: row.id for row in door.store.tracklets()}
    for visit in (named, grouped):
        door.store.add_visit_picture(visit, 1, crop(99 + len(visit) + int(visit[1:])))
    door.store.name_visit(named, 1, "Ann")
    door.store.put_visitors([[rows[grouped]]])
    door.store.name_visitor(1, "Ann")
    door.store.is_person(rows[asked], ann.id)
    door.store.is_nobody(rows[nobody])
    # The very same pictures again: a locked photo enrolled twice, and a named track's faces in another track.
    kept = door.gathered()
    twice = next(p for p, one in zip(kept.photos, kept.locked) if one and p.origin == "photo")
    copy = door.store.add_face(ann.id, crop(5), quality=0.9, source="copy.jpg")
    door.store.put_vectors("flat", {copy: (unit(twice.features[None])[0], twice.features)})
    again = door.visit(1, faces=looks(1, 101))

    kept = door.gathered()
    every = np.ones((len(kept.tracks), len(kept.people)), np.float32)
    samples, verified, gallery = lesson(kept, every).samples, kept.verified(), kept.gallery()
    tracks = {track.visit: track for track in kept.tracks}
    assert [tracks[v].verified for v in (named, grouped, asked, nobody, free, again)] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert set(verified.ids) >= {rows[v] for v in (named, asked, nobody)}
    assert rows[grouped] not in verified.ids
    owner = dict(zip(verified.ids, verified.owner.tolist()))
    assert (owner[rows[named]], owner[rows[nobody]]) == (0, -1)
    assert not verified.learnt.any()

    assert not any(teaches(samples.features, verified.features))
    assert not any(teaches(samples.features, kept.locked_pictures()))
    assert not any(teaches(gallery.features, verified.features))
    for visit, taught in (
        (named, False),
        (asked, False),
        (nobody, False),
        (again, False),
        (grouped, True),
        (free, True),
    ):
        assert any(teaches(tracks[visit].features.astype(np.float32), samples.features)) is taught, visit
    # The copy does not teach, and the face that was named at the door neither.
    left = {p.id for p in kept.photos if any(teaches(samples.features[samples.enrolled], p.features[None]))}
    assert copy not in left
    assert not left & {p.id for p, one in zip(kept.photos, kept.locked) if one}
    assert {p.origin for p in kept.photos if p.id in left} == {"photo", "visitor"}


def test_who_is_known_from_the_door_alone_is_in_the_gallery_and_judged_by_nothing(door: Door) -> None:
    ann = door.store.add_person("Ann")
    for n, visit in enumerate([door.visit(1), door.visit(1)]):
        door.store.add_visit_picture(visit, 1, crop(n))
        _, (face,) = door.store.name_visit(visit, 1, "Ann")
        row = looks(1, 100 * (n + 1) + 1)[0]  # what the track has, too
        door.store.put_vectors("flat", {face: (unit(row[None])[0], row)})
    kept = door.gathered()
    assert kept.locked.all()
    assert len(kept.gallery().owner) == 2
    verified = kept.verified()
    assert not any(teaches(verified.features, kept.gallery().features))
    assert len(verified.features) == 6  # of four faces each one is in the gallery
    assert not lesson(kept, np.ones((2, 1), np.float32)).samples.enrolled.any()
    assert kept.people == (ann.id,)


def test_damaged_sources_teach_nothing(door: Door) -> None:
    ann = door.enrol("Ann", 1, 2)
    first = door.store.faces(ann.id)[0].id
    door.store._db.run("UPDATE faces SET source = zeroblob(length(source)) WHERE id = ?", (first,))
    kept = door.gathered()
    assert [p.id for p, one in zip(kept.photos, kept.locked) if one] == [first]


# Taught.


def test_only_what_is_proven_live_teaches(door: Door) -> None:
    ann = door.enrol("Ann", 1, 2)
    live, unproven, night = door.visit(1), door.visit(1, live=False), door.visit(1, live=False, infrared=True)
    kept = door.gathered()
    shares = shared(kept, {live: ann.id, unproven: ann.id, night: ann.id})
    taught = lesson(kept, shares)
    assert (len(taught.samples.features), taught.unproven) == (4 + 2, 2)
    assert len(lesson(kept, shares, grey=True).samples.features) == 8 + 2
    assert sorted(set(lesson(kept, shares, grey=True).samples.domain.tolist())) == [0, 1, 2]
    door.enrol("Ben", 2, 3, infrared=True)
    samples = lesson(door.gathered(), shared(door.gathered(), {}), grey=True).samples
    assert sorted(samples.domain[samples.enrolled].tolist())[-3:] == [3, 3, 3], "grey photos are no daylight"


def test_twenty_faces_of_a_person_and_day_the_best_of_each_track_first(door: Door) -> None:
    ann, ben = door.enrol("Ann", 1, 2), door.enrol("Ben", 2, 2)
    who = {}
    for _ in range(8):
        who[door.visit(1)] = ann.id
    for _ in range(3):
        who[door.visit(2)] = ben.id
    for _ in range(8):
        door.visit(9)
    who[door.visit(1, day=1)] = ann.id
    kept = door.gathered()
    samples = lesson(kept, shared(kept, who)).samples
    of = kept.known.group
    counts = dict.fromkeys((t.visit for t in kept.tracks), 0)
    for i, track in enumerate(kept.tracks):
        counts[track.visit] = int((samples.group == of[i]).sum())
        if counts[track.visit]:
            best = samples.features[samples.group == of[i]][0]
            np.testing.assert_array_equal(best, track.features[0].astype(np.float32))
    first = [f"V{n:03}" for n in range(1, 9)]
    assert sum(counts[v] for v in first) == FACES_A_DAY
    assert {counts[v] for v in first} == {2, 3}
    assert [counts[f"V{n:03}"] for n in (9, 10, 11)] == [4, 4, 4]
    assert sum(counts[f"V{n:03}"] for n in range(12, 20)) == FACES_A_DAY  # nobody's
    assert counts["V020"] == 4  # another day


def test_before_anything_is_associated_the_quota_is_by_whom_a_track_was_taken_for(door: Door) -> None:
    ann = door.enrol("Ann", 1, 2)
    for _ in range(8):
        door.visit(1, taken_for=ann.id)
    for _ in range(8):
        door.visit(9)
    kept = door.gathered()
    taught = lesson(kept)
    faces = [int((taught.samples.group == g).sum()) for g in taught.group]
    assert (sum(faces[:8]), min(faces[:8])) == (FACES_A_DAY, 2)
    assert faces[8:] == [4] * 8  # of nobody it is not known who is who


def test_no_more_than_so_many_teach_and_photos_are_half_at_most(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACES_MAX", 20)
    door.enrol("Ann", 1, 5)
    door.enrol("Ben", 2, 40)
    for n in range(5):
        door.visit(8, day=n)
    kept = door.gathered()
    samples = lesson(kept, np.zeros((5, 2), np.float32)).samples
    assert (len(samples.features), int(samples.enrolled.sum())) == (20, 10)
    photos = samples.group[samples.enrolled]
    assert sorted(np.unique(photos, return_counts=True)[1].tolist()) == [5, 5]
    # Each track has its two best in before any has its third.
    assert np.unique(samples.group[~samples.enrolled], return_counts=True)[1].tolist() == [2] * 5


def test_groups_shares_and_pairs_apart(door: Door) -> None:
    ann, ben = door.enrol("Ann", 1, 2), door.enrol("Ben", 2, 2)
    both, alone = door.visit(1, 2), door.visit(1)
    kept = door.gathered()
    shares = np.zeros((3, 2), np.float32)
    a, b = kept.people.index(ann.id), kept.people.index(ben.id)
    shares[0, a], shares[1, b], shares[2, a] = 0.9, 0.8, 0.6
    taught = lesson(kept, shares)
    samples = taught.samples
    assert [track.visit for track in kept.tracks] == [both, both, alone]
    assert samples.people == kept.people
    np.testing.assert_allclose(samples.shares[taught.group], shares)
    photos = {int(g) for g in samples.group[samples.enrolled]}
    assert all(samples.shares[g, taught.said[g]] == 1.0 for g in photos)
    assert {tuple(pair) for pair in samples.apart.tolist()} == {
        (int(taught.group[0]), int(taught.group[1])),
        tuple(sorted(photos)),
    }
    assert [taught.day[g] == kept.tracks[i].day for i, g in enumerate(taught.group)] == [True] * 3
    assert taught.said[taught.group].tolist() == [-1, -1, -1]
    # Without labels nobody is anybody's but the photos.
    plain = lesson(kept).samples
    assert not plain.shares[taught.group].any()
    assert len(plain.features) == len(samples.features)


def test_shares_of_the_association_come_by_person(door: Door) -> None:
    door.enrol("Ann", 1, 2)
    ben = door.enrol("Ben", 2, 2)
    door.store.add_device(ben.id, "wifi", "02:00:00:00:00:01", consent={"said": "yes"})
    visit = door.visit(2)
    kept = door.gathered()
    shares = kept.shares(np.array([[0.3, 0.7]]))
    assert visit == kept.tracks[0].visit
    assert shares[0, kept.people.index(ben.id)] == pytest.approx(0.7)
    assert shares.sum() == pytest.approx(0.7)
