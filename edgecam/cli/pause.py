"""`edgecam pause` and `edgecam resume`: guests who do not want to be seen."""

from __future__ import annotations

import argparse
import time
from typing import Optional

from edgecam.cli.common import Sub, add_common, backend, emit
from edgecam.clock import parse_length
from edgecam.errors import ConfigError


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
    try:
        seconds = parse_length(args.length)
    except ValueError as err:
        raise ConfigError(str(err)) from err
    with backend(args) as state:
        answer = state.one("pause", seconds=seconds)
        if args.json:
            emit({**answer, "running": state.live})
        elif not answer["paused"]:
            print("looking again" if state.live else "the pause is over (no daemon is running)")
        else:
            print(f"paused {pause_text(answer['until_wall_s'])}" + ("" if state.live else " (no daemon is running)"))
    return 0


def pause_text(until_wall_s: Optional[float]) -> str:
    """Return until when, in local time."""
    if until_wall_s is None:
        return "until resumed"
    return time.strftime("until %a %H:%M", time.localtime(until_wall_s))
