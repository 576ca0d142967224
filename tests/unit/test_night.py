"""Faces kept for the night: proposed by devices, asked about, forgotten, expired."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import numpy as np
import pytest
from test_store_samples import NOW, Watch, all_bytes, crop, known

from edgecam.adapt import gather
from edgecam.adapt.constraints import together
from edgecam.adapt.night import Night
from edgecam.associate import associate
from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import Problems
from edgecam.daemon.recorder import Recorder
from edgecam.errors import ConfigError
from edgecam.pipeline.camera import Said
from edgecam.pipeline.operations import execute
from edgecam.store import NotStoredError, Proposal, Store
from edgecam.store.records import pack_floats
from edgecam.types import Floats, Person, Sighting, SightingSource, Tracklet, Transition

KEEP = StoreConfig(cluster_unknown=True)
DIM = 64
DAY_S = 86_400.0


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    config = KEEP.model_copy(update={"backup_dir": tmp_path / "backups"})
    with Store.open(tmp_path / "state", config, clock=watch) as opened:
        yield opened


def look(who: int, seed: int) -> Floats:
    """Return what a face of somebody looks like today."""
    centre = np.random.default_rng(1000 + who).normal(size=DIM)
    return np.asarray(centre + 0.35 * np.random.default_rng(seed).normal(size=DIM), np.float32)


def project(features: Floats) -> Floats:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


def seen(
    visit: str, track: int, features: Floats, first_s: float = 0.0, last_s: float = 4.0, model: str = "m1"
) -> Tracklet:
    return Tracklet(visit, track, "front", model, first_s, last_s, features[None], np.array([0.9], np.float32))


class House:
    """Ann, Ben and Cora with a phone each, and thirty visits."""

    def __init__(self, store: Store, people: Tuple[str, ...] = ("Ann", "Ben", "Cora")) -> None:
        self.store = store
        self.people = [store.add_person(name) for name in people]
        self.phones = [
            store.add_device(p.id, "wifi", f"02:00:00:00:00:0{i}", consent={"said": "yes"})
            for i, p in enumerate(self.people)
        ]
        self.visits = 0

    def visit(self, *who: int, phones: Iterable[int], model: str = "m1") -> str:
        """Let people come; strangers have numbers from ten."""
        self.visits += 1
        visit, opened = f"VIS{self.visits:03}", NOW + 3600.0 * self.visits
        self.store.open_visit(visit, "door", "front", opened)
        for track, one in enumerate(who, 1):
            self.store.add_tracklet(seen(visit, track, look(one, 31 * self.visits + track), model=model))
        for phone in phones:
            sighting = Sighting(self.phones[phone].id, SightingSource.DHCP, opened - 20, Transition.JOIN, 1.0)
            self.store.add_sighting(sighting, [(visit, -20.0)])
        return visit

    def weeks(self) -> None:
        """Everybody comes ten times, alone, with their phone; a stranger comes four times with nobody's."""
        for turn in range(10):
            for one in range(len(self.people)):
                self.visit(one, phones=[one] if turn != 7 else [])
            if turn % 3 == 0:
                self.visit(10, phones=[])

    def ask(self, op: str, **params: Any) -> List[Dict[str, Any]]:
        return list(execute(self.store, {"op": op, **params}))

    def each(self, op: str, **params: Any) -> Iterator[Dict[str, Any]]:
        return iter(self.ask(op, **params))

    def night(self, slot_h: float = 0.0) -> Night:
        watched = gather.watch(self.each, "m1", slot_h)
        return Night.of(watched, associate(watched.scene(project, together(watched.tracks))))

    def keep(self, night: Night) -> Dict[str, Any]:
        return self.ask("proposals.put", proposals=night.proposals(), questions=night.questions())[0]


def test_each_face_is_proposed_to_who_comes_with_it_and_a_stranger_to_nobody(store: Store) -> None:
    house = House(store)
    house.weeks()
    night = house.night()
    assert house.keep(night)["proposals"] == 30
    for visit, who in (("VIS001", "Ann"), ("VIS002", "Ben"), ("VIS003", "Cora")):
        (shown,) = house.ask("visits.show", visit=visit)
        assert [(one["track"], one["person"]) for one in shown["proposed"]] == [(1, who)]
        assert (shown["proposed"][0]["with_device"], shown["proposed"][0]["without_device"]) == (9, 1)
    (stranger,) = house.ask("visits.show", visit="VIS004")
    assert stranger["proposed"] == []


def test_a_proposal_names_nobody(store: Store) -> None:
    house = House(store)
    house.weeks()
    house.keep(house.night())
    (shown,) = house.ask("visits.show", visit="VIS001")
    assert all(track["named"] is None for track in shown["tracks"])
    assert all(row.person_id is None for row in store.tracklets())


