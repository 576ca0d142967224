"""`edgecam key`: where the master key lies, what that protects, and another one in its place."""

from __future__ import annotations

import argparse
from typing import Any, Dict

from edgecam.cli.backup import add_passphrase, recovery_request
from edgecam.cli.common import Sub, add_common, backend, config_of, emit, note, state_of
from edgecam.errors import ConfigError, StoreError

_SEALED = "systemd-creds"


def add_parser(sub: Sub) -> None:
    """Add `key show / rotate`."""
    parser = sub.add_parser("key", help="where the master key lies, and another one in its place")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    made = actions.add_parser("show", help="where it lies, what that protects, whether a passphrase opens backups")
    add_common(made)
    made.set_defaults(func=_show)

    made = actions.add_parser("rotate", help="change it, here and in the backups of store.backup_dir")
    made.add_argument("--to", choices=("file", _SEALED), help="keep the service's new key there (default: as it is)")
    add_passphrase(made, "let a passphrase open backups from now on")
    add_common(made)
    made.set_defaults(func=_rotate)


def _show(args: argparse.Namespace) -> int:
    from edgecam.config import default_state_dir
    from edgecam.store import key_place

    with backend(args) as state:
        found = state.one("key")
    place = key_place(args.state if args.state is not None else default_state_dir())
    answer = {"kind": place.kind, "path": str(place.path), "protects": place.protects, **found}
    if args.json:
        emit(answer)
        return 0
    print(f"{place.path} ({place.kind})")
    print(f"it protects {place.protects}")
    print(f"a recovery passphrase opens backups: {'yes' if found['recovery'] else 'no (edgecam backup --passphrase)'}")
    if found["unfinished"]:
        print("a change of the key was cut short: `edgecam key rotate` ends it")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    from edgecam.daemon import control, talk
    from edgecam.store import Store, recovery_of
    from edgecam.store.keys import service_place

    state, config = state_of(args), config_of(args)
    if control.running(talk.socket_path(state)):
        raise StoreError("the daemon is running: stop it first (`systemctl stop edgecam`); it starts with the new key")
    if not (state / "edgecam.db").exists():
        raise StoreError(f"{state}: nothing is stored here yet")
    place = None if args.to is None else service_place(state, sealed=args.to == _SEALED)
    asked = recovery_request(args)
    with Store.open(state, config.store, outbox_max=config.alerts.outbox_max) as store:
        if not asked and store.recovery() is not None:
            raise ConfigError(
                "a passphrase opens backups: give it, or another one (--passphrase), or say --no-passphrase"
            )
        packed: Dict[str, Any] = asked.get("recovery") or {}
        recovery = recovery_of(packed) if packed else None
        left = store.change_key(place, recovery, bytes.fromhex(packed.get("key", "")))
        place = store.key_place
    if args.json:
        emit({"kind": place.kind, "path": str(place.path), "left": left})
    else:
        print(f"the key is another one: {place.path} ({place.kind})")
        note("keep a copy of it elsewhere; backups that lie elsewhere still want the former one")
        for line in left:
            note(f"not changed: {line}")
    return 0
