"""Keys and sealed blobs: AES-256-GCM, every blob bound to its place in the database.

The master key wraps a data key per person and per visit; a data key's row destroyed makes all of its blobs noise.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgecam.errors import DamagedError, StoreError
from edgecam.store.db import explain_os, hand_over

KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealer:
    """Seals and opens blobs with one key."""

    def __init__(self, key: bytes) -> None:
        self.key, self._aes = key, AESGCM(key)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that only this key can make (HKDF, RFC 5869), for something else than sealing."""
        return HKDF(SHA256(), KEY_BYTES, None, f"edgecam {purpose}".encode()).derive(self.key)

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


def make_folder(folder: Path) -> None:
    """Make a private folder and what is missing above it, on the disk when this returns; a no-op if it is there."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in reversed(missing):
        with contextlib.suppress(PermissionError):  # one may write to a folder, and not open it
            sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries (new and renamed files) to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
