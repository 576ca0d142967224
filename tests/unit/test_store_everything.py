"""Every table, restored and erased: what comes back, what stays away, and what is left of it in any byte."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np
import pytest
from test_store_forget import MODES, live_with, traces
from test_store_samples import DAY, NOW, Watch, all_bytes, crop, known
from test_tracklets import tracklet

from edgecam.__main__ import main
from edgecam.config import StoreConfig
from edgecam.store import NotStoredError, Proposal, Store, destroy
from edgecam.store.vault import write_private
from edgecam.types import Person

BASE = "facenet 1"
HISTORY = (
    "visits", "decisions", "pictures", "labels", "tracklets", "proposals", "visitors", "visitor_tracks", "versions",
    "heads", "version_people", "sightings", "visit_sightings", "strangers", "outbox",
)  # fmt: skip
"""Tables that tell of visits, or were learnt from them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def watch() -> Watch:
    return Watch()


def box(tmp_path: Path, watch: Watch, folder: Path, name: str = "state") -> Store:
    """Open a box; each has the same key."""
    (tmp_path / name).mkdir(exist_ok=True)
    if not (tmp_path / name / "master.key").exists():
        write_private(tmp_path / name / "master.key", b"k" * 32)
    config = StoreConfig(backup_dir=folder, cluster_unknown=True, local_strangers=True)
    return Store.open(tmp_path / name, config, clock=watch)


@pytest.fixture
def store(tmp_path: Path, folder: Path, watch: Watch) -> Iterator[Store]:
    with box(tmp_path, watch, folder) as opened:
        yield opened


def fill(store: Store, seed: int = 100) -> Person:
    """Put something into every table."""
    ann = live_with(store, f"Ann {seed}", seed)
    for track in (3, 4):
        store.record(known(f"t{seed}{track}", f"visit{seed}", track, None))
        store.add_tracklet(tracklet(f"visit{seed}", track, seed=seed + track))
    named, again = store.tracklets()[-2:]
    store.is_person(named.id, ann.id)
    store.propose([Proposal(again.id, ann.id, 0.9, 3, 0)])
    store.put_visitors([[again.id]])
    store.ignore_visitor(store.visitors()[-1].number)
    store.put_version(BASE, {"head": b"head %d" % seed * 9}, [ann.id], {"reasons": []}, accepted=True)
    store.add_stranger_features("m1", np.full((1, 8), seed, np.float32))
    store.put("questions", [{"seed": seed}])
    dead = store.add_face(ann.id, crop(seed + 77), quality=1.0, source="x")
    store.remove_face(dead)
    return ann


def tables(store: Store) -> Dict[str, Set[Tuple[Any, ...]]]:
    """Return all rows of all tables."""
    names = [row[0] for row in store._db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: set(store._db.rows(f"SELECT * FROM {name}")) for name in names if not name.startswith("sqlite_")}  # noqa: S608


def blobs(store: Store, *names: str) -> Dict[str, bytes]:
    """Return the sealed blobs of these tables as they lie in the file."""
    found = {}
    for name, rows in tables(store).items():
        for i, row in enumerate(sorted(rows, key=repr)) if name in names else ():
            found.update({f"{name} {i}.{j}": cell for j, cell in enumerate(row) if isinstance(cell, bytes)})
    return {name: blob for name, blob in found.items() if len(blob) >= 28}


def test_nothing_is_left_out_of_these_tests(store: Store) -> None:
    fill(store)
    assert [name for name, rows in tables(store).items() if not rows] == []


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_box_gets_everything_back(store: Store, tmp_path: Path, watch: Watch, folder: Path, mode: Any) -> None:
    fill(store)
    store.put("pause", {"until_wall_s": None})
    wanted, path = tables(store), store.backup()
    with box(tmp_path, watch, folder, "other") as other:
        assert other.restore(path, mode)[:3] == (1, 3, 1)
        got = tables(other)
        for name in set(wanted) - {"outbox", "strangers", "settings", "meta", "audit"}:
            ids = {row[:2] for row in wanted[name]} if name == "tombstones" else wanted[name]  # scrubbed meanwhile
            assert ({row[:2] for row in got[name]} if name == "tombstones" else got[name]) == ids, name
        assert got["outbox"] == set()
        assert got["strangers"] == (wanted["strangers"] if mode == "replace" else set())
        assert other.get("questions") == [{"seed": 100}]
        assert other.get("pause") is None, "the box is not paused because it once was"
        assert {row[4] for row in wanted["audit"]} <= {row[4] for row in got["audit"]}
        assert other.problems() == []
        found = other.in_service(BASE)
        assert found is not None
        assert found[1] == {"head": b"head 100" * 9}
        again = tables(other)
        assert other.restore(path)[:4] == (0, 0, 0, 0)
        changed = {name for name, rows in tables(other).items() if rows != again[name]}
        assert changed <= {"audit", "meta", "tombstones"}


