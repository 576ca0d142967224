"""The models folder: fetched, checked, converted files and the record of them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecam.errors import ModelError
from edgecam.nn import manifest, selftest
from edgecam.nn.convert import FULL_BITS, REDUCED_BITS, convert, is_quantised
from edgecam.nn.fetch import Fetcher, file_sha256, scratch_folder
from edgecam.nn.manifest import Row, models_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    Progress = Callable[[str], None]

__all__ = ["Installed", "ModelRegistry", "PullReport", "default_folder", "models_dir"]

_LOGGER = logging.getLogger(__name__)

_RECORD: Final = "installed.json"
_LOCK: Final = ".lock"
_LOCK_TIMEOUT_S: Final = 900.0
"""Longer than a pull on a slow line takes; then something hangs."""
_LOCK_POLL_S: Final = 0.2
_PULL: Final = "run: edgecam models pull"


@dataclass(frozen=True)
class Installed:
    """What `installed.json` says of one file."""

    name: str
    file: str
    sha256: str
    size: int
    source_sha256: str
    converter: str
    """`key/version`, with `/7bit` where 8-bit weights failed on this processor."""
    recipe: str


@dataclass
class PullReport:
    """What a pull did, by row name."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> why an unrequired row is absent."""


def default_folder() -> Path:
    """Return EDGECAM_MODELS, else the service's folder if it is set up, else the user's."""
    chosen = os.environ.get("EDGECAM_MODELS")
    if chosen:
        return Path(chosen)
    if Path("/etc/edgecam").is_dir():
        return Path("/var/lib/edgecam/models")
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "edgecam" / "models"


