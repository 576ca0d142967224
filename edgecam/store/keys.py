"""Where the master key lies: in a file, handed over by systemd, or sealed by systemd for this machine alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Mapping, Optional, Protocol, Tuple

from edgecam.errors import ConfigError, KeyMissingError, StoreError
from edgecam.store.vault import KEY_BYTES, new_key, write_private

NAME = "edgecam.key"
"""What systemd knows the key as."""

SERVICE_STATE, SERVICE_KEY = Path("/var/lib/edgecam"), Path("/etc/edgecam/edgecam.key")
"""The service's key belongs to root; systemd shows it to the daemon, root's own commands read it there."""

SEALED_KEY = Path("/etc/edgecam/edgecam.key.cred")
"""The same, sealed by systemd-creds (250 and newer) with this machine's secret, its TPM, or both."""

LOST = (
    "put it back; without it nothing here can be read: `edgecam reset --yes`, then `edgecam restore BACKUP` with its "
    "recovery passphrase or its key, or enrol again"
)
"""What is possible with a wrong key, or none."""

OWN_KEY = "master.key"
_CREDS = "systemd-creds"
_CREDS_TIMEOUT_S = 60.0


class KeyPlace(Protocol):
    """Something that keeps one key of 32 bytes."""

    kind: str
    path: Path
    protects: str
    """From whom, for the owner."""

    def exists(self) -> bool:
        """Whether a key is there."""

    def read(self) -> bytes:
        """Return the key.

        Raises:
            KeyMissingError: there is none, or it cannot be read.
        """

    def write(self, key: bytes) -> None:
        """Put a key there, whole or not at all, in the place of an earlier one.

        Raises:
            StoreError: it cannot be written.
        """

    def erase(self) -> None:
        """Overwrite and delete the key; a no-op without one.

        Raises:
            StoreError: it cannot be written.
        """


