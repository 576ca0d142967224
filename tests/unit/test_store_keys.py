"""Another master key, killed at any moment; and the passphrase that opens a backup on another box."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import pytest
from test_store_faults import python
from test_store_forget import live_with, traces
from test_store_samples import all_bytes, crop

from edgecam.__main__ import main
from edgecam.config import StoreConfig
from edgecam.daemon.control import ControlServer
from edgecam.errors import ConfigError, KeyMissingError, StoreError
from edgecam.store import KeyFile, Recovery, SealedKey, Store, destroy, key_place, keys, open_recovery, recovery_of
from edgecam.store import store as store_module
from edgecam.store.keys import Credential

CHEAP = Recovery(b"s" * 16, n=4, r=1, p=1)
PASSPHRASE = "five words are quite enough"
BASE = "facenet 1"


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "EDGECAM_KEY_FILE", "EDGECAM_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(backup_dir=folder)) as opened:
        yield opened


def fill(store: Store) -> str:
    """Store something in every table that the master key seals; return a person's id."""
    ann = live_with(store, "Ann", 100)
    store.put_version(BASE, {"head": b"head" * 20}, [ann.id], {"reasons": []}, accepted=True)
    with store.transaction():
        store._db.run(
            "INSERT INTO strangers VALUES ('S', 'm1', 0, ?)", (store._master.seal("strangers:S:features", b"x" * 16),)
        )
    return ann.id


def sealed_by_the_master_key(store: Store) -> Dict[str, bytes]:
    """Return what lies in the file under the master key itself."""
    columns = {
        "keys": "wrapped", "decisions": "body", "visits": "summary", "outbox": "payload", "settings": "value",
        "strangers": "features", "meta": "data",
    }  # fmt: skip
    found: Dict[str, bytes] = {}
    for table, column in columns.items():
        rows = store._db.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")  # noqa: S608
        found |= {f"{table} {i}": bytes(row[0]) for i, row in enumerate(rows)}
    assert {name.split()[0] for name in found} == set(columns)
    return found


def told(store: Store) -> Tuple[Any, ...]:
    """Return what can be read of all that is stored."""
    (ann,) = store.people()
    serving = store.in_service(BASE)
    assert serving is not None
    return (
        ann, store.visit("visit100"), store.get("radius100"), [row.payload for row in store.outbox_peek()],
        store.devices(), store.gallery("m1").vectors.tobytes(), store.picture("visit100", 3).image.tobytes(),
        store.stranger_features("m1").tobytes(), serving[1], store.problems(),
    )  # fmt: skip


def test_another_key_opens_all_and_the_former_one_nothing(store: Store, folder: Path, tmp_path: Path) -> None:
    fill(store)
    store.backup()
    before, place = told(store), key_place(tmp_path / "state")
    former, signed_by, blobs = place.read(), store.public_key, sealed_by_the_master_key(store)
    night = tmp_path / "state/night"
    night.mkdir()
    (night / "half.bin").write_bytes(b"sealed with the former key")
    assert set(traces(blobs, all_bytes(store.path.parent))) == set(blobs)

    disk = tmp_path / "as it lies on the disk"
    os.link(place.path, disk)
    assert store.change_key() == []
    assert place.read() != former
    assert former not in disk.read_bytes()
    assert told(store) == before
    assert store.public_key != signed_by
    assert store.audit_log(2)[0].action == "view"  # of `told`
    assert store.audit_log(2)[1].action == "key changed"
    assert not night.exists()
    for found in (all_bytes(store.path.parent), all_bytes(folder)):
        assert traces(blobs, found) == []
        assert former not in found
    store.close()
    with Store.open(tmp_path / "state", StoreConfig(backup_dir=folder)) as opened:
        assert told(opened) == before
        (copy,) = folder.iterdir()
        assert opened.restore(copy, "replace").people == 1
        assert opened.in_service(BASE) is not None
    place.write(former)
    with pytest.raises(KeyMissingError, match=r"not the one that .*edgecam reset --yes.*edgecam restore BACKUP"):
        Store.open(tmp_path / "state")


def test_what_is_damaged_or_altered_stays_so(store: Store) -> None:
    ann = fill(store)
    store._db.run("UPDATE settings SET value = x'00'")
    store._db.run("UPDATE versions SET record = (SELECT name FROM people)")
    store._keys.clear()
    store.change_key()
    assert {damage.table for damage in store.damaged()} == {"settings", "versions"}
    assert store.in_service(BASE) is None
    assert store.person(ann).name == "Ann"


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from edgecam.config import StoreConfig
from edgecam.store import Store
from edgecam.store.db import Database
from test_store_keys import told
top = Path(sys.argv[1])
former = (top / "made/state/master.key").read_bytes()