def test_two_households_become_one(store: Store, tmp_path: Path, watch: Watch, folder: Path) -> None:
    ann = fill(store)
    path = store.backup(tmp_path / "stick")
    with box(tmp_path, watch, folder, "other") as other:
        ben = fill(other, 2000)
        other.restore(path)
        assert {person.id for person in other.people()} == {ann.id, ben.id}
        assert {visit.id for visit in other.visits()} == {"visit100", "visit2000"}
        assert [(v.name, v.state) for v in other.versions()] == [("v2", "retired"), ("v1", "active")]
        found = other.in_service(BASE)
        assert found is not None
        assert found[1] == {"head": b"head 2000" * 9}, "what serves here goes on serving"
        assert [(one.number, one.ignored, one.tracks[0].visit) for one in other.visitors()] == [
            (1, True, "visit2000"),
            (2, True, "visit100"),
        ]
        back = other.roll_back("v2")
        assert back is not None
        assert other.problems() == []


def test_whom_the_backup_forgot_is_forgotten_here(store: Store, tmp_path: Path, watch: Watch, folder: Path) -> None:
    ann = fill(store)
    early = store.backup(tmp_path / "stick")
    store.forget(ann.id)
    late = store.backup(tmp_path / "stick")
    with box(tmp_path, watch, folder, "other") as other:
        other.restore(early)
        assert [person.id for person in other.people()] == [ann.id]
        other.restore(late)
        assert other.people() == []
        assert other.in_service(BASE) is None
        other.restore(early)
        assert other.people() == []
        assert other.problems() == []


def test_anothers_erased_history_is_not_ours(store: Store, tmp_path: Path, watch: Watch, folder: Path) -> None:
    fill(store)
    early = store.backup(tmp_path / "stick")
    store.erase_history()
    late = store.backup(tmp_path / "stick")
    with box(tmp_path, watch, folder, "neighbour") as other:
        fill(other, 2000)
        own = other.backup(tmp_path / "neighbours")
        other.restore(late)
        assert [visit.id for visit in other.visits()] == ["visit2000"]
        other.restore(own, "replace")
        assert [visit.id for visit in other.visits()] == ["visit2000"]
    with box(tmp_path, watch, folder, "new") as other:
        other.restore(late)
        other.restore(early)
        assert [person.name for person in other.people()] == ["Ann 100"]
        assert other.visits() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_track_named_after_the_backup_is_forgotten_in_it(
    store: Store, tmp_path: Path, folder: Path, mode: Any
) -> None:
    """The copy does not know whose picture it is."""
    store.open_visit("v", "door", "front", NOW)
    for track in (1, 2):
        store.record(known(f"d{track}", "v", track, None))
        store.add_visit_picture("v", track, crop(track))
        store.add_tracklet(tracklet("v", track, seed=track))
    store.add_stranger_features("m1", np.ones((1, 8), np.float32))
    mine = blobs(store, "pictures", "tracklets", "strangers", "keys")
    here, elsewhere = store.backup(), store.backup(tmp_path / "stick")
    ann, _ = store.name_visit("v", 1, "Ann")
    store.forget(ann.id)
    left = blobs(store, "pictures", "tracklets", "keys")
    # The other track's key is another one, too; its own features lie as they did.
    gone = {name: blob for name, blob in mine.items() if blob not in left.values()}
    assert {name.split()[0] for name in gone} == {"pictures", "tracklets", "strangers", "keys"}
    for found in (all_bytes(store.path.parent), here.read_bytes()):
        assert traces(gone, found) == []
    store.restore(elsewhere, mode)
    assert traces(gone, all_bytes(store.path.parent)) == []
    assert store.visit("v").pictured == (2,)
    assert [row.seen.track for row in store.tracklets()] == [2]
    assert store.problems() == []


def test_erased_history_is_gone_everywhere_and_people_stay(store: Store, tmp_path: Path, folder: Path) -> None:
    ann = fill(store)
    store.put("pause", {"until_wall_s": 5.0})
    store.add_visit_picture("visit100", 1, crop(5))
    told = blobs(store, *HISTORY, "settings")
    told = {name: blob for name, blob in told.items() if blob not in blobs(store, "keys").values()}
    visit_key = store._db.rows("SELECT wrapped FROM keys WHERE owner = 'visit100'")[0][0]
    night = tmp_path / "state/night"
    night.mkdir()
    (night / "half").write_bytes(b"x")
    elsewhere = store.backup(tmp_path / "stick")
    store.backup()
    kept = {"pause": store._db.rows("SELECT value FROM settings WHERE key = 'pause'")[0][0]}
    told = {name: blob for name, blob in told.items() if blob != kept["pause"]} | {"visit key": visit_key}
    assert set(traces(told, all_bytes(store.path.parent))) == set(told)

    assert store.erase_history("uid:7") == 1
    for found in (all_bytes(store.path.parent), all_bytes(folder)):
        assert traces(told, found) == []
    assert not night.exists()
    assert store.path.with_name("edgecam.db-wal").stat().st_size == 0
    assert [name for name in HISTORY if tables(store)[name]] == []
    assert store.get("pause") == {"until_wall_s": 5.0}
    assert store.person(ann.id).faces == 3
    assert len(store.devices(ann.id)) == 1
    assert np.array_equal(store.crop(store.faces(ann.id)[0].id).image, crop(100).image)
    assert store.audit_log(1)[0][1:] == ("uid:7", "delete", "visits")
    assert store.problems() == []
    for mode in MODES:
        store.restore(elsewhere, mode)
        assert [name for name in HISTORY if tables(store)[name]] == [], mode
        assert store.person(ann.id).faces == 3


