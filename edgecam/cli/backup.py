"""`edgecam backup`, `restore` and `reset`: the household's data as a whole."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from edgecam.cli.common import Backend, Sub, add_common, backend, emit, note, state_of
from edgecam.errors import ConfigError, KeyMissingError, StoreError


def add_parser(sub: Sub) -> None:
    """Add the subcommands."""
    parser = sub.add_parser("backup", help="write a consistent, encrypted copy of everything but the key")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="default: store.backup_dir")
    add_passphrase(parser, "let a passphrase open this backup and all later ones, on any box")
    add_common(parser)
    parser.set_defaults(func=_backup)

    parser = sub.add_parser("restore", help="bring a backup back; who was forgotten stays forgotten")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--mode", choices=("merge", "replace"), default="merge", help="add what is missing, or go back to the copy"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--key", type=Path, metavar="KEYFILE", help="the master key of the box that wrote it")
    other.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="its recovery passphrase (default: you are asked)"
    )
    add_common(parser)
    parser.set_defaults(func=_restore)

    parser = sub.add_parser("reset", help="erase everything that is stored, the key first")
    parser.add_argument("--keep-people", action="store_true", help="erase visits and history only")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_common(parser)
    parser.set_defaults(func=_reset)


def add_passphrase(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the options that set the recovery passphrase."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--passphrase", action="store_true", help=f"{text}; you are asked for it")
    given.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="the same, from a file's first line (/dev/stdin)"
    )
    given.add_argument("--no-passphrase", action="store_true", help="no passphrase opens backups any more")


def recovery_request(args: argparse.Namespace) -> Dict[str, Any]:
    """Return what `add_passphrase`'s options ask for: a `recovery` for the operations, null, or nothing.

    The passphrase itself does not leave this process.

    Raises:
        ConfigError: it is too short, or was not typed twice alike.
    """
    from edgecam.store import new_recovery, want_passphrase

    if args.no_passphrase:
        return {"recovery": None}
    if not (args.passphrase or args.passphrase_file):
        return {}
    passphrase = want_passphrase(_said(args.passphrase_file, "New recovery passphrase: "))
    if args.passphrase and _said(None, "The same again: ") != passphrase:
        raise ConfigError("the two are not the same: nothing was changed")
    recovery = new_recovery()
    return {"recovery": {**recovery.packed(), "key": recovery.key(passphrase).hex()}}


def _said(path: Optional[Path], question: str) -> str:
    """Return a passphrase from a file's first line, or asked of whoever sits at the terminal."""
    if path is not None:
        try:
            with path.open(encoding="utf-8", errors="surrogateescape") as file:
                return file.readline().rstrip("\r\n")
        except OSError as err:
            raise ConfigError(f"{path}: {err.strerror}") from err
    if not sys.stdin.isatty():
        raise ConfigError("the recovery passphrase is needed: nobody to ask here, so give --passphrase-file FILE")
    try:
        return getpass.getpass(question)
    except EOFError:
        return ""


def _backup(args: argparse.Namespace) -> int:
    folder = str(args.folder.absolute()) if args.folder is not None else None
    recovery = recovery_request(args)
    with backend(args) as state:
        answer = state.one("backup", folder=folder, **recovery)
    if args.json:
        emit(answer)
    else:
        print(answer["path"])
        note(answer["note"])
    return 0


def _restore(args: argparse.Namespace) -> int:
    path = str(args.file.absolute())
    with backend(args, create=True) as state:
        answer = state.one("restore", path=path, mode=args.mode, **_opened_by(args, state, path))
    if args.json:
        emit(answer)
    else:
        mended = f"; {answer['mended']} damaged entries mended" if answer["mended"] else ""
        print(f"restored: {answer['people']} people, {answer['faces']} faces, {answer['visits']} visits{mended}")
    return 0


def _opened_by(args: argparse.Namespace, state: Backend, path: str) -> Dict[str, Any]:
    """Return the key of a backup that this box's own does not open.

    Raises:
        KeyMissingError: the passphrase is wrong, or none opens it.
    """
    from edgecam.store import KeyFile, open_recovery, recovery_of

    if args.key is not None:
        return {"key": KeyFile(args.key).read().hex()}
    look = state.one("backup.look", path=path)
    if look["opens"]:
        return {}
    if look["recovery"] is None:
        raise KeyMissingError(
            f"{path} was written with another master key, and holds no recovery passphrase: give that key "
            "(--key KEYFILE); without it the backup cannot be read"
        )
    recovery = recovery_of(look["recovery"])
    key = recovery.key(_said(args.passphrase_file, "Recovery passphrase of this backup: "))
    master = open_recovery(look["recovery"], key)
    return {"key": master.hex(), "recovery": {**recovery.packed(), "key": key.hex()}}


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
            print(f"erased: {answer['visits']} visits, also from the backups in store.backup_dir")
        return 0
    if control.running(talk.socket_path(state)):
        raise StoreError("the daemon is running: stop it first (`systemctl stop edgecam`)")
    destroy(state)
    if args.json:
        emit({"erased": str(state)})
    else:
        print("erased, with the key; backups open only with a copy of the key that you kept, or their passphrase")
        note("left: the configuration with the passwords of cameras and broker; to sell the box, delete it too")
    return 0
