"""The control socket: one JSON line asks, JSON lines answer; only this machine's administrators may ask.

Each answer line is `{"item": {...}}`; the last is `{"end": true}` or `{"error": "...", "exit_code": n}`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import json
import logging
import os
import pwd
import socket
import stat
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, Optional, Set

from edgecam.errors import ControlError, EdgecamError

_LOGGER = logging.getLogger(__name__)

GROUP = "edgecam"
MAX_REQUEST = 65_536
MAX_LINE = 4 * 1024 * 1024
"""Longest answer line a client accepts."""

MAX_CLIENTS = 8
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
"""A client that does not read its answer for so long is dropped."""

_MAX_PATH = 107
_PEERCRED = struct.Struct("3i")

JsonDict = Dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """Who asks, as the kernel says."""

    pid: int
    uid: int
    gid: int


Handler = Callable[[JsonDict, Peer], Iterator[JsonDict]]
"""Yields the answer's items, progress among them; may raise EdgecamError. Runs in the client's own thread."""


class ControlServer:
    """Serve requests until stopped.

    Args:
        path: the socket file, mode 0660 and of group `edgecam` where that exists.
        handler: what answers; called from several threads at once.
        may: whether a peer may ask; default: root, the daemon's own user, members of group `edgecam`.
    """

    def __init__(self, path: Path, handler: Handler, may: Optional[Callable[[Peer], bool]] = None) -> None:
        self._path = path
        self._handler = handler
        self._may = may or allowed
        self._stop = threading.Event()
        self._slots = threading.BoundedSemaphore(MAX_CLIENTS)
        self._lock = threading.Lock()
        self._clients: Set[socket.socket] = set()
        self._listener: Optional[socket.socket] = None
        self._thread: Optional[threading.Thread] = None
        self._guard: Optional[IO[bytes]] = None

    def start(self) -> None:
        """Bind and serve.

        Raises:
            ControlError: another daemon serves here, or the path cannot be used.
        """
        self._guard = _take(self._path)
        try:
            self._listener = bind(self._path)
        except BaseException:
            self._guard.close()
            raise
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), name="control", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Take no more requests, hang up on those being answered, remove the socket."""
        self._stop.set()
        if self._thread is None or self._listener is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout_s)
        self._listener.close()
        with self._lock:
            clients = tuple(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._guard is not None:
            self._guard.close()
        self._thread = None

    def _serve(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                client, _ = listener.accept()
            except OSError as err:
                if self._stop.is_set():
                    return
                _LOGGER.warning("control socket: %s", err)
                self._stop.wait(1.0)  # out of file descriptors: clients go, it passes
                continue
            if not self._slots.acquire(blocking=False):
                self._refuse(client, "too many commands at once: try again")
                continue
            with self._lock:
                self._clients.add(client)
            threading.Thread(target=self._client, args=(client,), name="control-client", daemon=True).start()

    def _client(self, client: socket.socket) -> None:
        try:
            with client:
                self._answer(client)
        except OSError as err:
            _LOGGER.debug("control client gone: %s", err)
        finally:
            with self._lock:
                self._clients.discard(client)
            self._slots.release()

    def _answer(self, client: socket.socket) -> None:
        peer = Peer(*_PEERCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)))
        if not self._may(peer):
            _LOGGER.warning("control: user %d may not give commands", peer.uid)
            _send(client, _error(f"not permitted: run it as root or join group {GROUP}"))
            return
        try:
            request = _read_request(client)
        except ControlError as err:
            _send(client, _error(str(err), 2))
            return
        try:
            answer = self._handler(request, peer)
            with contextlib.closing(_closable(answer)):
                for item in answer:
                    _send(client, {"item": item})
                    if self._stop.is_set():
                        raise ControlError("the daemon is stopping")
        except EdgecamError as err:
            _send(client, _error(str(err), err.exit_code))
        except OSError:
            raise
        except Exception:
            _LOGGER.exception("control request failed")
            _send(client, _error("internal error; the daemon's log has the details"))
        else:
            _send(client, {"end": True})

    @staticmethod
    def _refuse(client: socket.socket, why: str) -> None:
        with client, contextlib.suppress(OSError):
            client.setblocking(False)
            client.sendall(_line(_error(why)))


def call(path: Path, request: JsonDict, timeout_s: float = 10.0) -> Iterator[JsonDict]:
    """Ask the running daemon; yield the items of its answer.

    Args:
        path: the socket.
        request: what to do.
        timeout_s: longest silence between two items.

    Raises:
        ControlError: no daemon, no permission, no answer, or the daemon's own error with its exit code.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(_address(path))
        except OSError as err:
            raise ControlError(f"{path}: {_why_no_daemon(err)}") from err
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the refusal is there to be read
            sock.sendall(_line(request))
        for message in _messages(path, sock, timeout_s):
            if "error" in message:
                error = ControlError(str(message["error"]))
                error.exit_code = int(message.get("exit_code", 1))
                raise error
            if "item" not in message:
                return
            yield message["item"]


def running(path: Path) -> bool:
    """Whether a daemon listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(_address(path))
        except (OSError, ControlError) as err:
            return isinstance(err, (BlockingIOError, PermissionError, socket.timeout))
        return True


