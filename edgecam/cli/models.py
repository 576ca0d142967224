"""`edgecam models`: fetch, list and check the models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgecam.cli.common import emit

if TYPE_CHECKING:
    import argparse

    from edgecam.nn.registry import ModelRegistry


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `models pull / list / verify`."""
    parser = sub.add_parser("models", help="fetch, convert and check the models")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    pull = actions.add_parser("pull", help="fetch and convert what is missing or stale")
    pull.add_argument(
        "--mirror",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="search this folder, recursively and by hash, before fetching",
    )
    pull.add_argument("--optional", action="append", default=[], metavar="NAME", help="a further model that must come")
    pull.add_argument(
        "--accept-licence",
        action="append",
        default=[],
        metavar="NAME",
        help="fetch a model whose licence is restricted (landmarks68: no commercial use)",
    )
    pull.add_argument("--build-engines", action="store_true", help="build the TensorRT engines now, not at first start")
    pull.set_defaults(func=_pull)

    for name, func, text in (
        ("list", _list, "what the manifest knows and what is installed"),
        ("verify", _verify, "check the hash and the self-test of every installed model"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
        action.set_defaults(func=func)


def _registry() -> ModelRegistry:
    from edgecam.nn.registry import ModelRegistry, default_folder

    return ModelRegistry(default_folder())


def _pull(args: argparse.Namespace) -> int:
    registry = _registry()
    report = registry.pull(args.mirror, args.optional, args.accept_licence, progress=_say)
    for name in report.made:
        _say(f"{name}: made and tested")
    for name, reason in report.skipped.items():
        _say(f"WARNING {name} is NOT installed, edgecam runs without it: {reason}")
    _say(f"{len(report.made)} made, {len(report.kept)} already there, {len(report.skipped)} missing: {registry.folder}")
    if args.build_engines:
        from edgecam.nn.engines import build

        for name, seconds in build(registry, _say).items():
            _say(f"{name}: engine built in {seconds:.0f} s")
    return 0


def _list(args: argparse.Namespace) -> int:
    registry = _registry()
    found = registry.installed()
    for name, row in registry.rows.items():
        entry = found.get(name)
        record = {
            "name": name,
            "file": row.file,
            "installed": entry is not None,
            "current": registry.available(name),
            "version": row.version,
            "sha256": None if entry is None else entry.sha256,
            "source": row.source.requirement,
            "source_sha256": row.sha256,
            "when": row.when,
            "licence": row.licence,
        }
        if args.json:
            emit(record)
        else:
            state = "absent" if entry is None else "current" if record["current"] else "stale"
            sys.stdout.write(f"{name:20} {state:8} {row.version:32} {row.licence}\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    result = _registry().verify()
    for name, fault in result.items():
        if args.json:
            emit({"name": name, "ok": fault is None, "reason": fault})
        else:
            sys.stdout.write(f"{name:20} {'ok' if fault is None else fault}\n")
    bad = [name for name, fault in result.items() if fault is not None]
    if bad:
        _say(f"{len(bad)} of {len(result)} models are not usable ({', '.join(bad)}); run: edgecam models pull")
    return 1 if bad else 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
