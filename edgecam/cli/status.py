"""`edgecam status`: how the box is, now."""

from __future__ import annotations

import argparse
import time
from typing import Any, Dict, Iterator, Optional

from edgecam.cli.common import Sub, add_common, backend, emit
from edgecam.cli.pause import pause_text


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("status", help="how the cameras, the broker and the store are")
    add_common(parser)
    parser.set_defaults(func=status)


def status(args: argparse.Namespace) -> int:
    """Print the state; exit 1 if nobody at a door would be noticed."""
    with backend(args) as state:
        report = state.one("status")
    if args.json:
        emit(report)
    else:
        print("\n".join(_lines(report)))
    return 0 if report["running"] and report.get("state") != "fault" else 1


def _lines(report: Dict[str, Any]) -> Iterator[str]:
    if not report["running"]:
        yield "not running: start it with `systemctl start edgecam` or `edgecam run`"
    else:
        yield f"running for {_span(report['up_s'])}, {report['state']}, {report['memory_mb']:.0f} MB"
    if report["paused"]:
        yield f"paused {pause_text(report['paused_until_wall_s'])}"
    for camera, entry in report.get("cameras", {}).items():
        doing = "somebody is there" if entry["visit_open"] else "quiet"
        rate = f"{entry['fps']:.0f} fps, {entry['dropped']} dropped"
        yield f"camera {camera} ({entry['place']}): {entry['state']}, {doing}, {rate}"
        yield from (f"  {code}: {text}" for code, text in entry["problems"].items())
    broker: Optional[Dict[str, Any]] = report.get("broker")
    if broker:
        yield f"broker: {broker['link']} {broker['detail']}".rstrip()
    dropped = f", {report['outbox_dropped']} dropped for want of room" if report["outbox_dropped"] else ""
    yield f"alerts waiting: {report['outbox']}{dropped}"
    yield f"people: {report['people']}, faces: {report['faces']}"
    if report.get("words_waiting") or report.get("words_lost"):
        yield f"not stored yet: {report['words_waiting']}, lost: {report['words_lost']}"
    yield from (f"{code}: {text}" for code, text in report.get("problems", {}).items())
    if report.get("night_wanted"):
        yield f"a night is wanted (edgecam tune): {'; '.join(report['night_wanted'])}"
    if not report["clock_trusted"]:
        yield "the clock is not set: nothing expires"
    yield from _configuration(report.get("config"))
    last = report.get("last_visit_wall_s")
    if last:
        yield f"last visit: {time.strftime('%a %d %b %H:%M', time.localtime(last))}"


def _configuration(read: Optional[Dict[str, Any]]) -> Iterator[str]:
    """Tell when the file was read, what that changed and what it could not."""
    if not read:
        return
    when = time.strftime("%a %d %b %H:%M", time.localtime(read["read_wall_s"]))
    if read["refused"]:
        yield f"configuration refused {when}, the one before it is in use: {read['refused']}"
    else:
        yield f"configuration read {when}" + "".join(f"\n  {text}" for text in read["changed"])
    yield from (f"  at the next start: {text}" for text in read["next_start"])


def _span(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
