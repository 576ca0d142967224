from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Dict, Tuple

import pytest
from test_store_samples import all_bytes, crop

from edgecam.config import StoreConfig
from edgecam.errors import KeyMissingError, StoreError
from edgecam.store import KeyPlace, Store, destroy, key_place, keys
from edgecam.store import store as store_module
from edgecam.store.keys import load_master_key
from edgecam.store.vault import Sealer, new_key, write_private


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("EDGECAM_KEY_FILE", raising=False)


def test_a_sealed_blob_opens_only_at_its_place_with_its_key() -> None:
    sealer = Sealer(new_key())
    blob = sealer.seal("faces:1:crop", b"picture")
    assert sealer.open("faces:1:crop", blob) == b"picture"
    with pytest.raises(StoreError, match="faces:2:crop is damaged"):
        sealer.open("faces:2:crop", blob)
    with pytest.raises(StoreError, match="damaged"):
        Sealer(new_key()).open("faces:1:crop", blob)


@pytest.mark.parametrize("position", [0, 12, -1])
def test_every_bit_is_guarded(position: int) -> None:
    sealer = Sealer(new_key())
    blob = bytearray(sealer.seal("t:1:c", b"picture"))
    blob[position] ^= 1
    with pytest.raises(StoreError, match="damaged"):
        sealer.open("t:1:c", bytes(blob))


@pytest.mark.parametrize("blob", [b"", b"short", b"x" * 12, b"x" * 20])
def test_a_truncated_blob_is_damage_not_a_crash(blob: bytes) -> None:
    with pytest.raises(StoreError, match="damaged"):
        Sealer(new_key()).open("t:1:c", blob)


def test_equal_texts_are_sealed_differently() -> None:
    sealer = Sealer(new_key())
    assert sealer.seal("t:1:c", b"Ann") != sealer.seal("t:1:c", b"Ann")


def lies(place: KeyPlace) -> Tuple[str, Path]:
    return place.kind, place.path


def test_credential_wins_over_variable_wins_over_state(tmp_path: Path) -> None:
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "edgecam.key").write_bytes(new_key())
    both = {"CREDENTIALS_DIRECTORY": str(credentials), "EDGECAM_KEY_FILE": "/a/key"}
    assert lies(key_place(state, both)) == ("credential", credentials / "edgecam.key")
    (credentials / "edgecam.key").unlink()
    assert lies(key_place(state, both)) == ("file", Path("/a/key"))
    assert lies(key_place(state, {})) == ("file", state / "master.key")


def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuple[Path, Path]:
    """Return the service's state and its key's file, put elsewhere for this test."""
    state, etc = tmp_path / "state", tmp_path / "etc"
    etc.mkdir()
    for module in (keys, store_module):
        monkeypatch.setattr(module, "SERVICE_STATE", state)
        monkeypatch.setattr(module, "SERVICE_KEY", etc / "edgecam.key")
        monkeypatch.setattr(module, "SEALED_KEY", etc / "edgecam.key.cred")
    return state, etc / "edgecam.key"


def test_the_services_key_is_roots_and_for_the_services_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, key = service(tmp_path, monkeypatch)
    assert lies(key_place(state, {})) == ("file", state / "master.key")
    keys.SEALED_KEY.write_text("sealed")
    assert lies(key_place(state, {})) == ("systemd-creds", keys.SEALED_KEY)
    key.write_bytes(new_key())
    assert lies(key_place(state, {})) == ("file", key)
    assert lies(key_place(state, {"EDGECAM_KEY_FILE": "/a/key"})) == ("file", Path("/a/key"))
    assert lies(key_place(tmp_path / "other", {})) == ("file", tmp_path / "other/master.key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_makes_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 54321)
    with Store.open(state, StoreConfig()) as store:
        store.backup(state)
        owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in state.iterdir()}
    assert {"edgecam.db", "edgecam.db-wal", "edgecam.db-shm", "lock", "master.key"} < owners.keys()
    assert len(owners) == 6  # and the backup
    assert set(owners.values()) == {(12345, 54321)}