def test_a_couple_whose_phones_always_come_together_is_asked_about(store: Store) -> None:
    house = House(store)
    for _ in range(22):
        house.visit(0, 1, phones=[0, 1])
        house.visit(2, phones=[2])
    night = house.night()
    assert night.found.groups == ((0, 1),)
    house.keep(night)
    questions = house.ask("questions.list")
    assert questions
    assert {"Ann", "Ben"} <= set(questions[0]["people"])

    with pytest.raises(ConfigError, match="was not asked about"):
        house.ask("questions.answer", question=questions[0]["question"], name="Cora")
    answered = house.ask("questions.answer", question=questions[0]["question"], name="Ben")[0]
    assert answered["faces"] == len(questions[0]["faces"])
    said = {(row.seen.visit, row.seen.track): row.person_id for row in store.tracklets()}
    assert {said[face["visit"], face["track"]] for face in questions[0]["faces"]} == {house.people[1].id}
    assert len(house.ask("questions.list")) == len(questions) - 1
    # The next night's questions have other names, so that a late answer meets none of them.
    assert questions[0]["question"] not in {question["id"] for question in house.night().questions()}
    # What the user said settles whose face is whose.
    again = house.night()
    assert all(not again.named[i] or again.found.labels[i, 2] == 1.0 for i in range(len(again.tracklets)))
    settled = {tracklet for tracklet, named in zip(again.tracklets, again.named) if named}
    assert settled
    assert not settled & {proposal["tracklet"] for proposal in again.proposals()}
    with pytest.raises(NotStoredError, match="no open question"):
        house.ask("questions.answer", question=questions[0]["question"], name="Ben")


def test_nobody_of_the_house_is_an_answer(store: Store) -> None:
    house = House(store)
    house.weeks()
    rows = [row.id for row in store.tracklets() if row.seen.visit == "VIS001"]
    house.ask("proposals.put", proposals=[], questions=[{"id": "q1", "people": [], "tracklets": rows}])
    house.ask("questions.answer", question="q1", name=None)
    night = house.night()
    assert [night.tracklets[i] for i in range(len(night.tracklets)) if night.named[i]] == rows
    assert night.found.labels[night.tracklets.index(rows[0]), 0] == 1.0


def test_what_the_user_has_said_of_a_face_holds(store: Store) -> None:
    house = House(store)
    house.weeks()
    house.keep(house.night())
    mine, other, stranger = (row.id for row in store.tracklets() if row.seen.visit in ("VIS001", "VIS005", "VIS004"))
    house.ask("proposals.put", proposals=house.night().proposals(), questions=[
        {"id": "q1", "people": [], "tracklets": [mine, other]},
        {"id": "q2", "people": [], "tracklets": [stranger]},
    ])  # fmt: skip
    store.is_person(mine, house.people[1].id)
    assert house.ask("questions.answer", question="q1", name="Cora")[0]["faces"] == 1
    house.ask("questions.answer", question="q2", name=None)
    store.is_person(stranger, house.people[2].id)  # a better idea, later
    named = {row.id: row.person_id for row in store.tracklets()}
    assert [named[row] for row in (mine, other, stranger)] == [house.people[i].id for i in (1, 2, 2)]
    night = house.night()
    assert [night.found.labels[night.tracklets.index(row)].argmax() for row in (mine, other, stranger)] == [2, 3, 3]
    assert store.proposals("VIS001") == store.proposals("VIS005") == []
    assert store.proposals("VIS002")


def test_too_little_is_no_ground_for_a_name(store: Store) -> None:
    house = House(store)
    for _ in range(3):
        house.visit(0, phones=[0])
    night = house.night()
    assert "20 are needed" in night.found.reason
    assert night.proposals() == []


def test_a_phone_bound_to_two_people_says_nothing(store: Store) -> None:
    house = House(store, ("Ann", "Ben"))
    other = store.device(house.phones[0].id)
    store.change_device(house.phones[1].id, address=other.address)
    for _ in range(15):
        house.visit(0, phones=[0])
        house.visit(1, phones=[0])
    night = house.night()
    assert night.proposals() == []
    assert "no device was heard" in night.found.reason


def test_faces_of_another_encoder_are_left_out(store: Store) -> None:
    house = House(store)
    house.weeks()
    house.visit(0, phones=[0], model="m2")
    night = house.night()
    assert night.left_out == 1
    assert len(night.tracklets) == 34


