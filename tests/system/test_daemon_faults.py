"""The daemon when things go wrong: stuck loops, a full disk, wrong files, a second daemon."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest
from box import Box, Door, cut, until

pytestmark = [pytest.mark.models, pytest.mark.data, pytest.mark.timeout(120)]

STRANGER = "videos/liveness/tranvan_real.mp4"

_SEIZE, _INTERRUPT, _DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as started:
        yield started


def config(door: Door) -> str:
    return f'[cameras.front]\nurl = "{door.url}"\nstall_after_s = 0.5\n[motion]\nburst_s = 1.0\n'


def pictures_arrive(box: Box) -> bool:
    entry = box.status()["cameras"]["front"]
    return entry["frames"] > 10 and not entry["problems"]


class Frozen:
    """One thread of another process, stopped by the kernel; the others run on."""

    def __init__(self, pid: int, name: str) -> None:
        tasks = Path(f"/proc/{pid}/task")
        self.tid = next(int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def freeze(self) -> None:
        self._ptrace(_SEIZE)
        self._ptrace(_INTERRUPT)
        os.waitpid(self.tid, _WALL)

    def thaw(self) -> None:
        self._ptrace(_DETACH)

    def _ptrace(self, request: int) -> None:
        if self._libc.ptrace(request, self.tid, None, None) != 0:
            code = ctypes.get_errno()
            if code == 1:
                pytest.skip("this container does not permit ptrace")
            raise OSError(code, os.strerror(code))


def test_no_watchdog_while_a_camera_loop_is_stuck(tmp_path: Path, models_dir: Path, door: Door) -> None:
    with Box(tmp_path, config(door), watchdog_s=1.0) as box:
        box.start()
        until(lambda: pictures_arrive(box), "pictures")
        assert box.process is not None
        thread, frozen_s = Frozen(box.process.pid, "see-front"), 0.0
        try:
            for _ in range(20):
                thread.freeze()
                frozen_s = time.monotonic()
                # Stopped with the interpreter's lock in its hand it would stop everybody: that proves nothing.
                with contextlib.suppress(AssertionError):
                    until(box.answers, "an answer", 2.0)
                    break
                thread.thaw()
            else:
                raise AssertionError("never caught outside of the interpreter's lock")
            fed = box.manager.count("WATCHDOG")
            until(lambda: box.manager.count("WATCHDOG") > fed, "fed as long as it may be a slow camera")
            until(lambda: "loop_stuck" in box.status()["problems"], "the loop seen as stuck")
            assert time.monotonic() - frozen_s > 5.0
            fed = box.manager.count("WATCHDOG")
            until(lambda: box.answers() and time.monotonic() - frozen_s > 16.0, "some seconds more, with answers")
            assert box.manager.count("WATCHDOG") == fed
            assert box.status()["state"] == "fault"
        finally:
            thread.thaw()
        until(lambda: box.manager.count("WATCHDOG") > fed + 1, "fed again")
        assert "loop_stuck" not in box.status()["problems"]


def test_a_full_disk_loses_no_word(tmp_path: Path, models_dir: Path, data_dir: Path, door: Door) -> None:
    with Box(tmp_path, config(door)) as box:
        box.start()
        until(lambda: pictures_arrive(box), "pictures")
        assert box.process is not None
        pid = box.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        door.visit(data_dir / STRANGER, 2, 5)
        until(lambda: box.status()["words_waiting"] > 1, "words that wait")
        status = box.status()
        assert "store_failing" in status["problems"]
        assert status["words_stored"] == 0
        assert status["cameras"]["front"]["state"] == "degraded"
        fed = box.manager.count("WATCHDOG")
        until(lambda: box.manager.count("WATCHDOG") > fed, "alive and well otherwise")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        until(lambda: box.status()["words_waiting"] == 0, "everything stored")
        until(lambda: "store_failing" not in box.status()["problems"], "the problem's end")
        status = box.status()
        assert status["words_stored"] >= 1
        assert status["words_lost"] == 0
        until(lambda: box.ask("visits.list")[0]["closed_wall_s"], "the visit's end")
        assert box.ask("visits.list")[0]["tracks"][0]["verdict"] == "unknown"
        assert status["outbox"] >= 1, "without a broker alerts wait"


def test_a_recording_is_played_as_a_camera_and_ends(tmp_path: Path, models_dir: Path, data_dir: Path) -> None:
    clip = cut(data_dir / STRANGER, 2, 6, tmp_path / "clip.mp4")
    with Box(tmp_path, "") as box:
        box.start("--camera", f"yard={clip}", "--once")
        began = time.monotonic()
        assert box.wait() == 0
        assert time.monotonic() - began > 3.0, "played in its own time"
        visit = box.run("visits", "list", "--json").stdout
        assert '"unknown"' in visit
        assert "Traceback" not in box.log()


def refused(box: Box, *arguments: str) -> Dict[str, object]:
    box.start(*arguments, ready=False)
    code = box.wait()
    return {"code": code, "line": box.log().splitlines()[-1]}


def test_what_cannot_start_says_so_in_one_line(tmp_path: Path, models_dir: Path, door: Door) -> None:
    with Box(tmp_path, "") as box:
        end = refused(box)
        assert end["code"] == 2
        assert "edgecam init" in str(end["line"])
        box.config.write_text(config(door) + "colour = 3\n")
        end = refused(box)
        assert end["code"] == 2
        assert "motion.colour" in str(end["line"])
        box.config.write_text(
            config(door) + '[alerts]\nhost = "localhost"\nusername = "u"\npassword_file = "/nowhere"\n'
        )
        end = refused(box)
        assert end["code"] == 2
        assert "/nowhere" in str(end["line"])
        box.config.write_text(config(door))
        box.start()
        with Box(tmp_path_of(tmp_path), config(door)) as second:
            second.state = box.state
            end = refused(second)
            assert end["code"] == 1
            assert str(box.process.pid if box.process else "") in str(end["line"])
        assert box.status()["ready"]
        box.signal(signal.SIGINT)
        assert box.wait() == 0
        (box.state / "master.key").write_bytes(os.urandom(32))
        end = refused(box)
        assert end["code"] == 1
        assert "key" in str(end["line"])
        assert "Traceback" not in box.log()


def tmp_path_of(path: Path) -> Path:
    other = path / "2"
    other.mkdir()
    return other


def test_a_camera_that_never_comes_does_not_hold_up_the_start(tmp_path: Path, models_dir: Path) -> None:
    with Box(tmp_path, '[cameras.gone]\nurl = "rtsp://u:s3cret@127.0.0.1:9/x"\n') as box:
        box.start()
        until(lambda: "camera_lost" in box.status()["cameras"]["gone"]["problems"], "the loss")
        asked = time.monotonic()
        box.signal(signal.SIGTERM)
        assert box.wait() == 0
        assert time.monotonic() - asked < 5.0
        assert "s3cret" not in box.log()


def test_cameras_that_hang_do_not_hold_up_the_end(tmp_path: Path, models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60.0)
        address = f"127.0.0.1:{silent.getsockname()[1]}/x"
        text = "".join(
            f'[cameras.{kind}]\nurl = "{kind}://{address}"\nstall_after_s = 60.0\n' for kind in ("rtsp", "http")
        )
        with Box(tmp_path, text) as box:
            box.start()
            (first, _), (second, _) = silent.accept(), silent.accept()
            with first, second:
                fed = box.manager.count("WATCHDOG")
                until(lambda: box.manager.count("WATCHDOG") > fed, "fed although the cameras hang")
                assert {code for camera in box.status()["cameras"].values() for code in camera["problems"]} == {
                    "camera_starting"
                }
                box.signal(signal.SIGTERM)
                assert box.wait() == 0
            (took_s,) = re.findall(r"stopped in ([0-9.]+) s", box.log())
            assert float(took_s) < 2.0
            assert "Traceback" not in box.log()