def test_erasing_the_services_state_makes_roots_key_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, key = service(tmp_path, monkeypatch)
    before = new_key()
    key.write_text(before.hex())
    Store.open(state, StoreConfig()).close()
    assert not (state / "master.key").exists()
    destroy(state)
    after = key.read_bytes()
    assert len(after) == 32
    assert after != before
    Store.open(state, StoreConfig()).close()  # begins anew with it


def test_the_state_folders_key_is_made_once_and_private(tmp_path: Path) -> None:
    key, place = load_master_key(tmp_path, create=True)
    assert (len(key), place.path) == (32, tmp_path / "master.key")
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    assert load_master_key(tmp_path, create=True)[0] == key


def test_a_missing_key_of_an_existing_store_is_not_made_anew(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "master.key").unlink()
    with pytest.raises(KeyMissingError, match=r"master\.key: the master key is missing; put it back"):
        Store.open(tmp_path)
    assert not (tmp_path / "master.key").exists()


def test_a_named_key_file_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECAM_KEY_FILE", str(tmp_path / "nowhere.key"))
    with pytest.raises(KeyMissingError, match=r"nowhere\.key"):
        Store.open(tmp_path / "state")
    assert not (tmp_path / "nowhere.key").exists()


def test_an_unreadable_key_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "master.key").mkdir()
    with pytest.raises(KeyMissingError, match="cannot be read"):
        load_master_key(tmp_path, create=True)


@pytest.mark.parametrize("content", [b"", b"secret", b"zz" * 32, b"\xff" * 31, b"00" * 31])
def test_rubbish_is_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "master.key").write_bytes(content)
    with pytest.raises(KeyMissingError, match="not a master key"):
        load_master_key(tmp_path, create=True)


def test_a_key_may_be_written_in_hexadecimal(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_text("0f" * 32 + "\n")
    assert load_master_key(tmp_path, create=False)[0] == b"\x0f" * 32


def test_a_wrong_key_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "state") as store:
        store.add_person("Ann")
    write_private(tmp_path / "other.key", new_key())
    monkeypatch.setenv("EDGECAM_KEY_FILE", str(tmp_path / "other.key"))
    with pytest.raises(KeyMissingError, match=r"other\.key is not the one") as failure:
        Store.open(tmp_path / "state")
    assert "\n" not in str(failure.value)
    monkeypatch.delenv("EDGECAM_KEY_FILE")
    with Store.open(tmp_path / "state") as store:
        assert [person.name for person in store.people()] == ["Ann"]


def test_a_key_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_private(tmp_path / "nowhere" / "key", b"k")
    assert list(tmp_path.iterdir()) == []


def test_blobs_of_two_people_cannot_be_exchanged(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        ann, ben = store.add_person("Ann"), store.add_person("Ben")
        faces = [store.add_face(p.id, crop(), quality=1.0, source="x") for p in (ann, ann, ben)]
        blobs: Dict[str, bytes] = dict(store._db.rows("SELECT face_id, crop FROM crops"))
        for other in faces[1:]:
            store._db.run("UPDATE crops SET crop = ? WHERE face_id = ?", (blobs[faces[0]], other))
            with pytest.raises(StoreError, match=f"crops:{other}:crop is damaged"):
                store.crop(other)


def test_everything_is_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    old = os.umask(0)
    try:
        with Store.open(state) as store:
            store.add_person("Ann")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    finally:
        os.umask(old)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("edgecam.db", "edgecam.db-wal", "edgecam.db-shm", "lock", "master.key"), 0o600)


def test_a_foreign_full_folder_keeps_its_rights(tmp_path: Path) -> None:
    """`--state` may point at a folder that others use."""
    tmp_path.chmod(0o755)
    (tmp_path / "holiday.txt").write_text("x")
    Store.open(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_destroy_leaves_neither_key_nor_data(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_person("Ann")
        with pytest.raises(StoreError, match="in use by process"):
            destroy(tmp_path, wait_s=0)
    key = (tmp_path / "master.key").read_bytes()
    destroy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert key not in all_bytes(tmp_path)
    with Store.open(tmp_path) as store:
        assert store.people() == []
