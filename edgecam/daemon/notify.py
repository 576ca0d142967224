"""Talking to systemd without its library, and logging that fits its journal."""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import sys
import time
from typing import Mapping, Optional, Tuple

from edgecam.daemon.flood import Flood

_LOGGER = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0
_MAX_STATUS = 500

_SECRETS = (
    (re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![0-9a-fA-F])"), "(address)"),
    (re.compile(r"(?<=://)[^/\s@]*:[^/\s]*@"), "(credentials)@"),
)


class Notifier:
    """Send the service manager what it waits for; does nothing where nobody waits.

    Args:
        env: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd sets them.
    """

    def __init__(self, env: Optional[Mapping[str, str]] = None) -> None:
        env = os.environ if env is None else env
        path = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if path and path[0] not in "@/":
            _LOGGER.warning("NOTIFY_SOCKET is neither a path nor an abstract name: ignored")
            self._address = ""
        self.watchdog_s = _watchdog_s(env) if self._address else None
        """The manager kills us after so long without `watchdog`; None if it does not. Ping at half of it."""

    def ready(self, status: str = "") -> None:
        """Start-up (or reloading) is finished."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Tell the state in one line, shown by `systemctl status`; ids only."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Still alive: call it only while every loop turns."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """Shutting down has begun."""
        self._send("STOPPING=1", *_status(status))

    def _send(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_SEND_TIMEOUT_S)
                sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as err:
            _LOGGER.debug("the service manager cannot be told: %s", err)


def _status(text: str) -> Tuple[str, ...]:
    line = " ".join(text.split())[:_MAX_STATUS]
    return (f"STATUS={line}",) if line else ()


def _watchdog_s(env: Mapping[str, str]) -> Optional[float]:
    try:
        usec = int(env.get("WATCHDOG_USEC", ""))
        pid = int(env.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return usec / 1e6 if usec > 0 and pid == os.getpid() else None


class Redact(logging.Filter):
    """The last line of defence: addresses and credentials do not reach a log, whoever wrote them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; never drops one."""
        try:
            text = record.getMessage()
        except Exception:  # a wrong format string is its author's bug; the handler reports it
            return True
        clean = redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        return True


def redact(text: str) -> str:
    """Return the text without MAC addresses and without credentials in URLs.

    >>> redact("rtsp://u:p@10.0.0.2/s from aa:bb:cc:dd:ee:ff")
    'rtsp://(credentials)@10.0.0.2/s from (address)'
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class _Formatter(logging.Formatter):
    """Redacts tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def setup_logging(*, verbose: bool = False) -> logging.Handler:
    """Log to the journal with its fields if a service's stderr is the journal, else to stderr; return the handler.

    Args:
        verbose: DEBUG instead of INFO.
    """
    handler = _journal_handler() if _stderr_is_journal() else None
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        plain = "%(levelname)s %(name)s: %(message)s"
        handler.setFormatter(_Formatter(plain if _stderr_is_journal() else f"%(asctime)s {plain}"))
    handler.addFilter(Redact())
    flood = Flood(handler)
    handler.addFilter(flood)
    atexit.register(flood.tell, all_of_it=True)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    return handler


def _stderr_is_journal() -> bool:
    """Whether stderr is the very stream that JOURNAL_STREAM names (it is inherited by shells and children)."""
    try:
        device, inode = os.environ.get("JOURNAL_STREAM", "").split(":")
        stat = os.fstat(sys.stderr.fileno())
        return (stat.st_dev, stat.st_ino) == (int(device), int(inode))
    except (OSError, ValueError, AttributeError):
        return False


def _journal_handler() -> Optional[logging.Handler]:
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return None
    handler = JournalHandler(SYSLOG_IDENTIFIER="edgecam")
    handler.setFormatter(_Formatter("%(message)s"))
    return handler if isinstance(handler, logging.Handler) else None