def dies_at(step):
    left = [step]
    def counted(call):
        def instead(*args, **more):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)
        return instead
    for name in ("run", "run_many", "shrink", "_roll_back"):
        setattr(Database, name, counted(getattr(Database, name)))
    for name in ("replace", "fsync", "pwrite", "unlink", "open"):
        setattr(os, name, counted(getattr(os, name)))

def opened(box):
    return Store.open(box / "state", StoreConfig(backup_dir=box / "backups"))

with opened(top / "made") as store:
    wanted = told(store)[:-1]
step, ways = 0, set()
while True:
    step += 1
    box = top / "box"
    shutil.rmtree(box, ignore_errors=True)
    shutil.copytree(top / "made", box)
    child = os.fork()
    if not child:
        with opened(box) as store:
            dies_at(step)
            store.change_key()
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    in_place = (box / "state/master.key").read_bytes()
    with opened(box) as store:
        assert told(store)[:-1] == wanted, step
        assert not store.problems(), (step, store.problems())
        ways.add((in_place == former, store.key_unfinished))
        (copy,) = (box / "backups").glob("*.db")
        assert store.look(copy).opens or store.key_unfinished, step
        assert store.change_key() == [], step
        assert store.look(copy).opens and not store.look(copy).bridged, step
        assert not store.problems(), step
    (box / "state/master.key").write_bytes(former)
    try:
        opened(box)
        sys.exit(f"killed at step {step}, the former key still opens all in the end")
    except Exception as err:
        assert "is not the one" in str(err), err
