"""A broker for the demo: inside this process, or mosquitto where amqtt is not at hand (Python 3.9)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Iterator

from edgecam.errors import EdgecamError

_START_TIMEOUT_S = 15.0


@contextlib.contextmanager
def broker() -> Iterator[int]:
    """Run a broker on the loopback address; yield its port.

    Raises:
        EdgecamError: there is none, or it does not start.
    """
    if importlib.util.find_spec("amqtt") is not None:
        with _amqtt() as port:
            yield port
        return
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise EdgecamError("no broker: pip install 'amqtt>=0.11' (Python 3.10 or newer) or apt-get install mosquitto")
    with _mosquitto(program) as port:
        yield port


def broker_name() -> str:
    """Return which broker `broker` runs, for the report."""
    return "amqtt, embedded" if importlib.util.find_spec("amqtt") is not None else "mosquitto"


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def _amqtt() -> Iterator[int]:
    import amqtt.broker

    # It logs every client that leaves as a warning.
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    port, loop = free_port(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

    async def start() -> amqtt.broker.Broker:
        made = amqtt.broker.Broker(config)
        await made.start()
        return made

    running = None
    try:
        try:
            running = asyncio.run_coroutine_threadsafe(start(), loop).result(_START_TIMEOUT_S)
        except Exception as err:
            raise EdgecamError(f"the embedded broker (amqtt) does not start: {err or type(err).__name__}") from err
        yield port
    finally:
        if running is not None:
            # Clients that are still connected make it wait; the process ends anyway.
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(running.shutdown(), loop).result(5.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5.0)


@contextlib.contextmanager
def _mosquitto(program: str) -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edgecam-broker-") as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
        process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise EdgecamError("mosquitto does not start")
