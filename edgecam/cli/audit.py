"""`edgecam audit`: who looked at pictures, exported, erased, renamed, agreed, restored."""

from __future__ import annotations

import argparse
import pwd
import time
from typing import Mapping

from edgecam.cli.common import Record, Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("audit", help="who did what to whose data: views, exports, consents, deletions")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="so many of the newest (default: 100)")
    add_common(parser)
    parser.set_defaults(func=_audit)


def _audit(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise ConfigError("audit: --limit is a number above 0")
    with backend(args) as state:
        rows = state.call("audit", limit=args.limit)
        names = {one["id"]: one["name"] for one in state.stream("people.list")}
    for row in rows:
        if args.json:
            emit(row)
        else:
            print(_line(row, names))
    if not rows:
        note("nothing was noted yet")
    return 0


def _line(row: Record, names: Mapping[str, str]) -> str:
    """Return a line with names in the place of ids, where there still are any."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["wall_s"]))
    into, _, heir = row["action"].partition(" into ")
    action = f"{into} into {names.get(heir, heir)}" if heir else row["action"]
    return f"{when}  {_user(row['actor']):12} {action:16} {names.get(row['target'], row['target'])}".rstrip()


def _user(actor: str) -> str:
    kind, _, number = actor.partition(":")
    try:
        return pwd.getpwuid(int(number)).pw_name if kind == "uid" else actor
    except (KeyError, ValueError):
        return actor