def allowed(peer: Peer) -> bool:
    """Whether a peer is root, the daemon's own user, or a member of group `edgecam`."""
    if peer.uid in (0, os.geteuid()):
        return True
    try:
        group = grp.getgrnam(GROUP)
        user = pwd.getpwuid(peer.uid)
    except KeyError:
        return False
    return group.gr_gid in (peer.gid, user.pw_gid) or user.pw_name in group.gr_mem


def _messages(path: Path, sock: socket.socket, timeout_s: float) -> Iterator[JsonDict]:
    with sock.makefile("rb") as lines:
        while True:
            try:
                line = lines.readline(MAX_LINE + 1)
            except socket.timeout as err:
                raise ControlError(f"{path}: the daemon did not answer within {timeout_s:g} s") from err
            except OSError as err:
                raise ControlError(f"{path}: {err.strerror or err}") from err
            if not line.endswith(b"\n"):
                raise ControlError(f"{path}: the daemon ended in the middle of its answer")
            try:
                message = json.loads(line)
            except ValueError as err:
                raise ControlError(f"{path}: not an answer of edgecam") from err
            if not isinstance(message, dict):
                raise ControlError(f"{path}: not an answer of edgecam")
            yield message


def _read_request(client: socket.socket) -> JsonDict:
    until = time.monotonic() + REQUEST_TIMEOUT_S  # for all of it: bytes that trickle must not hold a place
    data = b""
    while not data.endswith(b"\n"):
        try:
            client.settimeout(max(0.01, until - time.monotonic()))
            more = client.recv(min(8192, MAX_REQUEST + 1 - len(data)))
        except socket.timeout as err:
            raise ControlError("no request came") from err
        if not more:
            raise ControlError("the request is not a whole line")
        data += more
        if len(data) > MAX_REQUEST:
            raise ControlError(f"the request is longer than {MAX_REQUEST} bytes")
    client.settimeout(ANSWER_TIMEOUT_S)
    try:
        request = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ControlError("the request is not JSON") from err
    if not isinstance(request, dict):
        raise ControlError("the request is not a JSON object")
    return request


def _take(path: Path) -> IO[bytes]:
    """Lock the place, so that of two daemons starting at once one is refused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = open(os.open(path.with_name(path.name + ".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "ab")  # noqa: SIM115
        os.fchmod(guard.fileno(), 0o600)
    except OSError as err:
        raise ControlError(f"{path}: {err.strerror or err}") from err
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        guard.close()
        raise ControlError(f"{path}: another edgecam daemon is running here") from err
    return guard


def bind(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, for its owner and group `edgecam`.

    Raises:
        ControlError: somebody listens there, it is no socket, or it cannot be made.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # what the file is born with, whatever the umask
        listener.bind(_address(path))
        with contextlib.suppress(KeyError, OSError):  # the user's own daemon cannot give it away: stays its own
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        path.chmod(0o660)
        listener.listen(MAX_CLIENTS)
    except OSError as err:
        listener.close()
        raise ControlError(f"{path}: {err.strerror or err}") from err
    return listener


def callers(listener: socket.socket, stop: threading.Event, what: str) -> Iterator[socket.socket]:
    """Yield each client of a socket with a timeout, one after the other, until told to stop.

    Args:
        listener: see `bind`; its timeout says how soon an end is noticed.
        stop: set to end.
        what: the socket's name, for the log.
    """
    while not stop.is_set():
        try:
            client, _ = listener.accept()
        except socket.timeout:
            continue
        except OSError as err:
            _LOGGER.warning("%s socket: %s", what, err)
            stop.wait(1.0)  # out of file descriptors: clients go, it passes
            continue
        with client:
            yield client


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a daemon that was killed.

    Raises:
        ControlError: somebody listens there, or it is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as err:
        raise ControlError(f"{path}: {err.strerror or err}") from err
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path}: exists and is not a socket: remove it")
    if running(path):
        raise ControlError(f"{path}: another edgecam daemon is running here")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _address(path: Path) -> str:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ControlError(f"{path}: too long for a socket (at most {_MAX_PATH} bytes): use a shorter --state")
    return str(path)


def _why_no_daemon(err: OSError) -> str:
    if err.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return "no edgecam daemon is running here"
    if err.errno in (errno.EACCES, errno.EPERM):
        return f"not permitted: run it as root or join group {GROUP}"
    if isinstance(err, (socket.timeout, BlockingIOError)):
        return "the daemon does not answer"
    return err.strerror or str(err)


def _closable(answer: Iterator[JsonDict]) -> Any:
    """Return something with `close`: a generator lets its handler tidy up when the client is gone."""
    return answer if hasattr(answer, "close") else contextlib.ExitStack()


def _error(text: str, exit_code: int = 1) -> JsonDict:
    return {"error": text, "exit_code": exit_code}


def _line(message: JsonDict) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("utf-8") + b"\n"


def _send(client: socket.socket, message: JsonDict) -> None:
    client.sendall(_line(message))
