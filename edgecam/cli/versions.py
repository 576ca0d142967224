"""`edgecam versions`: which head is in service, where it comes from, and the way back."""

from __future__ import annotations

import argparse
import datetime as dt

from edgecam.cli.common import Record, Sub, add_common, backend, emit


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("versions", help="what the nights made of the encoder: list, show, rollback")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all versions, newest first")
    listing.set_defaults(func=_list)
    show = actions.add_parser("show", help="a version's lineage and what the gate said of it")
    show.add_argument("version", metavar="VERSION", help="v3")
    show.set_defaults(func=_show)
    back = actions.add_parser("rollback", help="put an earlier version back into service, at once")
    back.add_argument("version", metavar="VERSION", nargs="?", help="v3, or installed (default: the one before)")
    back.set_defaults(func=_roll_back)
    for action in (listing, show, back):
        add_common(action)


def _list(args: argparse.Namespace) -> int:
    with backend(args) as store:
        rows = store.call("versions.list")
    if args.json:
        for row in rows:
            emit(row)
        return 0
    for row in rows:
        reasons = f"  {'; '.join(row['reasons'])}" if row["reasons"] else ""
        print(f"{row['version']:5} {_day(row)}  {row['state']:8} {_from(row)}{reasons}")
        if row["fault"]:
            print(f"      cannot be used, the one before serves: {row['fault']}")
    if not any(row["state"] == "active" for row in rows):
        print("the installed head is in service")
    return 0


def _show(args: argparse.Namespace) -> int:
    with backend(args) as store:
        row = store.one("versions.show", version=args.version)
        names = {one["id"]: one["name"] for one in store.stream("people.list")}
    if args.json:
        emit(row)
        return 0
    print(f"{row['version']}: {row['state']}, made {_day(row)} {_from(row)}")
    print(f"  encoder {row['base']}")
    if row["fault"]:
        print(f"  cannot be used, the one before serves: {row['fault']}")
    if not row["record"]:
        ended = "it learnt from somebody who was forgotten since: its head and its report are erased"
        print(f"  {ended if row['state'] == 'ended' else 'its record is damaged: nothing more is known of it'}")
        return 0
    print(f"  learnt from {', '.join(names.get(one, one) for one in row['people']) or 'nobody'}")
    for reason in row["reasons"]:
        print(f"  {reason}")
    for check in (row["record"]["report"].get("gate") or {}).get("checks", []):
        subject = f" ({names.get(check['subject'], check['subject'])})" if check["subject"] else ""
        print(f"  {'ok    ' if check['passed'] else 'FAILED'}  {check['name']}{subject}: {check['said']}")
    for name, digest in row["record"]["heads"].items():
        print(f"  {name} sha256 {digest}")
    print(f"  signed {row['signature'][:16]}... by this box ({row['public_key']})")
    return 0


def _roll_back(args: argparse.Namespace) -> int:
    with backend(args) as store:
        row = store.one("versions.rollback", version=args.version)
        live = store.live
    if args.json:
        emit(row)
        return 0
    print(f"{row['version'] or 'the installed head'} is in service{'' if live else ' from the next start on'}")
    return 0


def _day(row: Record) -> str:
    return dt.datetime.fromtimestamp(row["created_wall_s"]).astimezone().strftime("%Y-%m-%d %H:%M")


def _from(row: Record) -> str:
    return f"from {row['parent'] or 'the installed head'}"
