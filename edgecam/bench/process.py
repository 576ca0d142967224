"""The real program from outside: how fast it starts, what it needs of memory and processor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

from edgecam.bench.lab import COMMAND, Lab
from edgecam.bench.report import Figure, Row, Skipped
from edgecam.bench.scene import Scene
from edgecam.errors import EdgecamError

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Daemon:
    """One `edgecam run`, ready; a context manager.

    Args:
        folder: for its notification socket and its log.
        arguments: after `edgecam run`.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder, self._arguments = folder, tuple(arguments)
        self.ready_s = 0.0
        """From its start as a process to READY."""

    def __enter__(self) -> Daemon:
        """Start it and wait until it says READY.

        Raises:
            EdgecamError: it does not.
        """
        address = "\0edgecam-bench-" + os.urandom(8).hex()
        self._log = (self._folder / "daemon.log").open("w+", encoding="utf-8")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
            sock.settimeout(0.5)
            began = time.monotonic()
            self._process = subprocess.Popen(
                [*COMMAND, "run", *self._arguments],
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "NOTIFY_SOCKET": "@" + address[1:]},
            )
            while True:
                with contextlib.suppress(socket.timeout):
                    if b"READY=1" in sock.recv(4096):
                        break
                if self._process.poll() is not None or time.monotonic() - began > _READY_TIMEOUT_S:
                    self.__exit__()
                    raise EdgecamError(f"edgecam run is not ready: {self._last_words()}")
            self.ready_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def memory_mb(self, key: str = "VmRSS") -> float:
        """Return a figure of /proc/PID/status: VmRSS now, VmHWM at most."""
        return _status_mb(self._process.pid, key)

    def cpu_s(self) -> float:
        """Return the processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _last_words(self) -> str:
        self._log.seek(0)
        return " / ".join(line.strip() for line in self._log.readlines()[-3:])


def start(lab: Lab) -> Iterator[Row]:
    """Yield how long the command line and the daemon take to be there."""
    lab.tell("edgecam --help")
    bare_s = _run_s([sys.executable, "-c", ""])
    helps = [_run_s([*COMMAND, "--help"]) for _ in range(lab.of_extent(5, 15, 25))]
    yield Figure(
        "help",
        statistics.median(helps),
        "s",
        0.5,
        detail={"min": min(helps), "max": max(helps), "n": len(helps), "bare_python": bare_s},
    )
    lab.tell("edgecam run, until READY")
    film = lab.folder / "idle.mp4"
    if not film.exists():
        Scene().write(film, 12.0)
    ready: List[float] = []
    cpu_s: List[float] = []
    for _ in range(lab.of_extent(2, 5, 9)):
        with Daemon(lab.folder, _arguments(lab, {"door": film})) as daemon:
            ready.append(daemon.ready_s)
            cpu_s.append(daemon.cpu_s())
    yield Figure(
        "ready",
        statistics.median(ready),
        "s",
        4.0,
        detail={
            "min": min(ready),
            "max": max(ready),
            "cpu_s": statistics.median(cpu_s),
            "n": len(ready),
            "people": len(lab.subjects) + 1,
        },
    )


def resident(lab: Lab) -> Iterator[Row]:
    """Yield what the running daemon takes: idle, then with faces before it."""
    if not sys.platform.startswith("linux"):
        yield Skipped("rss_peak", "needs /proc")
        return
    film = lab.folder / "idle.mp4"
    if not film.exists():
        Scene().write(film, 12.0)
    seconds = lab.of_extent(8, 20, 60)
    lab.tell(f"the daemon on an empty scene, {seconds} s")
    with Daemon(lab.folder, _arguments(lab, {"door": film})) as daemon:
        time.sleep(5.0)
        before, began = daemon.cpu_s(), time.monotonic()
        time.sleep(seconds)
        share = 100 * (daemon.cpu_s() - before) / (time.monotonic() - began)
        yield Figure(
            "daemon_idle_share_of_core",
            share,
            "% of a core",
            detail={"what": "whole process, decoding included", "rss_mb": daemon.memory_mb(), "seconds": seconds},
        )
    busy = lab.folder / "busy.mp4"
    lab.tell("composing a scene with four faces")
    Scene(lab.faces(4)).write(busy, lab.of_extent(10, 20, 20))
    seconds = lab.of_extent(15, 45, 600)
    lab.tell(f"the daemon with four faces before it, {seconds} s")
    with Daemon(lab.folder, _arguments(lab, {"door": busy})) as daemon:
        time.sleep(3.0)
        before, began = daemon.cpu_s(), time.monotonic()
        samples = []
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            samples.append(daemon.memory_mb())
        share = 100 * (daemon.cpu_s() - before) / (time.monotonic() - began)
        half = samples[len(samples) // 2 :]
        yield Figure(
            "rss_peak",
            daemon.memory_mb("VmHWM"),
            "MB",
            300.0,
            detail={
                "what": "the real daemon, four faces at 720p",
                "anonymous_mb": daemon.memory_mb("RssAnon"),
                "file_mb": daemon.memory_mb("RssFile"),
                "median_of_second_half_mb": statistics.median(half),
                "cpu_share_of_core": share,
                "seconds": seconds,
            },
        )


def _arguments(lab: Lab, cameras: Dict[str, Path]) -> List[str]:
    """Return options of `edgecam run`: films that are played again and again, no broker."""
    config = lab.folder / "bench.toml"
    lines = [f'[cameras.{name}]\nurl = "{path}"\nloop = true\n' for name, path in cameras.items()]
    config.write_text("".join(lines), encoding="utf-8")
    return ["--state", str(lab.state), "--config", str(config)]


def _run_s(command: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise EdgecamError(f"{' '.join(command[-2:])} failed: {' '.join(done.stderr.split()[-20:])}")
    return time.perf_counter() - began


def _status_mb(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise EdgecamError(f"/proc/{pid}/status has no {key}")