def test_history_after_the_erasing_is_restored(store: Store, tmp_path: Path, watch: Watch) -> None:
    fill(store)
    store.erase_history()
    watch.now_s += DAY
    store.open_visit("later", "door", "front", watch.now_s)
    path = store.backup(tmp_path / "stick")
    store._db.run("DELETE FROM visits")
    store.restore(path)
    assert [visit.id for visit in store.visits()] == ["later"]


def test_without_a_set_clock_the_backups_history_goes_all_the_same(store: Store, folder: Path, watch: Watch) -> None:
    fill(store)
    told = blobs(store, "decisions", "pictures")
    store.backup()
    watch.now_s, watch.trusted = 100.0, False
    store.erase_history()
    assert traces(told, all_bytes(folder, store.path.parent)) == []


@pytest.mark.parametrize("what", ["face", "device"])
def test_a_removed_face_or_device_is_gone_everywhere(store: Store, folder: Path, what: str) -> None:
    ann = fill(store)
    store.backup()
    if what == "face":
        gone = store.faces(ann.id)[0].id
        rows = store._db.rows(
            "SELECT crop, vector, features, source FROM crops JOIN vectors USING (face_id) "
            "JOIN features USING (face_id) JOIN faces ON id = face_id WHERE id = ?",
            (gone,),
        )
    else:
        gone = store.devices(ann.id)[0].id
        rows = store._db.rows("SELECT address_hash, body FROM devices WHERE id = ?", (gone,))
    told = {str(i): blob for i, blob in enumerate(rows[0])}
    assert set(traces(told, all_bytes(folder))) == set(told)
    if what == "face":
        with pytest.raises(NotStoredError):
            store.remove_faces([gone, "NONE"])
        assert store.person(ann.id).faces == 3
        store.remove_faces([gone])
    else:
        store.remove_device(gone)
    for found in (all_bytes(store.path.parent), all_bytes(folder)):
        assert traces(told, found) == []
    assert store.problems() == []


def test_forgetting_removes_an_unfinished_training(store: Store, tmp_path: Path) -> None:
    ann = fill(store)
    (tmp_path / "state/night").mkdir()
    (tmp_path / "state/night/half").write_bytes(b"features")
    store.forget(ann.id)
    assert not (tmp_path / "state/night").exists()


def test_a_reset_leaves_nothing_of_the_household(store: Store, tmp_path: Path) -> None:
    fill(store)
    told = blobs(store, *tables(store))
    store.close()
    state = tmp_path / "state"
    for name in ("night/half", "models/net.onnx"):
        (state / name).parent.mkdir()
        (state / name).write_bytes(b"x")
    for name in ("night.wanted", "health.json", "pad-selftest.jsonl", "restore.part", "edgecam.db.part-journal"):
        (state / name).write_bytes(b"x")
    destroy(state)
    assert sorted(path.name for path in state.iterdir()) == ["lock", "models"]
    assert traces(told, all_bytes(state)) == []


def test_consents_and_the_audit_log_are_shown(
    tmp_path: Path, folder: Path, watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    def edgecam(*args: str) -> List[str]:
        (tmp_path / "c.toml").write_text("")
        assert main([*args, "--state", str(tmp_path / "state"), "--config", str(tmp_path / "c.toml")]) == 0
        return capfd.readouterr().out.splitlines()

    with box(tmp_path, watch, folder) as store:
        ann = fill(store)
        store.set_consent(ann.id, {"given_wall_s": NOW, "by": "Ann, in person"})
        store.picture("visit100", 1, "uid:0")
        twin = store.add_person("Twin")
        store.merge(ann.id, twin.id)
    shown = edgecam("people", "show", "Ann 100")
    assert shown[1] == "  agreed: 2027-01-15, by: Ann, in person"
    assert shown[2].endswith("agreed: signed: Ann 100")
    rows = [json.loads(line) for line in edgecam("audit", "--json")]
    assert {"view", "consent", "device consent", "promote"} <= {row["action"] for row in rows}
    text = edgecam("audit", "--limit", "2")
    assert len(text) == 2
    assert text[0].split(maxsplit=3)[2:][1].startswith("merge into Ann 100")
    assert text[1].split()[2:] == ["root", "view", "visit100/1"]


def test_a_backup_says_nothing_of_a_person_in_the_clear(store: Store, folder: Path) -> None:
    fill(store)
    path = store.backup()
    assert b"Ann 100" not in path.read_bytes()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (1,)
    connection.close()
