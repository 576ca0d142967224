"""`edgecam backup`, `restore` and `reset`: the household's data as a whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgecam.cli.common import Sub, add_common, backend, emit, note, state_of
from edgecam.errors import ConfigError, StoreError


def add_parser(sub: Sub) -> None:
    """Add the subcommands."""
    parser = sub.add_parser("backup", help="write a consistent, encrypted copy of everything but the key")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="default: store.backup_dir")
    add_common(parser)
    parser.set_defaults(func=_backup)

    parser = sub.add_parser("restore", help="bring a backup back; who was forgotten stays forgotten")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--mode", choices=("merge", "replace"), default="merge", help="add what is missing, or go back to the copy"
    )
    add_common(parser)
    parser.set_defaults(func=_restore)

    parser = sub.add_parser("reset", help="erase everything that is stored, the key first")
    parser.add_argument("--keep-people", action="store_true", help="erase visits and history only")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_common(parser)
    parser.set_defaults(func=_reset)


def _backup(args: argparse.Namespace) -> int:
    folder = str(args.folder.absolute()) if args.folder is not None else None
    with backend(args) as state:
        answer = state.one("backup", folder=folder)
    if args.json:
        emit(answer)
    else:
        print(answer["path"])
        note(answer["note"])
    return 0


def _restore(args: argparse.Namespace) -> int:
    with backend(args, create=True) as state:
        answer = state.one("restore", path=str(args.file.absolute()), mode=args.mode)
    if args.json:
        emit(answer)
    else:
        mended = f"; {answer['mended']} damaged entries mended" if answer["mended"] else ""
        print(f"restored: {answer['people']} people, {answer['faces']} faces, {answer['visits']} visits{mended}")
    return 0


def _reset(args: argparse.Namespace) -> int:
    from edgecam.daemon import control, talk
    from edgecam.store import destroy

    state = state_of(args)
    if not (state / "edgecam.db").exists():
        raise StoreError(f"{state}: nothing is stored here")
    if not args.yes:
        raise ConfigError("reset erases for good: say --yes if that is what you want")
    if args.keep_people:
        with backend(args) as opened:
            answer = opened.one("visits.erase")
        if args.json:
            emit(answer)
        else:
            print(f"erased: {answer['visits']} visits")
        return 0
    if control.running(talk.socket_path(state)):
        raise StoreError("the daemon is running: stop it first (`systemctl stop edgecam`)")
    destroy(state)
    (state / "health.json").unlink(missing_ok=True)
    if args.json:
        emit({"erased": str(state)})
    else:
        print("erased, with the key; backups cannot be read any more unless you kept a copy of the key")
    return 0
