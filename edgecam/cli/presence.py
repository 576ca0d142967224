"""`edgecam presence`: the privileged listener, captures instead of the air, and the threshold."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgecam.cli.common import Backend, Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError, ControlError


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

    made = actions.add_parser("calibrate", help="measure presence.min_rssi_dbm with a phone in your hand")
    made.add_argument("device", metavar="DEVICE", help="an enrolled device: its id, or the last letters of it")
    made.add_argument("--seconds", type=float, default=30.0, metavar="S", help="at each of the two places, 10 to 50")
    add_common(made)
    made.set_defaults(func=_calibrate)


def _run(args: argparse.Namespace) -> int:
    # Nothing but the standard library from here on: this process has rights, so it has little else.
    import logging

    from edgecam.daemon.flood import Flood
    from edgecam.presence.helper import Helper
    from edgecam.presence.radio import channel_list
    from edgecam.presence.wire import socket_path

    channels = channel_list(args.channels) if args.channels else None
    if args.channels and channels is None:
        raise ConfigError(f"--channels {args.channels}: a list of channel numbers is wanted, such as 1,6,11")
    level = logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Flood(handler))
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
    if devices is not None and not names:
        note("no device is enrolled: nobody can be heard; `edgecam devices add PERSON ADDRESS` binds one")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from edgecam.presence.threshold import ENOUGH, between

    if not 10 <= args.seconds <= 50:
        raise ConfigError("--seconds: from 10 to 50")
    with backend(args) as state:
        if not state.live:
            raise ControlError("calibration needs the running daemon and `edgecam presence run`")
        found = [d for d in state.call("devices.list") if d["device"].endswith(args.device.upper())]
        if len(found) != 1 or found[0]["kind"] != "wifi":
            raise ConfigError(f"{args.device}: not the id of one Wi-Fi device; see `edgecam devices list`")
        name = found[0]["label"] or f"the device of {found[0]['person']}"
        near = _measure(state, args, found[0]["device"], f"Stand at the door with {name}, its Wi-Fi settings open")
        if len(near) < ENOUGH:
            raise ControlError(
                f"{name} was heard in {len(near)} seconds of {args.seconds:.0f}: is it on this Wi-Fi, and is "
                f"that Wi-Fi's channel among presence.channels? To other networks phones do not show this address"
            )
        far = _measure(state, args, found[0]["device"], "Now go where it shall not count: the next room, the street")
    line = between(near, far)
    if args.json:
        emit({**line._asdict(), "near_seconds": len(near), "far_seconds": len(far)})
    else:
        print(f"at the door {line.near[0]} to {line.near[2]} dBm, elsewhere {line.far[0]} to {line.far[2]} dBm")
    if not line.apart:
        note("the two places cannot be told apart by strength: put the adapter nearer to the door, or do without it")
        return 1
    if not args.json:
        print(f"at or above the line: {line.kept:.0%} of the door's seconds, {line.leaking:.0%} of the others")
        print(f"write into the configuration, below [presence]:\nmin_rssi_dbm = {line.rssi_dbm}")
    return 0


def _measure(state: Backend, args: argparse.Namespace, device: str, what: str) -> List[int]:
    """Return the strongest signal of each second in which the device was heard."""
    note(f"{what}; then press Enter")
    sys.stdin.readline()
    heard = [r["rssi_dbm"] for r in state.stream("presence.listen", device=device, seconds=args.seconds)]
    strengths = [rssi for rssi in heard if rssi is not None]
    note(f"heard in {len(strengths)} seconds")
    return strengths


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
