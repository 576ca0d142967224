"""`edgecam people`: who is enrolled."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Dict

from edgecam.cli.common import add_common, backend, emit, note

_ROLES = ("resident", "known", "staff", "blocked")


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `people list / show / rename / role / merge / export / forget`."""
    parser = sub.add_parser("people", help="list, rename, merge, export or forget the enrolled people")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text)
        for argument in arguments:
            made.add_argument(argument)
        add_common(made)
        return made

    action("list", "everybody enrolled").set_defaults(func=_list)
    action("show", "one person and their faces", "who").set_defaults(func=_show)
    action("rename", "give a person another name", "who", "name").set_defaults(func=_change, op="people.rename")
    role = action("role", "say what a person is to the house", "who")
    role.add_argument("role", choices=_ROLES)
    role.set_defaults(func=_change, op="people.role")
    action("merge", "OTHER is the same person as INTO", "into", "other").set_defaults(func=_change, op="people.merge")
    export = action("export", "everything that is stored of a person", "who")
    export.add_argument("--out", type=Path, metavar="DIR", help="pictures as files (default: JSON lines on stdout)")
    export.set_defaults(func=_export)
    forget = action("forget", "erase a person: pictures, vectors, name, history, also in the backups", "who")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.set_defaults(func=_forget)


def _list(args: argparse.Namespace) -> int:
    with backend(args) as store:
        people = store.call("people.list")
    for person in people:
        if args.json:
            emit(person)
        else:
            day = datetime.fromtimestamp(person["created_wall_s"]).astimezone().date()
            print(f"{person['name']:24} {person['role']:9} {person['faces']:3} faces   since {day}")
    if not people:
        note("nobody is enrolled; begin with: edgecam enroll NAME PHOTO...")
    return 0


def _show(args: argparse.Namespace) -> int:
    with backend(args) as store:
        person = store.one("people.show", who=args.who)
        devices = store.call("devices.list", who=person["id"])
    if args.json:
        emit({**person, "devices": devices})
        return 0
    print(f"{person['name']} ({person['role']}), id {person['id']}")
    print(f"  agreed: {_agreed(person['consent'])}")
    for device in devices:
        print(f"  {device['kind']} {device['address']}, agreed: {_agreed(device['consent'])}")
    for face in person["items"]:
        light = "infrared" if face["infrared"] else "day"
        print(
            f"  {face['id']}  {face['source']:32}  quality {face['quality']:.2f}  {face['yaw_deg']:+4.0f} deg  {light}"
        )
    return 0


def _agreed(consent: Dict[str, Any]) -> str:
    """Return what somebody agreed to, in one line."""
    given = {**consent}
    when = given.pop("given_wall_s", None)
    day = [str(datetime.fromtimestamp(when).astimezone().date())] if isinstance(when, (int, float)) else []
    return ", ".join([*day, *(f"{key}: {value}" for key, value in given.items())]) or "nothing is noted"


def _change(args: argparse.Namespace) -> int:
    given = {key: getattr(args, key) for key in ("who", "name", "role", "into", "other") if hasattr(args, key)}
    with backend(args) as store:
        person = store.one(args.op, **given)
    if args.json:
        emit(person)
    else:
        print(f"{person['name']} ({person['role']}), {person['faces']} faces")
    return 0


def _export(args: argparse.Namespace) -> int:
    with backend(args) as store:
        if args.out is None:
            for record in store.stream("people.export", who=args.who):
                emit(record)
            return 0
        import base64
        import os

        args.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = args.out / "export.jsonl"
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as lines:
            for count, record in enumerate(store.stream("people.export", who=args.who)):
                if isinstance(record.get("png"), str):
                    name = f"{count:05}.png"
                    (args.out / name).write_bytes(base64.b64decode(record.pop("png")))
                    (args.out / name).chmod(0o600)
                    record["file"] = name
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    note(f"written to {args.out}; it is not encrypted: keep it safe")
    return 0


def _forget(args: argparse.Namespace) -> int:
    with backend(args) as store:
        person = store.one("people.show", who=args.who)
        if not args.yes:
            try:
                answer = input(f"Erase {person['name']} with {len(person['items'])} faces for good? [y/N] ")
            except EOFError:
                answer = ""
            if answer.strip().lower() not in ("y", "yes"):
                note("nothing was erased (--yes to erase without asking)")
                return 1
        store.call("people.forget", who=person["id"])
    if args.json:
        emit({"forgotten": person["id"]})
    else:
        print("erased; copies you made elsewhere are yours to erase")
    return 0
