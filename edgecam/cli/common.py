"""What the subcommands share: options, output, and the store by socket or by hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping

from edgecam.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from edgecam.config import Config

    Sub = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name
else:
    Sub = Any


def add_common(parser: argparse.ArgumentParser, *, as_json: bool = True) -> None:
    """Add --state, --config and --json."""
    parser.add_argument("--state", type=Path, metavar="DIR", help="state folder (default: $EDGECAM_STATE)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: $EDGECAM_CONFIG)")
    if as_json:
        parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")


def config_of(args: argparse.Namespace) -> Config:
    """Read the configuration; the default file may be absent, a named one may not."""
    from edgecam.config import Config, default_config_path, load_config

    if args.config is not None:
        return load_config(args.config)
    path = default_config_path()
    try:
        exists = path.exists()
    except PermissionError as err:
        raise ConfigError(f"{path}: no right to read it; run this as root or as a member of group edgecam") from err
    if not exists and "EDGECAM_CONFIG" in os.environ:
        raise ConfigError(f"{path} (EDGECAM_CONFIG) does not exist")
    return load_config(path) if exists else Config()


def state_of(args: argparse.Namespace) -> Path:
    """Return the state folder.

    Raises:
        StoreError: the service's folder, without rights to it.
    """
    from edgecam.config import default_state_dir

    path: Path = args.state if args.state is not None else default_state_dir()
    if path == Path("/var/lib/edgecam") and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StoreError(f"{path} belongs to the service; run: sudo edgecam {args.command} ...")
    return path


def emit(record: Mapping[str, Any]) -> None:
    """Print one JSON object as a line on stdout."""
    print(json.dumps(record), flush=True)


def note(text: str) -> None:
    """Print progress or a remark on stderr."""
    print(text, file=sys.stderr, flush=True)


Record = Dict[str, Any]


class Backend:
    """The household's state, wherever it is: the running daemon's, or the store opened by this command.

    Operations and their parameters: `edgecam.pipeline.operations`.
    """

    def __init__(self, run: Callable[[Mapping[str, Any]], Iterator[Record]], *, live: bool) -> None:
        self._run = run
        self.live = live
        """Whether a daemon answers; what is changed takes effect in it at once."""

    def stream(self, op: str, **params: Any) -> Iterator[Record]:
        """Run an operation and yield its answer as it comes."""
        return self._run({"op": op, **params})

    def call(self, op: str, **params: Any) -> List[Record]:
        """Run an operation and return its whole answer.

        Raises:
            EdgecamError: it was refused or failed.
        """
        return list(self.stream(op, **params))

    def one(self, op: str, **params: Any) -> Record:
        """Run an operation whose answer is one object."""
        answer = self.call(op, **params)
        return answer[0] if answer else {}


@contextmanager
def backend(args: argparse.Namespace, *, create: bool = False) -> Iterator[Backend]:
    """Ask the daemon that owns the state folder; without one, open the store under its lock.

    Args:
        args: --state and --config.
        create: make an empty state and key if there is none.

    Raises:
        StoreError: no state, or it cannot be opened.
        ConfigError: the configuration is not valid.
    """
    from edgecam.config import default_state_dir
    from edgecam.daemon import control, talk

    # A member of the service's group may reach its socket without any right to its state.
    path = talk.socket_path(args.state if args.state is not None else default_state_dir())
    if control.running(path):
        yield Backend(lambda request: talk.ask(path, request), live=True)
        return
    state, config = state_of(args), config_of(args)
    if not create and not (state / "edgecam.db").exists():
        raise StoreError(f"{state}: nothing is stored here yet; run `edgecam init` or `edgecam enroll NAME PHOTO...`")
    from edgecam.pipeline.operations import execute
    from edgecam.store import Store

    with Store.open(state, config.store, outbox_max=config.alerts.outbox_max) as store:
        yield Backend(lambda request: execute(store, request), live=False)
