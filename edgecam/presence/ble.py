"""Bluetooth LE advertisements of enrolled devices, by bleak (BlueZ over D-Bus) in a thread of its own; opt-in.

Phones change their Bluetooth address every quarter of an hour: this is for tags, watches and keys that keep theirs.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional

from edgecam.presence.sources import LostError
from edgecam.presence.wire import Sign

_EVERY_S = 1.0


class Bluetooth:
    """A source (see `sources.Source`).

    Args:
        devices: address (6 bytes) -> device id.

    Raises:
        LostError: bleak is not installed.
    """

    def __init__(self, devices: Mapping[bytes, str]) -> None:
        try:
            from bleak import BleakScanner
        except ImportError as err:
            raise LostError("Bluetooth needs bleak: pip install 'edgecam[presence]'") from err
        self._scanner = BleakScanner
        self._devices = devices
        self._told_s: Dict[str, float] = {}
        self._lock = threading.Lock()
        self._signs: List[Sign] = []
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._failed = ""
        self._loop = asyncio.new_event_loop()
        self._ended: Optional[asyncio.Event] = None
        self.problems: Dict[str, str] = {}
        self.counts: Dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="bluetooth", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """See `Source`."""
        return self._wake_r

    def read(self, now_s: float) -> Iterator[Sign]:  # noqa: ARG002 - each sign has its own time
        """See `Source`."""
        os.read(self._wake_r, 4096)
        if self._failed:
            raise LostError(self._failed)
        with self._lock:
            signs, self._signs = self._signs, []
        yield from signs

    def tick(self, now_s: float) -> Iterator[Sign]:  # noqa: ARG002 - nothing is due here
        """See `Source`."""
        return iter(())

    def close(self) -> None:
        """See `Source`."""
        if self._thread.is_alive() and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(5.0)
        for handle in (self._wake_r, self._wake_w):
            os.close(handle)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._scan())
        except Exception as err:  # bleak's errors differ by version and system; all mean that it cannot scan
            self._failed = (
                f"Bluetooth cannot scan: {type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"
            )
            self._wake()

    async def _scan(self) -> None:
        self._ended = asyncio.Event()
        async with self._scanner(detection_callback=self._on_advertisement):
            await self._ended.wait()

    def _on_advertisement(self, device: Any, advertisement: Any) -> None:
        try:
            name = self._devices.get(bytes.fromhex(str(device.address).replace(":", "")))
        except ValueError:
            return
        now_s = time.monotonic()
        if name is None or now_s - self._told_s.get(name, -1e9) < _EVERY_S:
            return
        self._told_s[name] = now_s
        rssi = advertisement.rssi if isinstance(advertisement.rssi, int) and -128 <= advertisement.rssi < 0 else None
        with self._lock:
            self._signs.append(Sign(name, "ble", now_s, rssi))
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"x")
        except (BlockingIOError, OSError):
            return
