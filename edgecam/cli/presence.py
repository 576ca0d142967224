"""`edgecam presence`: the privileged listener, captures instead of the air, and the threshold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, Optional

from edgecam.cli.common import Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError


def add_parser(sub: Sub) -> None:
    """Add `presence run / replay / calibrate`."""
    parser = sub.add_parser("presence", help="whose phone is near: listen, replay a capture, set the threshold")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    made = actions.add_parser("run", help="listen for the daemon (the one process that needs rights; see the unit)")
    made.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's presence socket")
    made.add_argument("--interface", metavar="NAME", help="Wi-Fi interface (default: the daemon's presence.radio)")
    made.add_argument("--channels", metavar="1,6,11", help="default: the daemon's presence.channels")
    made.add_argument("--state", type=Path, metavar="DIR", help="state folder of the daemon, beside which it listens")
    made.add_argument("-v", "--verbose", action="store_true", help="log details")
    made.set_defaults(func=_run)

    made = actions.add_parser("replay", help="the enrolled devices in a capture")
    made.add_argument("pcap", type=Path, metavar="PCAP")
    made.add_argument("--all", action="store_true", help="everybody, by pseudonyms of this run (evaluation only)")
    made.add_argument("--rssi", type=int, metavar="DBM", help="threshold (default: as configured; with --all none)")
    add_common(made)
    made.set_defaults(func=_replay)


def _run(args: argparse.Namespace) -> int:
    # Nothing but the standard library from here on: this process has rights, so it has little else.
    import logging

    from edgecam.presence.helper import Helper
    from edgecam.presence.radio import channel_list
    from edgecam.presence.wire import socket_path

    channels = channel_list(args.channels) if args.channels else None
    if args.channels and channels is None:
        raise ConfigError(f"--channels {args.channels}: a list of channel numbers is wanted, such as 1,6,11")
    level = logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    return Helper(args.socket or socket_path(args.state), args.interface, channels).run()


def _replay(args: argparse.Namespace) -> int:
    from edgecam.cli.common import config_of

    config = config_of(args).presence
    devices: Optional[Dict[bytes, str]] = None
    names: Dict[str, Dict[str, Any]] = {}
    if not args.all:
        with backend(args, create=True) as state:
            names = {record["device"]: record for record in state.call("devices.addresses")}
        devices = {
            bytes.fromhex(r["address"].replace(":", "")): d
            for d, r in names.items()
            if r["kind"] == "wifi" and r["address"]
        }
        if not devices:
            note("no device is enrolled: nobody can be heard; `edgecam devices add PERSON ADDRESS` binds one")
    from edgecam.presence.replay import replay

    threshold = config.min_rssi_dbm if args.rssi is None else args.rssi
    if args.all and args.rssi is None:
        threshold = -128
    for row in replay(args.pcap, devices, threshold, config.away_after_s):
        about = names.get(row.get("device", ""))
        told = row if about is None else {**row, "person": about["person"], "label": about["label"]}
        if args.json:
            emit(told)
        else:
            _print(told)
    return 0


def _print(row: Dict[str, Any]) -> None:
    if row["type"] == "sighting":
        who = row.get("person") or row["device"]
        strength = "strength unknown" if row["rssi_dbm"] is None else f"{row['rssi_dbm']} dBm"
        channel = "" if row["channel"] is None else f", channel {row['channel']}"
        doubled = ", address used twice" if row["reason"] else ""
        print(
            f"{row['t_s']:10.1f} s  {who:24} {row['transition']:6} {strength}{channel}, {row['frames']} frames{doubled}"
        )
        return
    counts = ", ".join(f"{value} {name}" for name, value in row["counts"].items() if value)
    note(f"{row['devices']} devices in {row['duration_s']:.1f} s: {counts or 'no frames'}")
    for problem in row["problems"]:
        note(problem)