print(step, sorted(ways))
"""


def test_killed_at_any_step_whichever_key_is_in_place_opens_all(tmp_path: Path) -> None:
    with Store.open(tmp_path / "made/state", StoreConfig(backup_dir=tmp_path / "made/backups")) as store:
        fill(store)
        store.backup()
    child = python(KILLED, tmp_path)
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    steps, ways = out.split(" ", 1)
    print(f"\n{steps} steps")
    assert int(steps) > 40
    # Before the commit; between it and the new key's being in place; after that.
    assert ways.strip() == str([(False, False), (True, False), (True, True)])


def test_a_place_that_cannot_be_written_leaves_either_key_good(store: Store, tmp_path: Path) -> None:
    fill(store)
    before = told(store)
    store.close()
    former = (tmp_path / "state/master.key").read_bytes()

    class Shut(KeyFile):
        def write(self, key: bytes) -> None:
            raise StoreError(f"{self.path} cannot be written")

    with Store.open(tmp_path / "state") as opened:
        with pytest.raises(StoreError, match="cannot be written"):
            opened.change_key(Shut(tmp_path / "state/master.key"))
        assert told(opened) == before
    with Store.open(tmp_path / "state") as opened:
        assert told(opened) == before
        assert (opened.key_unfinished, opened.change_key(), opened.key_unfinished) == (True, [], False)
    assert (tmp_path / "state/master.key").read_bytes() != former


def test_what_another_box_wrote_is_told_and_left(store: Store, folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as other:
        foreign = other.backup(folder)
    bytes_before = foreign.read_bytes()
    mine = store.backup()
    (line,) = store.change_key()
    assert line.startswith(foreign.name)
    assert "another master key" in line
    assert foreign.read_bytes() == bytes_before
    assert store.look(mine).opens


def test_a_credential_is_systemds_to_change(store: Store, tmp_path: Path) -> None:
    fill(store)
    with pytest.raises(StoreError, match="handed over by systemd: run this as root"):
        store.change_key(Credential(tmp_path / "edgecam.key"))
    assert not (tmp_path / "edgecam.key").exists()


# Recovery.


def other_box(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "other")


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_passphrase_opens_a_backup_on_another_box(store: Store, tmp_path: Path, mode: str) -> None:
    fill(store)
    before = told(store)
    store.set_recovery(CHEAP, CHEAP.key(PASSPHRASE))
    path = store.backup()
    assert store._master.key not in path.read_bytes()
    with other_box(tmp_path) as other:
        with pytest.raises(KeyMissingError, match=r"another master key: give that one .*--key"):
            other.restore(path)
        look = other.look(path)
        assert (look.opens, look.bridged) == (False, False)
        assert look.recovery is not None
        recovery = recovery_of(json.loads(json.dumps(look.recovery)))
        assert recovery == CHEAP
        with pytest.raises(KeyMissingError, match="passphrase is wrong"):
            open_recovery(look.recovery, recovery.key(PASSPHRASE + "."))
        master = open_recovery(look.recovery, recovery.key(PASSPHRASE))
        assert master == store._master.key
        other.restore(path, "merge" if mode == "merge" else "replace", master)
        own = (tmp_path / "other/master.key").read_bytes()
        assert own == other._master.key != master
        assert [*told(other)[:3]] == [*before[:3]]
        assert told(other)[4:8] == before[4:8] if mode == "replace" else told(other)[4:7] == before[4:7]
        assert told(other)[8:] == before[8:]
        assert other.recovery() is None  # it was the other key's
        assert master not in all_bytes(tmp_path / "other")
    with other_box(tmp_path) as other:
        assert other.in_service(BASE) is not None
        assert np.array_equal(other.crop(other.faces(other.people()[0].id)[0].id).image, crop(100).image)


def test_a_changed_key_keeps_or_drops_the_passphrase_as_told(store: Store, folder: Path) -> None:
    fill(store)
    store.set_recovery(CHEAP, CHEAP.key(PASSPHRASE))
    (path,) = [store.backup()]
    store.change_key(recovery=CHEAP, recovery_key=CHEAP.key("another passphrase"))
    for packed in (store.recovery(), store.look(path).recovery):
        assert packed is not None
        assert open_recovery(packed, CHEAP.key("another passphrase")) == store._master.key
        with pytest.raises(KeyMissingError):
            open_recovery(packed, CHEAP.key(PASSPHRASE))
    store.change_key()
    assert store.recovery() is store.look(path).recovery is None


@pytest.mark.parametrize(
    "changed",
    [{"n": 2**30}, {"n": 3}, {"n": 0}, {"r": 10**6}, {"p": 10**6}, {"salt": "zz"}, {"salt": None}, {"n": "many"}],
)
def test_an_altered_record_is_damage_and_takes_no_memory(store: Store, changed: Dict[str, Any]) -> None:
    store.set_recovery(CHEAP, CHEAP.key(PASSPHRASE))
    packed = {**(store.recovery() or {}), **changed}
    with pytest.raises(StoreError, match="record is damaged"):
        recovery_of(packed)
    store._put_meta("recovery", json.dumps(packed).encode())
    with pytest.raises(StoreError, match="record is damaged"):
        store.recovery()


def test_a_restored_backup_brings_neither_its_passphrase_nor_a_bridge(store: Store, tmp_path: Path) -> None:
    fill(store)
    store.set_recovery(CHEAP, CHEAP.key(PASSPHRASE))
    path = store.backup()
    store.set_recovery(CHEAP, CHEAP.key("the newer passphrase"))
    newer = store.recovery()
    store.restore(path, "replace")
    assert store.recovery() == newer


# Sealed by systemd.


@pytest.fixture
def _secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("systemd-creds") is None or os.geteuid() != 0:
        pytest.skip("needs systemd-creds (systemd 250 and newer) and root")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "secret"))


@pytest.mark.usefixtures("_secret")
def test_a_key_sealed_for_this_machine(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    before, state, etc = told(store), tmp_path / "state", tmp_path / "etc"
    store.close()
    etc.mkdir()
    for module in (keys, store_module):
        monkeypatch.setattr(module, "SERVICE_STATE", state)
        monkeypatch.setattr(module, "SERVICE_KEY", etc / "edgecam.key")
        monkeypatch.setattr(module, "SEALED_KEY", etc / "edgecam.key.cred")
    (state / "master.key").replace(etc / "edgecam.key")
    former, disk = (etc / "edgecam.key").read_bytes(), tmp_path / "as it lies on the disk"
    os.link(etc / "edgecam.key", disk)
    with Store.open(state) as opened:
        opened.change_key(keys.service_place(state, sealed=True))
        assert opened._master.key not in all_bytes(etc)
    assert [path.name for path in etc.iterdir()] == ["edgecam.key.cred"]
    assert former not in disk.read_bytes()
    with Store.open(state) as opened:
        assert told(opened) == before
        opened.change_key()
        assert told(opened) == before
    (tmp_path / "secret").unlink()
    with pytest.raises(KeyMissingError, match=r"cannot be unsealed here .*edgecam reset --yes"):
        Store.open(state)
    destroy(state)
    with Store.open(state) as opened:  # with another key, sealed as before
        assert opened.people() == []
        assert isinstance(opened.key_place, SealedKey)
    with pytest.raises(ConfigError, match="only the service's key has a choice"):
        keys.service_place(tmp_path, sealed=True)


# By command.


class Commands:
    """The command line on a state folder, in this process."""

    def __init__(self, state: Path, config: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._common, self._capfd = ["--state", str(state), "--config", str(config)], capfd

    def __call__(self, *args: object, code: int = 0) -> str:
        got = main([*map(str, args), *self._common])
        out, err = self._capfd.readouterr()
        assert got == code, err
        assert "Traceback" not in err
        return out + err


def test_key_backup_and_restore_by_command(
    tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Recovery._field_defaults.items():
        assert value >= {"n": 2**16, "r": 8, "p": 1}[name]
    monkeypatch.setattr(Recovery.__new__, "__defaults__", (4, 1, 1))
    config, words, short = tmp_path / "c.toml", tmp_path / "words", tmp_path / "short"
    config.write_text(f'[store]\nbackup_dir = "{folder}"\n')
    words.write_text(PASSPHRASE + "\n")
    short.write_text("short\n")
    with Store.open(tmp_path / "state") as store:
        fill(store)
    edgecam, there = (Commands(tmp_path / name, config, capfd) for name in ("state", "other"))

    assert "passphrase opens backups: no" in edgecam("key", "show")
    plain = Path(edgecam("backup").splitlines()[0])
    assert "too short: at least 12" in edgecam("backup", "--passphrase-file", short, code=2)
    assert "nobody to ask" in edgecam("backup", "--passphrase", code=2)
    assert len(list(folder.iterdir())) == 1
    said = edgecam("backup", "--passphrase-file", words)
    assert "whoever finds both reads it" in said
    path = Path(said.splitlines()[0])
    assert json.loads(edgecam("key", "show", "--json"))["recovery"] is True

    assert "holds no recovery passphrase: give that key (--key" in there("restore", plain, code=1)
    assert "passphrase is wrong" in there("restore", path, "--passphrase-file", short, code=1)
    assert "nobody to ask" in there("restore", path, code=2)
    assert "1 people, 3 faces, 1 visits" in there("restore", path, "--passphrase-file", words)
    assert json.loads(there("key", "show", "--json"))["recovery"] is True  # the passphrase stays good there
    former = tmp_path / "former.key"
    shutil.copy(tmp_path / "state/master.key", former)
    assert "0 people" in there("restore", plain, "--key", former)

    assert "a passphrase opens backups: give it" in edgecam("key", "rotate", code=2)
    assert "the key is another one" in edgecam("key", "rotate", "--passphrase-file", words)
    assert "1 people" in edgecam("restore", path, "--mode", "replace")
    assert "only the service's key" in edgecam("key", "rotate", "--to", "systemd-creds", "--no-passphrase", code=2)
    shutil.copy(former, tmp_path / "state/master.key")
    for command in (
        ["people", "list"],
        ["visits", "list"],
        ["backup"],
        ["key", "rotate"],
        ["status"],
        ["restore", path],
    ):
        said = edgecam(*command, code=1)
        assert "is not the one that" in said
        assert "`edgecam reset --yes`, then `edgecam restore BACKUP`" in said
    (tmp_path / "state/master.key").unlink()
    assert "the master key is missing" in edgecam("people", "list", code=1)
    assert "erased" in edgecam("reset", "--yes")
    assert "1 people, 3 faces" in edgecam("restore", path, "--passphrase-file", words)


def test_the_key_is_not_changed_under_a_running_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("")
    Store.open(tmp_path / "s").close()
    before = (tmp_path / "s/master.key").read_bytes()
    server = ControlServer(tmp_path / "s/control.sock", lambda _request, _peer: iter(()))
    server.start()
    try:
        said = Commands(tmp_path / "s", tmp_path / "c.toml", capfd)("key", "rotate", code=1)
    finally:
        server.stop()
    assert "the daemon is running: stop it first" in said
    assert (tmp_path / "s/master.key").read_bytes() == before


def asked(state: Path, *answers: str) -> Tuple[int, str]:
    """Run `edgecam backup --passphrase` on a terminal of its own."""
    command = [
        sys.executable,
        "-m",
        "edgecam",
        "backup",
        str(state.parent / "b"),
        "--passphrase",
        "--state",
        str(state),
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)  # noqa: S606 - the tests' own Python
    said = b""
    for answer in answers:
        while not said.endswith(b": "):
            said += os.read(terminal, 1024)
        os.write(terminal, answer.encode() + b"\n")
        said += b"\n"
    try:
        while more := os.read(terminal, 1024):
            said += more
    except OSError:
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def test_a_passphrase_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    code, said = asked(tmp_path / "s", PASSPHRASE, PASSPHRASE + "x")
    assert code == 2
    assert "not the same" in said
    assert PASSPHRASE not in said
    assert not (tmp_path / "b").exists()
