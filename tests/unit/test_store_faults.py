"""What goes wrong on a real box: two owners, full and read-only disks, damage, other versions, kills."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
from test_store_samples import crop, decision, embedding

from edgecam.config import StoreConfig
from edgecam.errors import StoreError
from edgecam.store import Store
from edgecam.store.db import Database, Lock, migrations

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def python(code: str, *args: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from pathlib import Path
from edgecam.store import Store
store = Store.open(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_who_owns_the_store(tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=rf"in use by process {holder.pid}\b.*edgecam status") as failure:
            Store.open(tmp_path, wait_s=0)
        assert "\n" not in str(failure.value)
        with Store.open(tmp_path, read_only=True) as looker:
            assert looker.people() == []
            with pytest.raises(StoreError, match="read-only"):
                looker.add_person("Ann")
    finally:
        holder.kill()
        holder.communicate()
    with Store.open(tmp_path, wait_s=0) as store:
        assert store.people() == []


def test_the_lock_waits_for_a_short_command(tmp_path: Path) -> None:
    first = Store.open(tmp_path)
    threading.Timer(0.2, first.close).start()
    with Store.open(tmp_path, wait_s=5.0) as second:
        assert second.people() == []


def test_a_failed_opening_lets_the_lock_go(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    good = (tmp_path / "edgecam.db").read_bytes()
    (tmp_path / "edgecam.db").write_bytes(b"rubbish" * 1000)
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged"):
            Store.open(tmp_path, wait_s=0)
    (tmp_path / "edgecam.db").write_bytes(good)
    Store.open(tmp_path, wait_s=0).close()


def test_a_closed_store_can_be_opened_again_in_the_same_process(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_person("Ann")
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            Store.open(tmp_path, wait_s=0)
    with Store.open(tmp_path) as store:
        store.close()
        store.close()


def test_the_newest_schema_is_what_a_new_store_has(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        rows = store._db.rows
        assert rows("PRAGMA user_version") == [(max(migrations()),)]
        assert rows("PRAGMA journal_mode") == [("wal",)]
        assert rows("PRAGMA synchronous") == [(2,)]
        assert rows("PRAGMA foreign_keys") == [(1,)]
        assert rows("PRAGMA secure_delete") == [(1,)]
        assert rows("PRAGMA auto_vacuum") == [(2,)]
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store._db.run("PRAGMA user_version = 999")
    before = (tmp_path / "edgecam.db").read_bytes()
    with pytest.raises(StoreError, match=r"newer edgecam \(schema 999"):
        Store.open(tmp_path)
    assert (tmp_path / "edgecam.db").read_bytes() == before


def test_a_failing_migration_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path) as store:
        store.add_person("Ann")
    schema = tmp_path / "schema"
    shutil.copytree(ROOT / "edgecam/store/schema", schema)
    version = max(migrations()) + 1
    step = schema / f"{version:03}_next.sql"
    monkeypatch.setattr("edgecam.store.db._SCHEMA", schema)
    step.write_text("CREATE TABLE extra (id INTEGER);\nINSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(tmp_path)
    connection = sqlite3.connect(tmp_path / "edgecam.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (version - 1,)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    connection.close()
    step.write_text("CREATE TABLE extra (id INTEGER);\n")
    with Store.open(tmp_path) as store:
        assert store._db.rows("PRAGMA user_version") == [(version,)]
        assert [person.name for person in store.people()] == ["Ann"]


def test_old_sqlite_gets_plain_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "STRICT" in migrations()[1]
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 31, 1))
    (plain,) = list(migrations().values())[:1]
    assert "STRICT" not in plain
    connection = sqlite3.connect(":memory:")
    connection.executescript(plain)
    connection.close()


def test_a_foreign_database_is_not_touched(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "edgecam.db")
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = (tmp_path / "edgecam.db").read_bytes()
    (tmp_path / "master.key").write_bytes(b"k" * 32)
    with pytest.raises(StoreError, match="not a database of edgecam"):
        Store.open(tmp_path)
    assert (tmp_path / "edgecam.db").read_bytes() == before


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(StoreError, match="state is a file: the state needs a folder"):
        Store.open(tmp_path / "state")
    with pytest.raises(StoreError, match="lies under a file"):
        Store.open(tmp_path / "state" / "below")


def test_looking_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(StoreError, match="does not exist yet"):
        Store.open(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        ann = store.add_person("Ann")
        for i in range(20):
            store.add_face(ann.id, crop(i), quality=1.0, source="")
    data = bytearray((tmp_path / "edgecam.db").read_bytes())
    data[8192:-8192] = os.urandom(len(data) - 16384)
    (tmp_path / "edgecam.db").write_bytes(data)
    with pytest.raises(StoreError) as failure, Store.open(tmp_path) as store:
        store.export(ann.id)
    assert "\n" not in str(failure.value)
    assert "damaged" in str(failure.value)


def test_leftovers_of_a_killed_restore_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "restore.part").write_bytes(b"x")
    (tmp_path / "restore.part-journal").write_bytes(b"x")
    Store.open(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgecam.db", "lock", "master.key"]


NOBODY = """
import os, sys
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
from pathlib import Path
from edgecam.config import StoreConfig
from edgecam.errors import StoreError
from edgecam.store import Store
store = Store.open(Path(sys.argv[1])) if len(sys.argv) > 2 else None
os.setgid(65534)
os.setuid(65534)
try:
    Store.open(Path(sys.argv[1]))
