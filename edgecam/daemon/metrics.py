"""Figures for Prometheus, as text on a unix socket: states and counts, never a name, an id of a person or an address.

Format: https://prometheus.io/docs/instrumenting/exposition_formats (text, version 0.0.4).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from edgecam.adapt.supply import zones
from edgecam.alerts.message import HealthState
from edgecam.alerts.session import Link
from edgecam.daemon.control import bind, callers
from edgecam.daemon.health import name_thread
from edgecam.types import Decision, Phase, Verdict

_LOGGER = logging.getLogger(__name__)

SOCKET = "metrics.sock"
_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_MAX_REQUEST = 8192
_PATIENCE_S = 2.0
_WAIT_S = 0.5
_THERMAL = Path("/sys/class/thermal")

_HELP = {
    "info": "Always 1; version of edgecam and of the encoder in service.",
    "up_seconds": "Since the daemon began.",
    "ready": "1 when models are loaded and cameras are watched.",
    "paused": "1 while nobody is noticed, by the household's wish.",
    "clock_trusted": "1 if the wall clock was set.",
    "memory_bytes": "Resident memory.",
    "temperature_celsius": "The kernel's thermal zones.",
    "config_last_reload_successful": "0 if the file was refused and the configuration before it is in use.",
    "config_last_reload_timestamp_seconds": "When the file was last read.",
    "config_waiting_keys": "Keys that take effect at the next start.",
    "camera_state": "1 for the state a camera is in.",
    "camera_fps": "Frames that came, a second, over the last five.",
    "camera_perceived_fps": "Frames that were looked at, a second, over the last five.",
    "camera_frames_total": "Frames that came since the camera was opened.",
    "camera_perceived_frames_total": "Frames that were looked at since the camera was opened.",
    "camera_dropped_frames_total": "Frames of visits that nobody had time to look at, since the camera was opened.",
    "camera_last_frame_age_seconds": "Since the last frame.",
    "camera_visit_open": "1 while somebody may be there.",
    "problem": "1 for each thing that is wrong now; without a camera, it is the box's.",
    "decisions_total": "Decisions stored since the start.",
    "time_to_name_seconds": "From the first face of a track to its name.",
    "broker_link": "1 for the state the connection is in.",
    "broker_denied_total": "Messages that the broker refused.",
    "alerts_sent_total": "Alerts that the broker has acknowledged.",
    "outbox_alerts": "Alerts that wait for the broker.",
    "outbox_dropped_total": "Alerts given up as the oldest of too many.",
    "words_waiting": "Decisions that could not be stored yet.",
    "words_lost_total": "Decisions that could not be stored at all.",
    "night_wanted": "1 while something speaks for a night by day.",
}

Labels = Mapping[str, str]
Sample = Tuple[Labels, float]


class Tally:
    """What was decided since the start, by verdict, and how soon names were found; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: Counter[Tuple[Verdict, Phase]] = Counter()
        self._named: Counter[float] = Counter()
        self._named_sum_s = 0.0

    def note(self, decision: Decision) -> None:
        """Count a decision that was stored."""
        with self._lock:
            self._words[decision.verdict, decision.phase] += 1
            if decision.phase is Phase.NAMED and decision.t_named_s is not None:
                took_s = max(0.0, decision.t_named_s - decision.t_first_s)
                self._named[next((upper for upper in _BUCKETS_S if took_s <= upper), float("inf"))] += 1
                self._named_sum_s += took_s

    def words(self) -> List[Sample]:
        """Return a count for each verdict and phase, also of those that never came."""
        with self._lock:
            return [
                ({"verdict": verdict.value, "phase": phase.value}, self._words[verdict, phase])
                for verdict in Verdict
                for phase in Phase
            ]

    def named(self) -> Tuple[List[Tuple[float, int]], float]:
        """Return up to how many seconds so many names took (cumulative, the last without a limit), and their sum."""
        with self._lock:
            uppers = [*_BUCKETS_S, float("inf")]
            return [(upper, sum(self._named[u] for u in uppers if u <= upper)) for upper in uppers], self._named_sum_s


