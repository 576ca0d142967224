"""Versions of the encoder's head: which is in service, where each comes from, what the gate said of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgecam.errors import DamagedError
from edgecam.store.backup import Backups
from edgecam.store.base import caller
from edgecam.store.records import NotStoredError, Purged, Restored, pack_json
from edgecam.store.tracklets import Tracklets
from edgecam.store.vault import Sealer

_LOGGER = logging.getLogger(__name__)

INSTALLED = "installed"
"""What the encoder is without any version of the night's."""

ACTIVE, RETIRED, REFUSED, ENDED = "active", "retired", "refused", "ended"
_KEEP_S = 30 * 86_400.0
_KEEP_HEADS = 5
_COLUMNS = "number, id, base, parent, state, created_wall_s, record"


class Version(NamedTuple):
    """A head that a night made, or tried to."""

    name: str
    """`v3`: the third of this box."""
    id: str
    base: str
    """Version of the installed encoder that it belongs to."""
    parent: Optional[str]
    """Name of the version that was in service when it was made; None: the installed head."""
    state: str
    """`active`, `retired`, `refused` (by the gate) or `ended` (somebody it learnt from was forgotten)."""
    created_wall_s: float
    record: Mapping[str, Any]
    """`heads` (name -> sha256), `people` (ids it learnt from), `report`; empty if it is damaged."""
    signature: str
    """Ed25519 over the canonical JSON of the record, hexadecimal."""

    @property
    def model(self) -> str:
        """Version of the vectors that it makes."""
        return f"{self.base}/{self.id}"


