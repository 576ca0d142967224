"""Devices of people who agreed, and their sightings; a person's key destroyed makes both unreadable."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from dataclasses import asdict, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.errors import ConfigError, DamagedError, StoreError
from edgecam.store.backup import Backups
from edgecam.store.base import caller
from edgecam.store.db import Row
from edgecam.store.records import NotStoredError, Purged, Restored, pack_json
from edgecam.types import Device, Person, Sighting, SightingSource, Transition

_DAY_S = 86_400.0
_SELECT = "SELECT id, person_id, kind, created_wall_s, body FROM devices"
_SEALED = ("address", "label", "client_id", "hostname", "consent")
_COLUMNS = "device_id, source, wall_s, transition, weight, rssi_dbm, channel, frames, reason"


class Devices(Backups):
    """What people carry, and when it was noticed."""

    def add_device(
        self, person_id: str, kind: str, address: str, *, label: str = "", consent: Optional[Mapping[str, Any]] = None
    ) -> Device:
        """Bind a device to a person.

        Args:
            person_id: whose it is.
            kind: wifi, ble or ha.
            address: as in `Device`.
            label: what the owner calls it.
            consent: what the person agreed to, as JSON values.

        Raises:
            NotStoredError: nobody has this id.
            ConfigError: it is bound already.
        """
        with self.transaction():
            self.person(person_id)
            for bound in self.find_devices(kind, address):
                whose = "this person" if bound.person_id == person_id else "somebody else"
                raise ConfigError(
                    f"this device is bound to {whose} already (device {bound.id}): "
                    f"one device says of one person that they are near; `edgecam devices remove {bound.id}` first"
                )
            now_s = self._clock.wall_s()
            device = Device(self._new_id(), person_id, kind, address, label, now_s, consent=dict(consent or {}))
            self._db.run(
                "INSERT INTO devices (id, person_id, kind, created_wall_s, address_hash, body) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (device.id, person_id, kind, now_s, *self._sealed(device)),
            )
            self.audit(caller(), "device consent", device.id)
        return device

    def devices(self, person_id: Optional[str] = None) -> List[Device]:
        """Return all devices, or one person's, oldest first; one whose row is damaged has no address."""
        rows = self._db.rows(f"{_SELECT} WHERE ? IS NULL OR person_id = ? ORDER BY id", (person_id, person_id))
        return [self._device(row) for row in rows]

    def device(self, device_id: str) -> Device:
        """Return one device.

        Raises:
            NotStoredError: none has this id.
        """
        rows = self._db.rows(f"{_SELECT} WHERE id = ?", (device_id,))
        if not rows:
            raise NotStoredError(f"no device has the id {device_id}: see `edgecam devices list`")
        return self._device(rows[0])

    def find_devices(self, kind: str, address: str) -> List[Device]:
        """Return the devices of this address (more than one after two households' backups were merged)."""
        found = []
        for (person_id,) in self._db.rows("SELECT DISTINCT person_id FROM devices ORDER BY person_id"):
            with contextlib.suppress(DamagedError):  # a key that is gone hides its owner's devices only
                wanted = self._address_hash(person_id, kind, address)
                rows = self._db.rows(f"{_SELECT} WHERE person_id = ? AND address_hash = ?", (person_id, wanted))
                found += [self._device(row) for row in rows]
        return found

    def change_device(
        self,
        device_id: str,
        *,
        address: Optional[str] = None,
        client_id: Optional[str] = None,
        hostname: Optional[str] = None,
    ) -> Device:
        """Give a device another address, DHCP client id or host name.

        Raises:
            NotStoredError: none has this id.
        """
        with self.transaction():
            before = self.device(device_id)
            device = replace(
                before,
                address=before.address if address is None else address,
                client_id=before.client_id if client_id is None else client_id,
                hostname=before.hostname if hostname is None else hostname,
            )
            self._db.run(
                "UPDATE devices SET address_hash = ?, body = ? WHERE id = ?", (*self._sealed(device), device_id)
            )
            if device.address != before.address:
                self.audit(caller(), "device rebound", device_id)
        return device

    def remove_device(self, device_id: str) -> None:
        """Delete a device with its sightings for good, here and in the configured backups.

        Raises:
            NotStoredError: none has this id.
            StoreError: erased here, but a backup could not be rewritten (`purge` tries again).
        """
        with self.transaction():
            if not self._db.run("DELETE FROM devices WHERE id = ?", (device_id,)):
                raise NotStoredError(f"no device has the id {device_id}: see `edgecam devices list`")
            self._db.run("INSERT OR IGNORE INTO tombstones VALUES (?, NULL, ?, 0)", (device_id, self._clock.wall_s()))
            self.audit(caller(), "delete", device_id)
        self._finish_erasing()

    def add_sighting(self, sighting: Sighting, visits: Iterable[Tuple[str, float]] = ()) -> str:
        """Store a sighting and the (visit, seconds after it opened) it belongs to; return its id.

        A device that was removed, or a visit that expired meanwhile, is passed over.
        """
        with self.transaction():
            sighting_id = self._new_id()
            if not self._db.rows("SELECT 1 FROM devices WHERE id = ?", (sighting.device_id,)):
                return sighting_id
            self._db.run(
                f"INSERT INTO sightings (id, kept_from_s, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
                (
                    sighting_id,
                    self._clock.wall_s(),
                    sighting.device_id,
                    sighting.source.value,
                    sighting.wall_s,
                    sighting.transition.value,
                    sighting.weight,
                    sighting.rssi_dbm,
                    sighting.channel,
                    sighting.frames,
                    sighting.reason,
                ),
            )
            self.join_sighting(sighting_id, visits)
        return sighting_id

    def join_sighting(self, sighting_id: str, visits: Iterable[Tuple[str, float]]) -> None:
        """Note to which (visit, seconds after it opened) a sighting belongs."""
        self._db.run_many(
            "INSERT OR REPLACE INTO visit_sightings SELECT v.id, s.id, ? FROM visits v, sightings s "
            "WHERE v.id = ? AND s.id = ?",
            [(round(offset_s, 1), visit, sighting_id) for visit, offset_s in visits],
        )

    def visit_sightings(self, visit_id: str) -> List[Tuple[float, Sighting]]:
        """Return the (seconds after the visit opened, sighting) of a visit, by time."""
        rows = self._db.rows(
            f"SELECT offset_s, {_COLUMNS} FROM visit_sightings JOIN sightings ON sighting = sightings.id "  # noqa: S608 - constants
            "WHERE visit = ? ORDER BY offset_s, sightings.id",
            (visit_id,),
        )
        return [(offset_s, _sighting(row)) for offset_s, *row in rows]

    def sightings(self, since_wall_s: float, until_wall_s: float = 1e18) -> List[Sighting]:
        """Return all sightings of a time, oldest first."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM sightings WHERE wall_s BETWEEN ? AND ? ORDER BY wall_s, id",  # noqa: S608 - constants
            (since_wall_s, until_wall_s),
        )
        return [_sighting(row) for row in rows]

    # What erasing, merging, exporting and restoring mean for devices.

    def merge(self, into: str, other: str) -> Person:
        """See `Erase.merge`; the devices become `into`'s, sealed with their key."""
        with self.transaction():
            for device in self.devices(other) if into != other else ():
                self.person(into)
                moved = replace(device, person_id=into)
                self._db.run(
                    "UPDATE devices SET person_id = ?, address_hash = ?, body = ? WHERE id = ?",
                    (into, *self._sealed(moved), device.id),
                )
            merged = super().merge(into, other)
        self._db.truncate_wal()
        return merged

    def export(self, person_id: str, actor: Optional[str] = None) -> Dict[str, Any]:
        """See `Erase.export`; with the person's devices and their sightings."""
        exported = super().export(person_id, actor)
        exported["devices"] = [asdict(device) for device in self.devices(person_id)]
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM sightings WHERE device_id IN (SELECT id FROM devices WHERE person_id = ?) "  # noqa: S608 - constants
            "ORDER BY wall_s",
            (person_id,),
        )
        exported["sightings"] = [asdict(_sighting(row)) for row in rows]
        return exported

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """See `Erase.purge`; sightings are kept as long as visits."""
        if trusted:
            with self.transaction():
                self._db.run(
                    "UPDATE sightings SET kept_from_s = ?1 WHERE kept_from_s < ?2 OR kept_from_s > ?1",
                    (now_wall_s, WALL_TRUSTED_AFTER_S),
                )
                self._db.run(
                    "DELETE FROM sightings WHERE kept_from_s <= ?", (now_wall_s - self._config.visits_d * _DAY_S,)
                )
        return super().purge(now_wall_s, trusted)

    def _erase(self, ids: Iterable[str]) -> None:
        wanted = list(ids)
        self._db.run_many("DELETE FROM devices WHERE id = ?", [(one,) for one in wanted])
        super()._erase(wanted)

    def _drop_history(self, until_s: float) -> None:
        self._db.run("DELETE FROM sightings WHERE wall_s <= ?", (until_s,))
        super()._drop_history(until_s)

    def _merge(self, copy: Backups) -> Restored:
        restored = super()._merge(copy)
        with self._attached(copy):
            self._db.run(
                "INSERT OR IGNORE INTO main.devices SELECT * FROM old.devices WHERE person_id IN "
                "(SELECT id FROM main.people)"
            )
            self._db.run(
                "INSERT OR IGNORE INTO main.sightings SELECT * FROM old.sightings WHERE device_id IN "
                "(SELECT id FROM main.devices)"
            )
            self._db.run(
                "INSERT OR IGNORE INTO main.visit_sightings SELECT * FROM old.visit_sightings WHERE visit IN "
                "(SELECT id FROM main.visits) AND sighting IN (SELECT id FROM main.sightings)"
            )
        return restored

    def _sealed(self, device: Device) -> Tuple[bytes, bytes]:
        body = {name: getattr(device, name) for name in _SEALED}
        sealed = self._key(device.person_id).seal(f"devices:{device.id}:body", pack_json(body))
        return self._address_hash(device.person_id, device.kind, device.address), sealed

    def _address_hash(self, person_id: str, kind: str, address: str) -> bytes:
        """Return what an address is looked up by, keyed by the owner's own key."""
        wrapped = self._db.rows("SELECT wrapped FROM keys WHERE owner = ?", (person_id,))[0][0]
        key = self._master.open(f"keys:{person_id}:wrapped", wrapped)
        for_hashes = hmac.new(key, b"devices:address_hash", hashlib.sha256).digest()
        return hmac.new(for_hashes, f"{kind}:{address}".encode(), hashlib.sha256).digest()

    def _device(self, row: Row) -> Device:
        device_id, person_id, kind, created, body = row
        try:
            opened = json.loads(self._key(person_id).open(f"devices:{device_id}:body", body))
        except StoreError:
            opened = {"address": "", "label": "(damaged: remove it and add it again)"}
        return Device(id=device_id, person_id=person_id, kind=kind, created_wall_s=created, **opened)


def _sighting(row: Sequence[Any]) -> Sighting:
    device_id, source, wall_s, transition, weight, rssi_dbm, channel, frames, reason = row
    return Sighting(
        device_id, SightingSource(source), wall_s, Transition(transition), weight, rssi_dbm, channel, frames, reason
    )
