"""A doorbell button on a GPIO line."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import Any, Callable, Tuple

from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.errors import ConfigError

_LOGGER = logging.getLogger(__name__)

_DEBOUNCE = timedelta(milliseconds=20)
_POLL = timedelta(seconds=1)
_RETRY_S = 30.0
_LOOP = "button"
_LATE_S = 15.0


def parse_line(text: str) -> Tuple[str, int]:
    """Return chip and line of `gpiochip0:17`.

    Raises:
        ConfigError: not of that form.
    """
    chip, _, line = text.rpartition(":")
    if not chip or not line.isdecimal():
        raise ConfigError(f"run.button_gpio is {text!r}: want CHIP:LINE, for example gpiochip0:17")
    return chip if chip.startswith("/") else f"/dev/{chip}", int(line)


class Button:
    """Waits for presses (the line pulled to ground) in a thread of its own.

    Args:
        line: `CHIP:LINE`.
        pressed: called once a press.
        problems: told when the line cannot be watched.
        beats: the thread's heartbeat.
    """

    def __init__(self, line: str, pressed: Callable[[], None], problems: Problems, beats: Beats) -> None:
        self._chip, self._line = parse_line(line)
        self._pressed, self._problems, self._beats = pressed, problems, beats
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_LOOP, daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            import gpiod
        except ImportError:
            fix = "install it (pip install gpiod); presses by MQTT work without it"
            self._problems.begin(BOX, "button_unusable", f"run.button_gpio needs the library gpiod: {fix}")
            return
        self._beats.expect(_LOOP, _LATE_S)
        while not self._stop.is_set():
            try:
                with _request(gpiod, self._chip, self._line) as request:
                    self._problems.end(BOX, "button_unusable")
                    self._watch(request)
            except (OSError, ValueError) as err:
                self._problems.begin(BOX, "button_unusable", f"{self._chip} line {self._line}: {err}; tried again")
                self._beats.ended(_LOOP)
                self._stop.wait(_RETRY_S)
                self._beats.expect(_LOOP, _LATE_S)
        self._beats.ended(_LOOP)

    def _watch(self, request: Any) -> None:
        while not self._stop.is_set():
            self._beats.turn(_LOOP)
            if request.wait_edge_events(_POLL):
                request.read_edge_events()
                self._pressed()


def _request(gpiod: Any, chip: str, line: int) -> Any:
    """Return the line, asked for once as libgpiod 2 does it."""
    setting = gpiod.LineSettings(
        direction=gpiod.line.Direction.INPUT,
        edge_detection=gpiod.line.Edge.FALLING,
        bias=gpiod.line.Bias.PULL_UP,
        debounce_period=_DEBOUNCE,
    )
    return gpiod.request_lines(chip, consumer="edgecam", config={line: setting})
