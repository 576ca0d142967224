"""One flipped byte in a sealed entry: it is found, told, left out or mended, and everybody else goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
import pytest
from test_store_samples import NOW, Watch, crop, embedding, known

from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.daemon.keeper import BACKUP_KEY, Keeper
from edgecam.daemon.recorder import Recorder
from edgecam.errors import DamagedError, StoreError
from edgecam.pipeline.household import load_household
from edgecam.pipeline.operations import execute
from edgecam.store import NotStoredError, Store
from edgecam.types import FaceCrop, Floats, Person

SEALED = [
    ("keys", "wrapped"),
    ("people", "name"),
    ("people", "consent"),
    ("faces", "source"),
    ("crops", "crop"),
    ("vectors", "vector"),
    ("features", "features"),
    ("visits", "summary"),
    ("decisions", "body"),
    ("pictures", "crop"),
    ("devices", "body"),
    ("outbox", "payload"),
    ("settings", "value"),
    ("strangers", "features"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    config = StoreConfig(backup_dir=tmp_path / "backups", local_strangers=True)
    with Store.open(tmp_path / "state", config, clock=Watch()) as opened:
        yield opened


def live_with(store: Store, name: str, seed: int) -> Person:
    """Store one of everything; vectors as `Encoder` would make them."""
    person = store.add_person(name, consent={"by": name})
    for i in range(2):
        picture = crop(seed + i)
        face_id = store.add_face(person.id, picture, quality=1.0, source=f"{name} {i}")
        features = Encoder().features([picture])
        store.put_vectors("m1", {face_id: (Encoder().project(features)[0], features[0])})
    visit = f"visit{seed}"
    store.record(known(f"d{seed}", visit, 1, person.id), [("event", f"{name} came".encode(), True)])
    store.add_visit_picture(visit, 1, crop(seed + 5))
    store.close_visit(visit, NOW, {"tracks": 1})
    store.add_device(person.id, "wifi", f"02:00:00:00:00:{seed % 90:02}")
    store.put(f"key{seed}", name)
    store.add_stranger_features("m1", embedding(seed).features)
    return store.person(person.id)


class Encoder:
    """Vectors from the picture's bytes: equal pictures, equal vectors."""

    version, base, dim = "m1", "m1", 8

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        return np.array([one.image.reshape(-1)[:8] for one in crops], np.float32).reshape(-1, 8) + 1

    def project(self, features: Floats) -> Floats:
        vectors: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    @property
    def installed(self) -> Encoder:
        return self

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> Encoder:
        raise AssertionError(f"nothing is tuned here: {version} {sorted(heads)}")


