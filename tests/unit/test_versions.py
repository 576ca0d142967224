"""Versions of the head: in service, retired, refused, ended."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from edgecam.errors import ConfigError, DamagedError
from edgecam.pipeline.operations import execute
from edgecam.store import NotStoredError, Store
from edgecam.types import Role

BASE = "base-1"
REPORT = {"accepted": True, "reasons": [], "checks": [{"name": "verified", "passed": True, "n": 12}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def heads(number: int) -> Dict[str, bytes]:
    return {"facenet_head": bytes([number]) * 3000, "sface_head": b"s" * number}


def promote(store: Store, number: int, *people: str) -> str:
    return store.put_version(BASE, heads(number), people, REPORT, accepted=True).name


def serving(store: Store, base: str = BASE) -> Any:
    found = store.in_service(base)
    return None if found is None else (found[0].name, found[1])


def test_an_accepted_head_serves_from_the_commit_on_and_rollback_goes_back_step_by_step(store: Store) -> None:
    assert serving(store) is None
    assert [promote(store, 1), promote(store, 2)] == ["v1", "v2"]
    assert serving(store) == ("v2", heads(2))
    assert serving(store, "another base") is None
    assert [(v.name, v.parent, v.state) for v in store.versions()] == [("v2", "v1", "active"), ("v1", None, "retired")]
    back = store.roll_back()
    assert back is not None
    assert serving(store) == ("v1", heads(1))
    assert store.roll_back() is None
    assert serving(store) is None
    with pytest.raises(NotStoredError, match="nothing to roll back"):
        store.roll_back()
    store.roll_back("v2")
    assert serving(store) == ("v2", heads(2))
    store.roll_back("installed")
    assert serving(store) is None
    assert [row.action for row in store.audit_log(9)].count("rollback") == 4


def test_who_was_forgotten_during_the_night_is_in_no_head(store: Store) -> None:
    ann, ben = (store.add_person(name) for name in ("Ann", "Ben"))
    promote(store, 1, ben.id)
    store.forget(ann.id)
    with pytest.raises(NotStoredError, match="forgotten or merged meanwhile"):
        promote(store, 2, ann.id, ben.id)
    assert [one.name for one in store.versions()] == ["v1"]


def test_a_head_that_was_judged_against_another_does_not_come_into_service(store: Store) -> None:
    promote(store, 1)
    judged = {"op": "versions.put", "base": BASE, "heads": {}, "people": [], "report": REPORT, "accepted": True}
    with pytest.raises(NotStoredError, match="another head came into service"):
        list(execute(store, {**judged, "instead_of": BASE}))
    (put,) = execute(store, {**judged, "instead_of": store.versions()[0].model})
    store.roll_back("installed")
    with pytest.raises(NotStoredError, match="another head came into service"):
        list(execute(store, {**judged, "instead_of": f"{BASE}/{put['id']}"}))
    assert serving(store) is None


def test_a_version_and_its_message_come_with_one_commit(store: Store) -> None:
    told = {"state": "promoted", "version": "installed", "reason": "", "people": 2}
    told.update(dict.fromkeys(("faces", "taken_out", "questions", "visitors"), 0))
    judged = {"op": "versions.put", "base": BASE, "heads": {}, "people": [], "report": REPORT, "accepted": True}
    with pytest.raises(ConfigError, match="the night's outcome"):
        list(execute(store, {**judged, "box": "home", "told": {**told, "state": "?"}, "knew": None}))
    for op in (judged, {"op": "night.tell"}):
        with pytest.raises(ConfigError, match="box is missing"):
            list(execute(store, {**op, "told": told, "knew": None}))
    assert not store.versions()
    assert not store.outbox_peek()
    list(execute(store, {**judged, "box": "home", "told": told, "knew": None}))
    (waiting,) = store.outbox_peek()
    assert waiting.topic == "edgecam/home/night"
    assert json.loads(waiting.payload)["version"] == store.versions()[0].name == "v1"


def test_a_refused_head_is_told_of_and_not_kept(store: Store) -> None:
    promote(store, 1)
    generation = store.generation()
    refused = store.put_version(BASE, heads(2), (), {"reasons": ["too little data"]}, accepted=False)
    assert (refused.name, refused.state, refused.record["report"]) == (
        "v2",
        "refused",
        {"reasons": ["too little data"]},
    )
    assert serving(store) == ("v1", heads(1))
    assert store.generation() == generation
    with pytest.raises(NotStoredError, match="v2 cannot be used: its head is not kept"):
        store.roll_back("v2")
    assert serving(store) == ("v1", heads(1))


def edit(store: Store, sql: str, *values: Any) -> None:
    assert store._db.run(sql, values) == 1
    store._keys.clear()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("UPDATE heads SET data = x'00' WHERE version = ? AND name = 'sface_head'", "its sface_head is damaged"),
        ("DELETE FROM heads WHERE version = ? AND name = 'sface_head'", "not kept"),
        ("UPDATE versions SET record = x'00' WHERE id = ?", "its record is damaged"),
        ("DELETE FROM keys WHERE owner = ?", "its record is damaged"),
    ],
)
def test_an_altered_version_gives_way_to_the_one_before(
    store: Store, caplog: pytest.LogCaptureFixture, sql: str, why: str
) -> None:
    promote(store, 1)
    promote(store, 2)
    edit(store, sql, store.version("v2").id)
    assert serving(store) == ("v1", heads(1))
    assert why in caplog.text


def test_what_is_in_service_and_cannot_be_used_is_told(store: Store) -> None:
    promote(store, 1)
    assert [row["fault"] for row in execute(store, {"op": "versions.list"})] == [""]
    store._db.run("UPDATE heads SET data = substr(data, 2)")
    for op in ({"op": "versions.list"}, {"op": "versions.show", "version": "v1"}):
        assert [row["fault"] for row in execute(store, op)] == ["its facenet_head is damaged or altered"]


def test_a_version_given_to_another_encoder_is_none(store: Store) -> None:
    promote(store, 1)
    store._db.run("UPDATE versions SET base = 'other'")
    assert serving(store, "other") is None
    with pytest.raises(NotStoredError, match="v1 cannot be used: its record is another version's"):
        store.roll_back("v1")


def test_a_record_moved_or_signed_by_another_box_is_no_version(store: Store, tmp_path: Path) -> None:
    promote(store, 1)
    version = store.version("v1")
    forged = {**version.record, "people": ["somebody"]}
    with pytest.raises(DamagedError, match="altered"):
        store._heads(version._replace(record=forged))
    with Store.open(tmp_path / "other") as other:
        promote(other, 1)
        assert other.public_key != store.public_key
        with pytest.raises(DamagedError, match="altered"):
            store._heads(version._replace(signature=other.version("v1").signature))


def test_forgetting_somebody_ends_what_learnt_from_them(store: Store, tmp_path: Path) -> None:
    ann, ben = store.add_person("Ann", Role.RESIDENT).id, store.add_person("Ben", Role.RESIDENT).id
    promote(store, 1, ben)
    promote(store, 2, ann, ben)
    blob = store._db.rows("SELECT data FROM heads WHERE version = ?", (store.version("v2").id,))[0][0]
    store.forget(ann)
    assert serving(store) is None
    assert next((v.name, v.state, dict(v.record)) for v in store.versions()) == ("v2", "ended", {})
    assert blob not in (tmp_path / "edgecam.db").read_bytes()
    assert store.problems() == []
    store.roll_back("v1")
    assert serving(store) == ("v1", heads(1))


def test_a_restored_backup_does_not_bring_an_ended_head_back(store: Store, tmp_path: Path) -> None:
    ann = store.add_person("Ann", Role.RESIDENT).id
    promote(store, 1, ann)
    copy = store.backup(tmp_path / "copies")
    store.forget(ann)
    store.restore(copy, "replace")
    assert serving(store) is None
    assert [v.state for v in store.versions()] == ["ended"]


def test_old_heads_and_vectors_make_room(store: Store) -> None:
    for number in range(1, 8):
        promote(store, number)
    assert [row[0] for row in store._db.rows("SELECT count(DISTINCT version) FROM heads")] == [5]
    with pytest.raises(NotStoredError, match="not kept"):
        store.roll_back("v2")
    now = store._clock.wall_s()
    store.purge(now + 31 * 86_400.0, trusted=True)
    assert [v.name for v in store.versions()] == ["v7"]
    assert serving(store) == ("v7", heads(7))


def test_a_kill_between_leaves_the_old_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(store, 1)
    monkeypatch.setattr(store, "_drop_idle_heads", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        promote(store, 2)
    assert serving(store) == ("v1", heads(1))
    assert [v.name for v in store.versions()] == ["v1"]


def test_the_operations_carry_heads_and_reports(store: Store) -> None:
    packed = {name: base64.b64encode(data).decode() for name, data in heads(3).items()}
    (put,) = execute(
        store, {"op": "versions.put", "base": BASE, "heads": packed, "people": [], "report": REPORT, "accepted": True}
    )
    assert (put["version"], put["state"]) == ("v1", "active")
    (now,) = execute(store, {"op": "versions.heads", "base": BASE})
    assert now["heads"] == packed
    assert now["model"] == f"{BASE}/{put['id']}"
    (shown,) = execute(store, {"op": "versions.show", "version": "v1"})
    assert shown["record"]["report"] == REPORT
    (listed,) = execute(store, {"op": "versions.list"})
    assert listed["version"] == "v1"
    (back,) = execute(store, {"op": "versions.rollback"})
    assert back == {"version": None, "state": "active"}
    (now,) = execute(store, {"op": "versions.heads", "base": BASE})
    assert now == {"model": BASE, "heads": {}}
