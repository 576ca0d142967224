"""`edgecam bench`: speed and memory of this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgecam.cli.common import Sub, emit, note


def add_parser(sub: Sub) -> None:
    """Add `bench`."""
    parser = sub.add_parser("bench", help="speed and memory on this machine, against the targets")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="fewer repetitions: a few minutes")
    extent.add_argument("--full", action="store_true", help="with an hour's footage: takes about an hour")
    parser.add_argument("--only", metavar="PART", action="append", default=[], help="only this part (may be repeated)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the result as a table (Markdown)")
    parser.set_defaults(func=_bench)


def _bench(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    import cv2

    from edgecam.bench.report import Skipped, line_of, markdown
    from edgecam.bench.suite import Extent, environment, run

    cv2.setNumThreads(1)
    extent = Extent.QUICK if args.quick else Extent.FULL if args.full else Extent.NORMAL
    about = environment()
    if args.json:
        emit(about)
    else:
        print(json.dumps(about), flush=True)
    rows = []
    for row in run(extent, args.only, note):
        rows.append(row)
        if args.json:
            emit(row.record())
        else:
            print(line_of(row), flush=True)
    missed = [row.name for row in rows if not isinstance(row, Skipped) and row.met is False]
    skipped = [row.name for row in rows if isinstance(row, Skipped)]
    summary = {"type": "summary", "figures": len(rows) - len(skipped), "missed": missed, "skipped": skipped}
    if args.json:
        emit(summary)
    else:
        print(f"missed: {', '.join(missed) or 'none'}; skipped: {', '.join(skipped) or 'none'}")
    if args.write is not None:
        args.write.write_text(markdown(about, rows), encoding="utf-8")
    return 0
