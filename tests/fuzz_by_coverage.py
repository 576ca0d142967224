"""Fuzz one target by coverage, outside the tests: `pip install atheris`; `python tests/fuzz_by_coverage.py TARGET`.

What follows goes to libFuzzer, such as `-max_total_time=120`. A finding ends the run and is left as `crash-*`.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict

import atheris  # type: ignore[import-not-found]

from edgecam.errors import EdgecamError

Target = Callable[[bytes], object]

FILE = Path(tempfile.mkdtemp()) / "input"
PHONE = bytes.fromhex("5c514fbeef01")


def of_file(read: Callable[[Path], object]) -> Target:
    """Return a target that reads its input from a file."""

    def target(data: bytes) -> object:
        FILE.write_bytes(data)
        return read(FILE)

    return target


def config() -> Target:
    """TOML, then the sections' own rules."""
    from edgecam.config import load_config

    return of_file(load_config)


def radiotap() -> Target:
    """Every header that comes before a frame, and the frame's sender."""
    from edgecam.presence.frames import READERS, sender

    def target(data: bytes) -> None:
        for reader in READERS.values():
            if (found := reader(data)) is not None:
                sender(data, found[0])

    return target


def pcap() -> Target:
    """Captures, as `presence replay` reads them."""
    from edgecam.presence.replay import replay

    return of_file(lambda path: list(replay(path, {PHONE: "D1"}, -128, 600.0)))


def photo() -> Target:
    """Photos as enrolment takes them."""
    from edgecam.capture.photo import read_photo

    return of_file(read_photo)


def logs() -> Target:
    """Routers' lines and leases."""
    from edgecam.presence.logs import association, read_leases

    return of_file(lambda path: (association(path.read_bytes().decode("utf-8", "replace")), read_leases(path)))


def wire() -> Target:
    """What daemon and listener say to each other."""
    from edgecam.presence.wire import Lines, WireError, unpack_sign, unpack_state, unpack_watch

    def target(data: bytes) -> None:
        with contextlib.suppress(WireError):
            for message in Lines().take(data + b"\n"):
                told = message.get("heard", message.get("state"))
                with contextlib.suppress(WireError):
                    unpack_sign(told)
                with contextlib.suppress(WireError):
                    unpack_state(told)
                unpack_watch(message)

    return target


TARGETS: Dict[str, Callable[[], Target]] = {one.__name__: one for one in (config, radiotap, pcap, photo, logs, wire)}


def main() -> None:
    """Run libFuzzer on the target named first."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["edgecam", "tomllib", "tomli", "PIL"]):
        target = TARGETS[name]()

    def one(data: bytes) -> None:
        with contextlib.suppress(EdgecamError):
            target(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
