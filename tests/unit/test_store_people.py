from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from test_store_samples import Watch, all_bytes, crop, embedding, known

from edgecam.config import StoreConfig
from edgecam.errors import ConfigError, ShapeError, StoreError
from edgecam.store import NameTakenError, NotStoredError, Store, clean_name, new_ulid
from edgecam.types import Embeddings, Role


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(local_strangers=True), clock=Watch()) as opened:
        yield opened


def test_an_empty_store_has_nobody(store: Store) -> None:
    assert store.people() == []
    assert store.find_person("Ann") is None
    gallery = store.gallery("m1")
    assert (gallery.person_ids, gallery.face_ids, gallery.vectors.shape, gallery.qualities.shape) == (
        (),
        (),
        (0, 0),
        (0,),
    )
    assert store.missing("m1") == []
    assert store.interrupted_visits() == []
    assert store.stranger_features("m1").shape == (0, 0)


def test_people_survive_a_restart(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        added = store.add_person("Zoë Ångström", Role.STAFF, {"date": "2026-01-01"})
    with Store.open(tmp_path) as store:
        assert store.people() == [added]
        assert store.person(added.id) == added


@pytest.mark.parametrize("query", ["zoë", "ZOË", " Zoe\u0308 "])
def test_names_are_found_in_any_case_and_form(store: Store, query: str) -> None:
    person = store.add_person("Zoë")
    assert store.find_person(query) == person
    assert store.find_person(person.id.lower()) == person
    with pytest.raises(NameTakenError, match="'Zoë' already"):
        store.add_person(query)


@pytest.mark.parametrize("name", ["", "  ", "a" * 81, "a\nb", "a\x00", "a\u202eb", "\ud800", "a\u2028b"])
def test_unusable_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        store.add_person(name)
    assert store.people() == []


@pytest.mark.parametrize(("name", "kept"), [(" Ann ", "Ann"), ("a" * 80, "a" * 80), ("नि\u200dक", "नि\u200dक")])
def test_usable_names_are_trimmed(name: str, kept: str) -> None:
    assert clean_name(name) == kept


def test_rename_and_role(store: Store) -> None:
    ann, ben = store.add_person("Ann"), store.add_person("Ben")
    assert store.rename(ann.id, "ANN").name == "ANN"
    with pytest.raises(NameTakenError):
        store.rename(ann.id, "ben")
    assert store.set_role(ben.id, Role.BLOCKED).role is Role.BLOCKED
    assert store.set_consent(ben.id, {"scope": "door"}).consent == {"scope": "door"}
    assert [row.action for row in store.audit_log()] == ["consent", "role blocked", "rename"]


def test_unknown_ids_are_said_so(store: Store) -> None:
    calls = (
        lambda: store.person("X"),
        lambda: store.rename("X", "Ann"),
        lambda: store.set_role("X", Role.STAFF),
        lambda: store.forget("X"),
        lambda: store.export("X"),
        lambda: store.crop("X"),
        lambda: store.remove_face("X"),
        lambda: store.add_face("X", crop(), quality=1.0, source=""),
        lambda: store.visit("X"),
        lambda: store.close_visit("X", 0.0),
        lambda: store.picture("X", 1),
        lambda: store.add_visit_picture("X", 1, crop()),
        lambda: store.ignore_visit("X"),
    )
    for call in calls:
        with pytest.raises(NotStoredError):
            call()
    assert store.faces("X") == []
    assert store.audit_log() == []


def test_a_face_comes_back_as_it_was(store: Store) -> None:
    ann = store.add_person("Ann")
    face_id = store.add_face(
        ann.id, crop(1), quality=0.5, source="photos/ann.jpg", infrared=True, yaw_deg=-12.5, embedding=embedding(1)
    )
    assert np.array_equal(store.crop(face_id).image, crop(1).image)
    (face,) = store.faces(ann.id)
    assert (face.id, face.person_id, face.source, face.quality, face.infrared, face.yaw_deg) == (
        face_id,
        ann.id,
        "photos/ann.jpg",
        0.5,
        True,
        -12.5,
    )
    assert store.person(ann.id).faces == 1
    gallery = store.gallery("m1")
    assert (gallery.person_ids, gallery.face_ids, gallery.qualities.tolist()) == ((ann.id,), (face_id,), [0.5])
    assert np.array_equal(gallery.vectors, embedding(1).vectors)
    assert np.array_equal(store.features("m1").vectors, embedding(1).features)


def test_vectors_of_models_are_kept_apart(store: Store) -> None:
    ann = store.add_person("Ann")
    first = store.add_face(ann.id, crop(1), quality=1.0, source="", embedding=embedding(1))
    second = store.add_face(ann.id, crop(2), quality=1.0, source="")
    assert (store.missing("m1"), store.missing("m2")) == ([second], [first, second])
    wide = embedding(3, "m2", dim=512)
    store.put_vectors("m2", dict.fromkeys((first, second, "GONE"), (wide.vectors[0], wide.features[0])))
    assert store.missing("m2") == []
    assert store.gallery("m1").vectors.shape == (1, 128)
    assert store.gallery("m2").vectors.shape == (2, 512)
    store.put_vectors("m1", {first: (embedding(9).vectors[0], embedding(9).features[0])})
    assert np.array_equal(store.gallery("m1").vectors, embedding(9).vectors)
    assert store.remove_vectors("m2") == 2
    assert store.gallery("m2").face_ids == store.features("m2").face_ids == ()


def test_an_embedding_of_two_faces_is_a_bug(store: Store) -> None:
    ann, one = store.add_person("Ann"), embedding()
    two = Embeddings(np.repeat(one.vectors, 2, 0), np.repeat(one.features, 2, 0), "m1")
    with pytest.raises(ShapeError):
        store.add_face(ann.id, crop(), quality=1.0, source="", embedding=two)


def test_removing_a_face_removes_its_picture_and_vectors(store: Store) -> None:
    ann = store.add_person("Ann")
    face_id = store.add_face(ann.id, crop(), quality=1.0, source="", embedding=embedding())
    store.remove_face(face_id)
    counts = [
        store._db.rows(f"SELECT count(*) FROM {t}")[0][0]  # noqa: S608
        for t in ("faces", "crops", "vectors", "features")
    ]
    assert counts == [0, 0, 0, 0]


def test_an_enrolment_is_all_or_nothing(store: Store) -> None:
    generation = store.generation()
    with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
        ann = store.add_person("Ann")
        store.add_face(ann.id, crop(), quality=1.0, source="", embedding=embedding())
        raise RuntimeError
    assert (store.people(), store.gallery("m1").face_ids, store.generation()) == ([], (), generation)
    with pytest.raises(NotStoredError):
        store.add_face(ann.id, crop(), quality=1.0, source="")


def test_a_failed_part_of_a_transaction_fails_alone(store: Store) -> None:
    with store.transaction():
        store.add_person("Ann")
        with pytest.raises(NameTakenError):
            store.add_person("ann")
        store.add_person("Ben")
    assert [person.name for person in store.people()] == ["Ann", "Ben"]


def test_the_generation_rises_with_every_change(store: Store) -> None:
    seen = [store.generation()]

    def rose() -> bool:
        seen.append(store.generation())
        return seen[-1] > seen[-2]

    ann = store.add_person("Ann")
    assert rose()
    face = store.add_face(ann.id, crop(), quality=1.0, source="")
    assert rose()
    store.put_vectors("m1", {face: (embedding().vectors[0], embedding().features[0])})
    assert rose()
    store.rename(ann.id, "Anna")
    assert rose()
    store.set_role(ann.id, Role.KNOWN)
    assert rose()
    ben = store.add_person("Ben")
    assert rose()
    store.merge(ann.id, ben.id)
    assert rose()
    store.remove_face(face)
    assert rose()
    store.forget(ann.id)
    assert rose()
    store.put("x", 1)
    store.people()
    assert not rose()


def test_merge_moves_faces_visits_and_decisions(store: Store) -> None:
    ann, other = store.add_person("Ann"), store.add_person("Anna")
    store.add_face(ann.id, crop(1), quality=1.0, source="a", embedding=embedding(1))
    moved = store.add_face(other.id, crop(2), quality=0.5, source="b", embedding=embedding(2))
    store.record(known("d1", "v1", 1, other.id, candidates=(ann.id, other.id)))
    person = store.merge(ann.id, other.id)
    assert (person.name, person.faces) == ("Ann", 2)
    assert store.people() == [person]
    assert [face.source for face in store.faces(ann.id)] == ["a", "b"]
    assert np.array_equal(store.crop(moved).image, crop(2).image)
    assert set(store.gallery("m1").person_ids) == {ann.id}
    assert store.features("m1").vectors.shape == (2, 256)
    (word,) = store.visit("v1").decisions
    assert (word.person_id, word.candidates, word.reason) == (ann.id, (ann.id,), "")
    assert [row[0] for row in store._db.rows("SELECT owner FROM keys")] == [ann.id]
    with pytest.raises(ConfigError):
        store.merge(ann.id, ann.id)


def test_export_holds_everything(store: Store) -> None:
    ann = store.add_person("Ann", consent={"date": "2026-01-01"})
    store.add_face(ann.id, crop(1), quality=1.0, source="a", embedding=embedding(1))
    store.record(known("d1", "v1", 1, ann.id))
    store.record(known("d2", "v2", 1, None, candidates=(ann.id,)))
    store.record(known("d3", "v3", 1, "SOMEBODY"))
    store.add_visit_picture("v1", 1, crop(2))
    told = store.export(ann.id, actor="test")
    assert (told["person"]["name"], told["person"]["consent"]) == ("Ann", {"date": "2026-01-01"})
    assert told["faces"][0]["png"].startswith(b"\x89PNG")
    assert np.array_equal(told["faces"][0]["vectors"]["m1"], embedding(1).vectors[0])
    assert np.array_equal(told["faces"][0]["features"]["m1"], embedding(1).features[0])
    assert [d["id"] for d in told["decisions"]] == ["d1", "d2"]
    assert [(p["visit"], p["track"], p["png"][:4]) for p in told["visit_pictures"]] == [("v1", 1, b"\x89PNG")]
    assert told["audit"][-1]["action"] == "export"
    json.dumps({**told["person"], "decisions": told["decisions"], "audit": told["audit"]})


def test_settings_keep_json_values(store: Store) -> None:
    assert store.get("tau", 7) == 7
    store.put("tau", {"m1": [0.5, None]})
    store.put("tau", {"m1": [0.25]})
    assert store.get("tau") == {"m1": [0.25]}
    store.put("tau", None)
    assert store.get("tau") is None


def test_strangers_are_kept_only_if_wanted(store: Store, tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    store.add_stranger_features("m1", rows)
    assert np.array_equal(store.stranger_features("m1"), rows)
    assert store.stranger_features("m2").shape == (0, 0)
    with Store.open(tmp_path / "other") as other:
        other.add_stranger_features("m1", rows)
        assert other.stranger_features("m1").shape == (0, 0)


def test_no_name_and_no_vector_lies_in_the_clear(store: Store) -> None:
    name = "Wilhelmina Quux"
    person = store.add_person(name, consent={"by": name})
    vector = embedding(5)
    store.add_face(person.id, crop(1), quality=1.0, source=f"/photos/{name}/1.jpg", embedding=vector)
    store.record(known("d1", "v1", 1, person.id, reason=name), [("t", json.dumps({"person": name}).encode(), True)])
    store.close_visit("v1", 1.0, {"who": name})
    store.put("people", [name])
    store.add_stranger_features("m1", vector.features)
    found = all_bytes(store.path.parent)
    assert person.id.encode() in found  # the search itself works
    for secret in (
        *(name.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")),
        b"Wilhelmina",
        vector.vectors.tobytes()[:32],
        vector.features.tobytes()[:32],
        crop(1).image.tobytes()[:32],
        b"\x89PNG",
    ):
        assert secret not in found


def test_the_audit_log_cannot_be_changed(store: Store) -> None:
    store.audit("ann", "view", "v1/1")
    for sql in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with pytest.raises(StoreError, match="append-only"):
            store._db.run(sql)
    assert [row[1:] for row in store.audit_log()] == [("ann", "view", "v1/1")]


def test_ids_sort_by_time_and_do_not_meet() -> None:
    ids = [new_ulid(t / 1000) for t in range(2000)]
    assert ids == sorted(ids)
    assert len({new_ulid(1.0) for _ in range(2000)}) == 2000
    assert [len(new_ulid(t)) for t in (-5.0, 0.0, 1e15)] == [26, 26, 26]


def test_a_big_gallery_is_read_fast(store: Store) -> None:
    """500 people x 10 faces x 512 values: what a restart waits for."""
    picture = crop(0, 8, 8)
    with store.transaction():
        people = [store.add_person(f"P{i}").id for i in range(2)]
        for i in range(498):
            person_id = store._new_id()
            key = store._new_key(person_id)
            name, consent = (
                key.seal(f"people:{person_id}:name", b"N%d" % i),
                key.seal(f"people:{person_id}:consent", b"{}"),
            )
            store._db.run("INSERT INTO people VALUES (?, 'known', 0, ?, ?)", (person_id, name, consent))
            people.append(person_id)
        one = embedding(1, dim=512, features=1792)
        for person_id in people:
            for _ in range(10):
                store.add_face(person_id, picture, quality=1.0, source="", embedding=one)
    store._keys.clear()
    start = time.perf_counter()
    gallery = store.gallery("m1")
    assert time.perf_counter() - start < 1.0
    assert gallery.vectors.shape == (5000, 512)
    start = time.perf_counter()
    assert len(store.people()) == 500
    assert time.perf_counter() - start < 1.0
