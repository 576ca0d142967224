"""kill -9 at any step: the process and its children are killed in the middle of a write, a sync, a rename.

After each the box starts again as it would, and the ledger says whether all is there that was said to be done. The
kinds: enrol, visit, outbox (to a real broker), promote and roll back, forget and merge, key and backup, migrate.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
from broker import Broker, Listener, mosquitto, until
from conftest import ROOT, lacking
from ledger import BASE, Ledger, crop, floats
from writes import compiler, watched

from edgecam.store import Store
from edgecam.store.db import migrations
from edgecam.types import Embeddings

pytestmark = [pytest.mark.machine, pytest.mark.timeout(170)]

WORKER = Path(__file__).with_name("ledger.py")
STEPS = 500
"""A kill comes before one of so many first steps: two or three rounds of deeds."""
DEEDS = {
    "enrol": "enrol",
    "visit": "visit,send",
    "outbox": "visit,deliver",
    "promote": "enrol,promote,promote,rollback",
    "forget": "enrol,visit,enrol,promote,merge,forget,send",
    "key": "enrol,visit,backup,rotate,send,purge",
}
QUICK, MANY = 3, 30
SCHEMAS = tuple(migrations())[:-1]


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if compiler() is None:
        lacking("machine", "no C compiler, which the watching of writes needs")


def killed(state: Path, deeds: str, seed: int, at: int, port: int) -> List[str]:
    """Let a box live on until its step `at`; return what it said."""
    command = [sys.executable, str(WORKER), str(state), deeds, str(seed), "-1", str(port)]
    done = subprocess.run(
        command,
        env=watched(state.parent, kill_at=at),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr
    assert done.stderr.count("\n") == done.stderr.count("visits were cut"), done.stderr
    return done.stdout.splitlines(keepends=True)


def kill_often(state: Path, kind: str, kills: int, port: int = 0, heard: Any = None) -> Ledger:
    """Kill a box again and again; fail at the first thing that is torn or lost."""
    rng, ledger = random.Random(f"{kind} {kills}"), Ledger()
    for seed in range(kills):
        at = rng.randint(1, STEPS)
        ledger.read(killed(state, DEEDS[kind], seed, at, port))
        if heard is not None:
            ledger.sent |= heard()
        assert ledger.faults(state) == [], (kind, seed, at)
    return ledger


def kills_of(kind: str, folder: Path, kills: int) -> str:
    ledger = kill_often(folder / "s", kind, kills)
    assert ledger.deeds > kills, "it never got far"
    return (
        f"{kind}: {kills} kills, {ledger.deeds} deeds done, {len(ledger.words)} words, generation {ledger.generation}"
    )


@pytest.mark.parametrize("kind", [kind for kind in DEEDS if kind != "outbox"])
def test_killed_three_times(kind: str, tmp_path: Path) -> None:
    kills_of(kind, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [kind for kind in DEEDS if kind != "outbox"])
def test_killed_thirty_times(kind: str, tmp_path: Path) -> None:
    print(kills_of(kind, tmp_path, MANY))


def outbox(folder: Path, kills: int) -> str:
    """Kill a box that delivers to a real broker; in the end every alert has arrived, and no id with two contents."""
    topics = ("edgecam/+/+/event", "edgecam/+/+/trigger")
    with Broker(folder / "broker", persistent=True) as broker, Listener(broker, *topics, client_id="house") as listener:

        def ids() -> Set[str]:
            mark = f"mark-{len(listener.heard)}"  # comes after all that the broker has acknowledged
            listener.say("edgecam/test/mark/event", json.dumps({"id": mark}))
            until(lambda: mark in str(listener.heard[-50:]), "the mark")
            return {json.loads(payload)["id"] for _, payload, _ in list(listener.heard)}

        ledger = kill_often(folder / "s", "outbox", kills, broker.port, ids)
        command = [sys.executable, str(WORKER), str(folder / "s"), "deliver", "0", "1", str(broker.port)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Store.open(folder / "s") as store:
            assert store.outbox_size() == 0
            told = {word.id for visit in store.visits(100_000) for word in visit.decisions} & ledger.told
            assert store.outbox_dropped() == 0
        assert told <= ids(), "every alert"
        said: Dict[Any, Set[str]] = {}
        marks = "edgecam/test/mark/event"
        alerts = [(topic, payload) for topic, payload, _ in listener.heard if topic != marks]
        for topic, payload in alerts:
            message = json.loads(payload)
            age = {key: message.pop(key, None) for key in ("age_s", "ts", "clock_trusted")}
            said.setdefault((topic, message["id"]), set()).add(json.dumps([message, bool(age)]))
        assert all(len(contents) == 1 for contents in said.values())
        again = len(alerts) - len(said)
    return f"outbox: {kills} kills, {len(told)} alerts told, all heard, {again} of them twice"


needs_broker = pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")


@pytest.mark.broker
@needs_broker
def test_killed_three_times_while_it_delivers(tmp_path: Path) -> None:
    outbox(tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.broker
@needs_broker
@pytest.mark.timeout(1800)
def test_killed_thirty_times_while_it_delivers(tmp_path: Path) -> None:
    print(outbox(tmp_path, MANY))


def old_box(folder: Path, schema: int, patched: pytest.MonkeyPatch) -> Dict[str, Any]:
    """Make a state as an earlier version left it: people, faces, a visit, an alert that waits; return what is in it."""
    steps = folder / f"schema{schema}"
    steps.mkdir(parents=True)
    for step in sorted((ROOT / "edgecam/store/schema").glob("*.sql"))[:schema]:
        shutil.copy(step, steps)
    rng = random.Random(schema)
    with patched.context() as only:
        only.setattr("edgecam.store.db._SCHEMA", steps)
        with Store.open(folder / "old") as store:
            for number in range(3):
                person = store.add_person(f"P{number}")
                seen = Embeddings(floats(rng, 32)[None], floats(rng, 64)[None], BASE)
                store.add_face(person.id, crop(rng), quality=1.0, source="x", embedding=seen)
            store.open_visit("v1", "door", "front", 1.0)
            store.outbox_put([("t", b"{}", True)])
    return contents(folder / "old", read=("people", "faces", "crops", "vectors", "visits", "outbox"))


def contents(state: Path, read: Any) -> Dict[str, Any]:
    import sqlite3

    connection = sqlite3.connect(f"file:{state / 'edgecam.db'}?mode=ro", uri=True)
    try:
        found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in read}  # noqa: S608
        found["schema"] = connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()
    return found


def kill_migrations(folder: Path, kills: int, patched: pytest.MonkeyPatch) -> str:
    """Kill the opening of states that earlier versions wrote, until each has come through; nothing of them changes."""
    rng, done = random.Random(5), 0
    boxes = {schema: old_box(folder / str(schema), schema, patched) for schema in SCHEMAS[: kills or None]}
    while done < kills:
        schema = SCHEMAS[done % len(boxes)]
        before, state = boxes[schema], folder / str(schema) / "s"
        if not state.exists():
            shutil.copytree(folder / str(schema) / "old", state)
        tables = [name for name in before if name != "schema"]
        command = [sys.executable, "-m", "edgecam", "people", "list", "--state", str(state)]
        at = rng.randint(1, 60)
        ended = subprocess.run(
            command, env=watched(state, kill_at=at), capture_output=True, check=False, start_new_session=True
        )
        done += ended.returncode == -9
        assert ended.returncode in (0, -9), ended.stderr
        now = contents(state, tables) if (state / "edgecam.db").stat().st_size else {}
        assert schema <= now["schema"] <= max(migrations())
        assert {name: now[name] for name in tables} == {name: before[name] for name in tables}, (schema, at)
        with Store.open(state) as store:
            assert store.problems() == []
            assert [person.name for person in store.people()] == ["P0", "P1", "P2"]
        shutil.rmtree(state)
    return f"migrate: {kills} kills, from schema {', '.join(map(str, boxes))}"


def test_killed_while_it_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_migrations(tmp_path, 4, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_thirty_times_while_it_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(kill_migrations(tmp_path, MANY, monkeypatch))
