"""`edgecam doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from edgecam.cli.common import Sub, add_common, config_of, emit
from edgecam.errors import EdgecamError

_SIGNS = {"ok": "ok     ", "hint": "hint   ", "broken": "BROKEN ", "skipped": "skipped"}


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("doctor", help="examine state, models, cameras and broker; a fix for each finding")
    add_common(parser)
    parser.set_defaults(func=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    """Print every finding; exit 1 if something is broken."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.getLogger("edgecam").setLevel(logging.CRITICAL)  # what matters is told as a finding
    from edgecam.config import Config, default_config_path, default_state_dir
    from edgecam.daemon import control, talk
    from edgecam.daemon.checks import Finding, Subject, examine
    from edgecam.nn.registry import default_folder

    path: Optional[Path] = args.config if args.config is not None else default_config_path()
    state: Path = args.state if args.state is not None else default_state_dir()
    broken = False

    def tell(finding: Finding) -> None:
        nonlocal broken
        broken = broken or finding.state == "broken"
        if args.json:
            emit(asdict(finding))
            return
        print(f"{_SIGNS[finding.state]} {finding.check}: {finding.text}", flush=True)
        if finding.fix:
            print(f"         -> {finding.fix}", flush=True)

    fault = ""
    try:
        config = config_of(args)
    except EdgecamError as err:
        config, fault = Config(), str(err)
    live = control.running(talk.socket_path(state))
    for finding in examine(Subject(state, config, path, default_folder(), live, fault)):
        tell(finding)
    return 1 if broken else 0
