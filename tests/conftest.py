"""What every test may ask for, and the rule that in CI nothing is skipped for want of it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, FrozenSet, Generator, Iterator, NoReturn

import pytest

if TYPE_CHECKING:
    from edgecam.nn.registry import ModelRegistry

ROOT = Path(__file__).resolve().parent.parent
collect_ignore = ["system/rtsp_server.py", "system/home_assistant_client.py", "fuzz_by_coverage.py"]
"""Programs for another Python: the system's with GStreamer's introspection, Home Assistant's own, one with atheris."""
NEEDS = frozenset({"data", "models", "broker", "rtsp", "machine"})


def required() -> FrozenSet[str]:
    """Return the markers whose skips are failures: `EDGECAM_NO_SKIPS=1` all, or `=models,broker`."""
    asked = os.environ.get("EDGECAM_NO_SKIPS", "").strip()
    if asked in ("", "0"):
        return frozenset()
    if asked == "1":
        return NEEDS
    names = frozenset(name.strip() for name in asked.split(","))
    if wrong := names - NEEDS:
        raise pytest.UsageError(f"EDGECAM_NO_SKIPS: no such need: {', '.join(sorted(wrong))}")
    return names


def lacking(need: str, message: str) -> NoReturn:
    """Skip for want of a need; fail where it must not be missing."""
    if need in required():
        pytest.fail(f"{message} (EDGECAM_NO_SKIPS has {need})", pytrace=False)
    pytest.skip(message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip of a test that needs something required here into a failure."""
    report = yield
    needs = required() & {marker.name for marker in item.iter_markers()}
    if report.skipped and not hasattr(report, "wasxfail") and needs:
        reason: Any = report.longrepr
        text = reason[2] if isinstance(reason, tuple) else str(reason)
        report.outcome = "failed"
        report.longrepr = f"skipped, but {', '.join(sorted(needs))} must not be missing here: {text}"
    return report


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what a command run within a test does to the program's log: the next test may read it."""
    logger = logging.getLogger("edgecam")
    before = (logger.level, logger.propagate, list(logger.handlers), logger.disabled, logging.root.level)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers, logger.disabled = before[1], before[2], before[3]
    logging.root.setLevel(before[4])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of the test data, `EDGECAM_TEST_DATA` or `../shared/data`."""
    folder = Path(os.environ.get("EDGECAM_TEST_DATA") or ROOT / "../shared/data").resolve()
    if not folder.is_dir():
        lacking("data", f"no test data in {folder}; set EDGECAM_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def registry() -> ModelRegistry:
    """Return the models that `edgecam models pull` left in the default folder."""
    from edgecam.nn.registry import ModelRegistry, default_folder

    found = ModelRegistry(default_folder())
    missing = [name for name, row in found.rows.items() if row.when == "always" and not found.available(name)]
    if missing:
        lacking("models", f"not in {found.folder}: {', '.join(missing)}; run `edgecam models pull`")
    return found


@pytest.fixture(scope="session")
def models_dir(registry: ModelRegistry) -> Path:
    """Return the folder of the pulled models."""
    return registry.folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def fill_disk(small_disk: Path) -> Callable[[], None]:
    """Return what fills the small disk to its last byte, by a file `ballast`."""

    def fill() -> None:
        handle = os.open(small_disk / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with contextlib.suppress(OSError):
            while os.write(handle, b"x" * 4096):
                pass
        os.close(handle)

    return fill
