"""The helper: the only process with CAP_NET_RAW and CAP_NET_ADMIN, and without any way to what the box remembers.

It imports the standard library and this package alone (bleak, if Bluetooth is wanted). The daemon tells it by unix
socket what to listen for; it keeps that in RAM, tells the daemon what it heard, and forgets both when the daemon goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import selectors
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Tuple

from edgecam.presence.radio import MonitorRadio, Radio
from edgecam.presence.sources import Air, LostError, Mdns, Neighbours, Source
from edgecam.presence.wire import Lines, Sign, State, Watch, WireError, pack_sign, pack_state, peer_uid, unpack_watch

_LOGGER = logging.getLogger(__name__)

_TURN_S = 0.1
_RETRY_S = 5.0
_REPORT_S = 10.0
_DAEMON_USER = "edgecam"


class Helper:
    """Connects to the daemon, listens, tells; for ever.

    Args:
        path: the daemon's presence socket.
        radio: interface to use instead of the one the daemon names.
        channels: channels instead of those the daemon names.
        make_radio: for tests without a radio.
    """

    def __init__(
        self,
        path: Path,
        radio: Optional[str] = None,
        channels: Optional[Tuple[int, ...]] = None,
        make_radio: Callable[[str], Radio] = MonitorRadio,
    ) -> None:
        self._path, self._radio, self._channels, self._make_radio = path, radio, channels, make_radio
        self._stop = False
        self._selector = selectors.DefaultSelector()
        self._daemon: Optional[socket.socket] = None
        self._lines = Lines()
        self._said = ""
        self._forget()

    def _forget(self) -> None:
        self._watch = Watch()
        self._sources: Dict[str, Source] = {}
        self._problems: Dict[str, str] = {}
        self._open_due_s = self._report_due_s = self._connect_due_s = 0.0
        self._unsent = 0

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stop:
                self.turn(time.monotonic())
        finally:
            self._hang_up()
        return 0

    def turn(self, now_s: float) -> None:
        """Wait a moment for anything, and do what is due."""
        if self._daemon is None and now_s >= self._connect_due_s:
            self._connect_due_s = now_s + _RETRY_S
            self._connect()
        if self._daemon is not None and now_s >= self._open_due_s:
            self._open_due_s = now_s + _RETRY_S
            self._open_missing()
        for key, _ in self._selector.select(_TURN_S):
            if key.data is None:
                self._listen_to_daemon()
            else:
                self._attend(key.data, "read")
        for name in list(self._sources):
            self._attend(name, "tick")
        if self._daemon is not None and now_s >= self._report_due_s:
            self._report(now_s)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    # The daemon.

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(2.0)
            sock.connect(str(self._path))
            served_by = peer_uid(sock)
        except OSError as err:
            sock.close()
            self._say(f"{self._path}: no daemon ({err.strerror or err}); trying again")
            return
        if served_by not in _trusted():
            sock.close()
            self._say(f"{self._path} is served by user {served_by}, not by edgecam: not trusted")
            return
        sock.setblocking(False)
        self._daemon, self._lines = sock, Lines()
        self._selector.register(sock, selectors.EVENT_READ, None)
        self._say(f"connected to {self._path}")

    def _listen_to_daemon(self) -> None:
        if self._daemon is None:
            return
        try:
            messages = self._lines.read(self._daemon)
            for message in messages or ():
                self._watch_for(unpack_watch(message))
        except BlockingIOError:
            return
        except (OSError, WireError) as err:
            self._say(f"the daemon: {err}")
            messages = None
        if messages is None:
            self._say("the daemon is gone: its devices are forgotten")
            self._hang_up()

    def _watch_for(self, watch: Watch) -> None:
        changes: Dict[str, Any] = {}
        if self._radio is not None:
            changes["radio"] = self._radio
        if self._channels is not None:
            changes["channels"] = self._channels
        watch = replace(watch, **changes)
        self._report_due_s = 0.0
        if watch == self._watch:
            return
        self._close_sources()
        self._watch, self._problems, self._open_due_s = watch, {}, 0.0
        self._say(f"listening for {len({*watch.devices.values(), *watch.ble_devices.values()})} devices")

    def _hang_up(self) -> None:
        self._close_sources()
        if self._daemon is not None:
            self._selector.unregister(self._daemon)
            self._daemon.close()
            self._daemon = None
        self._forget()

    def _tell(self, data: bytes) -> None:
        if self._daemon is None:
            return
        try:
            sent = self._daemon.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # reading will notice
        if sent == 0:
            self._unsent += 1
        elif sent < len(data):  # half a line is of no use to anybody
            self._say("the daemon does not keep up")
            self._hang_up()

    def _report(self, now_s: float) -> None:
        self._report_due_s = now_s + _REPORT_S
        problems = {**self._problems, **_merged(source.problems for source in self._sources.values())}
        counts = {"unsent": self._unsent, **_merged(source.counts for source in self._sources.values())}
        self._tell(pack_state(State(problems, counts)))

    # The sources.

    def _open_missing(self) -> None:
        watch = self._watch
        wifi = {bytes.fromhex(address): device for address, device in watch.devices.items()}
        ble = {bytes.fromhex(address): device for address, device in watch.ble_devices.items()}
        openers: Dict[str, Callable[[], Source]] = {}
        if watch.radio and wifi:  # without anybody to listen for, the radio is not touched
            radio = watch.radio
            openers["radio"] = lambda: Air(
                self._make_radio(radio), wifi, watch.channels, watch.hop_s, watch.min_rssi_dbm
            )
        if watch.mdns and wifi:
            interface = watch.mdns
            openers["mdns"] = lambda: Mdns(interface, wifi)
        if watch.neighbours and wifi:
            openers["neighbours"] = lambda: Neighbours(wifi)
        if watch.ble and ble:
            openers["ble"] = lambda: _bluetooth(ble)
        for name, opener in openers.items():
            if name not in self._sources:
                self._open(name, opener)

    def _open(self, name: str, opener: Callable[[], Source]) -> None:
        try:
            source = opener()
        except LostError as err:
            self._lost(name, str(err))
            return
        self._sources[name] = source
        self._selector.register(source.fileno(), selectors.EVENT_READ, name)
        if self._problems.pop(f"{name}_lost", None) is not None:
            _LOGGER.info("%s: listening again", name)
        self._report_due_s = 0.0

    def _attend(self, name: str, what: str) -> None:
        source = self._sources.get(name)
        if source is None:
            return
        now_s = time.monotonic()
        had = dict(source.problems)
        try:
            for sign in source.read(now_s) if what == "read" else source.tick(now_s):
                self._hear(sign)
        except LostError as err:
            self._close(name)
            self._lost(name, str(err))
        if source.problems != had:
            self._report_due_s = 0.0

    def _hear(self, sign: Sign) -> None:
        self._tell(pack_sign(sign))

    def _lost(self, name: str, why: str) -> None:
        if f"{name}_lost" not in self._problems:
            _LOGGER.warning("%s: %s; trying again every %.0f s", name, why, _RETRY_S)
            self._report_due_s = 0.0
        self._problems[f"{name}_lost"] = why

    def _close(self, name: str) -> None:
        source = self._sources.pop(name)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source.fileno())
        source.close()

    def _close_sources(self) -> None:
        for name in list(self._sources):
            self._close(name)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            _LOGGER.info("%s", text)


def _bluetooth(devices: Mapping[bytes, str]) -> Source:
    from edgecam.presence.ble import Bluetooth

    return Bluetooth(devices)


def _merged(parts: Iterable[Mapping[str, Any]]) -> Dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _trusted() -> Tuple[int, ...]:
    """Return the users from whom the helper takes orders: root, its own, the daemon's, and who calls it by sudo."""
    users = [0, os.geteuid()]
    with contextlib.suppress(KeyError):
        users.append(pwd.getpwnam(_DAEMON_USER).pw_uid)
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        users.append(int(os.environ["SUDO_UID"]))
    return tuple(users)
