"""`edgecam review` on a terminal: whose pictures are drawn where, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

from edgecam.store import Store
from edgecam.types import FaceCrop, Tracklet


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a question about one face, whose picture is kept."""
    with Store.open(tmp_path / "state") as store:
        store.add_person("Ann")
        store.open_visit("VISIT1", "door", "front", time.time())
        row = store.add_tracklet(
            Tracklet("VISIT1", 1, "front", "m", 0.0, 1.0, np.ones((1, 8), np.float32), np.ones(1, np.float32))
        )
        crop = FaceCrop(
            np.full((64, 64, 3), 90, np.uint8), np.array([12, 12, 40, 40], np.float32), np.zeros((5, 2), np.float32)
        )
        store.add_visit_picture("VISIT1", 1, crop, quality=0.9)
        store.put("questions", [{"id": "q1", "people": [], "tracklets": [row]}])
    return tmp_path / "state"


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, state: Path, **env: str) -> None:
        self.folder = state.parent
        plain = {k: v for k, v in os.environ.items() if k not in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "TMUX", "STY")}
        self._own, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgecam", "review", "--state", str(state)],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**plain, "TMPDIR": str(self.folder), "HOME": str(self.folder), **env},
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - under nohup
        )  # fmt: skip
        os.close(theirs)
        self.shown = b""
        while b"Who is it?" not in self.shown:
            self.shown += os.read(self._own, 4096)

    def pictures(self) -> Iterator[Path]:
        return self.folder.glob("edgecam-review-*/*.png")

    def type(self, text: str) -> int:
        os.write(self._own, text.encode())
        return self.process.wait(20)


def test_a_picture_is_private_and_gone_after_the_answer(state: Path) -> None:
    terminal = Terminal(state)
    (picture,) = terminal.pictures()
    assert (picture.stat().st_mode & 0o777, picture.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert terminal.type("ann\n") == 0
    assert not list(state.parent.glob("edgecam-review-*"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_terminal_goes(state: Path, number: int) -> None:
    terminal = Terminal(state)
    assert list(terminal.pictures())
    time.sleep(1.0)  # it has asked; now it also listens
    terminal.process.send_signal(number)
    assert terminal.process.wait(20) == 130
    assert not list(state.parent.glob("edgecam-review-*"))


def test_a_picture_is_drawn_where_the_terminal_can_and_not_into_a_multiplexer(state: Path) -> None:
    drawn = Terminal(state, KITTY_WINDOW_ID="1")
    assert b"\x1b_G" in drawn.shown
    assert not list(drawn.pictures())
    assert drawn.type("\n") == 0
    inside = Terminal(state, KITTY_WINDOW_ID="1", TMUX="/tmp/tmux-0/default,1,0")
    assert b"\x1b_G" not in inside.shown
    assert list(inside.pictures())
    assert inside.type("\n") == 0
