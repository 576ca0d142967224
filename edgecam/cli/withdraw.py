"""`edgecam withdraw`: take this box off the broker, and so out of Home Assistant; before it is taken down for good."""

from __future__ import annotations

import argparse

from edgecam.cli.common import Sub, add_common, config_of, emit, state_of
from edgecam.errors import StoreError


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("withdraw", help="remove from the broker all that it keeps of this box (uninstall does)")
    add_common(parser)
    parser.set_defaults(func=_withdraw)


def _withdraw(args: argparse.Namespace) -> int:
    from edgecam.alerts.client import AlertClient, NoOutbox
    from edgecam.clock import SystemClock
    from edgecam.daemon import control, talk

    alerts = config_of(args).alerts
    if control.running(talk.socket_path(state_of(args))):
        raise StoreError("the daemon is running and would put it there again: stop it first (systemctl stop edgecam)")
    removed = 0
    if alerts.host is not None:
        removed = AlertClient(alerts, (), NoOutbox(), SystemClock(), lambda _: None).withdraw()
    if args.json:
        emit({"broker": alerts.host, "removed": removed})
    else:
        print("no broker is configured" if alerts.host is None else f"removed from {alerts.host}: {removed} topics")
    return 0
