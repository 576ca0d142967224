"""Devices and sightings in the store: bound, found, moved, exported, backed up, and erased to the last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from test_store_forget import traces
from test_store_samples import DAY, NOW, Watch, all_bytes

from edgecam.config import StoreConfig
from edgecam.errors import ConfigError
from edgecam.store import NotStoredError, Store
from edgecam.types import Device, Person, Sighting, SightingSource, Transition

ADDRESS = "5c:51:4f:be:ef:01"
OTHER = "02:11:22:33:44:55"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, folder: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(backup_dir=folder), clock=watch) as opened:
        yield opened


def bound(store: Store, name: str = "Ann", address: str = ADDRESS) -> Tuple[Person, Device]:
    person = store.add_person(name)
    return person, store.add_device(person.id, "wifi", address, label=f"{name}'s phone", consent={"said": name})


def seen(device: Device, wall_s: float = NOW, weight: float = 1.0) -> Sighting:
    return Sighting(device.id, SightingSource.SNIFF, wall_s, Transition.JOIN, weight, -48, 6, 12)


def test_a_device_comes_back_as_it_was_bound(store: Store) -> None:
    ann, device = bound(store)
    assert store.devices() == store.devices(ann.id) == store.find_devices("wifi", ADDRESS) == [device]
    assert store.device(device.id) == device
    assert (device.address, device.label, device.consent, device.random) == (
        ADDRESS,
        "Ann's phone",
        {"said": "Ann"},
        False,
    )
    assert store.find_devices("wifi", OTHER) == store.find_devices("ble", ADDRESS) == []
    assert ("device consent", device.id) in [row[2:] for row in store.audit_log()]


def test_a_device_is_bound_once(store: Store) -> None:
    _, device = bound(store)
    ben = store.add_person("Ben")
    with pytest.raises(ConfigError, match=f"somebody else already .device {device.id}"):
        store.add_device(ben.id, "wifi", ADDRESS)
    with pytest.raises(NotStoredError):
        store.add_device("NOBODY", "wifi", OTHER)
    assert store.devices() == [device]


def test_another_address_is_found_and_the_old_one_is_not(store: Store) -> None:
    _, device = bound(store)
    changed = store.change_device(device.id, address=OTHER, client_id="01:aa")
    assert store.find_devices("wifi", OTHER) == [changed]
    assert store.find_devices("wifi", ADDRESS) == []
    assert (changed.random, changed.label, changed.client_id) == (True, device.label, "01:aa")


def test_a_visit_carries_its_sightings(store: Store) -> None:
    _, device = bound(store)
    store.open_visit("v1", "door", "front", NOW)
    late = store.add_sighting(seen(device, NOW + 20), [("v1", 20.0)])
    store.add_sighting(seen(device, NOW - 60, weight=0.2), [("v1", -60.0), ("gone", 3.0)])
    store.add_sighting(seen(device, NOW + 500))
    assert [(offset, s.wall_s, s.weight) for offset, s in store.visit_sightings("v1")] == [
        (-60.0, NOW - 60, 0.2),
        (20.0, NOW + 20, 1.0),
    ]
    store.open_visit("v2", "door", "front", NOW + 100)
    store.join_sighting(late, [("v2", -80.0)])
    assert store.visit_sightings("v2") == [(-80.0, seen(device, NOW + 20))]
    assert len(store.sightings(NOW)) == 2


def test_sightings_expire_with_the_visits(store: Store, watch: Watch) -> None:
    _, device = bound(store)
    store.open_visit("v1", "door", "front", NOW)
    store.add_sighting(seen(device), [("v1", 0.0)])
    watch.now_s = NOW + 29 * DAY
    store.purge(watch.now_s, trusted=True)
    assert len(store.sightings(0.0)) == 1
    watch.now_s = NOW + 31 * DAY
    store.purge(watch.now_s, trusted=False)
    assert len(store.sightings(0.0)) == 1
    store.purge(watch.now_s, trusted=True)
    assert store.sightings(0.0) == []


def test_what_was_seen_before_the_clock_was_set_counts_from_then(store: Store, watch: Watch) -> None:
    _, device = bound(store)
    watch.now_s = 100.0
    store.add_sighting(seen(device, 100.0))
    store.purge(NOW, trusted=True)
    assert len(store.sightings(0.0)) == 1
    store.purge(NOW + 31 * DAY, trusted=True)
    assert store.sightings(0.0) == []


def test_a_removed_device_is_gone_with_its_sightings_and_stays_gone(store: Store) -> None:
    _, device = bound(store)
    store.open_visit("v1", "door", "front", NOW)
    store.add_sighting(seen(device), [("v1", 0.0)])
    backup = store.backup()
    store.remove_device(device.id)
    assert (store.devices(), store.sightings(0.0), store.visit_sightings("v1")) == ([], [], [])
    with pytest.raises(NotStoredError):
        store.remove_device(device.id)
    store.add_sighting(seen(device))  # one that was on its way
    assert store.sightings(0.0) == []
    store.restore(backup, "merge")
    assert store.devices() == []
    store.restore(backup, "replace")
    assert store.devices() == []


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_backup_brings_devices_and_sightings_back(store: Store, tmp_path: Path, watch: Watch, mode: str) -> None:
    ann, device = bound(store)
    store.open_visit("v1", "door", "front", NOW)
    store.add_sighting(seen(device), [("v1", 5.0)])
    backup = store.backup(tmp_path / "elsewhere")
    key = (tmp_path / "state" / "master.key").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "master.key").write_bytes(key)
    with Store.open(other, clock=watch) as second:
        second.restore(backup, "merge" if mode == "merge" else "replace")
        assert second.devices(ann.id) == second.find_devices("wifi", ADDRESS) == [device]
        assert second.visit_sightings("v1") == [(5.0, seen(device))]


def test_merging_people_moves_the_devices(store: Store) -> None:
    ann, first = bound(store)
    annie, second = bound(store, "Annie", OTHER)
    store.add_sighting(seen(second))
    store.merge(ann.id, annie.id)
    assert [(d.id, d.person_id, d.address) for d in store.devices()] == [
        (first.id, ann.id, ADDRESS),
        (second.id, ann.id, OTHER),
    ]
    assert [d.id for d in store.find_devices("wifi", OTHER)] == [second.id]
    assert len(store.sightings(0.0)) == 1


def test_an_export_tells_of_devices_and_sightings(store: Store) -> None:
    ann, device = bound(store)
    bound(store, "Ben", OTHER)
    store.add_sighting(seen(device))
    exported = store.export(ann.id)
    assert [d["address"] for d in exported["devices"]] == [ADDRESS]
    assert [s["rssi_dbm"] for s in exported["sightings"]] == [-48]


def test_forgetting_leaves_nothing_of_a_device(store: Store, folder: Path) -> None:
    ann, device = bound(store)
    _, kept = bound(store, "Ben", OTHER)
    store.open_visit("v1", "door", "front", NOW)
    for i in range(200):
        store.add_sighting(seen(device, NOW + i), [("v1", float(i))])
    store.change_device(device.id, hostname="Anns-Galaxy", client_id="01:5c:51:4f:be:ef:01")
    rows = store._db.rows("SELECT address_hash, body FROM devices WHERE id = ?", (device.id,))
    blobs = {"hash": rows[0][0], "body": rows[0][1]}
    store.backup()
    assert traces(blobs, all_bytes(store.path.parent)) == ["hash", "body"]
    assert set(traces(blobs, all_bytes(folder))) == {"hash", "body"}
    store.forget(ann.id)
    for found in (all_bytes(store.path.parent), all_bytes(folder)):
        assert traces(blobs, found) == []
        assert not any(secret in found for secret in secrets())
    assert store.sightings(0.0) == []
    assert store.devices() == [kept]
    assert store.problems() == []


def test_nothing_of_an_address_is_ever_written_in_the_clear(store: Store) -> None:
    ann, device = bound(store)
    store.add_sighting(seen(device))
    store.change_device(device.id, address="5c:51:4f:be:ef:01", hostname="Anns-Galaxy")
    found = all_bytes(store.path.parent)
    assert not any(secret in found for secret in secrets())
    assert ann.id.encode() in found  # the search sees what is there


def secrets() -> List[bytes]:
    raw = bytes.fromhex(ADDRESS.replace(":", ""))
    texts = (ADDRESS, ADDRESS.upper(), ADDRESS.replace(":", ""), ADDRESS.replace(":", "-"), "Anns-Galaxy", "'s phone")
    return [raw, *(text.encode() for text in texts)]