class KeyFile:
    """A file of 32 bytes, or as many in hexadecimal."""

    kind = "file"

    def __init__(self, path: Path, *, beside: bool = False) -> None:
        self.path = path
        self.beside = beside
        """It lies in the state folder."""
        where = "it lies beside the data" if beside else "it lies on this machine's disk unless you put it elsewhere"
        self.protects = f"backups and a copied database; not a stolen card: {where}"

    def exists(self) -> bool:
        """See `KeyPlace`."""
        return os.path.exists(self.path)  # False where one may not even look

    def read(self) -> bytes:
        """See `KeyPlace`."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError as err:
            raise KeyMissingError(f"{self.path}: the master key is missing; {LOST}") from err
        except OSError as err:
            raise KeyMissingError(
                f"{self.path}: the master key cannot be read ({err.strerror}); check its rights"
            ) from err
        return parse_key(data, self.path)

    def write(self, key: bytes) -> None:
        """See `KeyPlace`."""
        packed = self._packed(key)
        with _Remains(self.path) as old:
            write_private(self.path, packed)
            old.overwrite()

    def erase(self) -> None:
        """See `KeyPlace`."""
        with _Remains(self.path) as old:
            old.overwrite()
            self.path.unlink(missing_ok=True)

    def _packed(self, key: bytes) -> bytes:
        """Return what the file is to hold."""
        return key


class Credential(KeyFile):
    """What systemd hands to a service while it runs (`LoadCredential=`, `LoadCredentialEncrypted=`)."""

    kind = "credential"

    def write(self, key: bytes) -> None:  # noqa: ARG002 - as every place
        """See `KeyPlace`: only whoever hands it over can hand over another."""
        raise StoreError(f"{self.path} is handed over by systemd: run this as root, outside of the service")

    def erase(self) -> None:
        """See `KeyPlace`."""
        self.write(b"")


class SealedKey(KeyFile):
    """A file that only systemd on this machine opens (`systemd-creds`, version 250 and newer)."""

    kind = "systemd-creds"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.protects = (
            "backups, a copied database and copies of /etc; a stolen card only where the machine has a TPM "
            "(`systemd-creds has-tpm2`) or an encrypted disk"
        )

    def read(self) -> bytes:
        """See `KeyPlace`."""
        if not self.exists():
            raise KeyMissingError(f"{self.path}: the master key is missing; {LOST}")
        if os.geteuid() != 0:
            raise KeyMissingError(f"{self.path}: only root may have the master key unsealed: run this with sudo")
        try:
            return parse_key(_creds(b"", "decrypt", str(self.path), "-"), self.path)
        except StoreError as err:
            raise KeyMissingError(f"{self.path}: the master key cannot be unsealed here ({err}); {LOST}") from err

    def _packed(self, key: bytes) -> bytes:
        return _creds(key, "encrypt", "-", "-")


def key_place(state: Path, environ: Optional[Mapping[str, str]] = None) -> KeyPlace:
    """Return where the master key of a state folder is.

    First a systemd credential, then EDGECAM_KEY_FILE, for the service's state root's file or what systemd-creds made
    of it, then the state folder.
    """
    environ = os.environ if environ is None else environ
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Credential(Path(folder) / NAME)
        if credential.exists():
            return credential
    if named := environ.get("EDGECAM_KEY_FILE"):
        return KeyFile(Path(named))
    if state == SERVICE_STATE:
        for place in (KeyFile(SERVICE_KEY), SealedKey(SEALED_KEY)):
            if place.exists():
                return place
    return KeyFile(state / OWN_KEY, beside=True)


def service_place(state: Path, *, sealed: bool) -> KeyPlace:
    """Return where the service's key may be put.

    Raises:
        ConfigError: this is not the service's state.
    """
    if state != SERVICE_STATE:
        raise ConfigError(f"only the service's key has a choice of places ({SERVICE_STATE}), not {state}'s")
    return SealedKey(SEALED_KEY) if sealed else KeyFile(SERVICE_KEY)


def load_master_key(state: Path, *, create: bool) -> Tuple[bytes, KeyPlace]:
    """Return the master key and its place.

    Args:
        state: the state folder.
        create: make a key if the state folder's own is missing (nothing has been written with one yet).

    Raises:
        KeyMissingError: no key, or the place does not hold one.
        StoreError: the key cannot be written.
    """
    place = key_place(state)
    if create and isinstance(place, KeyFile) and place.beside and not place.exists():
        place.write(new_key())
    return place.read(), place


def parse_key(data: bytes, path: Path) -> bytes:
    """Return the key in a file's bytes.

    Raises:
        KeyMissingError: it is none.
    """
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyMissingError(f"{path} is not a master key: it must hold {KEY_BYTES} bytes, or as many in hexadecimal")
    return key


class _Remains:
    """The bytes of a file as they lie on the disk, also after its name was given to another."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def __enter__(self) -> _Remains:
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        except OSError as err:
            raise StoreError(f"{self._path} cannot be written ({err.strerror}): check its rights") from err
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def overwrite(self) -> None:
        """Write noise over all of it."""
        if self._handle >= 0:
            os.pwrite(self._handle, os.urandom(max(os.fstat(self._handle).st_size, 1)), 0)
            os.fsync(self._handle)


def _creds(data: bytes, verb: str, *files: str) -> bytes:
    """Run systemd-creds on bytes.

    Raises:
        StoreError: it is not there, or refuses.
    """
    try:
        done = subprocess.run(
            [_CREDS, f"--name={NAME}", verb, *files],
            input=data,
            capture_output=True,
            check=False,
            timeout=_CREDS_TIMEOUT_S,
        )
    except FileNotFoundError as err:
        raise StoreError(f"{_CREDS} is not installed: it comes with systemd 250 and newer") from err
    except subprocess.TimeoutExpired as err:
        raise StoreError(f"{_CREDS} did not answer within {_CREDS_TIMEOUT_S:.0f} s") from err
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise StoreError(f"{_CREDS}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout
