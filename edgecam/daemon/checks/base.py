"""What every check takes and gives."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Tuple, Type

from edgecam.config import Config
from edgecam.errors import (
    ConfigError,
    ControlError,
    EdgecamError,
    InputError,
    KeyMissingError,
    ModelError,
    SourceAuthError,
    SourceError,
    StoreError,
)

Record = Dict[str, Any]
Ask = Callable[..., List[Record]]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: Literal["ok", "hint", "broken", "skipped"]
    """`hint`: works, could be better; `skipped`: could not be looked at."""

    text: str
    fix: str = ""
    """What to do about it, as a command where there is one; only what is `ok` needs none."""

    def __post_init__(self) -> None:
        """Raise ValueError where nobody would know what to do."""
        if self.state != "ok" and not self.fix:
            raise ValueError(f"{self.check}: {self.text!r} is {self.state}, and no fix is told")


@dataclass(frozen=True)
class Subject:
    """What is examined."""

    state: Path
    config: Config
    """The defaults if the file is not valid."""
    config_path: Optional[Path]
    models: Path
    live: bool
    """Whether the daemon runs on this state."""
    config_fault: str = ""
    """Why the file cannot be used; empty if it can, or if there is none."""

    @property
    def as_service(self) -> bool:
        """Whether it is systemd's service that is examined."""
        return str(self.config_path).startswith("/etc/") and Path("/run/systemd/system").is_dir()


Check = Callable[[Subject], Iterator[Finding]]


@contextmanager
def asking(subject: Subject) -> Iterator[Ask]:
    """Hand out what runs an operation and returns its answer: the daemon, or the store opened here.

    Raises:
        EdgecamError: neither can be had.
    """
    if subject.live:
        from edgecam.daemon import talk

        yield lambda op, **params: list(talk.ask(talk.socket_path(subject.state), {"op": op, **params}))
        return
    from edgecam.pipeline.operations import execute
    from edgecam.store import Store

    with Store.open(subject.state, subject.config.store) as store:
        yield lambda op, **params: list(execute(store, {"op": op, **params}))


def live_status(subject: Subject) -> Mapping[str, Any]:
    """Return what `edgecam status` says of the running daemon."""
    with asking(subject) as ask:
        return ask("status")[0]


_FIXES: Tuple[Tuple[Type[EdgecamError], str], ...] = (
    (KeyMissingError, "put the copy of the key back; docs/keys.md says what is possible without"),
    (StoreError, "docs/operation.md, Data, says what helps"),
    (ModelError, "edgecam models pull"),
    (SourceAuthError, "correct user and password in cameras.ID.url"),
    (InputError, "check the path and its rights"),
    (SourceError, "check the camera's power, network and address (cameras.ID.url)"),
    (ConfigError, "correct the configuration"),
    (ControlError, "systemctl restart edgecam; as a member of group edgecam, or as root"),
)


def failed(check: str, err: EdgecamError, where: str = "") -> Finding:
    """Return the finding of a check that an error ended."""
    fix = next((fix for kind, fix in _FIXES if isinstance(err, kind)), "correct it, and run this again")
    return Finding(check, "broken", f"{where}{err}", fix)
