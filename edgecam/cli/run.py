"""`edgecam run`: the daemon."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Dict, List

from edgecam.cli.common import Sub, add_common, config_of, state_of
from edgecam.errors import ConfigError

if TYPE_CHECKING:
    from edgecam.config import Config


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("run", help="watch the cameras and tell who is there (the daemon)")
    add_common(parser, as_json=False)
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="ID=URL",
        help="add a camera, or give a configured one another source; a file is played as a camera",
    )
    parser.add_argument("--once", action="store_true", help="end when the recordings among the cameras have ended")
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    # Before numpy is imported: its threads would fight with the nets' over the same cores.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    cameras = parse_cameras(args.camera)

    def load() -> Config:
        return with_cameras(config_of(args), cameras)

    if not load().cameras:  # before seconds of imports
        raise ConfigError("no camera is configured: run `edgecam init`, or try `edgecam run --camera door=rtsp://...`")
    state = state_of(args)
    import cv2

    from edgecam.clock import SystemClock
    from edgecam.daemon.app import Daemon, Options
    from edgecam.daemon.health import spare_memory
    from edgecam.daemon.notify import setup_logging
    from edgecam.nn.registry import ModelRegistry, default_folder

    spare_memory()
    cv2.setNumThreads(1)
    setup_logging(verbose=args.verbose)
    return Daemon(Options(state, load, ModelRegistry(default_folder()), args.once), SystemClock()).run()


def parse_cameras(texts: List[str]) -> Dict[str, str]:
    """Return camera id -> url of `ID=URL` texts.

    Raises:
        ConfigError: not of that form.
    """
    cameras = {}
    for text in texts:
        camera, equals, url = text.partition("=")
        if not equals or not camera or not url:
            raise ConfigError("--camera wants ID=URL, for example --camera door=rtsp://192.168.1.20/stream")
        cameras[camera] = url
    return cameras


def with_cameras(config: Config, cameras: Dict[str, str]) -> Config:
    """Return the configuration with these cameras added, or with other urls.

    Raises:
        ConfigError: not a usable id or url.
    """
    if not cameras:
        return config
    from edgecam.config import parse_config

    data = config.model_dump()
    for camera, url in cameras.items():
        data["cameras"][camera] = {**data["cameras"].get(camera, {}), "url": url}
    return parse_config(data, "--camera")