def test_hours_of_an_office_are_events(store: Store) -> None:
    house = House(store)
    house.weeks()
    assert house.night().events == 34
    assert house.night(slot_h=24.0).events == 2


def test_nothing_of_it_is_kept_unless_asked_for(store: Store, watch: Watch) -> None:
    ann = store.add_person("Ann")
    said = Said(known("d1", "v1", 1, ann.id), None, seen("v1", 1, look(0, 1)))
    Recorder(store, AlertsConfig(), StoreConfig(), watch, Problems(), lambda: None).say(said)
    assert store.tracklets() == []
    again = Said(known("d2", "v1", 1, ann.id), None, said.tracklet)
    Recorder(store, AlertsConfig(), KEEP, watch, Problems(), lambda: None).say(again)
    assert [row.seen.track for row in store.tracklets()] == [1]


def test_after_seven_days_it_is_gone(store: Store) -> None:
    house = House(store)
    visit = house.visit(0, phones=[0])
    store.add_visit_picture(visit, 1, crop())
    store.purge(NOW + 6.9 * DAY_S, trusted=True)
    assert len(store.tracklets()) == 1
    store.purge(NOW + 7.1 * DAY_S, trusted=False)
    assert len(store.tracklets()) == 1
    store.purge(NOW + 7.1 * DAY_S, trusted=True)
    assert store.tracklets() == []
    assert not store._db.rows("SELECT 1 FROM keys WHERE owner NOT IN (SELECT id FROM people)")


def forgettable(store: Store) -> Tuple[Person, bytes]:
    """Return somebody with a proposed face, and how the face lies in the file."""
    house = House(store)
    visit = house.visit(0, 1, phones=[0, 1])
    store.add_visit_picture(visit, 1, crop())
    row = next(row for row in store.tracklets() if row.seen.track == 1)
    store.propose([Proposal(row.id, house.people[0].id, 0.9, 5, 0)])
    return house.people[0], bytes(store._db.rows("SELECT features FROM tracklets WHERE id = ?", (row.id,))[0][0])


def test_forgetting_somebody_takes_the_faces_proposed_to_them(store: Store, tmp_path: Path) -> None:
    ann, blob = forgettable(store)
    store.backup()
    assert blob in all_bytes(tmp_path)
    store.forget(ann.id)
    assert blob not in all_bytes(tmp_path)
    assert [row.seen.track for row in store.tracklets()] == [2]


def test_a_backup_brings_faces_back_and_finds_damage(store: Store) -> None:
    forgettable(store)
    path = store.backup()
    kept = [(row.id, pack_floats(row.seen.features)) for row in store.tracklets()]
    store.purge(NOW + 31 * DAY_S, trusted=True)
    assert store.tracklets() == []
    store.restore(path)
    assert [(row.id, pack_floats(row.seen.features)) for row in store.tracklets()] == kept

    store._db.run("UPDATE tracklets SET features = zeroblob(length(features)) WHERE id = ?", (kept[0][0],))
    assert [damage.table for damage in store.damaged()] == ["tracklets"]
    assert [row.id for row in store.tracklets()] == [kept[1][0]]
    assert store.restore(path).mended == 1
    assert len(store.tracklets()) == 2


@pytest.mark.parametrize("proposals", [[{"tracklet": "x"}], [3], [{"tracklet": "x", "person_id": "y", "share": "z"}]])
def test_wrong_proposals_are_refused_and_the_old_ones_stay(store: Store, proposals: List[Any]) -> None:
    house = House(store)
    house.weeks()
    house.keep(house.night())
    with pytest.raises(ConfigError):
        house.ask("proposals.put", proposals=proposals, questions=[])
    assert house.ask("visits.show", visit="VIS001")[0]["proposed"]


def test_at_most_three_questions_are_answered_a_day_however_often_it_is_tuned(store: Store, watch: Watch) -> None:
    house = House(store)
    visit = house.visit(0, phones=[0])
    (row,) = store.tracklets(visit)

    def ask(op: str, **params: Any) -> List[Dict[str, Any]]:
        return list(execute(store, {"op": op, **params}, clock=watch))

    asked = [{"id": f"q{i}", "people": [], "tracklets": [row.id]} for i in range(5)]
    for left in (3, 2, 1, 0):
        ask("proposals.put", proposals=[], questions=asked)
        waiting = [one["question"] for one in ask("questions.list")]
        assert len(waiting) == left
        if waiting:
            ask("questions.answer", question=waiting[0], name=None)
            store._db.run("UPDATE tracklets SET nobody = 0")  # so that there is something to ask about
    watch.now_s += DAY_S
    ask("proposals.put", proposals=[], questions=asked)
    assert len(ask("questions.list")) == 3