def flip(store: Store, table: str, column: str, row: int = 0) -> None:
    """Flip one bit of a sealed entry, where SQLite's own check cannot see it."""
    rowid, blob = store._db.rows(f"SELECT rowid, {column} FROM {table} ORDER BY rowid LIMIT 1 OFFSET ?", (row,))[0]  # noqa: S608
    damaged = bytearray(blob)
    damaged[len(damaged) // 2] ^= 1
    store._db.run(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (bytes(damaged), rowid))  # noqa: S608
    store._db.run("UPDATE meta SET number = number + 1 WHERE key = 'generation'")
    store._keys.clear()


def ask(store: Store) -> Any:
    return lambda op, **params: execute(store, {"op": op, **params})


def found(store: Store) -> List[Tuple[str, str]]:
    return [(damage.table, damage.column) for damage in store.damaged()]


@pytest.mark.parametrize(("table", "column"), SEALED)
def test_one_flipped_bit_anywhere_stops_nobody_else(store: Store, table: str, column: str) -> None:
    live_with(store, "Ann", 100)
    ben = live_with(store, "Ben", 200)
    assert store.problems() == []
    flip(store, table, column)
    assert found(store) == [(table, column)]
    assert [line.split(":")[0] for line in store.problems()] == [table]

    household, names = load_household(ask(store), Encoder())
    assert names[ben.id] == "Ben"
    assert list(household.owner).count(household.people.index(ben.id)) == 2
    assert [person.name for person in store.people()][1] == "Ben"
    assert len(store.faces(store.people()[0].id)) == 2
    assert [visit.id for visit in store.visits()] == ["visit200", "visit100"]
    assert [row.payload for row in store.outbox_peek()][-1] == b"Ben came"
    assert (store.get("key100", "none"), store.get("key200")) == ("none" if table == "settings" else "Ann", "Ben")
    assert len(store.stranger_features("m1")) == (0 if table == "strangers" else 1)  # Ann's went when Ben came
    assert len(store.find_devices("wifi", "02:00:00:00:00:20")) == 1
    assert len(store.export(ben.id)["faces"]) == 2
    assert len(store.export(store.people()[0].id)["faces"]) == 2

    store.forget(ben.id)
    with pytest.raises(NotStoredError):
        store.person(ben.id)
    store.forget(store.people()[0].id)
    assert store.people() == []


@pytest.mark.parametrize(("table", "column"), SEALED)
def test_a_damaged_backup_is_refused_and_a_sound_one_mends(store: Store, table: str, column: str) -> None:
    live_with(store, "Ann", 100)
    good = store.backup()
    store.put("later", 1)
    waiting = [row.payload for row in store.outbox_peek()]
    flip(store, table, column)
    bad = store.backup()
    if table != "outbox":  # a backup has none
        before = store.people(), store.visits(), store.generation(), found(store)
        for mode in ("replace", "merge"):
            with pytest.raises(StoreError, match=rf"{bad.name} is damaged \({table}:.*take another backup") as told:
                store.restore(bad, mode)
            assert "Ann" not in str(told.value)
        assert (store.people(), store.visits(), store.generation(), found(store)) == before
        assert store.restore(good, "merge").mended == 1
        assert store.problems() == []
        assert [row.payload for row in store.outbox_peek()] == waiting
    assert store.people()[0].name == "Ann"
    assert store.get("later") == 1
    assert store.restore(good, "replace").mended == 0
    assert store.get("later") is None


def test_a_damaged_vector_is_made_anew_from_the_picture(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    live_with(store, "Ann", 100)
    before = store.gallery("m1").vectors, store.features("m1").vectors
    for table, column in (("vectors", "vector"), ("features", "features")):
        flip(store, table, column)
        household, _ = load_household(ask(store), Encoder())
        assert len(household.vectors) == 2
        assert store.problems() == []
        assert np.array_equal(store.gallery("m1").vectors, before[0])
        assert np.array_equal(store.features("m1").vectors, before[1])
    assert caplog.messages == []


def test_what_is_lost_is_told_in_one_line_without_names(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ann = live_with(store, "Ann", 100)
    live_with(store, "Ben", 200)
    faces = [face.id for face in store.faces(ann.id)]
    flip(store, "crops", "crop")
    assert len(load_household(ask(store), Encoder())[0].vectors) == 4, "the vector is still there"
    assert caplog.messages == []
    flip(store, "vectors", "vector")
    generation = store.generation()
    with caplog.at_level(logging.WARNING):
        household, names = load_household(ask(store), Encoder())
    assert len(household.vectors) == 3
    assert store.generation() == generation, "nothing was made, nothing has changed"
    (line,) = caplog.messages
    assert line.startswith(f"1 damaged faces are left out ({faces[0]}): `edgecam doctor`")

    caplog.clear()
    flip(store, "crops", "crop", 1)
    flip(store, "vectors", "vector", 1)
    household, names = load_household(ask(store), Encoder())
    assert names[ann.id] == "Ann"
    assert ann.id not in household.people
    (line,) = caplog.messages
    assert f"2 damaged faces are left out ({faces[0]}, {faces[1]}); nothing is left of person {ann.id}" in line
    assert "Ann" not in line
    assert store.person(ann.id).faces == 2, "nothing is deleted"


def test_a_damaged_key_takes_only_its_owner_along(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ann = live_with(store, "Ann", 100)
    live_with(store, "Ben", 200)
    flip(store, "keys", "wrapped")
    household, names = load_household(ask(store), Encoder())
    assert (names[ann.id], len(household.people)) == (ann.id, 1)
    assert f"nothing is left of person {ann.id}" in caplog.text
    assert [(damage.table, damage.owner) for damage in store.damaged()] == [("keys", ann.id)]
    with pytest.raises(DamagedError, match="edgecam doctor"):
        store.merge(store.people()[1].id, ann.id)
    assert len(store.people()) == 2


def test_a_damaged_mark_of_the_key_locks_nobody_out(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_person("Ann")
        store._db.run("UPDATE meta SET data = randomblob(length(data)) WHERE key = 'key_check'")
    for _ in range(2):
        with Store.open(tmp_path) as store:
            assert store.people()[0].name == "Ann"
            assert store._db.rows("SELECT count(*) FROM meta WHERE key = 'key_check'") == [(1,)]


def test_a_damaged_alert_is_dropped_and_counted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.outbox_put([("t", b"one", True), ("t", b"two", True)])
    flip(store, "outbox", "payload")
    assert [row.payload for row in store.outbox_peek(1)] == []
    assert (store.outbox_size(), store.outbox_dropped()) == (1, 1)
    assert [row.payload for row in store.outbox_peek(1)] == [b"two"]
    assert "1 waiting alerts are damaged" in caplog.text


def test_who_is_forgotten_leaves_no_unreadable_trace(store: Store) -> None:
    """What cannot be read may tell of the person, so it goes, too."""
    ann = live_with(store, "Ann", 100)
    for table, column in (("decisions", "body"), ("outbox", "payload"), ("settings", "value"), ("visits", "summary")):
        flip(store, table, column)
    store.forget(ann.id)
    assert found(store) == []
    left: Dict[str, int] = {
        table: store._db.rows(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608
        for table in ("decisions", "outbox", "settings")
    }
    assert left == {"decisions": 0, "outbox": 0, "settings": 0}


def test_damage_does_not_push_sound_backups_out(store: Store, tmp_path: Path) -> None:
    live_with(store, "Ann", 100)
    clock, problems, config = Watch(), Problems(), StoreConfig(backup_dir=tmp_path / "backups")
    recorder = Recorder(store, AlertsConfig(), config, clock, problems, lambda: None)
    keeper = Keeper(store, config, clock, problems, Beats(clock), recorder, lambda: None)
    old = [store.backup() for _ in range(16)]
    flip(store, "crops", "crop")
    keeper._turn()
    assert all(path.exists() for path in old)
    assert "1 entries are damaged" in problems.of(BOX)["store_damaged"]
    store.restore(old[0])
    store.put(BACKUP_KEY, None)
    clock.sleep(86_400.0)
    keeper._turn()
    assert problems.of(BOX) == {}
    assert len(list((tmp_path / "backups").glob("*.db"))) == 14


TORN = [
    pytest.param("DELETE FROM crops WHERE face_id = (SELECT min(id) FROM faces)", "has no picture", id="picture"),
    pytest.param("UPDATE vectors SET vector = x'00' WHERE rowid = 1", "of m1 differ in length", id="vectors"),
    pytest.param("INSERT INTO tombstones SELECT min(id), NULL, 0, 1 FROM faces", "was deleted, and is", id="face"),
    pytest.param("UPDATE decisions SET person_id = 'X'", "names somebody who is not there", id="nobody"),
    pytest.param("UPDATE decisions SET track = 7", "says something else than its row", id="decision"),
    pytest.param("UPDATE versions SET state = 'active'", "more than one head is in service for base", id="two-heads"),
    pytest.param("UPDATE versions SET state = 'refused' WHERE number = 1", "is kept that nobody may use", id="refused"),
    pytest.param("DELETE FROM heads WHERE version IN (SELECT id FROM versions WHERE number = 2)", "v2", id="no-head"),
    pytest.param(
        "INSERT INTO version_people SELECT min(versions.id), 'X' FROM versions; INSERT INTO tombstones VALUES "
        "('X', NULL, 0, 1)",
        "has learnt from somebody who was forgotten",
        id="taught",
    ),
]


@pytest.mark.parametrize(("sql", "told"), TORN)
def test_what_does_not_fit_together_is_told(store: Store, sql: str, told: str) -> None:
    live_with(store, "Ann", 100)
    for number in (1, 2):
        store.put_version("base", {"head": bytes([number])}, (), {}, accepted=True)
    assert store.problems() == []
    store._db._connection.executescript(sql)
    assert told in "\n".join(store.torn())
    (answer,) = ask(store)("check")
    assert set(store.torn()) <= set(answer["problems"])
    if told != "of m1 differ in length":  # these are damaged as well
        assert store.problems() == list(store.torn())
