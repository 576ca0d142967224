"""`edgecam eval`: the tables of docs/recognition.md, on a folder of people."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

from edgecam.cli.common import Sub, emit, note

_DATA = "one folder of photos a person"


def add_parser(sub: Sub) -> None:
    """Add `eval lfw / doorbell`."""
    parser = sub.add_parser("eval", help="measure recognition on a folder of people")
    names = parser.add_subparsers(dest="evaluation", metavar="NAME", required=True)
    lfw = names.add_parser("lfw", help="verification, households against strangers, look-alikes, virtual strangers")
    lfw.add_argument(
        "--half",
        choices=("odd", "even", "all"),
        default="odd",
        help="which people are tested, by the sha256 of their names (default odd; the even ones set the constants)",
    )
    lfw.add_argument("--strangers", type=Path, metavar="DIR", help="people to be shown as strangers besides")
    doorbell = names.add_parser("doorbell", help="the report's three approaches and the product, two known people")
    doorbell.add_argument("--strength", type=float, default=1.0, help="of the degradation, 1 as in the protocol")
    for one, func in ((lfw, _lfw), (doorbell, _doorbell)):
        one.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
        one.add_argument("--full", action="store_true", help="the whole grid; the default takes under ten minutes")
        one.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
        one.add_argument("--cache", type=Path, metavar="FILE.npz", help="keep the faces' features here between runs")
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
        one.set_defaults(func=func)


def _lfw(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import lfw

    half = None if args.half == "all" else args.half
    options = lfw.Options(args.data, args.full, args.pad, args.cache, half, args.strangers, args.seed)
    return _print(lfw.run(options), ("encoder", "metric", "value", "ci95"), as_json=args.json)


def _doorbell(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import doorbell

    options = doorbell.Options(args.data, args.full, args.pad, args.cache, args.strength, args.seed)
    first = ("approach", "mode", "unit", "fnir", "fpir", "fnir_at_equal_fpir", "misidentified", "ci95")
    return _print(doorbell.run(options), first, as_json=args.json)


def _print(rows: Iterator[Dict[str, Any]], first: tuple[str, ...], *, as_json: bool) -> int:
    start, table = time.monotonic(), []
    for row in rows:
        if as_json:
            emit(row)
        else:
            table.append([_cell(row.get(key)) for key in first] + [_rest(row, first)])
    if not as_json:
        _table([[*first, ""], *table])
    note(f"{time.monotonic() - start:.0f} s")
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, dict):
        return " ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    return "-" if value is None else str(value)


def _rest(row: Dict[str, Any], first: tuple[str, ...]) -> str:
    return " ".join(f"{key}={_cell(value)}" for key, value in row.items() if key not in first)


def _table(lines: List[List[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
