"""A doorbell button on a GPIO line, as far as it goes without one."""

from __future__ import annotations

import importlib.util
import threading
import time
from typing import List

import pytest

from edgecam.clock import SystemClock
from edgecam.daemon.button import Button, parse_line
from edgecam.daemon.health import BOX, Beats, Problems
from edgecam.errors import ConfigError


def test_a_line_is_chip_and_number() -> None:
    assert parse_line("gpiochip0:17") == ("/dev/gpiochip0", 17)
    assert parse_line("/dev/gpiochip2:4") == ("/dev/gpiochip2", 4)


@pytest.mark.parametrize("text", ["17", "gpiochip0", "gpiochip0:", ":17", "gpiochip0:-1", "gpiochip0:x"])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="CHIP:LINE"):
        parse_line(text)


def test_a_button_that_cannot_be_watched_is_a_problem_and_stops_at_once() -> None:
    told: List[str] = []
    problems, beats = Problems(), Beats(SystemClock())
    button = Button("gpiochip-none:1", lambda: told.append("pressed"), problems, beats)
    button.start()
    end = time.monotonic() + 10
    while not problems.of(BOX) and time.monotonic() < end:
        time.sleep(0.01)
    text = problems.of(BOX)["button_unusable"]
    assert ("gpiod" in text) == (importlib.util.find_spec("gpiod") is None)
    began = time.monotonic()
    button.stop()
    assert time.monotonic() - began < 1.5
    assert not told
    assert "button" not in {thread.name for thread in threading.enumerate()}
