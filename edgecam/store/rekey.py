"""Another master key for all that was sealed with the former one; and the passphrase that opens a backup elsewhere."""

from __future__ import annotations

import json
import os
import unicodedata
from typing import Any, Mapping, NamedTuple, Optional

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from edgecam.errors import ConfigError, DamagedError, KeyMissingError, StoreError
from edgecam.store.base import BRIDGE_PLACE
from edgecam.store.check import SEALED, Check
from edgecam.store.records import pack_json
from edgecam.store.vault import KEY_BYTES, Sealer

PASSPHRASE_MIN = 12
"""Characters. Whoever has a backup may try as many as they can compute."""

_PLACE = "meta:recovery:data"
_MEMORY_MAX = 256 * 1024 * 1024
_SALT_BYTES = 16


class Recovery(NamedTuple):
    """How a passphrase becomes a key: scrypt (RFC 7914), 64 MiB and some seconds on a small board."""

    salt: bytes
    n: int = 2**16
    r: int = 8
    p: int = 2

    def key(self, passphrase: str) -> bytes:
        """Return 32 bytes that only this passphrase makes."""
        text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
        return Scrypt(self.salt, KEY_BYTES, self.n, self.r, self.p).derive(text)

    def packed(self) -> Mapping[str, Any]:
        """Return it as JSON values."""
        return {**self._asdict(), "salt": self.salt.hex()}


def new_recovery() -> Recovery:
    """Return how a new passphrase is to become a key."""
    return Recovery(os.urandom(_SALT_BYTES))


def recovery_of(packed: Mapping[str, Any]) -> Recovery:
    """Return what `Recovery.packed` made.

    Raises:
        StoreError: it is something else, or would take more memory than a small board has.
    """
    try:
        found = Recovery(bytes.fromhex(packed["salt"]), *(int(packed[name]) for name in ("n", "r", "p")))
    except (KeyError, TypeError, ValueError) as err:
        raise StoreError("its recovery passphrase's record is damaged") from err
    n, r, p = found[1:]
    if n < 2 or n & (n - 1) or not (1 <= r <= 64 and 1 <= p <= 16 and 128 * n * r <= _MEMORY_MAX):
        raise StoreError("its recovery passphrase's record is damaged")
    return found


def open_recovery(packed: Mapping[str, Any], key: bytes) -> bytes:
    """Return the master key that was sealed for a passphrase.

    Args:
        packed: see `Rekey.recovery`.
        key: what `Recovery.key` made of the passphrase.

    Raises:
        KeyMissingError: the passphrase is another one.
    """
    try:
        return Sealer(key).open(_PLACE, bytes.fromhex(str(packed.get("sealed"))))
    except (DamagedError, ValueError) as err:
        raise KeyMissingError("the recovery passphrase is wrong: nothing was changed") from err


def want_passphrase(passphrase: str) -> str:
    """Return a passphrase that may be used.

    Raises:
        ConfigError: it is too short.
    """
    if len(passphrase) < PASSPHRASE_MIN:
        raise ConfigError(
            f"the recovery passphrase is too short: at least {PASSPHRASE_MIN} characters, best of five words"
        )
    return passphrase


class Rekey(Check):
    """All that the master key itself seals: the keys of people, visits and versions, and what belongs to the house."""

    @property
    def key_unfinished(self) -> bool:
        """Whether a change of the master key was cut short: the former one still opens all."""
        return self._given is not None

    def recovery(self) -> Optional[Mapping[str, Any]]:
        """Return the master key sealed for the passphrase, as JSON values; None if no passphrase opens backups."""
        data = self._meta("recovery")
        return None if data is None else unpack_recovery(data)

    def set_recovery(self, recovery: Optional[Recovery], key: bytes = b"") -> None:
        """Let a passphrase open every backup from now on; None: none does.

        Args:
            recovery: how the passphrase becomes a key.
            key: what it became.
        """
        data = None
        if recovery is not None:
            sealed = Sealer(key).seal(_PLACE, self._master.key)
            data = pack_json({**recovery.packed(), "sealed": sealed.hex()})
        self._put_meta("recovery", data)

    def _reseal(self, new: Sealer, *, bridge: bool = False) -> None:
        """Seal all with another master key, in one transaction; a passphrase for the former one is dropped.

        Args:
            new: the key.
            bridge: leave the new key sealed with the former one, so that either opens this.
        """
        old = self._master
        with self.transaction():
            self._resign(new)
            for table, column, name, owner_of in SEALED:
                if owner_of == "NULL":
                    for row_id, blob in self._db.rows(f"SELECT {name}, {column} FROM {table}"):  # noqa: S608 - constants
                        place = f"{table}:{row_id}:{column}"
                        data = None if blob is None else self._readable(None, place, blob)
                        if data is not None:  # what is damaged stays, and `doctor` goes on telling
                            update = f"UPDATE {table} SET {column} = ? WHERE {name} = ?"  # noqa: S608 - constants
                            self._db.run(update, (new.seal(place, data), row_id))
            self._rewrite_keys()
            self._put_meta("recovery", None)
            self._put_meta("bridge", old.seal(BRIDGE_PLACE, new.key) if bridge else None)
            self._master = new
            try:
                self._mark()
            except BaseException:
                self._master = old
                raise
        self._given = old if bridge else None

    def _resign(self, new: Sealer) -> None:
        """Sign anew what is signed with a key that is made from the master key (`Versions` knows what)."""
        raise NotImplementedError


def unpack_recovery(data: bytes) -> Mapping[str, Any]:
    """Return the JSON values of a stored recovery.

    Raises:
        StoreError: they are damaged.
    """
    try:
        packed = json.loads(data)
        recovery_of(packed)
    except (ValueError, TypeError) as err:
        raise StoreError("its recovery passphrase's record is damaged") from err
    return dict(packed)
