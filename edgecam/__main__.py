"""The command line: parse, call, print; one file a subcommand in `edgecam.cli`."""

from __future__ import annotations

# Nothing else up here: an interrupt among imports is caught only in `main`.
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import List, Optional

COMMANDS = (
    "init", "models", "enroll", "people", "identify", "replay", "run", "pause", "visits", "withdraw",
    "devices", "presence", "calibrate", "doctor", "status", "backup", "eval", "bench", "pad_selftest", "tune", "review",
    "versions", "key", "audit",
)  # fmt: skip


def parser(first: str = "") -> argparse.ArgumentParser:
    """Return the whole command line's parser; a command's alone if `first` is one, for a quick start."""
    import argparse
    import importlib

    from edgecam import __version__

    top = argparse.ArgumentParser(prog="edgecam", description="A private doorbell camera: who is at the door?")
    top.add_argument("--version", action="version", version=f"edgecam {__version__}")
    sub = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in [first] if first in COMMANDS else COMMANDS:
        importlib.import_module(f"edgecam.cli.{name}").add_parser(sub)
    return top


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; return its exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("edgecam: interrupted", file=sys.stderr)
        return 130


def _run(argv: Optional[List[str]]) -> int:
    import os
    import signal

    def end(*_: object) -> None:
        # Not by an exception yet: among imports it may be lost, or come out as another one.
        os.write(2, b"edgecam: interrupted\n")
        os._exit(130)

    signal.signal(signal.SIGINT, end)
    import io

    from edgecam.errors import ConfigError, EdgecamError

    for name in [name for name, value in os.environ.items() if name.startswith("EDGECAM_") and not value]:
        del os.environ[name]  # an empty path would mean this folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be text in this locale
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if argv is None else argv
        if any(one == "" or (one.startswith("--") and one.endswith("=")) for one in given):
            raise ConfigError("an argument is empty: is a variable of your shell not set?")
        args = parser(given[0] if given else "").parse_args(given)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
                signal.signal(number, signal.default_int_handler)
        code = int(args.func(args))
        sys.stdout.flush()
    except EdgecamError as err:
        print(f"edgecam: {' '.join(str(err).split())}", file=sys.stderr)
        return err.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        print("edgecam: out of memory; close other programs or use smaller pictures", file=sys.stderr)
        return 1
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        print(f"edgecam: {where}{err.strerror or err}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
