"""`edgecam visits`: who was at the door."""

from __future__ import annotations

import argparse
import base64
import os
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgecam.cli.common import Backend, Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError, InputError, StoreError


def add_parser(sub: Sub) -> None:
    """Add `visits list / show / name / ignore`."""
    parser = sub.add_parser("visits", help="who was at the door; name or ignore unknown visitors")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    made = actions.add_parser("list", help="the latest visits, newest first")
    made.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    made.add_argument("--verdict", help="only visits with a track that ended so (known, unknown, ...)")
    made.add_argument("--ignored", action="store_true", help="with those that were ignored")
    add_common(made)
    made.set_defaults(func=_list)

    made = actions.add_parser(
        "show", help="one visit, or all of a visitor; a picture only on this machine, and noted in the audit log"
    )
    _add_visit(made)
    made.add_argument("--image", type=Path, metavar="FILE", help="write the best picture as PNG")
    made.set_defaults(func=_show)

    made = actions.add_parser("name", help="say who it was: the pictures are enrolled")
    _add_visit(made)
    made.add_argument("name")
    made.add_argument("--role", choices=("resident", "known", "staff", "blocked"), default="known")
    made.set_defaults(func=_name)

    made = actions.add_parser("ignore", help="leave a visit, or a visitor, out of lists and questions")
    _add_visit(made)
    made.add_argument("--undo", action="store_true", help="take it in again")
    made.set_defaults(func=_ignore)


def _add_visit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("visit", help='id, its last letters, `last`, or an unknown visitor who came again: "visitor 3"')
    parser.add_argument("--track", type=int, metavar="N", help="which person of the visit")
    add_common(parser)


def _list(args: argparse.Namespace) -> int:
    with backend(args) as state:
        found = state.call("visits.list", limit=args.limit, verdict=args.verdict, ignored=args.ignored)
    for visit in found:
        if args.json:
            emit(visit)
        else:
            _print(visit)
    if not found:
        note("no visits")
    return 0


def _visitor(args: argparse.Namespace) -> Optional[int]:
    """Return the number if a visitor is meant, not a visit."""
    meant = re.fullmatch(r"visitor[ -]?(\d+)", args.visit.strip(), re.IGNORECASE)
    if meant and args.track is not None:
        raise ConfigError(f"{args.visit} is one person: --track belongs to a visit")
    return int(meant[1]) if meant else None


def _show(args: argparse.Namespace) -> int:
    number = _visitor(args)
    if number is not None:
        return _show_visitor(number, args)
    with backend(args) as state:
        visit = state.one("visits.show", visit=args.visit)
        if args.json:
            emit(visit)
        else:
            _print(visit)
        if args.image is not None:
            _write_picture(state, visit["visit"], args.track, args)
    return 0


def _show_visitor(number: int, args: argparse.Namespace) -> int:
    with backend(args) as state:
        visitor = state.one("visitors.show", visitor=number)
        if args.json:
            emit(visitor)
        else:
            print(f"visitor {number}: came {len({t['visit'] for t in visitor['tracks']})} times" + _left_out(visitor))
            for track in visitor["tracks"]:
                opened = time.strftime("%a %d %b %H:%M:%S", time.localtime(track["opened_wall_s"]))
                picture = ", picture kept" if track["picture"] else ""
                print(f"  {track['visit']}  {opened}  {track['place']}, track {track['track']}{picture}")
        if args.image is not None:
            shown = next((track for track in visitor["tracks"] if track["picture"]), None)
            if shown is None:
                raise StoreError(f"no picture of visitor {number} is kept (any more)")
            _write_picture(state, shown["visit"], shown["track"], args)
    return 0


def _left_out(item: Dict[str, Any]) -> str:
    return " (ignored)" if item["ignored"] else ""


def _write_picture(state: Backend, visit: str, track: Optional[int], args: argparse.Namespace) -> None:
    picture = state.one("visits.picture", visit=visit, track=track)
    try:
        handle = os.open(args.image, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64decode(picture["png"]))
    except OSError as err:
        raise InputError(f"{args.image} cannot be written: {err.strerror}") from err
    note(f"{args.image}: not encrypted, so delete it when you have seen it")


def _name(args: argparse.Namespace) -> int:
    number = _visitor(args)
    with backend(args) as state:
        if number is not None:
            answer = state.one("visitors.name", visitor=number, name=args.name, role=args.role)
        else:
            answer = state.one("visits.name", visit=args.visit, track=args.track, name=args.name, role=args.role)
    if args.json:
        emit(answer)
    else:
        person = answer["person"]
        print(f"{person['name']} ({person['role']}): {len(answer['face_ids'])} new faces, {person['faces']} in all")
    return 0


def _ignore(args: argparse.Namespace) -> int:
    number = _visitor(args)
    with backend(args) as state:
        if number is not None:
            answer = state.one("visitors.ignore", visitor=number, ignored=not args.undo)
        else:
            answer = state.one("visits.ignore", visit=args.visit, ignored=not args.undo)
    if args.json:
        emit(answer)
    else:
        print("ignored" if answer["ignored"] else "taken in again")
    return 0


def _print(visit: Dict[str, Any]) -> None:
    opened = time.strftime("%a %d %b %H:%M:%S", time.localtime(visit["opened_wall_s"]))
    last = "" if visit["closed_wall_s"] else ", not over"
    print(f"{visit['visit']}  {opened}  {visit['place']}{last}{_left_out(visit)}")
    for track in visit["tracks"]:
        if track["verdict"] is None:
            continue
        who = track["named"] or track["person"] or " or ".join(track["candidates"])
        picture = ", picture kept" if track["picture"] else ""
        reason = f" ({track['reason']})" if track["reason"] else ""
        again = f", visitor {track['visitor']}" if track["visitor"] else ""
        print(f"  {track['track']}: {track['verdict']} {who}".rstrip() + f"{reason}{picture}{again}")
    for one in visit.get("proposed", ()):
        events = f"{one['with_device']} events together with their device, {one['without_device']} without"
        print(f"  {one['track']}: proposed: {one['person']} {one['share']:.2f} ({events})")
    for one in visit.get("present", ()):
        _print_presence(one, visit["sightings"])


_SOURCES = {
    "ap": "access point", "dhcp": "DHCP", "arp": "neighbour table", "mdns": "mDNS", "ble": "Bluetooth",
    "ha": "Home Assistant", "sniff": "radio",
}  # fmt: skip


def _print_presence(one: Dict[str, Any], sightings: List[Dict[str, Any]]) -> None:
    """Explain who was near by their devices: information only, no verdict rests on it."""
    who = " or ".join(one["people"])
    said = f"near: {who}" if one["weight"] else f"cannot tell if {who} was near"
    print(f"  {said} ({one['reason']}, weight {one['weight']:.1f})")
    for seen in sightings:
        if seen["person"] in one["people"]:
            strength = "" if seen["rssi_dbm"] is None else f", {seen['rssi_dbm']} dBm"
            frames = f", {seen['frames']} frames" if seen["source"] == "sniff" else ""
            what = f"{seen['label'] or 'device'}: {_SOURCES[seen['source']]}, {seen['transition']}"
            print(f"    {seen['offset_s']:+7.0f} s  {what}{strength}{frames}")
