"""The daemon's end of the presence socket: tells the helper what to listen for, takes what it heard."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import socket
import stat
import threading
from pathlib import Path
from typing import Callable, Optional, Set

from edgecam.daemon.control import callers
from edgecam.daemon.health import name_thread
from edgecam.errors import ControlError
from edgecam.presence.wire import (
    USER,
    Lines,
    Sign,
    State,
    Watch,
    WireError,
    pack_watch,
    peer_uid,
    unpack_sign,
    unpack_state,
)

_LOGGER = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 2.0
_WAIT_S = 0.5


class Listener:
    """Serve one helper at a time.

    Args:
        path: the socket file.
        on_sign: called with every sign, in this thread.
        on_state: called with the helper's state; None: it has gone.
        may: whether a user may be the helper; default: root, the daemon's own, `edgecam-presence`.
    """

    def __init__(
        self,
        path: Path,
        on_sign: Callable[[Sign], None],
        on_state: Callable[[Optional[State]], None],
        may: Optional[Callable[[int], bool]] = None,
    ) -> None:
        self._path, self._on_sign, self._on_state = path, on_sign, on_state
        self._may = may or (lambda uid: uid in _helpers())
        self._watch = Watch()
        self._lock = threading.Lock()
        self._client: Optional[socket.socket] = None
        self._stop = threading.Event()
        self._listener: Optional[socket.socket] = None
        self._thread = threading.Thread(target=self._serve, name="presence-link", daemon=True)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            ControlError: the path cannot be used.
        """
        self._listener = _bind(self._path)
        self._thread.start()

    def stop(self) -> None:
        """Hang up and remove the socket."""
        self._stop.set()
        self._hang_up()
        if self._listener is not None:
            self._thread.join(2.0)
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def watch(self, watch: Watch) -> None:
        """From now on this is to be listened for."""
        with self._lock:
            self._watch = watch
            self._tell()

    def _serve(self) -> None:
        name_thread()
        for client in callers(self._listener, self._stop, "presence") if self._listener is not None else ():
            self._welcome(client)

    def _welcome(self, client: socket.socket) -> None:
        uid = peer_uid(client)
        if not self._may(uid):
            _LOGGER.warning("presence: user %d may not be the helper", uid)
            return
        client.settimeout(_SEND_TIMEOUT_S)
        with self._lock:
            self._client = client
            self._tell()
        _LOGGER.info("presence: the helper has come")
        try:
            self._listen(client)
        except (OSError, WireError) as err:
            _LOGGER.warning("presence: the helper: %s", err)
        finally:
            with self._lock:
                self._client = None
            if not self._stop.is_set():
                _LOGGER.info("presence: the helper has gone")
            self._on_state(None)

    def _listen(self, client: socket.socket) -> None:
        lines = Lines()
        while not self._stop.is_set():
            try:
                messages = lines.read(client)
            except socket.timeout:
                continue
            if messages is None:
                return
            for message in messages:
                if "heard" in message:
                    self._on_sign(unpack_sign(message["heard"]))
                elif "state" in message:
                    self._on_state(unpack_state(message["state"]))

    def _tell(self) -> None:
        if self._client is None:
            return
        try:
            self._client.sendall(pack_watch(self._watch))
        except OSError as err:
            _LOGGER.warning("presence: the helper does not listen: %s", err)
            self._hang_up()

    def _hang_up(self) -> None:
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _helpers() -> Set[int]:
    with contextlib.suppress(KeyError):
        return {0, os.geteuid(), pwd.getpwnam(USER).pw_uid}
    return {0, os.geteuid()}


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The store's lock keeps a second daemon away: whatever socket lies there is a dead one's.
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ControlError(f"{path}: exists and is not a socket: remove it")
            path.unlink()
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        with contextlib.suppress(KeyError, OSError):  # the user's own daemon cannot give it away
            os.chown(path, -1, grp.getgrnam(USER).gr_gid)
        path.chmod(0o660)
        listener.listen(1)
        listener.settimeout(_WAIT_S)
    except OSError as err:
        listener.close()
        raise ControlError(f"{path}: {err.strerror or err}") from err
    except BaseException:
        listener.close()
        raise
    return listener
