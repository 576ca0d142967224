"""`edgecam pause` and `edgecam resume`: guests who do not want to be seen."""

from __future__ import annotations

import argparse
import re
import time
from typing import Optional

from edgecam.cli.common import Sub, add_common, backend, emit
from edgecam.errors import ConfigError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def add_parser(sub: Sub) -> None:
    """Add the subcommands."""
    parser = sub.add_parser("pause", help="look at nothing and store nothing for a while")
    add_common(parser)
    parser.add_argument("length", metavar="TIME", help="30m, 4h, 2d, `on` (until resumed) or `off`")
    parser.set_defaults(func=pause)
    parser = sub.add_parser("resume", help="end a pause")
    add_common(parser)
    parser.set_defaults(func=pause, length="off")


def pause(args: argparse.Namespace) -> int:
    """Begin or end a pause."""
    seconds = parse_length(args.length)
    with backend(args) as state:
        answer = state.one("pause", seconds=seconds)
        if args.json:
            emit({**answer, "running": state.live})
        elif not answer["paused"]:
            print("looking again" if state.live else "the pause is over (no daemon is running)")
        else:
            print(f"paused {pause_text(answer['until_wall_s'])}" + ("" if state.live else " (no daemon is running)"))
    return 0


def parse_length(text: str) -> Optional[float]:
    """Return seconds; None without an end, 0 for `off`.

    Raises:
        ConfigError: not a length of time.

    >>> parse_length("4h"), parse_length("on"), parse_length("off")
    (14400.0, None, 0.0)
    """
    text = text.strip().lower()
    if text in ("on", "off"):
        return None if text == "on" else 0.0
    found = re.fullmatch(r"(\d{1,6})\s*([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise ConfigError(f"{text!r} is not a length of time: say 30m, 4h, 2d, on or off")
    return int(found[1]) * _UNITS[found[2]]


def pause_text(until_wall_s: Optional[float]) -> str:
    """Return until when, in local time."""
    if until_wall_s is None:
        return "until resumed"
    return time.strftime("until %a %H:%M", time.localtime(until_wall_s))