class MetricsServer:
    """Answer each connection with the figures of that moment, one after the other.

    Args:
        path: the socket file, mode 0660 and of group `edgecam` where that exists.
        figures: makes the text; called in the server's thread.
    """

    def __init__(self, path: Path, figures: Callable[[], str]) -> None:
        self._path, self._figures = path, figures
        self._stop = threading.Event()
        self._listener: Optional[socket.socket] = None
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            ControlError: the path cannot be used.
        """
        self._listener = bind(self._path)
        self._listener.settimeout(_WAIT_S)
        self._thread.start()

    def stop(self) -> None:
        """Serve no more and remove the socket."""
        self._stop.set()
        if self._listener is None:
            return
        self._thread.join(_WAIT_S + _PATIENCE_S)
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve(self) -> None:
        name_thread()
        for client in callers(self._listener, self._stop, "metrics") if self._listener is not None else ():
            with contextlib.suppress(OSError):
                self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        until = time.monotonic() + _PATIENCE_S  # for all of it: bytes that trickle must not hold up the next
        request = b""
        while b"\n" not in request and len(request) < _MAX_REQUEST:
            client.settimeout(max(0.01, until - time.monotonic()))
            more = client.recv(_MAX_REQUEST)
            if not more:
                return
            request += more
        try:
            status, text = ("200 OK", self._figures()) if request.startswith(b"GET ") else ("400 Bad Request", "")
        except Exception:
            _LOGGER.exception("metrics failed")
            status, text = "500 Internal Server Error", ""
        client.settimeout(_PATIENCE_S)
        body = text.encode()
        head = f"HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)


def exposition(status: Mapping[str, Any], tally: Tally, thermal: Path = _THERMAL) -> str:
    """Return the figures as text.

    Args:
        status: as `edgecam status --json` has it.
        tally: what was decided.
        thermal: where the kernel tells temperatures.
    """
    cameras: Dict[str, Dict[str, Any]] = status["cameras"]
    buckets, named_sum_s = tally.named()
    lines = [
        *_family("info", "gauge", [({"version": status["version"], "model": status["model"]}, 1)]),
        *_family("up_seconds", "gauge", [({}, status["up_s"])]),
        *_family("ready", "gauge", [({}, status["ready"])]),
        *_family("paused", "gauge", [({}, status["paused"])]),
        *_family("clock_trusted", "gauge", [({}, status["clock_trusted"])]),
        *_family("memory_bytes", "gauge", [({}, status["memory_mb"] * 1e6)]),
        *_family("temperature_celsius", "gauge", temperatures(thermal)),
        *_family("config_last_reload_successful", "gauge", [({}, not status["config"]["refused"])]),
        *_family("config_last_reload_timestamp_seconds", "gauge", [({}, status["config"]["read_wall_s"])]),
        *_family("config_waiting_keys", "gauge", [({}, len(status["config"]["next_start"]))]),
        *_family(
            "camera_state",
            "gauge",
            [
                ({"camera": name, "state": state.value}, entry["state"] == state.value)
                for name, entry in cameras.items()
                for state in HealthState
            ],
        ),
        *_of_cameras("camera_fps", "gauge", cameras, "fps"),
        *_of_cameras("camera_perceived_fps", "gauge", cameras, "perceived_fps"),
        *_of_cameras("camera_frames_total", "counter", cameras, "frames"),
        *_of_cameras("camera_perceived_frames_total", "counter", cameras, "perceived"),
        *_of_cameras("camera_dropped_frames_total", "counter", cameras, "dropped"),
        *_of_cameras("camera_last_frame_age_seconds", "gauge", cameras, "last_frame_age_s"),
        *_of_cameras("camera_visit_open", "gauge", cameras, "visit_open"),
        *_family(
            "problem",
            "gauge",
            [
                ({"camera": name, "problem": code}, 1)
                for name, codes in [("", status["problems"]), *((name, cameras[name]["problems"]) for name in cameras)]
                for code in codes
            ],
        ),
        *_family("decisions_total", "counter", tally.words()),
        *_head("time_to_name_seconds", "histogram"),
        *(f'edgecam_time_to_name_seconds_bucket{{le="{_number(upper)}"}} {count}' for upper, count in buckets),
        f"edgecam_time_to_name_seconds_sum {_number(named_sum_s)}",
        f"edgecam_time_to_name_seconds_count {buckets[-1][1]}",
        *_family(
            "broker_link", "gauge", [({"state": link.value}, status["broker"]["link"] == link.value) for link in Link]
        ),
        *_family("broker_denied_total", "counter", [({}, status["broker"]["denied"])]),
        *_family("alerts_sent_total", "counter", [({}, status["broker"]["sent"])]),
        *_family("outbox_alerts", "gauge", [({}, status["outbox"])]),
        *_family("outbox_dropped_total", "counter", [({}, status["outbox_dropped"])]),
        *_family("words_waiting", "gauge", [({}, status["words_waiting"])]),
        *_family("night_wanted", "gauge", [({}, bool(status["night_wanted"]))]),
        *_family("words_lost_total", "counter", [({}, status["words_lost"])]),
    ]
    return "\n".join(lines) + "\n"


def _of_cameras(name: str, kind: str, cameras: Mapping[str, Mapping[str, Any]], key: str) -> List[str]:
    """Return a family with one sample a camera, but for those that have none yet."""
    return _family(
        name, kind, [({"camera": camera}, entry[key]) for camera, entry in cameras.items() if entry[key] is not None]
    )


def _family(name: str, kind: str, samples: Iterable[Sample]) -> List[str]:
    """Return the lines of a metric; none if there is no sample."""
    lines = []
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"edgecam_{name}{f'{{{inside}}}' if inside else ''} {_number(float(value))}")
    return [*_head(name, kind), *lines] if lines else []


def _head(name: str, kind: str) -> List[str]:
    return [f"# HELP edgecam_{name} {_HELP[name]}", f"# TYPE edgecam_{name} {kind}"]


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def temperatures(folder: Path) -> List[Sample]:
    """Return the kernel's thermal zones; a Jetson has a dozen, a virtual machine none."""
    found: List[Sample] = []
    for zone, degrees in zones(folder):
        with contextlib.suppress(OSError, ValueError):
            found.append(({"zone": (zone / "type").read_text(encoding="ascii").strip()}, degrees))
    return found
