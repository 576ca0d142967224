"""`edgecam devices`: phones and tags of people who agreed to their being noticed."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Dict

from edgecam.cli.common import Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError

_ASK = "Has {name} agreed that this box notes when this device is near, for as long as it is bound? [y/N] "


def add_parser(sub: Sub) -> None:
    """Add `devices add / list / remove`."""
    parser = sub.add_parser("devices", help="bind phones and tags to people, with their consent")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    made = actions.add_parser("add", help="bind a device to a person who agreed")
    made.add_argument("who", metavar="PERSON", help="name or id of an enrolled person")
    made.add_argument("address", metavar="ADDRESS", help="MAC address, or the MQTT topic of a device_tracker")
    made.add_argument("--ble", action="store_true", help="a Bluetooth LE address, not a Wi-Fi one")
    made.add_argument("--label", default="", metavar="TEXT", help="what you call it")
    made.add_argument("--consent", metavar="TEXT", help="how the person agreed (default: you are asked)")
    add_common(made)
    made.set_defaults(func=_add)

    made = actions.add_parser("list", help="every bound device")
    made.add_argument("who", metavar="PERSON", nargs="?", help="only this person's")
    add_common(made)
    made.set_defaults(func=_list)

    made = actions.add_parser("remove", help="unbind a device and erase its sightings")
    made.add_argument("device", metavar="DEVICE", help="id, its last letters, or the address")
    add_common(made)
    made.set_defaults(func=_remove)


def _add(args: argparse.Namespace) -> int:
    kind = "ble" if args.ble else "ha" if "/" in args.address else "wifi"
    with backend(args) as state:
        person = state.one("people.show", who=args.who)
        agreed = args.consent or _ask(person["name"])
        consent = {"scope": "presence", "how": agreed, "given_wall_s": round(time.time(), 3)}
        added = state.one(
            "devices.add", who=person["id"], kind=kind, address=args.address, label=args.label, consent=consent
        )
    if args.json:
        emit(added)
    else:
        _print(added)
    if added["random"]:
        note(
            "this is a private (random) address: right if the phone shows it for your own Wi-Fi, where it is best set "
            "to `Fixed` or `Off`; the addresses that phones search with change all the time and are of no use"
        )
    return 0


def _ask(name: str) -> str:
    """Return how a person agreed, asked of whoever sits at the terminal.

    Raises:
        ConfigError: nobody to ask, or they did not agree.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"say how {name} agreed, e.g. --consent 'in person, 3 May'; without it no device is bound")
    try:
        said = input(_ASK.format(name=name))
    except EOFError:
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was bound: a device is noticed only with its owner's consent")
    return "asked on the terminal"


def _list(args: argparse.Namespace) -> int:
    with backend(args) as state:
        found = state.call("devices.list", who=args.who)
    for device in found:
        if args.json:
            emit(device)
        else:
            _print(device)
    if not found:
        note("no device is bound; begin with: edgecam devices add PERSON ADDRESS")
    return 0


def _remove(args: argparse.Namespace) -> int:
    with backend(args) as state:
        gone = state.one("devices.remove", device=args.device)
    if args.json:
        emit({"removed": gone["device"]})
    else:
        print(f"{gone['device']} of {gone['person']} is erased with its sightings")
    return 0


def _print(device: Dict[str, Any]) -> None:
    made_up = " (random address)" if device["random"] else ""
    what = f"{device['kind']:4}  {device['address']}{made_up}"
    print(f"{device['device']}  {device['person'] or '?':24} {what}  {device['label']}")