class Versions(Tracklets):
    """One head is in service for each installed encoder, or none but the installed one."""

    def put_version(
        self,
        base: str,
        heads: Mapping[str, bytes],
        people: Iterable[str],
        report: Mapping[str, Any],
        *,
        accepted: bool,
        instead_of: Optional[str] = None,
    ) -> Version:
        """Store what a night made; an accepted head is in service from the commit on.

        Args:
            base: version of the installed encoder.
            heads: ONNX files by model name; not kept if it was refused.
            people: ids of everybody it learnt from.
            report: what the gate said, as JSON values.
            accepted: by the gate.
            instead_of: model in service (`Version.model`, or `base`) that it was judged against; None: whatever it is.

        Raises:
            NotStoredError: meanwhile somebody it learnt from was forgotten, or another head came into service.
        """
        learnt_from = set(people)
        with self.transaction():
            if learnt_from - {person.id for person in self.people()}:
                raise NotStoredError("somebody the night learnt from was forgotten or merged meanwhile: it is not kept")
            found = self.in_service(base)
            if instead_of not in (None, base if found is None else found[0].model):
                raise NotStoredError("another head came into service during the night: judge the new one against that")
            now, version_id = self._clock.wall_s(), self._new_id()
            parent = self._active(base)
            record: Dict[str, Any] = {
                "id": version_id,
                "base": base,
                "parent": parent.id if parent else None,
                "created_wall_s": now,
                "people": sorted(learnt_from),
                "heads": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(heads.items())},
                "accepted": accepted,
                "report": report,
            }
            key = self._new_key(version_id)
            signed = pack_json({"record": record, "signature": self._signing_key().sign(_canonical(record)).hex()})
            if accepted and parent:
                self._db.run("UPDATE versions SET state = ? WHERE id = ?", (RETIRED, parent.id))
            self._db.run(
                "INSERT INTO versions (id, base, parent, state, created_wall_s, record) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    version_id,
                    base,
                    record["parent"],
                    ACTIVE if accepted else REFUSED,
                    now,
                    key.seal(f"versions:{version_id}:record", signed),
                ),
            )
            if accepted:
                sealed = {n: key.seal(f"heads:{version_id}/{n}:data", data) for n, data in heads.items()}
                self._db.run_many("INSERT INTO heads VALUES (?, ?, ?)", [(version_id, n, b) for n, b in sealed.items()])
                self.audit(caller(), "promote", version_id)
                self._drop_idle_heads(base)
                self._bump()
            self._db.run_many(
                "INSERT INTO version_people VALUES (?, ?)", [(version_id, person) for person in record["people"]]
            )
            return self.version(version_id)

    def versions(self) -> List[Version]:
        """Return all of them, newest first."""
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM versions ORDER BY number DESC")  # noqa: S608 - constants
        names = {row[1]: f"v{row[0]}" for row in rows}
        return [self._version(row, names) for row in rows]

    def version(self, name: str) -> Version:
        """Return a version by its name or id.

        Raises:
            NotStoredError: there is none.
        """
        for one in self.versions():
            if name in (one.name, one.id):
                return one
        raise NotStoredError(f"there is no version {name}: see `edgecam versions list`")

    def in_service(self, base: str) -> Optional[Tuple[Version, Dict[str, bytes]]]:
        """Return the version in service with its heads; None if it is the installed head.

        Where it cannot be read or was altered, the next older one that can takes its place (noted in the log).
        """
        one = self._active(base)
        while one is not None:
            try:
                return one, self._heads(one)
            except DamagedError as err:
                _LOGGER.warning("version %s of the head cannot be used (%s): an older one is", one.name, err)
            one = next((older for older in self.versions() if older.name == one.parent), None)
        return None

    def fault(self, version: Version) -> str:
        """Return why a version's heads cannot be used; empty if they can."""
        try:
            self._heads(version)
        except DamagedError as err:
            return str(err)
        return ""

    def roll_back(self, name: Optional[str] = None) -> Optional[Version]:
        """Put an earlier head back into service; return it, None for the installed one.

        Args:
            name: which, or `installed`; None for the one before.

        Raises:
            NotStoredError: there is none, or its head is not kept any more.
        """
        with self.transaction():
            if name is None:
                now = next((one for one in self.versions() if one.state == ACTIVE), None)
                if now is None:
                    raise NotStoredError("the installed head is in service: there is nothing to roll back to")
                name = now.parent or INSTALLED
            back = None if name == INSTALLED else self.version(name)
            if back is not None:
                try:
                    self._heads(back)
                except DamagedError as err:
                    raise NotStoredError(f"{back.name} cannot be used: {err}") from err
            self._db.run(
                "UPDATE versions SET state = ?1 WHERE state = ?2 AND (?3 IS NULL OR base = ?3)",
                (RETIRED, ACTIVE, back.base if back else None),
            )
            if back is not None:
                self._db.run("UPDATE versions SET state = ? WHERE id = ?", (ACTIVE, back.id))
            self.audit(caller(), "rollback", back.id if back else INSTALLED)
            self._bump()
            return self.version(back.id) if back else None

    @property
    def public_key(self) -> str:
        """The box's key that versions are signed with (Ed25519, hexadecimal), to check a signature elsewhere."""
        return self._signing_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @property
    def night_key(self) -> bytes:
        """The 32 bytes that an unfinished training is sealed with on the disk."""
        return self._master.derive("night")

    def _signing_key(self, master: Optional[Sealer] = None) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes((master or self._master).derive("versions"))

    def _resign(self, new: Sealer) -> None:
        """See `Rekey._resign`; what was altered stays without a valid signature."""
        for one in self.versions():
            with contextlib.suppress(DamagedError):
                self._want_signed(one)
                signature = self._signing_key(new).sign(_canonical(one.record)).hex()
                signed = pack_json({"record": one.record, "signature": signature})
                sealed = self._key(one.id).seal(f"versions:{one.id}:record", signed)
                self._db.run("UPDATE versions SET record = ? WHERE id = ?", (sealed, one.id))

    def _active(self, base: str) -> Optional[Version]:
        return next((one for one in self.versions() if (one.base, one.state) == (base, ACTIVE)), None)

    def _version(self, row: Tuple[Any, ...], names: Mapping[str, str]) -> Version:
        number, version_id, base, parent, state, created_wall_s, blob = row
        data = None if blob is None else self._readable(version_id, f"versions:{version_id}:record", blob)
        signed = json.loads(data) if data is not None else {"record": {}, "signature": ""}
        return Version(
            f"v{number}",
            version_id,
            base,
            names.get(parent, parent),
            state,
            created_wall_s,
            signed["record"],
            signed["signature"],
        )

    def _heads(self, version: Version) -> Dict[str, bytes]:
        """Return a version's heads, checked.

        Raises:
            DamagedError: something is missing or altered.
        """
        self._want_signed(version)
        heads = {}
        for name, wanted in version.record["heads"].items():
            rows = self._db.rows("SELECT data FROM heads WHERE version = ? AND name = ?", (version.id, name))
            if not rows:
                raise DamagedError("its head is not kept (any more)")
            data = self._readable(version.id, f"heads:{version.id}/{name}:data", rows[0][0])
            if data is None or hashlib.sha256(data).hexdigest() != wanted:
                raise DamagedError(f"its {name} is damaged or altered")
            heads[name] = data
        return heads

    def _want_signed(self, version: Version) -> None:
        try:
            self._signing_key().public_key().verify(bytes.fromhex(version.signature), _canonical(version.record))
        except (InvalidSignature, ValueError) as err:
            raise DamagedError("its record is damaged or altered") from err
        if (version.record["id"], version.record["base"]) != (version.id, version.base):
            raise DamagedError("its record is another version's")

    # What checking, expiring and erasing mean for them.

    def torn(self) -> Iterator[str]:
        """See `Check.torn`; what is in service must be signed and whole."""
        yield from super().torn()
        for one in self.versions():
            if one.state == ACTIVE:
                try:
                    self._heads(one)
                except DamagedError as err:
                    yield f"version {one.name} is in service, but {err}"

    def purge(self, now_wall_s: float, trusted: bool) -> Purged:
        """See `Erase.purge`; reports and heads out of service are kept for 30 days."""
        if trusted:
            with self.transaction():
                self._db.run(
                    "DELETE FROM versions WHERE state != ? AND created_wall_s <= ?", (ACTIVE, now_wall_s - _KEEP_S)
                )
        return super().purge(now_wall_s, trusted)

    def _drop_idle_heads(self, base: str) -> None:
        """Delete the heads of all but the newest versions, and the vectors of all but the last two."""
        kept = [one for one in self.versions() if one.base == base and one.state in (ACTIVE, RETIRED)]
        self._db.run_many("DELETE FROM heads WHERE version = ?", [(one.id,) for one in kept[_KEEP_HEADS:]])
        self._db.run_many("DELETE FROM vectors WHERE model = ?", [(one.model,) for one in kept[2:]])

    def _erase(self, person_ids: Iterable[str]) -> None:
        wanted = list(person_ids)
        gone = {dead for person_id in wanted for dead in self._with_merged(person_id)}
        taught = self._db.rows("SELECT version, person_id FROM version_people")
        self._end({version for version, person_id in taught if person_id in gone})
        super()._erase(wanted)

    def _drop_history(self, until_s: float) -> None:
        """Heads have learnt from visits: they go, and the installed one serves."""
        for one in self.versions():
            if one.created_wall_s <= until_s:
                self._db.run("DELETE FROM versions WHERE id = ?", (one.id,))
                self._db.run("DELETE FROM vectors WHERE model = ?", (one.model,))
        super()._drop_history(until_s)

    def _end(self, version_ids: Iterable[str]) -> None:
        """Destroy heads that somebody to be forgotten has taught; what they were is still told, without a report."""
        ended = [one for one in self.versions() if one.id in set(version_ids)]
        for one in ended:
            self._db.run("DELETE FROM heads WHERE version = ?", (one.id,))
            self._db.run("DELETE FROM version_people WHERE version = ?", (one.id,))
            self._db.run("DELETE FROM vectors WHERE model = ?", (one.model,))
            self._db.run("UPDATE versions SET state = ?, record = NULL WHERE id = ?", (ENDED, one.id))
        self._destroy_keys(one.id for one in ended)

    def _merge(self, copy: Backups) -> Restored:
        restored = super()._merge(copy)
        serving = "(SELECT base FROM main.versions WHERE state = 'active')"
        with self._attached(copy):
            ids = self._db.rows(
                "SELECT id FROM old.versions WHERE id NOT IN (SELECT id FROM main.versions) ORDER BY number"
            )
            self._db.run_many(
                "INSERT INTO main.versions SELECT CASE WHEN number IN (SELECT number FROM main.versions) "  # noqa: S608 - constants
                "THEN NULL ELSE number END, id, base, parent, CASE WHEN state = 'active' AND base IN "
                f"{serving} THEN 'retired' ELSE state END, created_wall_s, record FROM old.versions WHERE id = ?",
                ids,
            )
            for table, column in (("keys", "owner"), ("heads", "version"), ("version_people", "version")):
                self._take(table, column, [row[0] for row in ids])
            self._bump()
        return restored

    def _idle_keys(self) -> List[str]:
        kept = {row[0] for row in self._db.rows("SELECT id FROM versions")}
        return [owner for owner in super()._idle_keys() if owner not in kept]


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
