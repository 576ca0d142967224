"""Keys and sealed blobs: AES-256-GCM, every blob bound to its place in the database.

The master key wraps a data key per person and per visit; a data key's row destroyed makes all of its blobs noise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping, Optional, Tuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgecam.errors import DamagedError, KeyMissingError, StoreError
from edgecam.store.db import explain_os, hand_over

KEY_BYTES = 32
_NONCE_BYTES = 12
_CREDENTIAL = "edgecam.key"
_OWN_KEY = "master.key"
SERVICE_STATE, SERVICE_KEY = Path("/var/lib/edgecam"), Path("/etc/edgecam/edgecam.key")
"""The service's key belongs to root; systemd shows it to the daemon, root's own commands read it there."""


class Sealer:
    """Seals and opens blobs with one key."""

    def __init__(self, key: bytes) -> None:
        self._key, self._aes = key, AESGCM(key)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that only this key can make (HKDF, RFC 5869), for something else than sealing."""
        return HKDF(SHA256(), KEY_BYTES, None, f"edgecam {purpose}".encode()).derive(self._key)

    def seal(self, place: str, data: bytes) -> bytes:
        """Return `data` encrypted and bound to `place` (`table:id:column`)."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, data, place.encode())

    def open(self, place: str, blob: bytes) -> bytes:
        """Return what was sealed at this place.

        Raises:
            DamagedError: the blob was altered, moved from elsewhere or sealed with another key.
        """
        try:
            return self._aes.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as err:
            raise DamagedError(f"{place} is damaged: `edgecam doctor` says what helps") from err


def new_key() -> bytes:
    """Return a fresh random key."""
    return os.urandom(KEY_BYTES)


def key_path(state: Path, environ: Optional[Mapping[str, str]] = None) -> Tuple[Path, bool]:
    """Return where the master key is read from, and whether it is the state folder's own (and may be created).

    First a systemd credential, then EDGECAM_KEY_FILE, for the service's state root's file, then the state folder.
    """
    environ = os.environ if environ is None else environ
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(folder) / _CREDENTIAL
        if credential.exists():
            return credential, False
    if named := environ.get("EDGECAM_KEY_FILE"):
        return Path(named), False
    if state == SERVICE_STATE and os.path.exists(SERVICE_KEY):
        return SERVICE_KEY, False
    return state / _OWN_KEY, True


def load_master_key(state: Path, *, create: bool) -> Tuple[bytes, Path]:
    """Return the master key and the file it came from.

    Args:
        state: the state folder.
        create: make a key if the state folder's own is missing (nothing has been written with one yet).

    Raises:
        KeyMissingError: no key, or the file does not hold one.
        StoreError: the key cannot be written.
    """
    path, own = key_path(state)
    try:
        data = path.read_bytes()
    except FileNotFoundError as err:
        if not (own and create):
            raise KeyMissingError(
                f"{path}: the master key is missing; put it back, or begin anew with `edgecam reset`"
            ) from err
        key = new_key()
        write_private(path, key)
        return key, path
    except OSError as err:
        raise KeyMissingError(f"{path}: the master key cannot be read ({err.strerror}); check its rights") from err
    return _parse_key(data, path), path


def _parse_key(data: bytes, path: Path) -> bytes:
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyMissingError(f"{path} is not a master key: it must hold {KEY_BYTES} bytes, or as many in hexadecimal")
    return key


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, readable by its owner only, and on the disk when this returns.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hand_over(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {explain_os(err)}") from err


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries (new and renamed files) to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
