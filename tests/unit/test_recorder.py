"""Words on their way into the store while the people they are about change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
from test_store_samples import Watch, crop, decision, known

from edgecam.alerts.message import finish, moment
from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import BOX, Problems
from edgecam.daemon.recorder import Recorder
from edgecam.errors import StoreError
from edgecam.pipeline.camera import Said
from edgecam.pipeline.visits import Visit
from edgecam.store import Store
from edgecam.types import Liveness, Person, Phase, Tracklet, Verdict

NAME = "Wilhelmina Quux"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", clock=Watch()) as opened:
        yield opened


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def recorder(store: Store, problems: Problems) -> Recorder:
    return Recorder(store, AlertsConfig(), StoreConfig(), Watch(), problems, lambda: None)


@pytest.fixture
def ann(store: Store, recorder: Recorder) -> Person:
    """Somebody who has just been named at the door; the house has heard it."""
    person = store.add_person(NAME)
    recorder.say(Said(known("d1", "v1", 1, person.id, phase=Phase.NAMED), None))
    (event,) = events(store)
    assert (event["phase"], event["person"]) == ("named", NAME)
    store.outbox_delete([row.seq for row in store.outbox_peek()])
    return person


def events(store: Store) -> List[Dict[str, Any]]:
    return [json.loads(row.payload) for row in store.outbox_peek() if row.topic.endswith("/event")]


def nothing_told_of(ann: Person, store: Store) -> None:
    (event,) = events(store)
    assert (event["phase"], event["track"], event["reason"]) == ("final", 1, "forgotten")
    assert (event["person"], event["person_id"], event["candidates"]) == (None, None, [])
    payloads = b"".join(finish(row.topic, row.payload, moment(Watch())) for row in store.outbox_peek())
    assert NAME.encode() not in payloads
    assert ann.id.encode() not in payloads
    assert {(word.person_id, word.candidates, word.reason) for word in store.visits()[0].decisions} == {
        (None, (), "forgotten")
    }


def test_a_last_word_that_waits_goes_out_without_the_forgotten(store: Store, recorder: Recorder, ann: Person) -> None:
    recorder.say(Said(known("d2", "v1", 1, ann.id), crop()))
    assert events(store)[0]["person"] == NAME
    store.forget(ann.id)
    nothing_told_of(ann, store)


def test_a_last_word_decided_before_the_forgetting_and_stored_after(
    store: Store, recorder: Recorder, ann: Person
) -> None:
    store.forget(ann.id)
    recorder.say(Said(known("d2", "v1", 1, ann.id), crop()))
    nothing_told_of(ann, store)


def test_a_word_that_waited_in_memory_is_told_without_the_forgotten(
    store: Store, recorder: Recorder, problems: Problems, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "record", full)
        recorder.say(Said(known("d2", "v1", 1, ann.id), crop()))
    assert recorder.waiting == 1
    assert "disk full" in problems.of(BOX)["store_failing"]
    store.forget(ann.id)
    recorder.retry()
    assert recorder.waiting == 0
    nothing_told_of(ann, store)


def test_of_two_candidates_the_other_is_still_told(store: Store, recorder: Recorder) -> None:
    ann, ben = store.add_person(NAME), store.add_person("Ben")
    doubt = decision("d1", "v1", verdict=Verdict.UNCERTAIN, candidates=(ann.id, ben.id))
    recorder.say(Said(doubt, None))
    assert events(store)[0]["candidates"] == [NAME, "Ben"]
    store.forget(ann.id)
    (event,) = events(store)
    assert (event["event_type"], event["candidates"], event["reason"]) == ("uncertain", ["Ben"], "forgotten")


def test_live_strangers_are_kept_as_features_where_wanted_until_somebody_new_is_enrolled(
    tmp_path: Path, problems: Problems
) -> None:
    keep = StoreConfig(local_strangers=True)
    features = np.array([[1.0, 3.0], [3.0, 5.0]], np.float32)
    with Store.open(tmp_path / "other", keep, clock=Watch()) as store:
        told = Recorder(store, AlertsConfig(), keep, Watch(), problems, lambda: None)

        def say(number: int, verdict: Verdict, liveness: Liveness) -> None:
            word = decision(f"d{number}", "v1", number, verdict=verdict, liveness=liveness)
            seen = Tracklet("v1", number, "front", "base", 0.0, 1.0, features, np.array([0.5, 0.5], np.float32))
            told.say(Said(word, None, seen))

        say(1, Verdict.UNKNOWN, Liveness.LIVE)
        say(2, Verdict.UNKNOWN, Liveness.UNPROVEN)
        say(3, Verdict.UNCERTAIN, Liveness.LIVE)
        assert store.stranger_features("base").tolist() == [[2.0, 4.0]]
        store.add_person("Nanny")
        assert not len(store.stranger_features("base"))


def test_a_visit_is_not_over_before_its_last_word_is_stored(
    store: Store, recorder: Recorder, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word is large, the end of the visit is small: on a nearly full disk one fits and the other does not."""
    visit, other = Visit("door", "v1"), Visit("yard", "v2")
    recorder.opened(visit, "front")
    recorder.opened(other, "back")

    def full(*_: object) -> bool:
        raise StoreError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "record", full)
        recorder.say(Said(decision("d1", "v1"), crop()))
        recorder.closed(visit)
        recorder.closed(other)
        assert recorder.waiting == 2
        assert [one.id for one in store.interrupted_visits()] == ["v1"], "a kill now would be told of"
    recorder.retry()
    assert (recorder.waiting, problems.of(BOX)) == (0, {})
    assert store.interrupted_visits() == []
    assert store.visit("v1").latest[1].id == "d1"
