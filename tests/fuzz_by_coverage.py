"""Fuzz one target by coverage, outside the tests: `pip install atheris`; `python tests/fuzz_by_coverage.py TARGET`.

What follows goes to libFuzzer, such as `-max_total_time=120`. A finding ends the run and is left as `crash-*`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["edgecam", "tomllib", "tomli", "PIL"]):
    from edgecam.capture.photo import read_photo
    from edgecam.config import load_config
    from edgecam.errors import EdgecamError
    from edgecam.presence.frames import READERS, sender
    from edgecam.presence.logs import association, read_leases
    from edgecam.presence.replay import replay
    from edgecam.presence.wire import Lines, WireError, unpack_sign, unpack_state, unpack_watch

FILE = Path(tempfile.mkdtemp()) / "input"
PHONE = bytes.fromhex("5c514fbeef01")


def config(data: bytes) -> None:
    FILE.write_bytes(data)
    load_config(FILE)


def radiotap(data: bytes) -> None:
    for reader in READERS.values():
        if (found := reader(data)) is not None:
            sender(data, found[0])


def pcap(data: bytes) -> None:
    FILE.write_bytes(data)
    for _ in replay(FILE, {PHONE: "D1"}, -128, 600.0):
        pass


def photo(data: bytes) -> None:
    FILE.write_bytes(data)
    read_photo(FILE)


def logs(data: bytes) -> None:
    association(data.decode("utf-8", "replace"))
    FILE.write_bytes(data)
    read_leases(FILE)


def wire(data: bytes) -> None:
    for message in Lines().take(data + b"\n"):
        told = message.get("heard", message.get("state"))
        with contextlib.suppress(WireError):
            unpack_sign(told)
        with contextlib.suppress(WireError):
            unpack_state(told)
        with contextlib.suppress(WireError):
            unpack_watch(message)


TARGETS: Dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (config, radiotap, pcap, photo, logs, wire)
}


def main() -> None:
    """Run libFuzzer on the target named first."""
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        with contextlib.suppress(EdgecamError, WireError), contextlib.redirect_stdout(io.StringIO()):
            target(data)

    atheris.Setup([argument for argument in sys.argv if argument != "--"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