class ModelRegistry:
    """Serves verified model files from a folder, and fills it.

    Args:
        folder: need not exist before `pull`.
        source: folder of manifest.toml; the packaged one by default.
    """

    def __init__(self, folder: Path, source: Path | None = None) -> None:
        self.folder = folder
        self._source = models_dir() if source is None else source
        self._rows = manifest.load(self._source)
        self._checked: dict[str, tuple[int, int]] = {}
        """Name -> (size, mtime) when its hash was last found right."""

    @property
    def rows(self) -> dict[str, Row]:
        """All rows of the manifest by name."""
        return dict(self._rows)

    def installed(self) -> dict[str, Installed]:
        """Return the record of the folder; empty if nothing was pulled.

        Raises:
            ModelError: the record is damaged.
        """
        path = self.folder / _RECORD
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return {e["name"]: Installed(**e) for e in document["files"]}
        except FileNotFoundError:
            return {}
        except OSError as err:
            raise ModelError(f"{path}: {err.strerror}") from err
        except (ValueError, TypeError, KeyError, RecursionError) as err:
            raise ModelError(f"{path} is damaged ({type(err).__name__}): delete it and {_PULL}") from err

    def available(self, name: str) -> bool:
        """Return whether `path(name)` would find a current file (its hash is not checked)."""
        row = self._row(name)
        entry = self.installed().get(name)
        if entry is None or entry.recipe != row.recipe:
            return False
        path = self.folder / entry.file
        return path.is_file() and path.stat().st_size == entry.size

    def path(self, name: str) -> Path:
        """Return the verified file of a model.

        Raises:
            ModelError: not pulled, made by another version, or altered.
        """
        row = self._row(name)
        entry = self.installed().get(name)
        if entry is None:
            raise ModelError(f"model {name} is not in {self.folder}: {_how_to_get(row)}")
        path = self.folder / entry.file
        if entry.recipe != row.recipe:
            raise ModelError(f"{path} was made for another version of edgecam: {_PULL}")
        fault = self._fault(entry)
        if fault is not None:
            raise ModelError(f"{path} {fault}: {_PULL}")
        return path

    def version(self, name: str) -> str:
        """Return the stable id of what a model computes, e.g. `sface-0123456789`."""
        return self._row(name).version

    def verify(self, names: Collection[str] | None = None) -> dict[str, str | None]:
        """Check hash and self-test of the installed files; name -> fault, None if sound.

        Required rows that are absent are faults; other absent rows are left out.
        """
        found = self.installed()
        result: dict[str, str | None] = {}
        for name, row in self._rows.items():
            wanted = row.when == "always" if names is None else name in names
            if name not in found:
                if wanted:
                    result[name] = f"is not installed: {_how_to_get(row)}"
                continue
            if names is None or name in names:
                result[name] = self._verify(row)
        return result

    def pull(
        self,
        mirrors: Sequence[Path] = (),
        optional: Collection[str] = (),
        accepted: Collection[str] = (),
        progress: Progress = _LOGGER.info,
    ) -> PullReport:
        """Make every wanted file that is absent, altered or stale.

        Nothing is replaced before all of it is made and tested. Rows marked
        `attempt` may fail; the report says why.

        Args:
            mirrors: folders searched by hash before anything is fetched.
            optional: names of rows that must come too.
            accepted: names of rows whose licence the user accepts.
            progress: told about each step, one line each.

        Raises:
            ModelError: a required file cannot be had or fails its test; the folder is as before.
        """
        for name in (*optional, *accepted):
            self._row(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(progress), scratch_folder(self.folder) as scratch:
                return self._pull(Path(scratch), mirrors, {*optional}, {*accepted}, progress)
        except OSError as err:
            raise ModelError(f"{self.folder}: {err.strerror or err}: choose another folder in EDGECAM_MODELS") from err

    def _pull(
        self, scratch: Path, mirrors: Sequence[Path], optional: set[str], accepted: set[str], progress: Progress
    ) -> PullReport:
        report = PullReport()
        self._checked.clear()
        found = self.installed()
        made: dict[str, Installed] = {}
        fetcher = Fetcher(mirrors, scratch, progress)
        for name, row in self._rows.items():
            if name in found and found[name].recipe == row.recipe and self._fault(found[name]) is None:
                report.kept.append(name)
                continue
            if not _is_wanted(row, optional, accepted, present=name in found):
                continue
            try:
                made[name] = self._make(row, fetcher, scratch, progress)
            except ModelError as err:
                if row.when != "attempt" or name in optional:
                    raise
                report.skipped[name] = str(err)
        for name, entry in made.items():
            os.replace(scratch / entry.file, self.folder / entry.file)
            report.made.append(name)
        if made:
            self._record({**found, **made})
        return report

    def _make(self, row: Row, fetcher: Fetcher, scratch: Path, progress: Progress) -> Installed:
        """Fetch, convert and test one file into the scratch folder."""
        original = fetcher.member(row)
        progress(f"{row.name}: converting")
        ranges = self._source / row.ranges if row.ranges else None
        path = scratch / row.file
        widths = (FULL_BITS, REDUCED_BITS) if is_quantised(row.convert) else (FULL_BITS,)
        for bits in widths:
            _write(path, convert(row.convert, original, ranges, bits))
            try:
                _self_test(row, path)
            except ModelError:
                if bits == widths[-1]:
                    raise
                progress(f"{row.name}: this processor saturates 8-bit products; using 7-bit weights")
                continue
            narrowed = "" if bits == FULL_BITS else f"/{bits}bit"
            return Installed(
                name=row.name,
                file=row.file,
                sha256=file_sha256(path),
                size=path.stat().st_size,
                source_sha256=row.sha256,
                converter=f"{row.convert}/{row.converter_version}{narrowed}",
                recipe=row.recipe,
            )
        raise AssertionError("no weight width was tried")

    def _record(self, entries: dict[str, Installed]) -> None:
        document = {"schema": 1, "files": [asdict(entry) for entry in entries.values()]}
        temporary = self.folder / f"{_RECORD}.new"
        _write(temporary, json.dumps(document, indent=1).encode())
        os.replace(temporary, self.folder / _RECORD)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _fault(self, entry: Installed) -> str | None:
        path = self.folder / entry.file
        try:
            status = path.stat()
            if status.st_size != entry.size:
                return f"is {status.st_size} bytes instead of {entry.size} (truncated?)"
            stamp = (status.st_size, status.st_mtime_ns)
            if self._checked.get(entry.name) != stamp:
                if file_sha256(path) != entry.sha256:
                    return "was altered (wrong sha256)"
                self._checked[entry.name] = stamp
        except FileNotFoundError:
            return "is missing"
        except OSError as err:
            return f"cannot be read ({err.strerror})"
        return None

    def _verify(self, row: Row) -> str | None:
        try:
            _self_test(row, self.path(row.name))
        except ModelError as err:
            return str(err)
        return None

    def _row(self, name: str) -> Row:
        try:
            return self._rows[name]
        except KeyError:
            raise ModelError(f"no model {name!r}; there are: {', '.join(self._rows)}") from None

    @contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        """Hold the folder's lock; another pull waits, then finds its work done."""
        with (self.folder / _LOCK).open("a") as file:
            deadline = time.monotonic() + _LOCK_TIMEOUT_S
            waiting = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ModelError(
                            f"{self.folder}: another pull has held it for {_LOCK_TIMEOUT_S:.0f} s"
                        ) from None
                    if not waiting:
                        progress("waiting for another pull")
                        waiting = True
                    time.sleep(_LOCK_POLL_S)
            yield


def _is_wanted(row: Row, optional: set[str], accepted: set[str], *, present: bool) -> bool:
    if row.when == "licence":
        return row.name in accepted or present
    return row.when in ("always", "attempt") or row.name in optional or present


def _how_to_get(row: Row) -> str:
    if row.when == "licence":
        return f"{_PULL} --accept-licence {row.name}"
    return _PULL if row.when == "always" else f"{_PULL} --optional {row.name}"


def _self_test(row: Row, path: Path) -> None:
    if row.self_test is None:
        return
    from edgecam.nn.session import Session

    session = Session.load(path)
    try:
        selftest.check(row.self_test, session.run_named(selftest.feeds(row.self_test)))
    except ModelError as err:
        raise ModelError(f"{row.name}: {err}") from err


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