except StoreError as err:
    print(err)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_somebody_elses_state_is_refused_with_a_hint(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state") as store:
        store.add_person("Ann")
    top = Path(tempfile.gettempdir())
    for part in (tmp_path, *tmp_path.parents):
        if top in part.parents:  # pytest's own folders, however many it nests
            part.chmod(0o755)
    for mode in (0o700, 0o755):
        (tmp_path / "state").chmod(mode)
        out, err = python(NOBODY, tmp_path / "state").communicate(timeout=60)
        assert err == ""
        assert "(Permission denied): run as the folder's owner" in out
        assert out.count("\n") == 1


def fill_up(store: Store, names: List[str]) -> StoreError:
    """Enrol until the disk is full; `names` gets whose enrolment returned."""
    for i in range(500):
        try:
            with store.transaction():
                person = store.add_person(f"Person {i}")
                store.add_face(person.id, crop(i), quality=1.0, source="", embedding=embedding(i))
        except StoreError as err:
            return err
        names.append(f"Person {i}")
    raise AssertionError("the disk never became full")


def test_a_full_disk_loses_nothing_and_heals(small_disk: Path) -> None:
    stored: List[str] = []
    (small_disk / "ballast").write_bytes(b"x" * 300_000)
    with Store.open(small_disk / "state") as store:
        told = fill_up(store, stored)
        assert "disk full: free some space" in str(told)
        assert "Person" not in str(told)
        assert [person.name for person in store.people()] == stored
        with pytest.raises(StoreError, match="disk"):
            store.backup(small_disk / "backups")
        assert not list((small_disk / "backups").glob("*"))
        (small_disk / "ballast").unlink()
        store.add_person("Afterwards")
        stored.append("Afterwards")
    with Store.open(small_disk / "state") as store:
        assert [person.name for person in store.people()] == stored
        assert [person.faces for person in store.people()] == [1] * (len(stored) - 1) + [0]
        assert store.problems() == []


def test_a_full_disk_at_the_first_start_is_said_so(small_disk: Path, fill_disk: Callable[[], None]) -> None:
    (small_disk / "state").mkdir()
    fill_disk()
    with pytest.raises(StoreError, match="disk full: free some space") as failure:
        Store.open(small_disk / "state")
    assert "\n" not in str(failure.value)
    (small_disk / "ballast").unlink()
    Store.open(small_disk / "state").close()


def test_a_full_disk_is_read_all_the_same(small_disk: Path, fill_disk: Callable[[], None]) -> None:
    with Store.open(small_disk / "state") as store:
        ann = store.add_person("Ann")
        store.add_face(ann.id, crop(1), quality=1.0, source="a", embedding=embedding(1))
        store.record(decision("d1", "v1"), [("t", b"came", True)])
    (small_disk / "state/lock").unlink()
    fill_disk()
    with Store.open(small_disk / "state") as store:
        assert [person.name for person in store.people()] == ["Ann"]
        assert len(store.gallery("m1").vectors) == 1
        assert store.visits()[0].id == "v1"
        assert store.problems() == []
        for write in (store.want_room, lambda: store.add_person("Ben"), lambda: store.put("key", 1)):
            with pytest.raises(StoreError, match=rf"{store.path}: disk full: free some space"):
                write()
        with pytest.raises(StoreError, match="in use"):
            Store.open(small_disk / "state", wait_s=0)
        (small_disk / "ballast").unlink()
        store.want_room()
        store.add_person("Ben")
    with Store.open(small_disk / "state") as store:
        assert [person.name for person in store.people()] == ["Ann", "Ben"]
        assert store._db.rows("PRAGMA locking_mode") == [("normal",)]


def test_an_empty_database_beside_its_key_is_no_new_state(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_person("Ann")
        backup = store.backup(tmp_path / "copies")
    path = tmp_path / "edgecam.db"
    path.write_bytes(b"")
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"is empty \(0 bytes\).*move the file away.*edgecam restore") as failure:
            Store.open(tmp_path, read_only=read_only)
        assert "\n" not in str(failure.value)
    assert path.read_bytes() == b""
    path.rename(tmp_path / "edgecam.db.empty")
    with Store.open(tmp_path) as store:
        assert store.restore(backup).people == 1


BEGIN = """
import os, sys
from pathlib import Path
from edgecam.store import Store
from edgecam.store.db import Database
Database._prepare = lambda *_, **__: os._exit(9)
Store.open(Path(sys.argv[1]))
"""


def test_a_first_start_that_is_cut_can_begin_again(tmp_path: Path) -> None:
    begun = python(BEGIN, tmp_path)
    begun.communicate(timeout=60)
    assert begun.returncode == 9
    assert (tmp_path / "master.key").exists()
    Store.open(tmp_path).close()


def test_a_read_only_disk_is_said_so(small_disk: Path) -> None:
    Store.open(small_disk / "state").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(StoreError, match="Read-only") as failure:
            Store.open(small_disk / "state")
        assert "\n" not in str(failure.value)
        with pytest.raises(StoreError, match="Read-only"):
            Store.open(small_disk / "other")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


LIMITED = """
import resource, sys
from pathlib import Path
from edgecam.store import Store
from test_store_faults import fill_up
store = Store.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
stored = []
print(fill_up(store, stored))
assert [p.name for p in store.people()] == stored
print(len(stored))
"""


def test_a_file_size_limit_loses_nothing(tmp_path: Path) -> None:
    out, err = python(LIMITED, tmp_path).communicate(timeout=60)
    told, count = out.splitlines() or [err, "0"]
    assert "the disk cannot be read or written" in told
    with Store.open(tmp_path) as store:
        assert len(store.people()) == int(count) > 0
        assert store.problems() == []


BUSY = """
import sys
from pathlib import Path
from edgecam.store import Store
from test_store_samples import crop, decision, embedding
store = Store.open(Path(sys.argv[1]))
turn = sys.argv[2]
ann = store.find_person("Ann") or store.add_person("Ann")
i = 0
while True:
    i += 1
    name = f"{turn}-{i}"
    store.record(decision(name, f"visit {name}"), [("t", name.encode(), False), ("t", name.encode(), True)])
    store.add_visit_picture(f"visit {name}", 1, crop(i))
    with store.transaction():
        for j in range(3):
            store.add_face(ann.id, crop(j), quality=1.0, source=name, embedding=embedding(j))
    print(name, flush=True)
    if i % 5 == 0:
        store.purge(1.8e9 + 1e5, True)  # pictures only
    if i % 7 == 0:
        store.forget((store.find_person("Passer") or store.add_person("Passer")).id)
"""


def test_kill_9_loses_no_committed_row(tmp_path: Path) -> None:
    told: List[str] = []
    for turn in range(10):
        worker = python(BUSY, tmp_path, turn)
        assert worker.stdout is not None
        told.append(worker.stdout.readline().strip())
        time.sleep(0.05 + 0.03 * turn)
        worker.send_signal(signal.SIGKILL)
        out, err = worker.communicate()
        told += [line for line in out.split("\n")[:-1] if line]
        assert err == ""
        with Store.open(tmp_path) as store:
            assert store.problems() == []
            sources = [face.source for face in store.faces(store.people()[0].id)]
            assert all(sources.count(name) == 3 for name in set(sources))
            assert set(told) <= set(sources)
            messages = [row.payload.decode() for row in store.outbox_peek(100_000)]
            decided = {word.id for visit in store.visits(100_000) for word in visit.decisions}
            assert set(told) <= decided == set(messages)
            assert all(messages.count(name) == 2 for name in decided)
    assert len(told) > 20


def test_threads_share_one_store(tmp_path: Path) -> None:
    failures: List[BaseException] = []

    def work(number: int, store: Store) -> None:
        try:
            for i in range(15):
                with store.transaction():
                    person = store.add_person(f"{number}-{i}")
                    store.add_face(person.id, crop(i, 9, 9), quality=1.0, source="", embedding=embedding(i))
                store.record(decision(f"{number}-{i}", f"v{number}"), [("t", b"%d" % i, True)])
                gallery = store.gallery("m1")
                assert len(gallery.person_ids) == len(gallery.vectors) == len(set(gallery.face_ids))
                if i % 5 == 4:
                    store.forget(person.id)
                    store.backup(tmp_path / "backups")
        except BaseException as err:
            failures.append(err)

    with Store.open(tmp_path / "state") as store:
        threads = [threading.Thread(target=work, args=(n, store), name=f"worker {n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(store.people()) == 4 * 12
        assert np.all(np.isfinite(store.gallery("m1").vectors))
        assert store.outbox_size() == 60
        assert store.problems() == []


def test_a_lock_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Lock(tmp_path / "nowhere" / "lock", 0)


def test_two_connections_do_not_deadlock(tmp_path: Path) -> None:
    """A backup reads beside a writer."""
    with Store.open(tmp_path) as store, store.transaction():
        store.add_person("Ann")
        store._db.copy_to(tmp_path / "copy.db")
        copy = Database(tmp_path / "copy.db", wal=False)
        assert copy.rows("SELECT count(*) FROM people") == [(0,)]
        copy.close()


def test_a_killed_backup_leaves_no_copy_behind(tmp_path: Path) -> None:
    """What lies half written beside the backups would keep whoever is forgotten."""
    config = StoreConfig(backup_dir=tmp_path / "backups")
    with Store.open(tmp_path / "state", config) as store:
        kept = store.backup()
    (tmp_path / "backups/edgecam-1.db.part").write_bytes(b"x")
    (tmp_path / "backups/edgecam-1.db.part-journal").write_bytes(b"x")
    (tmp_path / "state/master.key.tmp").write_bytes(b"x" * 32)
    (tmp_path / "state/health.json.tmp").write_bytes(b"x")
    with Store.open(tmp_path / "state", config, read_only=True):
        assert len(list((tmp_path / "backups").iterdir())) == 3, "who only looks deletes nothing"
    Store.open(tmp_path / "state", config).close()
    assert list((tmp_path / "backups").iterdir()) == [kept]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["edgecam.db", "lock", "master.key"]
