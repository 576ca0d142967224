"""Forgetting is proven by searching every byte of the state folder and of its backups."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Dict, Iterator, List, Literal, Tuple

import cv2
import numpy as np
import pytest
from test_store_samples import NOW, Watch, all_bytes, crop, embedding, known

from edgecam.config import StoreConfig
from edgecam.errors import ConfigError, KeyMissingError, StoreError
from edgecam.store import BACKUP_NOTE, Store
from edgecam.store.records import crop_png, pack_crop
from edgecam.store.vault import new_key, write_private
from edgecam.types import Person, Role, Sighting, SightingSource, Transition

MODES: Tuple[Literal["merge", "replace"], ...] = ("merge", "replace")
NAME = "Wilhelmina Quux"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(backup_dir=folder), clock=Watch()) as opened:
        yield opened


def live_with(store: Store, name: str, seed: int) -> Person:
    """Store everything that can be stored about a person."""
    person = store.add_person(name, Role.RESIDENT, {"signed": name})
    for i in range(3):
        store.add_face(person.id, crop(seed + i), quality=1.0, source=f"/p/{name}.jpg", embedding=embedding(seed + i))
    visit = f"visit{seed}"
    store.open_visit(visit, "door", "front", NOW)
    text = json.dumps({"person": name}).encode()
    store.record(known(f"d{seed}", visit, 1, person.id, reason=name), [("event", text, True)])
    store.record(known(f"e{seed}", visit, 2, None, candidates=(person.id, "OTHER")), [("event", b'{"x":1}', True)])
    store.outbox_put([("ring", json.dumps({"text": f"{name} rang"}).encode(), True)])
    for track in (1, 2, 3):
        store.add_visit_picture(visit, track, crop(seed + 10 * track))
    store.close_visit(visit, NOW, {"who": [name]})
    store.put(f"radius{seed}", {person.id: 0.5})
    device = store.add_device(person.id, "wifi", mac(seed).hex(":"), label=name, consent={"signed": name})
    store.add_sighting(Sighting(device.id, SightingSource.SNIFF, NOW, Transition.JOIN, 1.0), [(visit, 0.0)])
    return person


def mac(seed: int) -> bytes:
    return b"\x5c\x51\x4f" + seed.to_bytes(3, "big")


def blobs_of(store: Store, person_id: str, seed: int) -> Dict[str, bytes]:
    """Return the ciphertexts and wrapped keys of a person as they lie in the file."""
    rows = store._db.rows
    found = {"wrapped key": rows("SELECT wrapped FROM keys WHERE owner = ?", (person_id,))[0][0]}
    found["visit key"] = rows("SELECT wrapped FROM keys WHERE owner = ?", (f"visit{seed}",))[0][0]
    found["name"] = rows("SELECT name FROM people WHERE id = ?", (person_id,))[0][0]
    for table, column in (("crops", "crop"), ("vectors", "vector"), ("features", "features")):
        sql = f"SELECT {column} FROM {table} WHERE face_id IN (SELECT id FROM faces WHERE person_id = ?)"  # noqa: S608
        found |= {f"{table} {i}": row[0] for i, row in enumerate(rows(sql, (person_id,)))}
    found["address hash"], found["device"] = rows(
        "SELECT address_hash, body FROM devices WHERE person_id = ?", (person_id,)
    )[0]
    sql = "SELECT crop FROM pictures WHERE visit = ? AND track < 3"
    found |= {f"picture {i}": row[0] for i, row in enumerate(rows(sql, (f"visit{seed}",)))}
    return found


def plain_of(name: str, seed: int) -> Dict[str, bytes]:
    """Return what could betray a person in the clear."""
    plain = {code: name.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")}
    plain |= {f"base64 {shift}": base64.b64encode(b"x" * shift + name.encode())[4:-4] for shift in range(3)}
    plain |= {
        "address": mac(seed),
        "address text": mac(seed).hex(":").encode(),
        "address hex": mac(seed).hex().encode(),
    }
    for i in (0, 1, 2, 10, 20):
        picture, vector = crop(seed + i), embedding(seed + i)
        plain[f"raw {i}"] = picture.image.tobytes()[:48]
        plain[f"png {i}"] = crop_png(pack_crop(picture))[60:108]
        plain[f"jpeg {i}"] = cv2.imencode(".jpg", picture.image)[1].tobytes()[700:748]
        plain[f"vector {i}"] = vector.vectors.tobytes()[:24]
        plain[f"features {i}"] = vector.features.tobytes()[:24]
    return plain


def traces(blobs: Dict[str, bytes], found: bytes) -> List[str]:
    """Return which blobs left any 16 bytes on the disk, looked for at several places of each."""
    return [
        name
        for name, blob in blobs.items()
        if any(blob[at : at + 16] in found for at in {0, 12, len(blob) // 2, len(blob) - 16} if at >= 0)
    ]


def test_the_search_finds_what_is_there(store: Store, folder: Path) -> None:
    ann = live_with(store, NAME, 100)
    store.backup()
    blobs = blobs_of(store, ann.id, 100)
    found = all_bytes(store.path.parent)
    assert traces(blobs, found) == list(blobs)
    # SQLite scatters a long blob over pages: what lies between is found in the backup too.
    assert set(traces(blobs, all_bytes(folder))) == set(blobs)


def test_forget_leaves_nothing_of_a_person(store: Store, folder: Path) -> None:
    others = [live_with(store, f"Somebody {i}", 1000 * i) for i in range(1, 4)]
    ann = live_with(store, NAME, 100)
    store.rename(ann.id, NAME + " II")
    store.rename(ann.id, NAME)
    blobs = blobs_of(store, ann.id, 100)
    store.backup()
    copies = sorted(folder.iterdir())
    generation = store.generation()
    store.forget(ann.id, actor="test")
    assert store.path.with_name("edgecam.db-wal").stat().st_size == 0
    for found in (all_bytes(store.path.parent), all_bytes(folder)):
        assert traces(blobs, found) == []
        assert [what for what, secret in plain_of(NAME, 100).items() if secret in found] == []
    assert sorted(folder.iterdir()) == copies
    assert store.generation() > generation
    assert {person.id for person in store.people()} == {person.id for person in others}
    for other, seed in zip(others, (1000, 2000, 3000)):
        assert np.array_equal(store.crop(store.faces(other.id)[2].id).image, crop(seed + 2).image)
        assert store.visit(f"visit{seed}").pictured == (1, 2, 3)
        assert np.array_equal(store.picture(f"visit{seed}", 1).image, crop(seed + 10).image)
    visit = store.visit("visit100")
    assert (visit.summary, visit.pictured) == ({}, (3,))
    assert [(d.person_id, d.candidates, d.reason) for d in visit.decisions] == [
        (None, (), "forgotten"),
        (None, ("OTHER",), "forgotten"),
    ]
    assert np.array_equal(store.picture("visit100", 3).image, crop(130).image)
    waiting = [json.loads(row.payload) for row in store.outbox_peek()]
    assert len(waiting) == 9
    assert not any(NAME in str(payload) for payload in waiting)
    assert (store.get("radius100"), store.get("radius1000")) == (None, {others[0].id: 0.5})
    assert ("test", "delete", ann.id) in [row[1:] for row in store.audit_log()]
    assert store.problems() == []


def test_a_short_name_takes_no_other_words_along(store: Store) -> None:
    al = store.add_person("Al")
    store.outbox_put(
        [("t", b'{"person":"Alma"}', True), ("t", b'{"text":"Al is here"}', True), ("t", b"\xff\x00", True)]
    )
    store.put("calibration", {"Algorithm": 1})
    store.forget(al.id)
    assert [row.payload for row in store.outbox_peek()] == [b'{"person":"Alma"}', b"\xff\x00"]
    assert store.get("calibration") == {"Algorithm": 1}


def test_forget_of_the_last_of_many_keys_leaves_no_key(store: Store) -> None:
    """Pages that were split and joined must not keep a copy."""
    wrapped: Dict[str, bytes] = {}
    for i in range(120):
        person = store.add_person(f"P{i}")
        wrapped[person.id] = store._db.rows("SELECT wrapped FROM keys WHERE owner = ?", (person.id,))[0][0]
    gone = sorted(wrapped)[::3]
    for person_id in gone:
        store.forget(person_id)
    found = all_bytes(store.path.parent)
    assert [person_id for person_id in gone if wrapped[person_id][12:28] in found] == []
    assert all(wrapped[person_id] in found for person_id in wrapped if person_id not in gone)


def test_forget_reaches_who_was_merged(store: Store, folder: Path) -> None:
    ann, twin = live_with(store, NAME, 100), live_with(store, "Twin", 1000)
    blobs = {**blobs_of(store, ann.id, 100), **{f"twin {k}": v for k, v in blobs_of(store, twin.id, 1000).items()}}
    store.backup()
    store.merge(ann.id, twin.id)
    store.forget(ann.id)
    assert traces(blobs, all_bytes(store.path.parent, folder)) == []
    with Store.open(store.path.parent.parent / "look", StoreConfig()) as other:
        assert other.people() == []
    for copy in folder.glob("*.db"):
        assert store.restore(copy).people == 0
    assert store.people() == []


def test_a_backup_holds_everything_but_key_and_outbox(store: Store, folder: Path, tmp_path: Path) -> None:
    ann = live_with(store, NAME, 100)
    path = store.backup()
    assert path.parent == folder
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o077 == 0
    key = (store.path.parent / "master.key").read_bytes()
    assert key not in path.read_bytes()
    assert "key is not in the backup" in BACKUP_NOTE
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.close()
    other = tmp_path / "new"
    other.mkdir()
    write_private(other / "master.key", key)
    with Store.open(other) as restored:
        assert restored.restore(path) == (1, 3, 1, 0)
        assert restored.people() == [ann_now(store, ann)]
        assert np.array_equal(restored.crop(restored.faces(ann.id)[0].id).image, crop(100).image)
        assert np.array_equal(restored.gallery("m1").vectors, store.gallery("m1").vectors)
        assert restored.visit("visit100").decisions == store.visit("visit100").decisions
        assert restored.outbox_peek() == []
        assert restored.problems() == []


def ann_now(store: Store, ann: Person) -> Person:
    return store.person(ann.id)


def test_a_backup_needs_a_folder(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store:
        with pytest.raises(ConfigError, match=r"store\.backup_dir"):
            store.backup()
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="file"):
            store.backup(tmp_path / "file")
        with pytest.raises(StoreError):
            store.backup(tmp_path / "file" / "below")
        assert store.backup(tmp_path / "new" / "deep").exists()


def test_restore_honours_tombstones_of_people_and_faces(store: Store, tmp_path: Path) -> None:
    ann, ben = live_with(store, NAME, 100), live_with(store, "Ben", 1000)
    removed = store.faces(ben.id)[1].id
    elsewhere = store.backup(tmp_path / "stick")
    blobs = blobs_of(store, ann.id, 100)
    store.forget(ann.id)
    store.remove_face(removed)
    for mode in MODES:
        store.restore(elsewhere, mode)
        assert [person.id for person in store.people()] == [ben.id]
        assert removed not in [face.id for face in store.faces(ben.id)]
        assert traces(blobs, all_bytes(store.path.parent)) == []
        assert store.problems() == []
    assert traces(blobs, elsewhere.read_bytes()) != []  # a copy elsewhere is the owner's business


def test_merge_restores_what_is_missing_and_changes_nothing_else(store: Store) -> None:
    ann, ben = live_with(store, "Ann", 100), live_with(store, "Ben", 1000)
    cy = live_with(store, "Cy", 2000)
    path = store.backup()
    waiting = store.outbox_peek()
    store.merge(ann.id, cy.id)
    store.rename(ann.id, "Anna")
    store._db.run("DELETE FROM people WHERE id = ?", (ben.id,))
    store._db.run("DELETE FROM keys WHERE owner = ?", (ben.id,))
    store.add_person("ben")
    generation = store.generation()
    assert store.restore(path, "merge") == (1, 3, 0, 0)
    assert [(p.name, p.faces) for p in sorted(store.people(), key=lambda p: p.name)] == [
        ("Anna", 6),
        ("Ben (2)", 3),
        ("ben", 0),
    ]
    assert store.outbox_peek() == waiting
    assert store.generation() > generation
    assert store.problems() == []


def test_replace_returns_to_the_backups_state_but_keeps_alerts_and_audit(store: Store) -> None:
    live_with(store, "Ann", 100)
    path = store.backup()
    late = store.add_person("Late")
    store.outbox_put([("t", b"late", True)])
    store.audit("me", "view", "x")
    generation, waiting = store.generation(), store.outbox_peek()
    assert store.restore(path, "replace") == (1, 3, 1, 0)
    assert [person.name for person in store.people()] == ["Ann"]
    assert store.outbox_peek() == waiting
    assert ("me", "view", "x") in [row[1:] for row in store.audit_log()]
    assert store.generation() > generation
    assert store.find_person(late.name) is None
    assert store._db.rows("PRAGMA journal_mode") == [("wal",)]
    store.add_person("After")
    assert store.problems() == []


def test_a_backup_of_another_key_is_refused(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as other:
        other.add_person("Eve")
        path = other.backup(tmp_path / "stick")
    store.add_person("Ann")
    with pytest.raises(KeyMissingError, match="written with another master key"):
        store.restore(path)
    assert [person.name for person in store.people()] == ["Ann"]


HELP = {
    "empty": "is empty: take another backup",
    "text": "take another one",
    "cut": "take another",
    "flipped": "take another",
    "missing": "there is no such file",
    "folder": "is a folder: name one of the backups in it",
}


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "newer", "foreign", "missing", "folder"])
def test_a_bad_backup_changes_nothing(store: Store, tmp_path: Path, damage: str) -> None:
    live_with(store, "Ann", 100)
    path = store.backup(tmp_path / "stick")
    data = bytearray(path.read_bytes())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("my holiday\n" * 1000)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[8192:40960] = b"\x55" * 32768
        path.write_bytes(data)
    elif damage in ("newer", "foreign"):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 999" if damage == "newer" else "PRAGMA application_id = 1")
        connection.commit()
        connection.close()
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    before = store.people(), store.visits(), store.generation()
    for mode in MODES:
        with pytest.raises(StoreError, match=path.name) as failure:
            store.restore(path, mode)
        assert "\n" not in str(failure.value)
        assert "edgecam restore" not in str(failure.value), "that is what was tried"
        assert HELP.get(damage, "") in str(failure.value)
        assert (store.people(), store.visits(), store.generation()) == before
    assert not list(store.path.parent.glob("*.part*"))


def test_a_backup_that_cannot_be_scrubbed_is_named_and_tried_again(store: Store, folder: Path) -> None:
    ann = live_with(store, NAME, 100)
    good, bad = store.backup(), folder / "edgecam-broken.db"
    blobs = blobs_of(store, ann.id, 100)
    bad.write_text("not a database, but long enough to look at " * 50)
    with pytest.raises(StoreError, match=r"edgecam-broken\.db") as failure:
        store.forget(ann.id)
    assert NAME not in str(failure.value)
    assert store.people() == []
    assert traces(blobs, good.read_bytes()) == []
    shutil.copyfile(good, folder / "edgecam-later.db")
    with pytest.raises(StoreError, match="broken"):
        store.purge(NOW, trusted=True)
    bad.unlink()
    store.purge(NOW, trusted=True)
    assert store._db.rows("SELECT count(*) FROM tombstones WHERE scrubbed = 0") == [(0,)]


def test_other_files_of_the_backup_folder_are_left_alone(store: Store, folder: Path) -> None:
    ann = live_with(store, NAME, 100)
    store.backup()
    (folder / "notes.txt").write_text("mine")
    (folder / "other.db").write_text("mine")
    store.forget(ann.id)
    assert {(folder / name).read_text() for name in ("notes.txt", "other.db")} == {"mine"}


def test_a_new_key_would_not_open_old_blobs(store: Store) -> None:
    """Crypto-erase stands on this: without the wrapped key, even the master key opens nothing."""
    ann = live_with(store, NAME, 100)
    stolen = store.path.with_name("stolen.db")
    store._db.copy_to(stolen)
    connection = sqlite3.connect(stolen)
    connection.execute("UPDATE keys SET wrapped = ? WHERE owner = ?", (new_key(), ann.id))
    connection.commit()
    connection.close()
    key = (store.path.parent / "master.key").read_bytes()
    thief = store.path.parent.parent / "thief"
    thief.mkdir()
    write_private(thief / "master.key", key)
    shutil.copyfile(stolen, thief / "edgecam.db")
    with Store.open(thief) as opened:
        assert [person.name for person in opened.people()] == [ann.id]
        assert opened.gallery("m1").face_ids == ()
        assert {face.source for face in opened.faces(ann.id)} == {"(damaged)"}
        with pytest.raises(StoreError, match="damaged"):
            opened.crop(opened.missing("m2")[0])


def test_an_erasure_that_fails_half_way_leaves_all_readable(store: Store) -> None:
    ann = live_with(store, NAME, 100)
    with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
        store._erase([ann.id])
        assert store.people() == []
        raise RuntimeError
    assert store.people() == [ann_now(store, ann)]
    for track in (1, 2, 3):
        assert np.array_equal(store.picture("visit100", track).image, crop(100 + 10 * track).image)
    assert np.array_equal(store.crop(store.faces(ann.id)[0].id).image, crop(100).image)


def test_an_open_reader_of_the_old_pages_is_reported(store: Store) -> None:
    ann = live_with(store, NAME, 100)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM keys").fetchone()
    store._db.run("PRAGMA busy_timeout = 100")
    with pytest.raises(StoreError, match="another program still reads"):
        store.forget(ann.id)
    reader.close()
    assert store.people() == []
    store.purge(NOW, trusted=True)
    assert store.path.with_name("edgecam.db-wal").stat().st_size == 0


def test_merge_inside_a_transaction_belongs_to_it(store: Store) -> None:
    ann, twin = live_with(store, "Ann", 100), live_with(store, "Twin", 1000)
    with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
        store.merge(ann.id, twin.id)
        raise RuntimeError
    assert [person.faces for person in store.people()] == [3, 3]
    assert np.array_equal(store.crop(store.faces(twin.id)[0].id).image, crop(1000).image)
